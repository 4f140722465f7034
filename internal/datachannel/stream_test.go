package datachannel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// A raw is the other end of a stream's socket, by hand: it sees the frames and
// says what it likes.
type raw struct {
	t    *testing.T
	conn *netConn
	stop context.CancelFunc
	done chan error
}

// attach runs s over a new socket, whose other end it returns.
func attach(t *testing.T, s *datachannel.Stream) *raw {
	t.Helper()
	net := network{rng: rand.New(rand.NewPCG(1, 1)), depth: 1 << 16}
	a, b, cut := net.pair(t.Context())
	r := &raw{t: t, conn: b, stop: func() { cut(errCut) }, done: make(chan error, 1)}
	go func() { r.done <- s.Run(t.Context(), a) }()
	synctest.Wait()
	return r
}

// frames returns what the stream has written by now.
func (r *raw) frames() (all []wire.Frame) {
	r.t.Helper()
	synctest.Wait()
	for {
		select {
		case got := <-r.conn.in.queue:
			f, err := wire.Decode(got.b)
			if err != nil {
				r.t.Fatal(err)
			}
			all = append(all, f)
		default:
			return all
		}
	}
}

func (r *raw) send(f wire.Frame) {
	r.t.Helper()
	b, err := f.AppendBinary(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.sendBytes(b)
}

func (r *raw) sendBytes(b []byte) {
	r.t.Helper()
	if err := r.conn.WriteFrame(r.t.Context(), b); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *raw) input(seq int64, p string) {
	r.t.Helper()
	f := wire.NewFrame(wire.TypeInputStreamData, []byte(p), time.Now())
	f.Seq, f.Kind = seq, wire.KindOutput
	r.send(f)
}

func (r *raw) ack(a wire.Ack) {
	r.t.Helper()
	r.send(a.Frame(time.Now()))
}

// cut fails the socket and waits for Run to return.
func (r *raw) cut() error {
	r.stop()
	return <-r.done
}

func seqs(frames []wire.Frame, t wire.Type) (list []int64) {
	for _, f := range frames {
		switch {
		case f.Type != t:
		case t == wire.TypeAcknowledge:
			a, _ := wire.ReadAck(f.Payload)
			list = append(list, a.Seq)
		default:
			list = append(list, f.Seq)
		}
	}
	return list
}

func upTo(n int64) (list []int64) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

func node() *datachannel.Stream { return &datachannel.Stream{Sends: wire.TypeOutputStreamData} }

func send(t *testing.T, s *datachannel.Stream, p string) {
	t.Helper()
	if err := s.Send(t.Context(), wire.KindOutput, []byte(p)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, s *datachannel.Stream, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	m, err := s.Receive(ctx)
	if err != nil || string(m.Payload) != want {
		t.Errorf("Receive = %q, %v, want %q", m.Payload, err, want)
	}
}

func nothing(t *testing.T, s *datachannel.Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if m, err := s.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Receive = %q, %v, want nothing yet", m.Payload, err)
	}
}

// What a stock peer sees of us is what it would see of its own.
func TestAsStockPeersSeeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		send(t, s, string(make([]byte, 2500)))
		if err := s.Send(t.Context(), wire.KindHandshakeRequest, make([]byte, 3000)); err != nil {
			t.Fatal(err)
		}
		if err := s.Send(t.Context(), wire.KindOutput, nil); err != nil {
			t.Fatal(err)
		}
		var sizes []int
		for i, f := range r.frames() {
			sizes = append(sizes, len(f.Payload))
			if f.Type != wire.TypeOutputStreamData || f.Seq != int64(i) || (f.Flags == wire.SYN) != (i == 0) || !f.Created.Equal(time.Now().Truncate(time.Millisecond)) {
				t.Errorf("message %d: %+v", i, f)
			}
		}
		if want := []int{1024, 1024, 452, 3000}; !slices.Equal(sizes, want) {
			t.Errorf("sizes %v, want %v", sizes, want)
		}

		f := wire.NewFrame(wire.TypeInputStreamData, []byte("ls\r"), time.Now())
		f.Kind = wire.KindOutput
		r.send(f)
		acks := r.frames()
		if len(acks) != 1 || acks[0].Flags != wire.Alone || acks[0].Seq != 0 || acks[0].Kind != 0 {
			t.Fatalf("acknowledged with %+v", acks)
		}
		want := `{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":"` + f.ID.String() + `","AcknowledgedMessageSequenceNumber":0,"IsSequentialMessage":true}`
		if string(acks[0].Payload) != want {
			t.Errorf("acknowledged with\n%s, want\n%s", acks[0].Payload, want)
		}
		r.cut()
	})
	synctest.Test(t, func(t *testing.T) { // the client sets no flags
		s := &datachannel.Stream{Sends: wire.TypeInputStreamData}
		r := attach(t, s)
		send(t, s, "ls\r")
		if f := r.frames(); len(f) != 1 || f[0].Type != wire.TypeInputStreamData || f[0].Flags != 0 {
			t.Errorf("sent %+v", f)
		}
		r.cut()
	})
}

