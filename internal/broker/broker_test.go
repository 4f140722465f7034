package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// A world is a broker over a real store and real logs, in a bubble of virtual
// time, with one node on its bus.
type world struct {
	*Broker
	t    *testing.T
	dir  string
	disk record.Disk // nil is the machine's
	db   *store.DB
	node sallyport.NodeID
	ann  *sallyport.Principal

	nodes map[sallyport.SessionID]*far // that attached last

	stop func() // ends the broker's Run and waits for it

	mu   sync.Mutex
	told []wire.Type // what the node's control channel was sent
}

func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: dir, nodes: map[sallyport.SessionID]*far{}, node: sallyport.NewNodeID(), ann: &sallyport.Principal{
			Kind: sallyport.UserKind, ARN: "arn:aws:iam::000000000000:user/ann", ID: "AIDAANN", Root: "AIDAANN", Name: "ann",
		}}
		w.start()
		defer func() { w.halt() }()
		test(t, w)
	})
}

// start opens the store and runs a broker, as a server does.
func (w *world) start() {
	w.t.Helper()
	db, err := store.Open(w.t.Context(), filepath.Join(w.dir, "x.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	shelf, err := record.OpenShelfOn(w.disk, filepath.Join(w.dir, "sessions"))
	if err != nil {
		w.t.Fatal(err)
	}
	bus := &route.Memory{}
	bus.Attach(w.node, func(_ context.Context, frame []byte) error {
		head, err := wire.Peek(frame)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.told = append(w.told, head.Type)
		return err
	})
	w.db = db
	w.Broker = &Broker{Store: db, Bus: bus, Shelf: shelf, Keys: keyring.Generate(), Log: slog.New(slog.NewTextHandler(w.t.Output(), nil))}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	ready := make(chan struct{})
	b := w.Broker
	go func() { ran <- b.Run(ctx, func() { close(ready) }) }()
	<-ready
	w.stop = func() {
		cancel()
		if err := <-ran; err != nil {
			w.t.Error(err)
		}
	}
}

// halt stops the broker and closes the store.
func (w *world) halt() {
	w.stop()
	if err := w.db.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) controlFrames(t wire.Type) (n int) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, got := range w.told {
		if got == t {
			n++
		}
	}
	return n
}

func (w *world) begin() Invitation {
	w.t.Helper()
	inv, err := w.Start(w.t.Context(), Request{Who: w.ann, Node: w.node, Document: "SSM-SessionManagerRunShell", Parameters: json.RawMessage("{}")})
	if err != nil {
		w.t.Fatal(err)
	}
	return inv
}

// stored is what the store says of a session.
func (w *world) stored(id sallyport.SessionID) *sallyport.Session {
	w.t.Helper()
	synctest.Wait()
	rec, err := w.db.Session(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec.Session
}

func (w *world) wantState(id sallyport.SessionID, state sallyport.State, cause string) {
	w.t.Helper()
	s := w.stored(id)
	if s.State() != state || !strings.Contains(s.Cause, cause) || cause == "" && s.Cause != "" {
		w.t.Fatalf("session is %v (%q), want %v (%q)", s.State(), s.Cause, state, cause)
	}
}

// A wireEnd is one side of a pair of sockets in memory.
type wireEnd struct {
	in, out chan []byte
	cut     chan struct{}
	once    *sync.Once
}

func sockets() (broker, far *wireEnd) {
	a, b := make(chan []byte, 64), make(chan []byte, 64)
	cut, once := make(chan struct{}), new(sync.Once)
	return &wireEnd{a, b, cut, once}, &wireEnd{b, a, cut, once}
}

func (e *wireEnd) Cut() { e.once.Do(func() { close(e.cut) }) }

func (e *wireEnd) ReadFrame(ctx context.Context) ([]byte, error) {
	select {
	case b := <-e.in:
		return b, nil
	default:
	}
	select {
	case b := <-e.in:
		return b, nil
	case <-e.cut:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *wireEnd) AppendFrame(ctx context.Context, b []byte) ([]byte, error) {
	frame, err := e.ReadFrame(ctx)
	return append(b, frame...), err
}

func (e *wireEnd) WriteFrame(ctx context.Context, frame []byte) error {
	select {
	case e.out <- bytes.Clone(frame):
		return nil
	case <-e.cut:
		return io.ErrClosedPipe
	case <-ctx.Done():
		return ctx.Err()
	}
}

// this is the process that nodes' ends are of.
var this = wire.Process{Instance: "i1", Place: "here"}

// A far is a real end: a stream that outlives its sockets.
type far struct {
	w      *world
	stream *datachannel.Stream
	caps   []string

	mu      sync.Mutex
	stays   bool                // on its socket after channel_closed
	closed  *wire.ChannelClosed // what the end was told last
	heard   []wire.Type
	notices []string

	conn  *wireEnd
	ended chan struct{} // this socket's goroutines have returned
	join  error         // what the broker said of the socket
}

func (w *world) far(sends wire.Type, caps ...string) *far {
	f := &far{w: w, caps: caps}
	f.stream = &datachannel.Stream{Sends: sends, Control: func(frame wire.Frame) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.heard = append(f.heard, frame.Type)
		if frame.Type == wire.TypeSallyportNotice {
			var n wire.SallyportNotice
			if err := frame.Unmarshal(&n); err != nil {
				w.t.Error(err)
			}
			f.notices = append(f.notices, n.Text)
		}
		if frame.Type == wire.TypeChannelClosed {
			f.closed = new(wire.ChannelClosed)
			if err := frame.Unmarshal(f.closed); err != nil {
				w.t.Error(err)
			}
			if sends == wire.TypeInputStreamData && !f.stays { // as clients do
				f.conn.Cut()
			}
		}
	}}
	return f
}

// attach opens a socket and has join hand the broker's side of it over.
func (f *far) attach(join func(Conn) error) {
	near, conn := sockets()
	f.conn, f.ended = conn, make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		f.join = join(near)
		near.Cut()
	})
	both.Go(func() { f.stream.Run(context.Background(), conn) })
	go func() {
		both.Wait()
		close(f.ended)
	}()
	synctest.Wait()
}

func (f *far) leave() {
	f.conn.Cut()
	<-f.ended
	synctest.Wait()
}

func (w *world) attachPerson(f *far, inv Invitation, client string) {
	b := w.Broker
	f.attach(func(c Conn) error {
		return b.JoinPerson(context.Background(), nil, inv.Session, inv.Token, client, c, f.caps)
	})
}

func (w *world) attachNode(f *far, id sallyport.SessionID) {
	w.t.Helper()
	token, err := w.NodeToken(w.t.Context(), w.node, id)
	if err != nil {
		w.t.Fatal(err)
	}
	w.nodes[id] = f
	b := w.Broker
	f.attach(func(c Conn) error { return b.JoinNode(context.Background(), w.node, id, token, c, f.caps, this) })
}

func (f *far) say(text string) {
	f.w.t.Helper()
	if err := f.stream.Send(f.w.t.Context(), wire.KindOutput, []byte(text)); err != nil {
		f.w.t.Fatal(err)
	}
	synctest.Wait()
}

// hear waits for text, no less and no more.
func (f *far) hear(text string) {
	f.w.t.Helper()
	var got []byte
	for len(got) < len(text) {
		ctx, cancel := context.WithTimeout(f.w.t.Context(), time.Minute)
		m, err := f.stream.Receive(ctx)
		cancel()
		if err != nil {
			f.w.t.Fatalf("heard %q of %q: %v", got, text, err)
		}
		got = append(got, m.Payload...)
	}
	if string(got) != text {
		f.w.t.Fatalf("heard %q, want %q", sallyport.Clip(string(got), 200), sallyport.Clip(text, 200))
	}
	synctest.Wait()
}

func (f *far) wantClosed(output string) {
	f.w.t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed == nil || f.closed.Output != output && !(output != "" && strings.Contains(f.closed.Output, output)) {
		f.w.t.Errorf("told %+v, want to be told %q", f.closed, output)
	}
}

// complete has the node say that its shell has ended: on its data channel, and
// then on its control channel.
func (w *world) complete(id sallyport.SessionID, status string, exit *int) {
	w.t.Helper()
	if f := w.nodes[id]; f != nil {
		f.conn.WriteFrame(w.t.Context(), encode(wire.AgentSessionState{SchemaVersion: 1, SessionState: "Terminating", SessionId: id.String()}.Frame(time.Now())))
		synctest.Wait()
	}
	w.report(id, status, exit)
}

