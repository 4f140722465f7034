package broker

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// tooLong is a task whose message is longer than a frame may be, though its
// command is a quarter of that: it is in the message three times, escaped.
func tooLong() wire.AgentTaskPayload {
	b, err := json.Marshal(map[string]any{"linux": map[string]string{"commands": strings.Repeat("<", 60_000)}})
	if err != nil {
		panic(err)
	}
	return wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SchemaVersion: "1.0", SessionType: "InteractiveCommands", Properties: b}}
}

func TestTaskThatIsTooLong(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "x", Task: tooLong()})
		if sallyport.CodeOf(err) != sallyport.InvalidParameters || !strings.Contains(err.Error(), "may take 262144") {
			t.Errorf("Start: %v", err)
		}
		if left, err := w.db.Sessions().Unfinished(t.Context()); len(left) != 0 || err != nil {
			t.Errorf("%d sessions are stored, %v", len(left), err)
		}
	})
}

// A session that an earlier version stored, and that cannot be dispatched, fails
// by itself. The server starts all the same.
func TestStoredTaskThatIsTooLong(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		other := w.begin()
		rec := sallyport.NewSession(sallyport.NewSessionID("ann"), w.ann, w.node, "x", time.Now())
		resume, err := json.Marshal(resumed{Task: tooLong()})
		if err != nil {
			t.Fatal(err)
		}
		log, err := w.Shelf.Create(rec.ID)
		if err != nil {
			t.Fatal(err)
		}
		log.Close()
		if err := w.db.Sessions().Insert(t.Context(), &store.SessionRecord{Session: rec, Resume: resume}); err != nil {
			t.Fatal(err)
		}
		w.halt()
		w.start()
		time.Sleep(time.Second)
		w.wantState(rec.ID, sallyport.Failed, "may take 262144")
		w.wantState(other.Session, sallyport.Connecting, "")
	})
}

// A node's report of a task is answered for every task ID.
func TestTaskOfAnyName(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		frame := wire.AgentTaskComplete{TaskId: strings.Repeat("<", 60_000)}.Frame(time.Now())
		answer, err := w.Complete(w.node, frame)
		if err != nil {
			t.Fatal(err)
		}
		var ack wire.AgentTaskAcknowledge
		if err := unmarshal(answer, &ack); err != nil || ack.MessageId != frame.ID.String() {
			t.Errorf("%+v, %v", ack, err)
		}
	})
}

// What an end announces is passed on to the other, as far as it can be a name.
func TestCapabilitiesOfAnyLength(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		caps := []string{wire.CapNotices, strings.Repeat("<", 60_000), "two words", "\x1b[31m", ""}
		for range 1000 {
			caps = append(caps, strings.Repeat("x", maxCapability))
		}
		person, node := w.far(wire.TypeInputStreamData, caps...), w.far(wire.TypeOutputStreamData, wire.CapThrough)
		var told wire.SallyportPeer
		control := node.stream.Control
		node.stream.Control = func(f wire.Frame) {
			if f.Type == wire.TypeSallyportPeer {
				if err := f.Unmarshal(&told); err != nil {
					t.Error(err)
				}
			}
			control(f)
		}
		w.attachNode(node, inv.Session)
		w.attachPerson(person, inv, "")
		w.wantState(inv.Session, sallyport.Connected, "")
		if n := len(told.Capabilities); n == 0 || n > maxCapabilities || told.Capabilities[0] != wire.CapNotices {
			t.Errorf("the node was told %q", told.Capabilities)
		}
	})
}

// A brittle socket has a bug that panics.
type brittle struct {
	Conn
	reads, writes bool
}

func (b brittle) AppendFrame(ctx context.Context, buf []byte) ([]byte, error) {
	frame, err := b.Conn.AppendFrame(ctx, buf)
	if head, perr := wire.Peek(frame[len(buf):]); perr == nil && b.reads && strings.HasSuffix(string(head.Type), "_stream_data") {
		panic("a bug in reading")
	}
	return frame, err
}