// A stock client's port session dies of an acknowledgement that comes after
// the answer to what it acknowledges.
func TestAcknowledgesBeforeItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		go func() {
			for {
				m, err := s.Receive(t.Context())
				if err != nil || s.SendMessage(t.Context(), m.Kind, m.Payload) != nil {
					return
				}
			}
		}()
		for i := range int64(500) {
			r.input(i, "ls\r")
			frames := r.frames()
			if len(frames) != 2 || frames[0].Type != wire.TypeAcknowledge || frames[1].Type != wire.TypeOutputStreamData {
				t.Fatalf("message %d has %+v in return, want its acknowledgement and then the answer", i, frames)
			}
			r.ack(wire.Ack{Type: wire.TypeOutputStreamData, ID: frames[1].ID, Seq: i})
		}
		r.cut()
		s.Close()
	})
}

func TestReceivesInOrderAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		r.input(1, "b")
		r.input(2, "c")
		nothing(t, s)
		r.input(0, "a")
		r.input(0, "a again")
		r.input(1, "b again")
		for _, want := range []string{"a", "b", "c"} {
			receive(t, s, want)
		}
		r.input(2, "c again")
		nothing(t, s)
		// Every one is answered, the repeats too: they say an answer was lost.
		if got, want := seqs(r.frames(), wire.TypeAcknowledge), []int64{1, 2, 0, 0, 1, 2}; !slices.Equal(got, want) {
			t.Errorf("acknowledged %v, want %v", got, want)
		}
		r.cut()
	})
}

// What an enemy numbers is not kept beyond bounds, and does no harm to what a
// friend sends.
func TestHostileNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		send(t, s, "gone")
		send(t, s, "kept")
		r.ack(wire.Ack{Seq: 0})
		for _, seq := range []int64{-1, math.MinInt64, math.MaxInt64, 1 << 20, 100_001} {
			r.input(seq, "x")
		}
		for _, seq := range []int64{-2, math.MinInt64, math.MaxInt64, 2, 1 << 40} {
			r.ack(wire.Ack{Seq: seq})
			r.ack(wire.Ack{Seq: seq, Through: true, Window: math.MaxInt64})
			r.ack(wire.Ack{Seq: seq, Through: true, Window: math.MinInt64})
		}
		r.sendBytes(nil)
		r.sendBytes([]byte(`{"MessageSchemaVersion":"1.0"}`))
		r.send(wire.NewFrame(wire.TypeAcknowledge, []byte(`{`), time.Now()))
		r.send(wire.NewFrame(wire.TypeOutputStreamData, []byte("our own voice"), time.Now()))
		nothing(t, s)
		if acks := seqs(r.frames(), wire.TypeAcknowledge); len(acks) != 0 {
			t.Errorf("acknowledged %v", acks)
		}
		time.Sleep(time.Second) // for it to be sent again
		if got := seqs(r.frames(), wire.TypeOutputStreamData); !slices.Contains(got, 1) {
			t.Error("what was not acknowledged was forgotten")
		}
		r.input(0, "hello")
		receive(t, s, "hello")
		r.cut()
	})
}