// report has the node say on its control channel that its shell has ended.
func (w *world) report(id sallyport.SessionID, status string, exit *int) {
	w.t.Helper()
	frame := wire.AgentTaskComplete{SchemaVersion: 1, TaskId: id.String(), FinalTaskStatus: status, InstanceId: w.node.String(), ExitStatus: exit}.Frame(time.Now())
	answer, err := w.Complete(w.node, frame)
	if err != nil {
		w.t.Fatal(err)
	}
	head, err := wire.Peek(answer)
	if err != nil || head.Type != wire.TypeAgentTaskAcknowledge {
		w.t.Errorf("answered with %v, %v", head.Type, err)
	}
	synctest.Wait()
}

// together begins a session and attaches both ends.
func (w *world) together(caps ...string) (inv Invitation, person, node *far) {
	inv = w.begin()
	person, node = w.far(wire.TypeInputStreamData, caps...), w.far(wire.TypeOutputStreamData, caps...)
	w.attachNode(node, inv.Session)
	w.attachPerson(person, inv, "client-1")
	w.wantState(inv.Session, sallyport.Connected, "")
	return inv, person, node
}

func TestShellEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(wire.CapExitStatus)
		node.say("$ ")
		person.hear("$ ")
		person.say("exit 3\r")
		node.hear("exit 3\r")
		node.say("logout\r\n")
		status := 3
		w.complete(inv.Session, "Success", &status)

		person.hear("logout\r\n")
		person.wantClosed("")
		if person.closed.ExitStatus == nil || *person.closed.ExitStatus != 3 {
			t.Errorf("exit status %v, want 3", person.closed.ExitStatus)
		}
		w.wantState(inv.Session, sallyport.Terminated, "")
		if rec := w.stored(inv.Session); rec.ExitStatus == nil || *rec.ExitStatus != 3 {
			t.Errorf("stored exit status %v, want 3", rec.ExitStatus)
		}
		if person.join != nil {
			t.Errorf("the person's socket ended with %v", person.join)
		}
		if n := w.Stats().Live; n != 0 {
			t.Errorf("%d sessions are on", n)
		}
		if inv, err := w.Resume(t.Context(), inv.Session); err != nil || !inv.Token.Empty() {
			t.Errorf("a session that is over was resumed: %v", err)
		}
	})
}

// What either end says before the other is there waits for it.
func TestEitherEndMayComeFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		person, node := w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachPerson(person, inv, "")
		person.say("typed ahead\r")
		w.wantState(inv.Session, sallyport.Connecting, "")
		w.attachNode(node, inv.Session)
		node.hear("typed ahead\r")
		w.wantState(inv.Session, sallyport.Connected, "")

		inv = w.begin()
		person, node = w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		node.say("$ ")
		w.attachPerson(person, inv, "")
		person.hear("$ ")
	})
}

// A node that does not answer is asked three times, and then the session has
// failed and says so.
func TestNodeDoesNotAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		person := w.far(wire.TypeInputStreamData)
		w.attachPerson(person, inv, "")
		for _, asked := range []int{1, 2, 3} {
			if got := w.controlFrames(wire.TypeInteractiveShell); got != asked {
				t.Fatalf("asked %d times, want %d", got, asked)
			}
			time.Sleep(5*time.Second + time.Millisecond)
		}
		time.Sleep(30 * time.Second)
		if got := w.controlFrames(wire.TypeInteractiveShell); got != 3 {
			t.Errorf("asked %d times, want 3", got)
		}
		w.wantState(inv.Session, sallyport.Failed, "did not answer. Its agent was asked 3 times")
		person.wantClosed("did not answer")
		if _, err := w.NodeToken(t.Context(), w.node, inv.Session); err == nil || !strings.Contains(err.Error(), SessionOver) {
			t.Errorf("a node that comes late is told %v", err)
		}
	})
}

// What an agent says of a session is kept, and told, as text that a terminal does
// not act on.
func TestCauseIsPrintable(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		frame := wire.AgentTaskComplete{TaskId: inv.Session.String(), FinalTaskStatus: "Failed", Output: "\n----------ERROR-------\r\nno \x1b[31muser\u202e \u009b2Jx\xff\r\n"}.Frame(time.Now())
		if _, err := w.Complete(w.node, frame); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := w.stored(inv.Session).Cause; got != "no ?[31muser? ?2Jx?" {
			t.Errorf("the cause is %q", got)
		}
	})
}

// Whoever comes when the session is over, with its token, is told why it is:
// where a shell could not be started, it is over before its person can come.
func TestComesTooLate(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		frame := wire.AgentTaskComplete{SchemaVersion: 1, TaskId: inv.Session.String(), FinalTaskStatus: "Failed", Output: "no such user", InstanceId: w.node.String()}.Frame(time.Now())
		if _, err := w.Complete(w.node, frame); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantState(inv.Session, sallyport.Failed, "no such user")
		join := func(token sallyport.Secret, who *sallyport.Principal) error {
			return w.JoinPerson(t.Context(), who, inv.Session, token, "", nil, nil)
		}
		if err := join(inv.Token, nil); sallyport.CodeOf(err) != sallyport.DoesNotExistException || !strings.Contains(err.Error(), "no such user") {
			t.Errorf("told %v", err)
		}
		for name, err := range map[string]error{
			"another token":             join(sallyport.GenerateSecret(), nil),
			"somebody else's signature": join(inv.Token, &sallyport.Principal{Kind: sallyport.UserKind, Name: "bob", ID: "AIDABOB"}),
		} {
			if err == nil || strings.Contains(err.Error(), "no such user") {
				t.Errorf("%s is told %v", name, err)
			}
		}
	})
}

// A node that would ask the client something first, and waits for no more than
// 15 seconds, is told when the client is there.
func TestNodeIsToldWhenItWillBeAnswered(t *testing.T) {
	tests := []struct {
		name    string
		task    wire.AgentTaskPayload
		awaited bool
	}{
		{"a shell", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "Standard_Stream"}}, false},
		{"an interactive command", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "InteractiveCommands"}}, false},
		{"a command without a terminal", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "NonInteractiveCommands"}}, true},
		{"a port", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "Port"}}, true},
		{"a shell that is encrypted", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "Standard_Stream", Inputs: wire.SessionInputs{KmsKeyId: "alias/x"}}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "x", Parameters: json.RawMessage("{}"), Task: tt.task})
				if err != nil {
					t.Fatal(err)
				}
				if got := w.controlFrames(wire.TypeInteractiveShell); (got == 0) != tt.awaited {
					t.Errorf("the node was told %d times before the client came", got)
				}
				time.Sleep(30 * time.Second)
				if !tt.awaited {
					w.wantState(inv.Session, sallyport.Failed, "did not answer")
					return
				}
				w.wantState(inv.Session, sallyport.Connecting, "")
				w.attachPerson(w.far(wire.TypeInputStreamData), inv, "client-1")
				if got := w.controlFrames(wire.TypeInteractiveShell); got != 1 {
					t.Errorf("the node was told %d times when the client came", got)
				}
				time.Sleep(20 * time.Second)
				w.wantState(inv.Session, sallyport.Failed, "asked 3 times")
			})
		})
	}
}

func TestNobodyConnects(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		node := w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		time.Sleep(2*time.Minute + time.Second)
		node.wantClosed("No client connected in 2m0s.")
		time.Sleep(endGrace)
		w.wantState(inv.Session, sallyport.Failed, "No client connected")
		if w.controlFrames(wire.TypeChannelClosed) != 1 {
			t.Error("the node's control channel was not told")
		}
	})
}

// Idle is silence of the stream: what is acknowledged or repeated is silence.
func TestIdle(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		time.Sleep(19 * time.Minute)
		node.say("still here")
		person.hear("still here")
		time.Sleep(19 * time.Minute)
		w.wantState(inv.Session, sallyport.Connected, "")
		time.Sleep(time.Minute + time.Second)
		person.wantClosed("The session was idle for 20m0s.")
		node.wantClosed("idle")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "idle for 20m0s")
	})
}