func (b brittle) WriteFrame(ctx context.Context, frame []byte) error {
	if head, err := wire.Peek(frame); err == nil && b.writes && strings.HasSuffix(string(head.Type), "_stream_data") {
		panic("a bug in writing")
	}
	return b.Conn.WriteFrame(ctx, frame)
}

// A panic, wherever it is, ends the session it is about. The broker, and the
// session beside it, go on.
func TestPanicEndsOneSession(t *testing.T) {
	tests := []struct {
		name         string
		person, node brittle
		long         bool // what is said is written by the writer, and not by the reader
	}{
		{"read from the person", brittle{reads: true}, brittle{}, false},
		{"read from the node", brittle{}, brittle{reads: true}, false},
		{"write to the person", brittle{writes: true}, brittle{}, false},
		{"write to the node", brittle{}, brittle{writes: true}, false},
		{"write much to the person", brittle{writes: true}, brittle{}, true},
		{"write much to the node", brittle{}, brittle{writes: true}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				_, beside, besideNode := w.together()
				inv := w.begin()
				person, node := w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
				token, err := w.NodeToken(t.Context(), w.node, inv.Session)
				if err != nil {
					t.Fatal(err)
				}
				b, before := w.Broker, panics.Count()
				node.attach(func(c Conn) error {
					tt.node.Conn = c
					return b.JoinNode(context.Background(), w.node, inv.Session, token, tt.node, nil, this)
				})
				person.attach(func(c Conn) error {
					tt.person.Conn = c
					return b.JoinPerson(context.Background(), nil, inv.Session, inv.Token, "", tt.person, nil)
				})
				w.wantState(inv.Session, sallyport.Connected, "")
				text := "x"
				if tt.long {
					text = strings.Repeat("x", 64<<10)
				}
				// One of them is never read, and its sender is not answered.
				person.stream.Send(t.Context(), wire.KindOutput, []byte(text))
				node.stream.Send(t.Context(), wire.KindOutput, []byte(text))
				synctest.Wait()
				if n := panics.Count() - before; n != 1 {
					t.Errorf("%d panics", n)
				}
				w.complete(inv.Session, "Success", nil)
				time.Sleep(2 * endGrace)
				w.wantState(inv.Session, sallyport.Terminated, "an error of its own")

				beside.say("ls\r")
				besideNode.hear("ls\r")
				w.EndNode(w.node, "over") // which wants every session's lock
			})
		})
	}
}

// A brittleBus panics as a frame is sent to any node but one.
type brittleBus struct {
	*world
	but sallyport.NodeID
}

func (b brittleBus) Attach(sallyport.NodeID, func(context.Context, []byte) error) func() {
	return func() {}
}
func (b brittleBus) Online(sallyport.NodeID) bool { return true }
func (b brittleBus) Send(_ context.Context, node sallyport.NodeID, _ []byte) error {
	if node != b.but {
		panic("a bug in sending")
	}
	return nil
}

func TestPanicOfTheSessionItself(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.Bus = brittleBus{w, w.node}
		beside := w.begin()
		inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: sallyport.NewNodeID(), Document: "x"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.wantState(inv.Session, sallyport.Failed, "an error of its own")
		if s := w.stored(beside.Session); s.State() != sallyport.Failed || !strings.Contains(s.Cause, "did not answer") {
			t.Errorf("the session beside it is %v: %s", s.State(), s.Cause)
		}
	})
}

