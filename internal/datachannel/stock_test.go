package datachannel_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// A stock is an end of AWS's, as far as a stream can tell: what it does about
// sequence numbers, and its faults.
//
//   - It sends at most 1 KiB every millisecond, and does not wait for acknowledgements.
//   - Every 100 ms it sends its oldest message again, if that is late, and no
//     other, even on a new socket.
//   - Its client never acknowledges a message twice. Its agent does.
//   - Its agent does not acknowledge what the shell cannot take yet, and waits
//     to be sent it again.
//
// (amazon-ssm-agent agent/session/datachannel/datachannel.go;
// session-manager-plugin src/datachannel/streaming.go.)
type stock struct {
	sends wire.Type
	slow  time.Duration // the agent: how long the shell takes to come up

	mu       sync.Mutex
	born     time.Time
	conn     datachannel.Conn
	ctx      context.Context
	expected int64
	early    map[int64][]byte
	got      []byte
	next     int64
	sent     []stockSent
}

type stockSent struct {
	seq int64
	b   []byte
	at  time.Time
}

func newStock(sends wire.Type) *stock {
	return &stock{sends: sends, early: map[int64][]byte{}, born: time.Now()}
}

func (s *stock) run(ctx context.Context, conn datachannel.Conn) {
	ctx, stop := context.WithCancel(ctx)
	s.mu.Lock()
	s.conn, s.ctx = conn, ctx
	s.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
			s.mu.Lock()
			if len(s.sent) > 0 && time.Since(s.sent[0].at) > 200*time.Millisecond {
				if s.sends == wire.TypeOutputStreamData { // the client forgets to note it
					s.sent[0].at = time.Now()
				}
				b := s.sent[0].b
				s.mu.Unlock()
				conn.WriteFrame(ctx, b)
				continue
			}
			s.mu.Unlock()
		}
	})
	for {
		b, err := conn.ReadFrame(ctx)
		if err != nil {
			break
		}
		if f, err := wire.Decode(b); err == nil {
			s.handle(f)
		}
	}
	stop()
	wg.Wait()
	s.mu.Lock()
	s.conn = nil
	s.mu.Unlock()
}

func (s *stock) handle(f wire.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	agent := s.sends == wire.TypeOutputStreamData
	ack := func() {
		a := wire.Ack{Type: f.Type, ID: f.ID, Seq: f.Seq}.Frame(time.Now())
		b, _ := a.AppendBinary(nil)
		conn, ctx := s.conn, s.ctx
		s.mu.Unlock()
		conn.WriteFrame(ctx, b)
		s.mu.Lock()
	}
	switch {
	case f.Type == wire.TypeAcknowledge:
		a, err := wire.ReadAck(f.Payload)
		if err != nil {
			return
		}
		for i, m := range s.sent {
			if m.seq == a.Seq {
				s.sent = append(s.sent[:i:i], s.sent[i+1:]...)
				break
			}
		}
	case f.Type == s.sends || f.Type != wire.TypeInputStreamData && f.Type != wire.TypeOutputStreamData:
	case f.Seq == s.expected:
		if agent && time.Since(s.born) < s.slow {
			return
		}
		s.got = append(s.got, f.Payload...)
		s.expected++
		ack()
		for s.early[s.expected] != nil {
			s.got = append(s.got, s.early[s.expected]...)
			delete(s.early, s.expected)
			s.expected++
		}
	case f.Seq > s.expected:
		if len(s.early) < 10_000 {
			s.early[f.Seq] = bytes.Clone(f.Payload)
			ack()
		}
	case agent:
		ack()
	}
}

// send queues p and writes it, if there is a socket.
func (s *stock) send(p []byte) {
	for len(p) > 0 {
		n := min(len(p), 1024)
		s.mu.Lock()
		f := wire.NewFrame(s.sends, p[:n], time.Now())
		f.Seq, f.Kind = s.next, wire.KindOutput
		s.next++
		b, _ := f.AppendBinary(nil)
		s.sent = append(s.sent, stockSent{f.Seq, b, time.Now()})
		conn, ctx := s.conn, s.ctx
		s.mu.Unlock()
		if conn != nil {
			conn.WriteFrame(ctx, b)
		}
		p = p[n:]
		time.Sleep(time.Millisecond)
	}
}