// Everything unacknowledged goes out again at once and in order on a new
// socket, what came while there was none after it.
func TestMovesToANewSocket(t *testing.T) {
	for _, caps := range [][]string{nil, datachannel.Capabilities()} {
		synctest.Test(t, func(t *testing.T) {
			s := node()
			s.SetPeer(caps)
			r := attach(t, s)
			for range 200 {
				send(t, s, "x")
			}
			for _, seq := range []int64{0, 1, 3, 150} {
				r.ack(wire.Ack{Seq: seq})
			}
			first := r.frames()
			if err := r.cut(); !errors.Is(err, errCut) {
				t.Errorf("Run = %v", err)
			}
			send(t, s, "while there was none")
			time.Sleep(time.Hour)

			r = attach(t, s)
			send(t, s, "after")
			var want []int64
			for _, seq := range upTo(202) {
				if !slices.Contains([]int64{0, 1, 3, 150}, seq) {
					want = append(want, seq)
				}
			}
			again := r.frames()
			if got := seqs(again, wire.TypeOutputStreamData); !slices.Equal(got, want) {
				t.Errorf("sent %v, want %v", got, want)
			}
			if again[len(again)-3].ID != first[len(first)-1].ID && caps == nil {
				t.Error("a message sent again has another ID")
			}
			r.cut()
		})
	}
}

// A peer that reads and never answers is reminded, and not flooded.
func TestNeverFloods(t *testing.T) {
	for _, caps := range [][]string{nil, datachannel.Capabilities()} {
		synctest.Test(t, func(t *testing.T) {
			s := node()
			s.SetPeer(caps)
			r := attach(t, s)
			for range 500 {
				send(t, s, "x")
			}
			time.Sleep(time.Second)
			n := len(seqs(r.frames(), wire.TypeOutputStreamData))
			if n < 500 || n > 520 {
				t.Errorf("%d frames in the first second", n)
			}
			time.Sleep(time.Hour)
			if n := len(r.frames()); n < 300 || n > 2*3600 {
				t.Errorf("%d frames in an hour", n)
			}
			r.cut()
		})
	}
}

// A gap is made good in a few round trips, not one message a round trip.
func TestRecoversAGapQuickly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		for range 300 {
			send(t, s, "x")
		}
		r.frames() // and all are lost
		begun := time.Now()
		had := map[int64]bool{}
		for len(had) < 300 && time.Since(begun) < time.Minute {
			for _, seq := range seqs(r.frames(), wire.TypeOutputStreamData) {
				had[seq] = true
				r.ack(wire.Ack{Seq: seq})
			}
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(begun); took > 2*time.Second { // AWS's would take 30 s
			t.Errorf("it took %v", took)
		}
		r.cut()
	})
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		send(t, s, "a")
		r.frames()
		r.send(wire.Bare(wire.TypePausePublication, time.Now()))
		send(t, s, "b")
		time.Sleep(time.Minute)
		r.input(0, "x") // acknowledged all the same
		if got := r.frames(); len(got) != 1 || got[0].Type != wire.TypeAcknowledge {
			t.Errorf("while paused: %+v", got)
		}
		r.send(wire.Bare(wire.TypeStartPublication, time.Now()))
		if got := seqs(r.frames(), wire.TypeOutputStreamData); !slices.Equal(got, []int64{0, 1}) {
			t.Errorf("when started: %v", got)
		}
		r.send(wire.Bare(wire.TypePausePublication, time.Now()))
		r.cut()
		r = attach(t, s) // the peer that paused the old socket may not know of this one
		if got := seqs(r.frames(), wire.TypeOutputStreamData); !slices.Equal(got, []int64{0, 1}) {
			t.Errorf("on a new socket: %v", got)
		}
		r.cut()
	})
}