// Frames of any content, from either end, do not panic, leave the session's
// lock free and its lanes' sums true.
func FuzzFrames(f *testing.F) {
	now := time.Now()
	stream := func(t wire.Type, seq int64, kind wire.Kind, payload string) []byte {
		frame := wire.NewFrame(t, []byte(payload), now)
		frame.Seq, frame.Kind = seq, kind
		return encode(frame)
	}
	in, out := stream(wire.TypeInputStreamData, 0, wire.KindOutput, "ls\r"), stream(wire.TypeOutputStreamData, 0, wire.KindOutput, "$ ")
	f.Add([]byte{}, []byte{})
	f.Add(in, out)
	f.Add(stream(wire.TypeInputStreamData, -1, wire.KindSize, `{"cols":1}`), stream(wire.TypeOutputStreamData, 1<<62, wire.KindOutput, ""))
	f.Add(encode(wire.Ack{Type: wire.TypeOutputStreamData, Seq: 0}.Frame(now)), encode(wire.Ack{Type: wire.TypeInputStreamData, Seq: 1 << 62, Through: true}.Frame(now)))
	f.Add(encode(wire.AgentSessionState{SessionState: "Terminating"}.Frame(now)), encode(wire.AgentSessionState{SessionState: "Terminating"}.Frame(now)))
	shelf, err := record.OpenShelf(nil, f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	b := &Broker{Shelf: shelf, Log: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, fromPerson, fromNode []byte) {
		rec := sallyport.NewSession(sallyport.NewSessionID("x"), new(sallyport.Principal), sallyport.NewNodeID(), "x", now)
		s := b.newSession(rec)
		if s.log, err = shelf.Create(s.id); err != nil {
			t.Fatal(err)
		}
		defer shelf.Remove(s.id)
		defer s.log.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		for at := range s.ends {
			near, _ := sockets()
			s.ends[at] = &end{side: side(at), conn: near, ctx: ctx, cancel: cancel, first: -1, wake: make(chan struct{}, 1), done: make(chan struct{})}
		}
		for range 2 { // what is repeated takes another way
			for at, frame := range [][]byte{fromPerson, fromNode} {
				buf := &buffer{b: append(make([]byte, 0, len(frame)), frame...)}
				if _, err := s.receive(s.ends[at], buf); err != nil && !errors.Is(err, errOver) {
					t.Fatal(err)
				}
				if !s.mu.TryLock() {
					t.Fatal("the session's lock is held")
				}
				for i := range s.lanes {
					bytes := 0
					for _, h := range s.lanes[i].held {
						bytes += h.size
					}
					if bytes != s.lanes[i].bytes {
						t.Fatalf("the lane counts %d bytes and holds %d", s.lanes[i].bytes, bytes)
					}
				}
				s.mu.Unlock()
			}
		}
	})
}

// What a stranger chose can be written into every frame that the broker makes
// of it.
func FuzzEncode(f *testing.F) {
	f.Add("Success", "no reason", "x", uint16(1))
	f.Add("\xff", strings.Repeat("<", 300_000), strings.Repeat("\u2028", 60_000), uint16(1000))
	b := &Broker{Log: slog.New(slog.DiscardHandler), live: map[sallyport.SessionID]*session{}}
	f.Fuzz(func(t *testing.T, status, output, word string, n uint16) {
		node := sallyport.NewNodeID()
		rec := sallyport.NewSession(sallyport.NewSessionID(word), new(sallyport.Principal), node, "x", time.Now())
		s := b.newSession(rec)
		b.live[s.id] = s
		s.launched.Store(true)
		defer delete(b.live, s.id)

		caps := make([]string, n)
		for i := range caps {
			caps[i] = word
		}
		e := &end{side: person, caps: []string{wire.CapThrough}, wake: make(chan struct{}, 1)}
		e.peer(&end{caps: acceptable(caps)})
		if len(e.control) != 1 {
			t.Error("the end is not told of its peer")
		}
		s.ends[person] = e
		for _, task := range []string{word, s.id.String()} {
			payload, err := json.Marshal(wire.AgentTaskComplete{TaskId: task, FinalTaskStatus: status, Output: output})
			if err != nil {
				t.Fatal(err)
			}
			answer, err := b.Complete(node, wire.NewFrame(wire.TypeAgentTaskComplete, payload, time.Now()))
			if len(answer) == 0 || err != nil {
				t.Errorf("%d bytes of answer, %v", len(answer), err)
			}
		}
		s.decide(time.Now()) // as run does
		if s.fate == 0 || len(s.closedFrame(true)) == 0 {
			t.Errorf("the session does not end, or cannot say why: %q", s.rec.Cause)
		}
	})
}