// A client that can show it is warned a minute before, once for each end there
// would be; one that cannot is not.
func TestWarnedBeforeTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "D", MaxDuration: 40 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		person, node := w.far(wire.TypeInputStreamData, wire.CapNotices), w.far(wire.TypeOutputStreamData)
		w.attachPerson(person, inv, "")
		w.attachNode(node, inv.Session)
		wantNotices := func(n int, words string) {
			t.Helper()
			synctest.Wait()
			person.mu.Lock()
			defer person.mu.Unlock()
			if len(person.notices) != n || n > 0 && !strings.Contains(person.notices[n-1], words) {
				t.Errorf("told %q, want %d with %q", person.notices, n, words)
			}
		}
		time.Sleep(19*time.Minute - time.Second)
		wantNotices(0, "")
		time.Sleep(2 * time.Second)
		wantNotices(1, "ends in 1m0s, unless something is typed or shown: it has been idle, and may be for 20m0s")
		node.say("still here")
		time.Sleep(time.Minute)
		w.wantState(inv.Session, sallyport.Connected, "")
		time.Sleep(18*time.Minute - time.Second)
		wantNotices(1, "ends")
		time.Sleep(2 * time.Second)
		wantNotices(2, "ends")
		person.say("x")
		time.Sleep(58 * time.Second)
		wantNotices(3, "ends in 1m0s: it may last 40m0s")
		time.Sleep(time.Minute)
		person.wantClosed("maximum duration of 40m0s")
		w.complete(inv.Session, "Success", nil)
	})
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, _ := w.together()
		time.Sleep(19*time.Minute + 30*time.Second)
		if len(person.notices) > 0 {
			t.Errorf("told %q", person.notices)
		}
		w.complete(inv.Session, "Success", nil)
	})
}

func TestMaximumDuration(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "D", MaxDuration: 5 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		person, node := w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		w.attachPerson(person, inv, "")
		for range 4 {
			time.Sleep(time.Minute)
			person.say("x")
		}
		w.wantState(inv.Session, sallyport.Connected, "")
		time.Sleep(time.Minute + time.Second)
		person.wantClosed("maximum duration of 5m0s")
	})
}

func TestTerminateTellsWho(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		w.Terminate(t.Context(), inv.Session, "Terminated by arn:aws:iam::000000000000:user/bob.")
		w.wantState(inv.Session, sallyport.Terminating, "user/bob")
		person.wantClosed("Terminated by arn:aws:iam::000000000000:user/bob.")
		node.wantClosed("user/bob")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "user/bob")
		w.Terminate(t.Context(), inv.Session, "again") // of a session that is over: nothing
		w.wantState(inv.Session, sallyport.Terminated, "user/bob")
	})
}

// A node that was told to end a session and does not say that it has is not
// waited for for ever.
func TestNodeNeverReaps(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, _ := w.together()
		w.Terminate(t.Context(), inv.Session, "Terminated.")
		time.Sleep(endGrace + time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "Terminated.")
	})
}

// A person who comes back has another token, and misses nothing; the token from
// before is good for nothing.
func TestResume(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.say("before ")
		person.hear("before ")
		person.leave()
		w.wantState(inv.Session, sallyport.Disconnected, "")
		node.say("while away ")
		time.Sleep(10 * time.Minute)

		second, err := w.Resume(t.Context(), inv.Session)
		if err != nil || second.Token.Empty() {
			t.Fatal(err)
		}
		w.attachPerson(person, inv, "client-1")
		if sallyport.CodeOf(person.join) != sallyport.AccessDeniedException {
			t.Errorf("the old token was met with %v", person.join)
		}
		w.attachPerson(person, second, "client-1")
		person.hear("while away ")
		node.say("after")
		person.hear("after")
		person.say("and back")
		node.hear("and back")
		w.wantState(inv.Session, sallyport.Connected, "")
	})
}

// What a shell says last while its person is away is kept for as long as they may
// be away.
func TestShellEndsWhilePersonIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(datachannel.Capabilities()...)
		person.leave()
		node.say("famous last words")
		node.leave()
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminating, "")
		time.Sleep(55 * time.Second)
		second, err := w.Resume(t.Context(), inv.Session)
		if err != nil || second.Token.Empty() {
			t.Fatalf("%v, no token: %v", err, second.Token.Empty())
		}
		w.attachPerson(person, second, "client-1")
		person.hear("famous last words")
		person.wantClosed("")
		w.wantState(inv.Session, sallyport.Terminated, "")
	})
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(datachannel.Capabilities()...)
		person.leave()
		node.say("famous last words")
		node.leave()
		w.complete(inv.Session, "Success", nil)
		time.Sleep(20*time.Minute - 2*time.Second)
		w.wantState(inv.Session, sallyport.Terminating, "")
		time.Sleep(2 * time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "")
		if second, err := w.Resume(t.Context(), inv.Session); err != nil || !second.Token.Empty() {
			t.Errorf("after that, %v, a token: %v", err, !second.Token.Empty())
		}
	})
	inBubble(t, func(t *testing.T, w *world) { // whoever ended it meant it
		inv, person, node := w.together(datachannel.Capabilities()...)
		person.leave()
		node.say("secrets")
		w.Terminate(t.Context(), inv.Session, "Terminated by arn.")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "by arn")
	})
}

func TestPersonStaysAway(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		person.leave()
		for range 10 { // the shell keeps talking, so it is not idle
			time.Sleep(2 * time.Minute)
			node.stream.Send(t.Context(), wire.KindOutput, []byte("."))
		}
		time.Sleep(time.Minute)
		w.wantState(inv.Session, sallyport.Terminated, "The client was away for 20m0s.")
		node.wantClosed("away")
	})
}

// The first client to use a token has it to itself.
func TestTwoClientsRace(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		thief := w.far(wire.TypeInputStreamData)
		w.attachPerson(thief, inv, "client-2")
		if sallyport.CodeOf(thief.join) != sallyport.AccessDeniedException {
			t.Errorf("a second client was met with %v", thief.join)
		}
		w.attachPerson(thief, inv, "")
		if sallyport.CodeOf(thief.join) != sallyport.AccessDeniedException {
			t.Errorf("a client without an ID was met with %v", thief.join)
		}
		node.say("for her alone")
		person.hear("for her alone")
	})
}

// The same client on a second socket takes the session over: its first is a
// connection that is dead and has not been noticed.
func TestSocketIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		near, again := sockets()
		second := make(chan error, 1)
		go func() {
			second <- w.JoinPerson(context.Background(), nil, inv.Session, inv.Token, "client-1", near, nil)
		}()
		synctest.Wait()
		if !errors.Is(person.join, errReplaced) {
			t.Errorf("the first socket ended with %v", person.join)
		}
		node.say("hello")
		if b, err := again.ReadFrame(t.Context()); err != nil || !bytes.HasSuffix(b, []byte("hello")) {
			t.Errorf("the second read %q, %v", b, err)
		}
		again.Cut()
		if err := <-second; err == nil {
			t.Error("a cut socket ended without an error")
		}
	})
}

func TestWhoMayAttach(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		near, _ := sockets()
		bob := &sallyport.Principal{ARN: "arn:aws:iam::000000000000:user/bob", ID: "AIDABOB"}
		other := sallyport.NewNodeID()
		for name, err := range map[string]error{
			"a person with another token":        w.JoinPerson(t.Context(), nil, inv.Session, sallyport.GenerateSecret(), "", near, nil),
			"a person with no token":             w.JoinPerson(t.Context(), nil, inv.Session, sallyport.Secret{}, "", near, nil),
			"somebody else's signature":          w.JoinPerson(t.Context(), bob, inv.Session, inv.Token, "", near, nil),
			"a session that is not there":        w.JoinPerson(t.Context(), nil, sallyport.NewSessionID("ann"), inv.Token, "", near, nil),
			"a node with the person's token":     w.JoinNode(t.Context(), w.node, inv.Session, inv.Token, near, nil, this),
			"another node":                       w.JoinNode(t.Context(), other, inv.Session, inv.Token, near, nil, this),
			"a node before it asked for a token": w.JoinNode(t.Context(), w.node, inv.Session, sallyport.Secret{}, near, nil, this),
		} {
			if sallyport.CodeOf(err) != sallyport.AccessDeniedException {
				t.Errorf("%s was met with %v", name, err)
			}
		}
		if _, err := w.NodeToken(t.Context(), other, inv.Session); sallyport.CodeOf(err) != sallyport.DoesNotExistException {
			t.Errorf("another node's CreateDataChannel was met with %v", err)
		}
		w.complete(inv.Session, "Success", nil) // so that the bubble ends
	})
}