// When Receive is not called, Send waits, and what is held on both ends is bounded.
// Nothing is lost of it.
func TestBackPressure(t *testing.T) {
	for _, caps := range [][]string{nil, datachannel.Capabilities()} {
		synctest.Test(t, func(t *testing.T) {
			const sendBuffer, receiveBuffer = 200_000, 300_000
			a := &datachannel.Stream{Sends: wire.TypeOutputStreamData, SendBuffer: sendBuffer, ReceiveBuffer: receiveBuffer}
			b := &datachannel.Stream{Sends: wire.TypeInputStreamData, SendBuffer: sendBuffer, ReceiveBuffer: receiveBuffer}
			a.SetPeer(caps)
			b.SetPeer(caps)
			net := network{rng: rand.New(rand.NewPCG(1, 1)), delay: time.Millisecond}
			ctx, part := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { net.join(ctx, runBoth(a, b)) })

			want := text(1, 2_000_000)
			var mu sync.Mutex
			taken := 0
			wg.Go(func() {
				for p := want; len(p) > 0; {
					n := min(len(p), 1000)
					if err := a.Send(ctx, wire.KindOutput, p[:n]); err != nil {
						t.Error(err)
						return
					}
					p = p[n:]
					mu.Lock()
					taken += n
					mu.Unlock()
				}
			})
			time.Sleep(10 * time.Minute)
			mu.Lock()
			most := sendBuffer + receiveBuffer
			if taken > most || taken < receiveBuffer*8/10 {
				t.Errorf("%d bytes were taken, of %d that may be held", taken, most)
			}
			mu.Unlock()

			impatient, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := a.Send(impatient, wire.KindOutput, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Send with everything full = %v", err)
			}
			cancel()

			begun := time.Now()
			if got, err := collect(ctx, b, len(want)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("received %d bytes, %v", len(got), err)
			}
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("it took %v to recover", took)
			}
			part()
			wg.Wait()
		})
	}
}

// A receiver that is full withholds acknowledgements, and gives them when there
// is room, without being sent anything again.
func TestWithholdsWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		s.ReceiveBuffer = 10 * (wire.Overhead + 1)
		r := attach(t, s)
		for seq := range int64(30) {
			r.input(seq, "x")
		}
		if got := seqs(r.frames(), wire.TypeAcknowledge); !slices.Equal(got, upTo(10)) {
			t.Errorf("full: acknowledged %v", got)
		}
		r.input(15, "x") // it asks again, in vain
		r.input(25, "x")
		if got := r.frames(); len(got) != 0 {
			t.Errorf("full, asked again: %+v", got)
		}
		for i := range int64(20) {
			receive(t, s, "x")
			want := []int64{10 + i}
			switch { // 20 was more than it would keep in order; what follows is kept out of order
			case i == 19:
				want = nil
			case i >= 10:
				want = []int64{11 + i}
			}
			if got := seqs(r.frames(), wire.TypeAcknowledge); !slices.Equal(got, want) {
				t.Errorf("after %d: acknowledged %v, want %v", i, got, want)
			}
		}
		nothing(t, s)
		r.input(20, "y")
		for _, want := range []string{"y", "x", "x", "x", "x", "x", "x", "x", "x", "x"} {
			receive(t, s, want)
		}
		r.cut()
	})
}

// Ours acknowledge many messages at once, soon, and say how much they have
// room for.
func TestAcknowledgesMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		s.ReceiveBuffer = 1 << 20
		r := attach(t, s)
		s.SetPeer(datachannel.Capabilities())
		if got := acksOf(r.frames()); len(got) != 1 || !got[0].Through || got[0].Seq != -1 || got[0].Window != 1<<20 {
			t.Errorf("to begin with: %+v", got)
		}
		for seq := range int64(100) {
			r.input(seq, "x")
		}
		if got := r.frames(); len(got) != 0 {
			t.Errorf("at once: %+v", got)
		}
		time.Sleep(30 * time.Millisecond)
		want := int64(1<<20 - 100*(wire.Overhead+1))
		if got := acksOf(r.frames()); len(got) != 1 || !got[0].Through || got[0].Seq != 99 || got[0].Window != want {
			t.Errorf("soon: %+v", got)
		}
		r.input(102, "c") // ahead of order: one by one, so that it is not sent again
		r.input(5, "x")   // and a repeat, at once
		if got := acksOf(r.frames()); len(got) != 2 || got[0].Through || got[0].Seq != 102 || !got[1].Through || got[1].Seq != 99 {
			t.Errorf("out of order: %+v", got)
		}
		r.input(100, "a")
		r.input(101, "b")
		time.Sleep(30 * time.Millisecond)
		if got := acksOf(r.frames()); len(got) != 1 || got[0].Seq != 102 {
			t.Errorf("in order again: %+v", got)
		}
		flag := wire.NewFrame(wire.TypeInputStreamData, wire.FlagDisconnectToPort.Payload(), time.Now())
		flag.Seq, flag.Kind = 103, wire.KindFlag
		r.send(flag)
		if got := acksOf(r.frames()); len(got) != 1 || got[0].Seq != 103 {
			t.Errorf("at once, of what is not bytes: %+v", got)
		}
		r.cut()
	})
}

