package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

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

// A lane keeps its frames by number, in any order they come in, and what it
// remembers of acknowledgements is bounded, also for numbers that were never sent.
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
	for i := range int64(100_000) { // acknowledgements of frames that were not sent
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
	l.ack(wire.Ack{Seq: 6 * maxSpans, Through: true}) // that was not sent
	l.ack(wire.Ack{Seq: 6*maxSpans - 1, Through: true})
	if len(l.later) != 0 || len(l.held) != 0 || l.bytes != 0 || l.acked != 6*maxSpans-1 {
		t.Errorf("after all was acknowledged: %d spans, %d held, %d bytes, to %d", len(l.later), len(l.held), l.bytes, l.acked)
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
		near.out = make(chan []byte) // which the client does not read
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

// A client that stays and takes nothing does not hold an ended session for ever, also
// if it acknowledges some frames; and an administrator can end the wait at once.
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
		conn := w.rawNode(inv.Session)
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
		conn := w.rawNode(inv.Session)
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

// What a client types to a node that is away has an end: beyond it a frame is
// dropped, and comes again when there is room.
func TestTypedAheadHasAnEnd(t *testing.T) {
	holds := func(s *session, from side, bytes int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lanes[from].bytes = bytes
	}
	inBubble(t, func(t *testing.T, w *world) {
		inv, client, agent := w.together()
		agent.leave()
		s := w.find(inv.Session)
		holds(s, person, typedAhead+1)
		before := s.b.dropped.Load()
		client.say("typed")
		synctest.Wait()
		if s.b.dropped.Load() == before {
			t.Error("what does not fit was taken")
		}
		holds(s, person, 0)
		w.attachNode(agent, inv.Session)
		agent.hear("typed")
		w.complete(inv.Session, "Success", nil)
	})
}