func TestControlToken(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		token := w.ControlToken(w.node)
		if err := w.CheckControlToken(w.node, token); err != nil {
			t.Error(err)
		}
		if err := w.CheckControlToken(sallyport.NewNodeID(), token); err == nil {
			t.Error("a node's token let another node in")
		}
		time.Sleep(controlTokenLife + time.Second)
		if err := w.CheckControlToken(w.node, token); err == nil {
			t.Error("an old token is still good")
		}
	})
}

func TestNodeIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.leave()
		time.Sleep(60 * time.Second)
		w.attachNode(node, inv.Session) // it was away for a minute
		node.say("back")
		person.hear("back")
		node.leave()
		time.Sleep(90*time.Second + time.Second)
		person.wantClosed("was lost and did not come back in 1m30s")
	})
}

func TestDeregisteredNode(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, person, node := w.together()
		w.EndNode(sallyport.NewNodeID(), "not this one")
		w.EndNode(w.node, w.node.String()+" was deregistered.")
		person.wantClosed("was deregistered")
		node.wantClosed("was deregistered")
	})
}

// A server that stops, however, leaves its sessions to the next: the ends come
// back to it, and nothing is lost or repeated.
func TestServerRestarts(t *testing.T) {
	for _, caps := range [][]string{nil, datachannel.Capabilities()} {
		inBubble(t, func(t *testing.T, w *world) {
			inv, person, node := w.together(caps...)
			node.say("one ")
			person.hear("one ")
			person.say("two ")
			node.hear("two ")
			person.leave()
			node.say("three ") // into the log, and nowhere else
			w.halt()
			<-node.ended
			node.stream.Send(t.Context(), wire.KindOutput, []byte("four "))
			person.stream.Send(t.Context(), wire.KindOutput, []byte("five "))

			w.start()
			w.wantState(inv.Session, sallyport.Disconnected, "")
			w.attachNode(node, inv.Session)
			second, err := w.Resume(t.Context(), inv.Session)
			if err != nil {
				t.Fatal(err)
			}
			w.attachPerson(person, second, "client-1")
			person.hear("three four ")
			node.hear("five ")
			node.say("six")
			person.hear("six")
			w.wantState(inv.Session, sallyport.Connected, "")
		})
	}
}

// Sessions whose ends do not come back after a restart end, with a cause.
func TestNobodyComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, _ := w.together()
		connecting := w.begin()
		terminating, _, _ := w.together()
		w.Terminate(t.Context(), terminating.Session, "Terminated by bob.")
		w.halt()

		w.start()
		time.Sleep(5 * time.Minute)
		w.wantState(inv.Session, sallyport.Terminated, "was lost and did not come back")
		w.wantState(connecting.Session, sallyport.Failed, "did not answer")
		w.wantState(terminating.Session, sallyport.Terminated, "Terminated by bob.")
	})
}

// A session whose log is gone cannot be taken up, and says so.
func TestLogIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, _ := w.together()
		w.halt()
		if err := w.Shelf.Remove(inv.Session); err != nil {
			t.Fatal(err)
		}
		w.start()
		time.Sleep(time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "cut short")
	})
}

// A server that is killed when the log is sealed and the end not yet saved
// leaves a session that the next one finishes, with its recording.
func TestKilledBetweenSealAndSave(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, node := w.together()
		node.say("hello")
		w.Terminate(t.Context(), inv.Session, "Terminated by bob.")
		w.halt()
		if _, err := w.Shelf.Seal(inv.Session); err != nil {
			t.Fatal(err)
		}
		w.start()
		time.Sleep(endGrace + time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "Terminated by bob.")
		sealed, err := w.Shelf.Seal(inv.Session) // what there is, now that the log is gone
		if err != nil {
			t.Fatal(err)
		}
		if left, err := w.Shelf.Unsealed(); err != nil || len(left) != 0 {
			t.Errorf("logs are left: %v, %v", left, err)
		}
		rec, err := w.db.Session(t.Context(), inv.Session)
		if err != nil || rec.Log.Size != sealed.Size || !bytes.Equal(rec.Log.Hash, sealed.SHA256) {
			t.Errorf("stored %+v, %v; sealed %+v", rec.Log, err, sealed)
		}
	})
}

// What is not logged is not relayed: a full disk ends the session, and says so.
func TestLogCannotBeWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		w.find(inv.Session).log.Close() // every write fails from here on
		node.say("secret")
		person.wantClosed("log cannot be written")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "log cannot be written")
	})
}

// A stock agent that has no pause in it, and a person who does not read, fill
// the log and not the memory; the agent is told to pause; and when the person
// reads again, every byte is there.
func TestSlowPerson(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		node := w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		near, slow := sockets()
		joined := make(chan error, 1)
		go func() {
			joined <- w.JoinPerson(context.Background(), nil, inv.Session, inv.Token, "", near, nil)
		}()
		synctest.Wait()

		// A bare stock agent: frames and no window.
		node.leave()
		token, err := w.NodeToken(t.Context(), w.node, inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		nearNode, agent := sockets()
		go w.JoinNode(context.Background(), w.node, inv.Session, token, nearNode, nil, this)
		const chunk, count = 64 << 10, 160 // 10 MiB
		paused := make(chan struct{})
		go func() {
			for {
				b, err := agent.ReadFrame(context.Background())
				if err != nil {
					return
				}
				if head, err := wire.Peek(b); err == nil && head.Type == wire.TypePausePublication {
					close(paused)
					return
				}
			}
		}()
		for i := range count {
			f := wire.NewFrame(wire.TypeOutputStreamData, bytes.Repeat([]byte{byte(i)}, chunk), time.Now())
			f.Seq, f.Kind = int64(i), wire.KindOutput
			b, err := f.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := agent.WriteFrame(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		select {
		case <-paused:
		default:
			t.Error("the agent was not told to pause")
		}
		s := w.find(inv.Session)
		s.mu.Lock()
		if m := s.lanes[1].memory; m > inMemory+2*chunk {
			t.Errorf("%d bytes in memory", m)
		}
		s.mu.Unlock()

		for i := range count {
			b, err := slow.ReadFrame(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f, err := wire.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if f.Type != wire.TypeOutputStreamData || f.Seq != int64(i) || f.Payload[0] != byte(i) || len(f.Payload) != chunk {
				t.Fatalf("frame %d is %s %d", i, f.Type, f.Seq)
			}
			ack, err := wire.Ack{Type: f.Type, ID: f.ID, Seq: f.Seq}.Frame(time.Now()).AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := slow.WriteFrame(t.Context(), ack); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		s.mu.Lock()
		if s.lanes[1].bytes != 0 || s.paused {
			t.Errorf("%d bytes held, paused = %v", s.lanes[1].bytes, s.paused)
		}
		s.mu.Unlock()
		slow.Cut()
		agent.Cut()
		if err := <-joined; err == nil {
			t.Error("a cut socket ended without an error")
		}
	})
}

// An end whose acknowledgement was lost repeats itself; the relay answers for
// the other end, which a stock client does not.
func TestRepeatsAreAnswered(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.say("x")
		person.hear("x")
		node.leave()
		token, err := w.NodeToken(t.Context(), w.node, inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		near, agent := sockets()
		go w.JoinNode(context.Background(), w.node, inv.Session, token, near, nil, this)
		f := wire.NewFrame(wire.TypeOutputStreamData, []byte("x"), time.Now())
		f.Kind = wire.KindOutput
		b, err := f.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.WriteFrame(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		got, err := agent.ReadFrame(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		answer, err := wire.Decode(got)
		if err != nil {
			t.Fatal(err)
		}
		ack, err := wire.ReadAck(answer.Payload)
		if err != nil || answer.Type != wire.TypeAcknowledge || ack.Seq != 0 || ack.ID != f.ID {
			t.Errorf("answered %s %+v, %v", answer.Type, ack, err)
		}
		agent.Cut()
	})
}

// Ends of ours hear of each other, whoever comes first; others never do.
func TestPeersAreIntroduced(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, person, node := w.together(datachannel.Capabilities()...)
		for name, f := range map[string]*far{"person": person, "node": node} {
			if f.stream.Chunk() <= 1024 {
				t.Errorf("the %s's messages are of %d bytes still", name, f.stream.Chunk())
			}
		}
	})
	inBubble(t, func(t *testing.T, w *world) {
		_, person, node := w.together()
		for name, f := range map[string]*far{"person": person, "node": node} {
			f.mu.Lock()
			for _, heard := range f.heard {
				if heard == wire.TypeSallyportPeer {
					t.Errorf("a stock %s was sent %s", name, heard)
				}
			}
			f.mu.Unlock()
		}
	})
}

// What ends of ours say to each other has checksums. A program of AWS's that
// takes the place of one is not shown any, nor what was on its way before it
// came.
func TestChecksumsAreForOurs(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(datachannel.Capabilities()...)
		person.leave()
		node.say("said to one of ours")
		second, err := w.Resume(t.Context(), inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		near, stock := sockets()
		go w.JoinPerson(context.Background(), nil, inv.Session, second.Token, "another", near, nil)
		for {
			b, err := stock.ReadFrame(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f, err := wire.Decode(b)
			if err != nil || f.Checksum {
				t.Fatalf("sent %s with a checksum: %v, %v", f.Type, f.Checksum, err)
			}
			if f.Type == wire.TypeOutputStreamData {
				if string(f.Payload) != "said to one of ours" {
					t.Errorf("shown %q", f.Payload)
				}
				break
			}
		}
		stock.Cut()
	})
}

func TestStartNeedsARunningBroker(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.stop()
		_, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "D"})
		if sallyport.CodeOf(err) != sallyport.ServiceUnavailableException {
			t.Errorf("Start = %v", err)
		}
		if ids, err := w.Shelf.Unsealed(); err != nil || len(ids) != 0 {
			t.Errorf("it left a log: %v, %v", ids, err)
		}
		w.stop = func() {}
	})
}