func acksOf(frames []wire.Frame) (list []wire.Ack) {
	for _, f := range frames {
		if a, err := wire.ReadAck(f.Payload); f.Type == wire.TypeAcknowledge && err == nil {
			list = append(list, a)
		}
	}
	return list
}

// A sender of ours stops where the receiver's room ends, tries again after a
// while if it hears nothing, and goes on when there is room.
func TestKeepsToTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		s.SetPeer(datachannel.Capabilities())
		r := attach(t, s)
		const size = wire.Overhead + 1
		r.ack(wire.Ack{Seq: -1, Through: true, Window: 3 * size})
		r.frames()
		for range 10 {
			send(t, s, "x")
		}
		if got := seqs(r.frames(), wire.TypeOutputStreamData); !slices.Equal(got, []int64{0, 1, 2}) {
			t.Errorf("room for three: %v", got)
		}
		r.ack(wire.Ack{Seq: 1, Through: true, Window: 3 * size})
		if got := seqs(r.frames(), wire.TypeOutputStreamData); !slices.Equal(got, []int64{3, 4}) {
			t.Errorf("room for three more than two: %v", got)
		}
		r.ack(wire.Ack{Seq: 0, Through: true, Window: 100 * size}) // late, and of no account
		r.ack(wire.Ack{Seq: 4, Through: true, Window: 0})
		if got := r.frames(); len(got) != 0 {
			t.Errorf("no room: %v", got)
		}
		time.Sleep(2 * time.Second)
		if got := seqs(r.frames(), wire.TypeOutputStreamData); !slices.Contains(got, 5) || slices.Contains(got, 6) {
			t.Errorf("no room, after a while: %v", got)
		}
		r.ack(wire.Ack{Seq: 5, Through: true, Window: 1 << 20})
		if got := seqs(r.frames(), wire.TypeOutputStreamData); !slices.Equal(got, []int64{6, 7, 8, 9}) {
			t.Errorf("room again: %v", got)
		}
		r.ack(wire.Ack{Seq: 9, Through: true, Window: 1 << 20})
		if err := s.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		r.cut()
	})
}

// The other end may turn into another in mid-session: a sallyport_peer message
// says so. What is numbered keeps its size.
func TestPeerChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard []wire.Type
		s := node()
		s.Control = func(f wire.Frame) { heard = append(heard, f.Type) }
		r := attach(t, s)
		r.send(wire.SallyportPeer{Capabilities: datachannel.Capabilities()}.Frame(time.Now()))
		send(t, s, string(make([]byte, 10_000)))
		first := r.frames()
		r.send(wire.SallyportPeer{}.Frame(time.Now()))
		send(t, s, string(make([]byte, 2000)))
		r.input(0, "x")
		if f := first[len(first)-1]; len(f.Payload) != 10_000 {
			t.Errorf("to ours: %d bytes", len(f.Payload))
		}
		second := r.frames()
		if got := seqs(second, wire.TypeOutputStreamData); len(got) != 2 || len(second[0].Payload) != 1024 {
			t.Errorf("to AWS's: %v", got)
		}
		if got := acksOf(second); len(got) != 1 || got[0].Through {
			t.Errorf("to AWS's: %+v", got)
		}
		r.cut()
		r = attach(t, s)
		if got := r.frames(); len(got) != 3 || len(got[0].Payload) != 10_000 {
			t.Errorf("again, to AWS's: %v", seqs(got, wire.TypeOutputStreamData))
		}
		if want := []wire.Type{wire.TypeSallyportPeer, wire.TypeSallyportPeer}; !slices.Equal(heard, want) {
			t.Errorf("Control heard %v", heard)
		}
		r.cut()
	})
}