// A brittleDisk panics over one session's log: when it is opened again, or when
// its recording is made.
type brittleDisk struct{ of string }

func (d brittleDisk) MkdirAll(dir string, perm fs.FileMode) error { return os.MkdirAll(dir, perm) }
func (d brittleDisk) Rename(from, to string) error                { return os.Rename(from, to) }
func (d brittleDisk) Remove(name string) error                    { return os.Remove(name) }
func (d brittleDisk) ReadDir(dir string) ([]fs.DirEntry, error)   { return os.ReadDir(dir) }
func (d brittleDisk) SyncDir(string) error                        { return nil }
func (d brittleDisk) CreateTemp(dir, pattern string) (record.File, error) {
	return os.CreateTemp(dir, pattern)
}
func (d brittleDisk) OpenFile(name string, flag int, perm fs.FileMode) (record.File, error) {
	if strings.Contains(name, d.of) && flag&os.O_CREATE == 0 {
		panic("a bug in reading a log")
	}
	return os.OpenFile(name, flag, perm)
}

// A log whose reading panics costs its session the recording. Neither its end nor
// the start of a server waits for it.
func TestPanicOverALog(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.halt()
		w.disk = brittleDisk{"ann-"}
		w.start()
		ended, _, node := w.together()
		node.say("$ ")
		w.Terminate(t.Context(), ended.Session, "Enough.")
		w.complete(ended.Session, "Success", nil)
		time.Sleep(time.Hour)
		w.wantState(ended.Session, sallyport.Terminated, "Enough.")

		on := w.begin()
		w.halt()
		w.start()
		time.Sleep(time.Hour)
		if s := w.stored(on.Session); !s.State().Final() {
			t.Errorf("the session that was taken up is %v", s.State())
		}
		w.disk = nil
		w.halt()
		w.start()
		// Each recording that was not made is a job; a server without the bug does it.
		waiting, err := w.db.Jobs().Lease(t.Context(), []string{SealJob}, time.Now(), time.Now().Add(time.Minute), 10, 0)
		if err != nil || len(waiting) == 0 {
			t.Fatalf("the jobs are %+v, %v", waiting, err)
		}
		for _, job := range waiting {
			if err := w.SealLate(t.Context(), job); err != nil {
				t.Errorf("%s: %v", job.Name, err)
			}
			if err := w.SealLate(t.Context(), job); err != nil { // a job may be done twice
				t.Errorf("%s, again: %v", job.Name, err)
			}
		}
		rec, err := w.db.Sessions().Get(t.Context(), ended.Session)
		if err != nil || rec.Recording != store.RecordingSealed || len(rec.Log.Hash) == 0 {
			t.Errorf("after its job the session is %+v, %v", rec, err)
		}
		if _, err := w.Tidy(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A session whose recording can be neither made nor queued ends all the same, and
// Tidy makes the recording later.
func TestNoRoomForASealJob(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.halt()
		w.disk = brittleDisk{"ann-"}
		w.start()
		inv, _, node := w.together()
		node.say("$ ")
		db, err := sql.Open("sqlite", filepath.Join(w.dir, "x.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(`WITH RECURSIVE seq (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM seq WHERE i < 10000)
			INSERT INTO queued (id, queue, kind, name, node, payload, every, due, dead, created) SELECT 'x' || i, 'jobs', $1, 'x' || i, '', '', 0, 0, TRUE, i FROM seq`, SealJob); err != nil {
			t.Fatal(err)
		}
		w.Terminate(t.Context(), inv.Session, "Enough.")
		w.complete(inv.Session, "Success", nil)
		time.Sleep(time.Hour)
		w.wantState(inv.Session, sallyport.Terminated, "Enough.")

		w.disk = nil
		w.halt()
		w.start()
		if n, err := w.Tidy(t.Context()); err != nil || n != 1 {
			t.Errorf("%d recordings are made, %v", n, err)
		}
	})
}