func TestLane(t *testing.T) {
	l := newLane()
	add := func(seqs ...int64) {
		for _, seq := range seqs {
			l.hold(&held{seq: seq, size: 10})
		}
	}
	check := func(what string, acked int64, heldNow int) {
		t.Helper()
		if l.acked != acked || len(l.held) != heldNow || l.bytes != 10*heldNow {
			t.Fatalf("%s: acknowledged to %d, %d held of %d bytes; want %d and %d", what, l.acked, len(l.held), l.bytes, acked, heldNow)
		}
	}
	add(0, 1, 2, 4, 3)
	l.ack(wire.Ack{Seq: 1})
	check("out of order", -1, 4)
	l.ack(wire.Ack{Seq: 99})
	check("of what was never sent", -1, 4)
	l.ack(wire.Ack{Seq: 0})
	check("the gap closes", 1, 3)
	l.ack(wire.Ack{Seq: 0})
	check("again", 1, 3)
	if l.look(0) != isAcked || l.look(2) != isHeld || l.look(5) != isNew {
		t.Errorf("look: %v %v %v", l.look(0), l.look(2), l.look(5))
	}
	l.cursor = 2
	l.ack(wire.Ack{Seq: 3, Through: true})
	check("through", 3, 1)
	if l.held[0].seq != 4 || l.cursor != 0 {
		t.Errorf("held %d, cursor %d", l.held[0].seq, l.cursor)
	}
	l.ack(wire.Ack{Seq: -1, Through: true})
	check("through nothing", 3, 1)
}

// A lane keeps its frames by number, whatever order they come in, and what it
// remembers of acknowledgements is bounded, whatever is acknowledged.
func TestLaneBounds(t *testing.T) {
	l := newLane()
	for seq := int64(9); seq >= 0; seq-- {
		l.hold(&held{seq: seq, size: 10})
	}
	if batch := l.take(nil, 5, math.MaxInt64); len(batch) != 5 || l.cursor != 5 {
		t.Fatalf("took %d, cursor %d", len(batch), l.cursor)
	}
	l.ack(wire.Ack{Seq: 9, Through: true})
	l.hold(&held{seq: 12, size: 10})
	l.take(nil, 5, math.MaxInt64)
	if !l.hold(&held{seq: 11, size: 10}) || l.cursor != 2 {
		t.Error("a frame that fills a gap behind the cursor is not said to be passed")
	}
	if l.missing(10, 13) != 10 || l.missing(11, 13) != 13 || l.missing(13, 13) != 13 {
		t.Error("whole: number 10 is missing, and no other")
	}

	l = newLane()
	for i := range int64(100_000) { // acknowledgements of what nobody sent
		l.ack(wire.Ack{Seq: 2*i + 1})
	}
	if len(l.later) != 0 {
		t.Errorf("%d spans of numbers that were not sent", len(l.later))
	}
	for i := range int64(3 * maxSpans) { // and of every other one that was
		l.hold(&held{seq: 2*i + 1, size: 10})
		l.ack(wire.Ack{Seq: 2*i + 1})
	}
	if len(l.later) > maxSpans || len(l.held) != 2*maxSpans {
		t.Errorf("%d spans, %d held", len(l.later), len(l.held))
	}
	l.ack(wire.Ack{Seq: 6 * maxSpans, Through: true}) // nobody has sent that
	l.ack(wire.Ack{Seq: 6*maxSpans - 1, Through: true})
	if len(l.later) != 0 || len(l.held) != 0 || l.bytes != 0 || l.acked != 6*maxSpans-1 {
		t.Errorf("after all was acknowledged: %d spans, %d held, %d bytes, to %d", len(l.later), len(l.held), l.bytes, l.acked)
	}
}

// end has the node say, as the last message of its stream, how it ended.
func (f *far) end(e wire.End) {
	f.w.t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		f.w.t.Fatal(err)
	}
	if err := f.stream.SendLast(f.w.t.Context(), wire.KindEnd, b); err != nil {
		f.w.t.Fatal(err)
	}
	synctest.Wait()
}

func (f *far) wantFlushed(want bool) {
	f.w.t.Helper()
	ctx, cancel := context.WithTimeout(f.w.t.Context(), time.Millisecond)
	defer cancel()
	if err := f.stream.Flush(ctx); (err == nil) != want {
		f.w.t.Fatalf("all that the node sent is acknowledged: %v, want %v", err == nil, want)
	}
}

// hearEnd waits for the node's last message.
func (f *far) hearEnd(status int) {
	f.w.t.Helper()
	ctx, cancel := context.WithTimeout(f.w.t.Context(), time.Minute)
	defer cancel()
	m, err := f.stream.Receive(ctx)
	var e wire.End
	if err != nil || m.Kind != wire.KindEnd || json.Unmarshal(m.Payload, &e) != nil || e.ExitStatus == nil || *e.ExitStatus != status {
		f.w.t.Fatalf("heard %v %s, %v, want exit status %d", m.Kind, m.Payload, err, status)
	}
	synctest.Wait()
}