// What comes out is what went in, also if each end believes other things of its peer
// and changes that often.
func TestPeersThatKeepChanging(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			net := network{rng: rand.New(rand.NewPCG(seed, 2)), lose: 0.02, delay: 10 * time.Millisecond, life: time.Second}
			a := &datachannel.Stream{Sends: wire.TypeOutputStreamData, SendBuffer: 1 << 17, ReceiveBuffer: 1 << 15}
			b := &datachannel.Stream{Sends: wire.TypeInputStreamData, SendBuffer: 1 << 14, ReceiveBuffer: 1 << 16}
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			rng := rand.New(rand.NewPCG(seed, 3))
			wg.Go(func() {
				for ctx.Err() == nil {
					s := []*datachannel.Stream{a, b}[rng.IntN(2)]
					s.SetPeer([][]string{nil, datachannel.Capabilities()}[rng.IntN(2)])
					time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
				}
			})
			carry(t, &net, a, b, seed, 400_000)
			stop()
			wg.Wait()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Many may send at once: each one's messages stay in its order, and a small one
// does not wait for a flood to end.
func TestSendsFromMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &datachannel.Stream{Sends: wire.TypeOutputStreamData, SendBuffer: 1 << 15}, &datachannel.Stream{Sends: wire.TypeInputStreamData}
		net := network{rng: rand.New(rand.NewPCG(1, 1)), delay: time.Millisecond}
		ctx, part := context.WithCancel(t.Context())
		var wg, senders sync.WaitGroup
		wg.Go(func() { net.join(ctx, runBoth(a, b)) })
		const each, senderCount = 500, 4
		for who := range byte(senderCount) {
			senders.Go(func() {
				for i := range each {
					if err := a.SendMessage(ctx, wire.KindOutput, []byte{who, byte(i >> 8), byte(i)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		var next [senderCount]int
		for range each * senderCount {
			m, err := b.Receive(ctx)
			if err != nil || len(m.Payload) != 3 {
				t.Fatalf("Receive = %q, %v", m.Payload, err)
			}
			who, i := m.Payload[0], int(m.Payload[1])<<8|int(m.Payload[2])
			if next[who] != i {
				t.Fatalf("of sender %d: message %d, want %d", who, i, next[who])
			}
			next[who]++
		}
		senders.Wait()

		flood, ebb := context.WithCancel(ctx)
		wg.Go(func() {
			for flood.Err() == nil {
				a.Send(flood, wire.KindOutput, make([]byte, 1000))
			}
		})
		wg.Go(func() {
			for {
				if _, err := b.Receive(ctx); err != nil {
					return
				}
			}
		})
		time.Sleep(100 * time.Millisecond)
		begun := time.Now()
		if err := a.Send(ctx, wire.KindFlag, wire.FlagTerminateSession.Payload()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 100*time.Millisecond {
			t.Errorf("a flag took %v to send in a flood", took)
		}
		ebb()
		part()
		wg.Wait()
	})
}

func TestControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &datachannel.Stream{Sends: wire.TypeInputStreamData}
		var closed wire.ChannelClosed
		s.Control = func(f wire.Frame) {
			if f.Type == wire.TypeChannelClosed && json.Unmarshal(f.Payload, &closed) == nil {
				s.Close()
			}
		}
		r := attach(t, s)
		last := wire.NewFrame(wire.TypeOutputStreamData, []byte("last words"), time.Now())
		r.send(last)
		r.send(wire.ChannelClosed{Output: "idle"}.Frame(time.Now()))
		if err := <-r.done; err != nil {
			t.Errorf("Run of a stream that was closed = %v", err)
		}
		receive(t, s, "last words")
		if _, err := s.Receive(t.Context()); err != io.EOF || closed.Output != "idle" {
			t.Errorf("Receive = %v, closed with %q", err, closed.Output)
		}
	})
}

// What has come is done with when its receiver comes back for more, and not
// when it has been handed over.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		if err := s.Settle(t.Context()); err != nil {
			t.Errorf("with nothing there = %v", err)
		}
		r.input(0, "a")
		r.input(1, "b")
		synctest.Wait()
		var settled atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Settle(t.Context()); err != nil {
				t.Errorf("a Settle that waits = %v", err)
			}
			settled.Store(true)
		})
		for _, want := range []string{"a", "b"} {
			receive(t, s, want)
			synctest.Wait()
			if settled.Load() {
				t.Errorf("settled with %q in hand", want)
			}
		}
		nothing(t, s)
		wg.Wait()

		r.input(2, "c")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Settle(ctx); err != context.DeadlineExceeded {
			t.Errorf("with nobody to receive it = %v", err)
		}
		wg.Go(func() {
			if err := s.Settle(t.Context()); err != datachannel.ErrClosed {
				t.Errorf("once closed = %v", err)
			}
		})
		s.Close()
		wg.Wait()
		<-r.done
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &datachannel.Stream{Sends: wire.TypeOutputStreamData, SendBuffer: 10}
		var wg sync.WaitGroup
		send(t, s, "fills it")
		wg.Go(func() {
			if err := s.Send(t.Context(), wire.KindOutput, []byte("x")); err != datachannel.ErrClosed {
				t.Errorf("a Send that waits = %v", err)
			}
		})
		wg.Go(func() {
			if _, err := s.Receive(t.Context()); err != io.EOF {
				t.Errorf("a Receive that waits = %v", err)
			}
		})
		wg.Go(func() {
			if err := s.Flush(t.Context()); err != datachannel.ErrClosed {
				t.Errorf("a Flush that waits = %v", err)
			}
		})
		r := attach(t, s)
		s.Close()
		s.Close()
		wg.Wait()
		if err := <-r.done; err != nil {
			t.Errorf("Run = %v", err)
		}
		if err := s.Run(t.Context(), r.conn); err != nil {
			t.Errorf("Run once closed = %v", err)
		}
		if err := s.Send(t.Context(), wire.KindOutput, []byte("x")); err != datachannel.ErrClosed {
			t.Errorf("Send once closed = %v", err)
		}
	})
}

func TestRunRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		if err := s.Run(t.Context(), r.conn); err == nil || errors.Is(err, errCut) {
			t.Errorf("a second Run = %v", err)
		}
		r.cut()
	})
}

// The stream neither panics nor hangs on any frames in any order, and leaves no
// goroutine behind.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 2, 255, 3, 4, 4, 9, 5, 0, 6, 0, 7, 0, 0, 1})
	f.Add([]byte{5, 1, 3, 0, 4, 1, 0, 0, 0, 0, 0, 2, 7, 7})
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := &datachannel.Stream{Sends: wire.TypeOutputStreamData, SendBuffer: 1000, ReceiveBuffer: 1000}
			r := attach(t, s)
			for len(script) >= 2 {
				op, n := script[0], int64(int8(script[1]))
				script = script[2:]
				switch op % 9 {
				case 0:
					r.input(n, "x")
				case 1:
					r.ack(wire.Ack{Seq: n})
				case 2:
					r.ack(wire.Ack{Seq: n, Through: true, Window: n * 50})
				case 3:
					r.send(wire.Bare(wire.TypePausePublication, time.Now()))
				case 4:
					r.send(wire.Bare(wire.TypeStartPublication, time.Now()))
				case 5:
					s.SetPeer([][]string{nil, datachannel.Capabilities()}[n&1])
				case 6:
					brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
					s.Send(brief, wire.KindOutput, make([]byte, 1+n&0xff))
					cancel()
				case 7:
					brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
					s.Receive(brief)
					cancel()
				case 8:
					time.Sleep(time.Duration(n&0x7f) * 20 * time.Millisecond)
				}
			}
			r.cut()
		})
	})
}
