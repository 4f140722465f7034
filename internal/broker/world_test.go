package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
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
	shelf, err := record.OpenShelf(w.disk, filepath.Join(w.dir, "sessions"))
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
	rec, err := w.db.Sessions().Get(w.t.Context(), id)
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

// rawNode attaches a socket for the node on which the test itself reads and writes
// frames.
func (w *world) rawNode(id sallyport.SessionID) *wireEnd {
	w.t.Helper()
	token, err := w.NodeToken(w.t.Context(), w.node, id)
	if err != nil {
		w.t.Fatal(err)
	}
	near, conn := sockets()
	b := w.Broker
	go b.JoinNode(context.Background(), w.node, id, token, near, nil, this)
	return conn
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

// wantOpen wants an end that was not told that the session is over.
func (f *far) wantOpen() {
	f.w.t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != nil {
		f.w.t.Errorf("told %+v, want nothing yet", f.closed)
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