// The end is the last message of the node's stream. The node is free when all of
// it is on the server's disk, and the client has it whatever happens then.
func TestEndInTheStream(t *testing.T) {
	status := 58
	caps := append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)
	wantEnded := func(w *world, id sallyport.SessionID) {
		w.t.Helper()
		w.wantState(id, sallyport.Terminated, "")
		if rec := w.stored(id); rec.ExitStatus == nil || *rec.ExitStatus != status {
			w.t.Errorf("stored exit status %v", rec.ExitStatus)
		}
	}
	tests := map[string]func(w *world, inv Invitation, person, node *far){
		"both are there": func(w *world, inv Invitation, person, node *far) {
			node.say("bye")
			node.end(wire.End{ExitStatus: &status})
			node.wantFlushed(true)
			person.hear("bye")
			person.hearEnd(status)
			person.wantClosed("")
			if person.closed.ExitStatus == nil || *person.closed.ExitStatus != status {
				w.t.Errorf("told %v", person.closed.ExitStatus)
			}
		},
		"the person is away": func(w *world, inv Invitation, person, node *far) {
			person.leave()
			node.say("bye")
			node.end(wire.End{ExitStatus: &status})
			node.wantFlushed(true)
			node.leave()
			time.Sleep(19 * time.Minute)
			again, err := w.Resume(w.t.Context(), inv.Session)
			if err != nil || again.Token.Empty() {
				w.t.Fatalf("not resumed: %v", err)
			}
			w.attachPerson(person, again, "client-1")
			person.hear("bye")
			person.hearEnd(status)
		},
		"the server is restarted twice while the person is away": func(w *world, inv Invitation, person, node *far) {
			person.leave()
			node.say("bye")
			node.end(wire.End{ExitStatus: &status})
			node.wantFlushed(true)
			node.leave()
			for range 2 {
				w.halt()
				w.start()
			}
			w.attachPerson(person, inv, "client-1") // its token is good still
			person.hear("bye")
			person.hearEnd(status)
		},
		"an administrator comes too late": func(w *world, inv Invitation, person, node *far) {
			person.leave()
			node.end(wire.End{ExitStatus: &status})
			w.Terminate(w.t.Context(), inv.Session, "Terminated by bob.") // which gives the client up, and changes nothing else
			synctest.Wait()
			err := w.JoinPerson(w.t.Context(), nil, inv.Session, inv.Token, "client-1", nil, nil)
			if ended, ok := errors.AsType[*Ended](err); !ok || ended.ExitStatus == nil || *ended.ExitStatus != status {
				w.t.Errorf("a client that comes then is told %v", err)
			}
		},
		"a message before it is late": func(w *world, inv Invitation, person, node *far) {
			frame := func(seq int64, kind wire.Kind, payload string) []byte {
				f := wire.NewFrame(wire.TypeOutputStreamData, []byte(payload), time.Now())
				f.Seq, f.Kind = seq, kind
				return encode(f)
			}
			for _, b := range [][]byte{frame(0, wire.KindOutput, "a"), frame(2, wire.KindEnd, `{"ExitStatus":58}`), frame(1, wire.KindOutput, "b")} {
				if err := node.conn.WriteFrame(w.t.Context(), b); err != nil {
					w.t.Fatal(err)
				}
				synctest.Wait()
			}
			person.hear("ab")
			person.hearEnd(status)
		},
		"the client does not know it": func(w *world, inv Invitation, person, node *far) {
			person.leave()
			person.caps = []string{wire.CapExitStatus}
			node.say("bye")
			node.end(wire.End{ExitStatus: &status})
			w.attachPerson(person, inv, "client-1")
			person.hear("bye")
			person.wantClosed("")
			if person.closed.ExitStatus == nil || *person.closed.ExitStatus != status {
				w.t.Errorf("told %v", person.closed.ExitStatus)
			}
			for _, heard := range person.heard {
				if heard == wire.TypeOutputStreamData {
					w.t.Error("the client was sent the node's last message")
				}
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				inv, person, node := w.together(caps...)
				test(w, inv, person, node)
				wantEnded(w, inv.Session)
			})
		})
	}
}

// What the session ended of first is what both its client and the history say.
func TestEndAfterAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		status := 129
		caps := append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)
		inv, person, node := w.together(caps...)
		w.Terminate(t.Context(), inv.Session, "Terminated by bob.")
		node.end(wire.End{ExitStatus: &status}) // of the shell, which was hung up on
		node.wantFlushed(true)
		person.wantClosed("Terminated by bob.")
		w.wantState(inv.Session, sallyport.Terminated, "Terminated by bob.")
		if rec := w.stored(inv.Session); rec.ExitStatus != nil {
			t.Errorf("stored exit status %d", *rec.ExitStatus)
		}
	})
}

// A node that reports its end on the control channel may have more to say on the
// data channel, which is waited for.
func TestReportIsFasterThanTheOutput(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		w.report(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Connected, "")
		node.say("the last of it")
		node.leave()
		person.hear("the last of it")
		person.wantClosed("")
		w.wantState(inv.Session, sallyport.Terminated, "")
	})
}

// An agent of ours says an exit status. If it does not, it was stopped.
func TestAgentWithoutStatus(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, _ := w.together(wire.CapExitStatus)
		w.complete(inv.Session, "Success", nil)
		person.wantClosed("without saying how its program ended")
	})
}

// Two ends that attach, but never at once, do not keep a session for ever.
func TestNeverTogether(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		person, node := w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		node.leave()
		w.attachPerson(person, inv, "client-1")
		time.Sleep(91 * time.Second)
		person.wantClosed("was lost and did not come back")
		w.wantState(inv.Session, sallyport.Terminated, "was lost and did not come back")
	})
}

// A node's absence is counted from when it left, however often the server is
// restarted meanwhile.
func TestAbsenceOutlivesTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.leave()
		for range 3 {
			time.Sleep(31 * time.Second)
			w.halt()
			w.start()
			w.attachPerson(person, inv, "client-1")
		}
		time.Sleep(31 * time.Second)
		person.wantClosed("was lost and did not come back")
		w.wantState(inv.Session, sallyport.Terminated, "was lost and did not come back")
	})
}

// An agent's new process that has not the sessions of the one before says so,
// and they end at once; until then the person is told that the node is away.
func TestSessionsOfAnotherProcess(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(wire.CapNotices)
		kept, _, _ := w.together()
		fresh := w.begin() // not begun there: it cannot have been lost
		node.leave()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if len(person.notices) != 1 || !strings.Contains(person.notices[0], "is away") {
			t.Errorf("told %q", person.notices)
		}
		another := wire.Process{Instance: "i3", Place: "a copy"}
		w.Lost(w.node, wire.SallyportSessions{Process: another}) // which says nothing of this one's
		w.wantState(inv.Session, sallyport.Connected, "")
		w.Lost(w.node, wire.SallyportSessions{Sessions: []string{kept.Session.String()}, Process: wire.Process{Instance: "i2", Place: this.Place}})
		person.wantClosed("was stopped or restarted")
		w.wantState(inv.Session, sallyport.Terminated, "was stopped or restarted")
		w.wantState(kept.Session, sallyport.Connected, "")
		w.wantState(fresh.Session, sallyport.Connecting, "")
	})
}

// The recording that is made after a full disk is known to the store.
func TestTidyStoresHashes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, node := w.together()
		node.say("hello")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "")
		// As if the disk had been full when it ended.
		cast := w.Shelf.CastPath(inv.Session)
		if err := os.Remove(cast); err != nil {
			t.Fatal(err)
		}
		again, err := w.Shelf.Create(inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		again.Append(record.Entry{At: time.Now(), What: record.Event, Body: []byte("kept")})
		again.Close()
		if err := w.db.SetSessionLog(t.Context(), inv.Session, store.Log{}); err != nil {
			t.Fatal(err)
		}
		if n, err := w.Tidy(t.Context()); err != nil || n != 1 {
			t.Fatalf("tidied %d, %v", n, err)
		}
		rec, err := w.db.Session(t.Context(), inv.Session)
		if err != nil || rec.Log.Size == 0 || len(rec.Log.Hash) == 0 {
			t.Errorf("stored %+v, %v", rec.Log, err)
		}
		if left, _ := filepath.Glob(filepath.Join(w.dir, "sessions", "*.log")); len(left) != 0 {
			t.Errorf("left %q", left)
		}
	})
}

// The power failed before a session that had its log was stored. Its log, cut in
// its first line, is removed.
func TestTidyRemovesLogsOfNoSession(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		id := sallyport.NewSessionID("ann")
		name := filepath.Join(w.dir, "sessions", id.String()+".log")
		if err := os.WriteFile(name, []byte("SALLY"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Tidy(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the log is left: %v", err)
		}
	})
}

