package datachannel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// handOver makes another stream of one that is not running, by way of what can
// be written down.
func handOver(t *testing.T, old *datachannel.Stream) *datachannel.Stream {
	t.Helper()
	st, err := old.State()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	var again datachannel.State
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	s := &datachannel.Stream{Sends: old.Sends, SendBuffer: old.SendBuffer, ReceiveBuffer: old.ReceiveBuffer, Direct: old.Direct}
	if err := s.Restore(again); err != nil {
		t.Fatal(err)
	}
	return s
}

// What comes out is what went in, though the streams at both ends are handed
// over again and again while the network does its worst.
func TestHandedOverNothingIsLostOrRepeated(t *testing.T) {
	for _, n := range networks {
		for _, p := range peers {
			t.Run(n.name+"/"+p.name, func(t *testing.T) {
				for seed := range uint64(4) {
					synctest.Test(t, func(t *testing.T) {
						net := n.net
						net.rng = rand.New(rand.NewPCG(seed, 0))
						a := &end{stream: &datachannel.Stream{Sends: wire.TypeOutputStreamData, SendBuffer: 1 << 15, ReceiveBuffer: 1 << 15}}
						b := &end{stream: &datachannel.Stream{Sends: wire.TypeInputStreamData, SendBuffer: 1 << 15, ReceiveBuffer: 1 << 15}}
						a.stream.SetPeer(p.a)
						b.stream.SetPeer(p.b)
						carryOver(t, &net, seed, a, b)
					})
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

// An end is one that is handed over.
type end struct {
	stream *datachannel.Stream
	rng    *rand.Rand
	rest   []byte // to send
	want   []byte // to receive
	shown  screen
}

func carryOver(t *testing.T, net *network, seed uint64, a, b *end) {
	const size = 100_000
	ends := [2]*end{a, b}
	for i, e := range ends {
		e.rng = rand.New(rand.NewPCG(seed, uint64(i)+7))
		e.rest, e.want = text(seed<<1|uint64(i), size), text(seed<<1|uint64(1-i), size)
		if seed%2 == 1 { // half of the lives have a receiver that takes what it can at once
			rng := rand.New(rand.NewPCG(seed, uint64(i)+9))
			e.stream.Direct = func(m datachannel.Message) int {
				n := min(rng.IntN(2*len(m.Payload))-len(m.Payload)/4, len(m.Payload))
				if n > 0 {
					e.shown.show(m.Payload[:n])
				}
				return n
			}
		}
	}
	begun, times := time.Now(), 0
	for ; !a.over() || !b.over(); times++ {
		ctx, stop := context.WithTimeout(t.Context(), time.Duration(net.rng.IntN(1500))*time.Millisecond)
		var all sync.WaitGroup
		all.Go(func() { net.join(ctx, runBoth(a.stream, b.stream)) })
		for _, e := range ends {
			all.Go(func() { e.send(ctx) })
			all.Go(func() { e.receive(ctx) })
		}
		all.Wait()
		stop()
		for _, e := range ends {
			if e.rng.IntN(3) > 0 {
				e.stream = handOver(t, e.stream)
			}
		}
		if time.Since(begun) > 2*time.Hour { // of a bubble's time, which is free
			break
		}
	}
	for i, e := range ends {
		if got := e.shown.text(); !bytes.Equal(got, e.want) {
			t.Errorf("end %d received %d bytes of %d, the same: %v", i, len(got), len(e.want), bytes.HasPrefix(e.want, got))
		}
	}
	if times == 0 {
		t.Error("nothing was handed over")
	}
}

// over reports whether there is nothing left to send, to receive or to hear of.
func (e *end) over() bool {
	gone, stop := context.WithCancel(context.Background())
	stop()
	return len(e.rest) == 0 && len(e.shown.text()) >= len(e.want) && e.stream.Flush(gone) == nil
}

// send sends until ctx ends. A message is sent or is not, and never in part.
func (e *end) send(ctx context.Context) {
	for len(e.rest) > 0 {
		n := min(len(e.rest), e.stream.Chunk(), 1+e.rng.IntN(1<<uint(e.rng.IntN(16))))
		if e.stream.SendMessage(ctx, wire.KindOutput, e.rest[:n]) != nil {
			return
		}
		e.rest = e.rest[n:]
	}
}

func (e *end) receive(ctx context.Context) {
	for ctx.Err() == nil {
		m, err := e.stream.Receive(ctx)
		if err != nil {
			return
		}
		e.shown.show(m.Payload)
	}
}

// A stream that is handed over goes on as its peer would have it: the same
// messages, byte for byte, the same acknowledgements.
func TestHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		send(t, s, "zero")
		send(t, s, "one")
		send(t, s, "two")
		before := r.frames()
		r.ack(wire.Ack{Type: wire.TypeOutputStreamData, Seq: 1})
		r.input(0, "a")
		r.input(2, "c") // early
		r.frames()
		if _, err := s.State(); err == nil {
			t.Error("a stream that runs gave its state")
		}
		r.cut()
		send(t, s, "three")

		s = handOver(t, s)
		r = attach(t, s)
		after := r.frames()
		if got, want := seqs(after, wire.TypeOutputStreamData), []int64{0, 2, 3}; !slices.Equal(got, want) {
			t.Errorf("sent again %v, want %v", got, want)
		}
		if len(after) < 1 || after[0].ID != before[0].ID {
			t.Error("a message sent again is another")
		}
		r.input(0, "a") // its acknowledgement was lost
		if got := seqs(r.frames(), wire.TypeAcknowledge); !slices.Equal(got, []int64{0}) {
			t.Errorf("acknowledged %v, want 0 again", got)
		}
		receive(t, s, "a")
		r.input(1, "b")
		receive(t, s, "b")
		receive(t, s, "c")
		nothing(t, s)
		send(t, s, "four")
		if got := seqs(r.frames(), wire.TypeOutputStreamData); !slices.Contains(got, 4) {
			t.Errorf("sent %v, want 4", got)
		}
		r.cut()
	})
}

// An acknowledgement that the relay has for the new socket may be of what the
// stream before wrote.
func TestHandedOverAcknowledgedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := node()
		r := attach(t, s)
		send(t, s, "zero")
		r.frames()
		r.cut()
		s = handOver(t, s)
		r = attach(t, s)
		r.ack(wire.Ack{Type: wire.TypeOutputStreamData, Seq: 0})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Flush(ctx); err != nil {
			t.Error(err)
		}
		r.cut()
	})
}

func TestRestoreRefuses(t *testing.T) {
	frame := func(seq int64) []byte {
		f := wire.NewFrame(wire.TypeOutputStreamData, []byte("x"), time.Now())
		f.Seq = seq
		b, err := f.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name string
		st   datachannel.State
		want string
	}{
		{"the other end's", datachannel.State{Sends: wire.TypeInputStreamData}, "it sends"},
		{"a message that is none", datachannel.State{Sent: []datachannel.Sent{{Frame: []byte("x"), Size: 200}}}, "message 0 sent"},
		{"a message out of place", datachannel.State{Base: 5, Sent: []datachannel.Sent{{Frame: frame(4), Size: len(frame(4))}}}, "message 5 sent"},
		{"messages not in order", datachannel.State{Expected: 2, Ready: []datachannel.Received{{Seq: 1}, {Seq: 0}}}, "where 0 should be"},
		{"an early one that is not", datachannel.State{Expected: 2, Early: []datachannel.Received{{Seq: 2}}}, "not ahead"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.st.Sends == "" {
				tt.st.Sends = wire.TypeOutputStreamData
			}
			if err := node().Restore(tt.st); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q in it", err, tt.want)
			}
		})
	}
}