func (s *stock) received() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.got)
}

// A memory is the relay, in what matters here: it remembers what the stock
// client behind it acknowledged, and answers repeats for it.
type memory struct {
	datachannel.Conn
	acked *sync.Map
}

func (m memory) ReadFrame(ctx context.Context) ([]byte, error) {
	for {
		b, err := m.Conn.ReadFrame(ctx)
		if err != nil {
			return nil, err
		}
		h, err := wire.Peek(b)
		if err != nil {
			return nil, err
		}
		if _, ok := m.acked.Load(h.Seq); ok && h.Type == wire.TypeOutputStreamData {
			a, _ := wire.Ack{Type: h.Type, ID: h.ID, Seq: h.Seq}.Frame(time.Now()).AppendBinary(nil)
			m.Conn.WriteFrame(ctx, a)
			continue
		}
		return b, nil
	}
}

func (m memory) WriteFrame(ctx context.Context, b []byte) error {
	if h, err := wire.Peek(b); err == nil && h.Type == wire.TypeAcknowledge {
		if a, err := wire.ReadAck(b[h.Payload:]); err == nil {
			m.acked.Store(a.Seq, true)
		}
	}
	return m.Conn.WriteFrame(ctx, b)
}

// Either end may be AWS's.
func TestWithStockPeers(t *testing.T) {
	networks := []struct {
		name string
		net  network
	}{
		{"does no harm", network{}},
		{"is slow", network{delay: 300 * time.Millisecond}},
		{"is cut", network{life: 2 * time.Second, delay: 20 * time.Millisecond}},
		{"loses, repeats and is cut", network{lose: 0.03, repeat: 0.1, life: 5 * time.Second, delay: 20 * time.Millisecond}},
	}
	for _, n := range networks {
		for _, ours := range []wire.Type{wire.TypeOutputStreamData, wire.TypeInputStreamData} {
			t.Run(n.name+"/we send "+string(ours), func(t *testing.T) {
				for seed := range uint64(4) {
					synctest.Test(t, func(t *testing.T) {
						net := n.net
						net.rng = rand.New(rand.NewPCG(seed, 0))
						withStock(t, &net, ours, seed)
					})
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

func withStock(t *testing.T, net *network, ours wire.Type, seed uint64) {
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Hour)
	defer cancel()
	joined, part := context.WithCancel(ctx)
	theirs := wire.TypeInputStreamData
	if ours == theirs {
		theirs = wire.TypeOutputStreamData
	}
	us, them := &datachannel.Stream{Sends: ours}, newStock(theirs)
	them.slow = 3 * time.Second
	acked := new(sync.Map)

	var sockets, ends sync.WaitGroup
	sockets.Go(func() {
		net.join(joined, func(a, b datachannel.Conn, until context.Context) {
			both, stop := context.WithCancel(until)
			defer stop()
			var wg sync.WaitGroup
			if theirs == wire.TypeInputStreamData {
				b = memory{b, acked}
			}
			wg.Go(func() { us.Run(both, a); stop() })
			wg.Go(func() { them.run(both, b); stop() })
			wg.Wait()
		})
	})
	down, up := text(seed, 200_000), text(seed+1, 60_000)
	ends.Go(func() {
		if err := us.Send(ctx, wire.KindOutput, down); err != nil {
			t.Errorf("send: %v", err)
		}
		if err := us.Flush(ctx); err != nil {
			t.Errorf("flush: %v", err)
		}
		synctest.Wait() // they acknowledge before they have put everything in order
		if got := them.received(); !bytes.Equal(got, down) {
			t.Errorf("they received %d of %d bytes, the same: %v", len(got), len(down), bytes.HasPrefix(down, got))
		}
	})
	ends.Go(func() { them.send(up) })
	ends.Go(func() {
		got, err := collect(ctx, us, len(up))
		if err != nil || !bytes.Equal(got, up) {
			t.Errorf("we received %d of %d bytes, the same: %v; %v", len(got), len(up), bytes.HasPrefix(up, got), err)
		}
	})
	ends.Wait()
	part()
	sockets.Wait()
}