// As many sessions of one person, on one node and in all may be on, and no more.
func TestSessionLimits(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.Limits = Limits{PerUser: 2, PerNode: 3, Total: 4}
		bob := &sallyport.Principal{Kind: sallyport.UserKind, ARN: "arn:aws:iam::000000000000:user/bob", ID: "AIDABOB", Root: "AIDABOB", Name: "bob"}
		other := sallyport.NewNodeID()
		start := func(who *sallyport.Principal, at sallyport.NodeID) error {
			_, err := w.Start(t.Context(), Request{Who: who, Node: at, Parameters: json.RawMessage("{}")})
			return err
		}
		var ids []sallyport.SessionID
		for range 2 {
			ids = append(ids, w.begin().Session)
		}
		refused := func(err error, says string) {
			t.Helper()
			if sallyport.CodeOf(err) != sallyport.ServiceQuotaExceededException || !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want to be told %q", err, says)
			}
		}
		refused(start(w.ann, other), "You have as many sessions as there may be at once: 2")
		if err := start(bob, w.node); err != nil {
			t.Fatal(err)
		}
		refused(start(bob, w.node), w.node.String()+" has as many")
		if err := start(bob, other); err != nil {
			t.Fatal(err)
		}
		eve := &sallyport.Principal{Kind: sallyport.UserKind, ARN: "arn:aws:iam::000000000000:user/eve", ID: "AIDAEVE", Root: "AIDAEVE", Name: "eve"}
		refused(start(eve, other), "The server has as many")
		w.Terminate(t.Context(), ids[0], "Terminated by bob.")
		if err := start(w.ann, w.node); err != nil {
			t.Errorf("after one has ended: %v", err)
		}
		left, err := w.Shelf.Unsealed()
		if err != nil || len(left) > 5 {
			t.Errorf("logs of sessions that did not start are left: %v, %v", left, err)
		}
	})
}

// A disk that is nearly full, or recordings that have all they may, keep sessions
// from starting, and say so.
func TestNoRoomToStart(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		request := Request{Who: w.ann, Node: w.node, Parameters: json.RawMessage("{}")}
		w.Limits = Limits{MinFree: 1 << 60}
		if _, err := w.Start(t.Context(), request); sallyport.CodeOf(err) != sallyport.ServiceUnavailableException || !strings.Contains(err.Error(), "disk is nearly full") {
			t.Errorf("%v", err)
		}
		w.Limits = Limits{Recordings: 10}
		w.begin()
		time.Sleep(time.Minute)
		if _, err := w.Start(t.Context(), request); sallyport.CodeOf(err) != sallyport.ServiceUnavailableException || !strings.Contains(err.Error(), "may have 10 bytes") {
			t.Errorf("%v", err)
		}
	})
}

// A session that says more than its recording may have goes on without, and both
// its client and the recording say so; or it ends.
func TestFullRecording(t *testing.T) {
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.Limits = Limits{Recording: 64 << 10, EndAtRecording: ends}
				inv, person, node := w.together(append(datachannel.Capabilities(), wire.CapNotices)...)
				text := strings.Repeat("x", 60<<10)
				for range 2 {
					node.say(text)
					person.hear(text)
				}
				if ends {
					node.stream.Send(t.Context(), wire.KindOutput, []byte("more"))
					person.wantClosed("all it may have")
					return
				}
				for range 20 {
					node.say(text)
					person.hear(text)
				}
				if size := w.find(inv.Session).log.Size(); size > 256<<10 {
					t.Errorf("the log has %d bytes", size)
				}
				if len(person.notices) != 1 || !strings.Contains(person.notices[0], "is full") {
					t.Errorf("told %q", person.notices)
				}
				w.complete(inv.Session, "Success", nil)
				w.wantState(inv.Session, sallyport.Terminated, "")
				cast, err := os.ReadFile(w.Shelf.CastPath(inv.Session))
				if err != nil || !strings.Contains(string(cast), "the recording ends here") {
					t.Errorf("the recording does not say that it ends: %v", err)
				}
			})
		})
	}
}

// A copy of files is recorded as what it is: how much, and its hash.
func TestFileCopyIsFlow(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		properties, err := json.Marshal(wire.CommandProperties{Linux: wire.PlatformCommand{Commands: wire.FileServer}})
		if err != nil {
			t.Fatal(err)
		}
		var task wire.AgentTaskPayload
		task.DocumentContent.SessionType = "NonInteractiveCommands"
		task.DocumentContent.Properties = properties
		inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Parameters: json.RawMessage("{}"), Task: task})
		if err != nil {
			t.Fatal(err)
		}
		person, node := w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachPerson(person, inv, "client-1")
		w.attachNode(node, inv.Session)
		node.say("what is in the file")
		person.hear("what is in the file")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "")
		cast, err := os.ReadFile(w.Shelf.CastPath(inv.Session))
		sum := fmt.Sprintf("%x from it", sha256.Sum256([]byte("what is in the file")))
		if err != nil || strings.Contains(string(cast), "in the file") || !strings.Contains(string(cast), "19 bytes from it") || !strings.Contains(string(cast), sum) {
			t.Errorf("%s, %v", cast, err)
		}
	})
}

// What a lane counts is what its buffers have, and a keystroke's buffer is small
// however large the frame before it was.
func TestLanesCountBuffers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.leave()
		s := w.find(inv.Session)
		write := func(seq int64, n int) {
			f := wire.NewFrame(wire.TypeInputStreamData, bytes.Repeat([]byte("k"), n), time.Now())
			f.Seq, f.Kind = seq, wire.KindOutput
			if err := person.conn.WriteFrame(t.Context(), encode(f)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for i := range int64(200) {
			write(2*i, 1)
			write(1<<40, wire.MaxPayload) // never in order, and held once
			write(2*i+1, 1)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		l := &s.lanes[0] // the person's
		held := 0
		for _, h := range l.held {
			held += cap(h.frame.b)
		}
		if held != l.memory || l.memory > 2*l.bytes+len(l.held)<<minBufferBits {
			t.Errorf("%d frames of %d bytes: %d bytes of buffers, %d counted", len(l.held), l.bytes, held, l.memory)
		}
	})
}

// What waits for a socket that takes nothing is bounded, in bytes; and what is too
// long to be an acknowledgement or an end is neither.
func TestControlIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		person := w.far(wire.TypeInputStreamData)
		w.attachPerson(person, inv, "client-1")
		near, stuck := sockets()
		near.out = make(chan []byte) // which nobody reads
		token, err := w.NodeToken(t.Context(), w.node, inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		joined := make(chan error, 1)
		go func() {
			joined <- w.JoinNode(context.Background(), w.node, inv.Session, token, near, []string{wire.CapEnd}, this)
		}()
		write := func(c *wireEnd, f wire.Frame) {
			t.Helper()
			if err := c.WriteFrame(t.Context(), encode(f)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		output := wire.NewFrame(wire.TypeOutputStreamData, []byte("x"), time.Now())
		output.Kind = wire.KindOutput
		write(stuck, output)
		ack := wire.Ack{Type: wire.TypeOutputStreamData, Seq: 0}
		for range 5000 {
			write(person.conn, ack.Frame(time.Now()))
		}
		long := wire.NewFrame(wire.TypeAcknowledge, append(ack.AppendJSON(nil), bytes.Repeat([]byte(" "), maxAckFrame)...), time.Now())
		before := w.Stats().Dropped
		write(person.conn, long)
		end := wire.NewFrame(wire.TypeOutputStreamData, append([]byte(`{}`), bytes.Repeat([]byte(" "), maxEndFrame)...), time.Now())
		end.Kind, end.Seq = wire.KindEnd, 1
		write(stuck, end)
		if dropped := w.Stats().Dropped - before; dropped != 2 {
			t.Errorf("%d of two frames that are too long were dropped", dropped)
		}
		s := w.find(inv.Session)
		s.mu.Lock()
		held := 0
		for _, frame := range s.ends[node].control {
			held += cap(frame)
		}
		if s.fate != 0 || held == 0 || held > 2*maxControl || s.ends[node].controlBytes > maxControl {
			t.Errorf("fate %v; %d bytes wait, counted as %d", s.fate, held, s.ends[node].controlBytes)
		}
		s.mu.Unlock()
		stuck.Cut()
		<-joined
	})
}

// A client that stays on its socket after the end loses it in a while. If it has
// not acknowledged all that was said, it may come back for it.
func TestStaysAfterTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, _ := w.together()
		person.stays = true
		w.complete(inv.Session, "Success", nil)
		person.wantClosed("")
		w.wantState(inv.Session, sallyport.Terminating, "")
		time.Sleep(drainGrace + time.Millisecond)
		<-person.ended
		w.wantState(inv.Session, sallyport.Terminated, "")
	})
}

// A server that lost what it was told of an end says that, and not that the agent
// was restarted, which has been there all the time.
func TestEndThatWasLost(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.leave()
		w.halt()
		w.start()
		w.attachPerson(person, inv, "client-1")
		w.Lost(w.node, wire.SallyportSessions{Process: this})
		person.wantClosed("how was lost with the server")
		w.wantState(inv.Session, sallyport.Terminated, "how was lost with the server")
	})
}

// A report of an end by an agent that keeps it is acknowledged once the end is on
// disk, and again for each repeat; what of the stream never came is said.
func TestReportIsAcknowledgedOnceKept(t *testing.T) {
	status, lacking, whole := 7, int64(2), int64(1)
	for name, messages := range map[string]*int64{"": &whole, "before the last of its output was sent": &lacking} {
		inBubble(t, func(t *testing.T, w *world) {
			inv, person, node := w.together(wire.CapExitStatus)
			node.say("one")
			person.hear("one")
			node.leave()
			frame := wire.AgentTaskComplete{
				TaskId: inv.Session.String(), FinalTaskStatus: "Success", InstanceId: w.node.String(), ExitStatus: &status, Messages: messages,
			}.Frame(time.Now())
			if answer, err := w.Complete(w.node, frame); answer != nil || err != nil {
				t.Errorf("%q: a report was answered before the end was on disk: %d bytes, %v", name, len(answer), err)
			}
			if n := w.controlFrames(wire.TypeAgentTaskAcknowledge); n != 1 {
				t.Errorf("%q: acknowledged %d times", name, n)
			}
			if answer, err := w.Complete(w.node, frame); len(answer) == 0 || err != nil {
				t.Errorf("%q: a repeat was answered with %d bytes, %v", name, len(answer), err)
			}
			person.wantClosed(name)
			if got := person.closed.ExitStatus; got == nil || *got != 7 {
				t.Errorf("%q: told status %v", name, got)
			}
			person.leave()
			synctest.Wait()
			w.wantState(inv.Session, sallyport.Terminated, name)
			if got := w.stored(inv.Session).ExitStatus; got == nil || *got != 7 {
				t.Errorf("%q: stored status %v", name, got)
			}
			if answer, err := w.Complete(w.node, frame); len(answer) == 0 || err != nil {
				t.Errorf("%q: after the end, a repeat was answered with %d bytes, %v", name, len(answer), err)
			}
		})
	}
}

// A client that stays and takes nothing does not hold an ended session for ever,
// whatever it acknowledges; and whoever may terminate it need not wait for that.
func TestClientThatTakesNothing(t *testing.T) {
	caps := append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)
	hold := func(w *world) (inv Invitation, conn *wireEnd) {
		inv = w.begin()
		near, conn := sockets()
		go w.JoinPerson(context.Background(), nil, inv.Session, inv.Token, "c", near, caps)
		node := w.far(wire.TypeOutputStreamData, caps...)
		w.attachNode(node, inv.Session)
		status := 0
		node.end(wire.End{ExitStatus: &status})
		return inv, conn
	}
	inBubble(t, func(t *testing.T, w *world) {
		inv, conn := hold(w)
		defer conn.Cut()
		ended := time.Now()
		for range 21 {
			time.Sleep(time.Minute)
			for len(conn.in) > 0 {
				<-conn.in
			}
			select {
			case conn.out <- encode(wire.Ack{Type: wire.TypeOutputStreamData, Seq: -1, Through: true}.Frame(time.Now())):
			default: // it is not read any more
			}
		}
		w.wantState(inv.Session, sallyport.Terminated, "")
		if at, _ := w.stored(inv.Session).Ended(); at.Sub(ended).Abs() > time.Second {
			t.Errorf("it ended at %v, the history says %v", ended, at)
		}
	})
	inBubble(t, func(t *testing.T, w *world) {
		inv, conn := hold(w)
		defer conn.Cut()
		w.wantState(inv.Session, sallyport.Terminating, "")
		w.Terminate(t.Context(), inv.Session, "Terminated by bob.")
		time.Sleep(drainGrace + time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "")
	})
}

// What a node says after its session was ended is neither shown nor recorded, and
// its end is acknowledged all the same.
func TestOutputAfterTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)...)
		node.say("before")
		person.hear("before")
		w.Terminate(t.Context(), inv.Session, "Terminated by bob.")
		node.say("after")
		node.end(wire.End{})
		node.wantFlushed(true)
		w.wantState(inv.Session, sallyport.Terminated, "by bob")
		cast, err := os.ReadFile(w.Shelf.CastPath(inv.Session))
		if err != nil || !strings.Contains(string(cast), "before") || strings.Contains(string(cast), "after") {
			t.Errorf("%s, %v", cast, err)
		}
	})
}

// Numbers that nothing reaches are refused, and an early end is looked at again
// when what it waits for has come, not with every message.
func TestHostileEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		token, err := w.NodeToken(t.Context(), w.node, inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		near, conn := sockets()
		go w.JoinNode(context.Background(), w.node, inv.Session, token, near, []string{wire.CapEnd}, this)
		write := func(seq int64, kind wire.Kind, payload string) {
			f := wire.NewFrame(wire.TypeOutputStreamData, []byte(payload), time.Now())
			f.Seq, f.Kind = seq, kind
			conn.WriteFrame(t.Context(), encode(f))
			synctest.Wait()
		}
		s := w.find(inv.Session)
		write(math.MaxInt64, wire.KindEnd, `{}`)
		write(math.MaxInt64, wire.KindOutput, "x")
		if s.endSeq != -1 || len(s.lanes[node].held) != 0 {
			t.Errorf("the end is %d, %d frames are held", s.endSeq, len(s.lanes[node].held))
		}
		write(0, wire.KindOutput, "a")
		write(5, wire.KindEnd, `{}`)
		write(3, wire.KindOutput, "d")
		if s.endSeq != -1 || s.missing != 1 {
			t.Errorf("the end is %d, missing %d", s.endSeq, s.missing)
		}
		write(1, wire.KindOutput, "b")
		write(4, wire.KindOutput, "e")
		if s.endSeq != -1 || s.missing != 2 {
			t.Errorf("the end is %d, missing %d", s.endSeq, s.missing)
		}
		write(2, wire.KindOutput, "c")
		if s.endSeq != 5 {
			t.Errorf("the end is %d", s.endSeq)
		}
		conn.Cut()
	})
}

// A flow that its client does not take waits in memory, and not in the log.
func TestFlowDoesNotSpill(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var task wire.AgentTaskPayload
		task.DocumentContent.SessionType = "Port"
		inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Parameters: json.RawMessage("{}"), Task: task})
		if err != nil {
			t.Fatal(err)
		}
		person := w.far(wire.TypeInputStreamData)
		w.attachPerson(person, inv, "client-1")
		token, err := w.NodeToken(t.Context(), w.node, inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		near, conn := sockets()
		go w.JoinNode(context.Background(), w.node, inv.Session, token, near, nil, this)
		person.leave()
		for seq := range int64(64) {
			f := wire.NewFrame(wire.TypeOutputStreamData, make([]byte, wire.MaxPayload), time.Now())
			f.Seq, f.Kind = seq, wire.KindOutput
			conn.WriteFrame(t.Context(), encode(f))
			synctest.Wait()
			for len(conn.in) > 0 {
				<-conn.in
			}
		}
		s := w.find(inv.Session)
		s.mu.Lock()
		memory, log := s.lanes[node].memory, s.log.Size()
		s.mu.Unlock()
		if memory > 3*inMemory || log > 64<<10 {
			t.Errorf("16 MiB that nobody takes: %d bytes in memory, %d in the log", memory, log)
		}
		conn.Cut()
	})
}

// What a client's absence may cost in log is bounded: a node that heeds no pause
// is ended.
func TestHardCap(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		person := w.far(wire.TypeInputStreamData)
		w.attachPerson(person, inv, "client-1")
		token, err := w.NodeToken(t.Context(), w.node, inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		near, conn := sockets()
		go w.JoinNode(context.Background(), w.node, inv.Session, token, near, nil, this)
		synctest.Wait()
		person.leave()
		s := w.find(inv.Session)
		s.mu.Lock()
		s.lanes[node].bytes = hardCap + 1 // as if it had been said
		s.mu.Unlock()
		f := wire.NewFrame(wire.TypeOutputStreamData, []byte("more"), time.Now())
		f.Kind = wire.KindOutput
		conn.WriteFrame(t.Context(), encode(f))
		synctest.Wait()
		s.mu.Lock()
		s.lanes[node].bytes -= hardCap + 1
		s.mu.Unlock()
		time.Sleep(endGrace + time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "no longer fits")
	})
}
