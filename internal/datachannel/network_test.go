package datachannel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// A network joins two ends and does to frames what networks, relays and
// restarts do. All of it follows from a seed. Zero values do no harm.
type network struct {
	rng *rand.Rand

	lose, repeat, reorder float64       // the chance of each, for a frame
	delay                 time.Duration // at most, each way
	life                  time.Duration // of a socket, on average; 0 for ever
	depth                 int           // frames under way before a writer waits
}

var errCut = errors.New("the network was cut")

// pair makes one socket between the two ends, and what cuts it.
func (n *network) pair(ctx context.Context) (a, b *netConn, cut context.CancelCauseFunc) {
	ctx, cut = context.WithCancelCause(ctx)
	if n.life > 0 {
		time.AfterFunc(time.Duration(n.rng.ExpFloat64()*float64(n.life)), func() { cut(errCut) })
	}
	x, y := n.lane(), n.lane()
	return &netConn{ctx, x, y}, &netConn{ctx, y, x}, cut
}

// A lane carries frames one way.
type lane struct {
	mu    sync.Mutex
	rng   *rand.Rand
	n     *network
	last  time.Time // when the last frame arrives: a lane keeps order, unless it reorders
	queue chan flight
}

type flight struct {
	b  []byte
	at time.Time
}

func (n *network) lane() *lane {
	depth := n.depth
	if depth == 0 {
		depth = 256
	}
	return &lane{rng: rand.New(rand.NewPCG(n.rng.Uint64(), 1)), n: n, queue: make(chan flight, depth)}
}

func (l *lane) write(ctx context.Context, b []byte) error {
	l.mu.Lock()
	var flights []flight
	at := time.Now().Add(time.Duration(l.rng.Float64() * float64(l.n.delay)))
	if at.Before(l.last) {
		at = l.last
	}
	l.last = at
	for more := l.rng.Float64() >= l.n.lose; more; more = l.rng.Float64() < l.n.repeat {
		flights = append(flights, flight{bytes.Clone(b), at})
	}
	var held *flight
	if len(flights) > 0 && l.rng.Float64() < l.n.reorder {
		held = &flights[0]
	}
	l.mu.Unlock()
	for i := range flights {
		f := flights[i]
		if held == &flights[i] { // it goes round by a longer way
			time.AfterFunc(l.n.delay+20*time.Millisecond, func() {
				select {
				case l.queue <- f:
				default:
				}
			})
			continue
		}
		select {
		case l.queue <- f:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

type netConn struct {
	ctx     context.Context // the socket's
	in, out *lane
}

func (c *netConn) ReadFrame(ctx context.Context) ([]byte, error) {
	select {
	case f := <-c.in.queue:
		if wait := time.Until(f.at); wait > 0 {
			select {
			case <-time.After(wait):
			case <-c.ctx.Done():
				return nil, context.Cause(c.ctx)
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		return f.b, nil
	case <-c.ctx.Done():
		return nil, context.Cause(c.ctx)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *netConn) WriteFrame(ctx context.Context, b []byte) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	merged, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(c.ctx, func() { stop(context.Cause(c.ctx)) })()
	return c.out.write(merged, b)
}

// join runs two ends over one socket of n's after another until ctx ends.
func (n *network) join(ctx context.Context, run func(a, b datachannel.Conn, until context.Context)) {
	for ctx.Err() == nil {
		a, b, cut := n.pair(ctx)
		run(a, b, ctx)
		cut(nil)
		time.Sleep(time.Duration(n.rng.IntN(500)) * time.Millisecond) // ends do not reconnect at once
	}
}

// runBoth is the run of two Streams.
func runBoth(x, y *datachannel.Stream) func(a, b datachannel.Conn, until context.Context) {
	return func(a, b datachannel.Conn, until context.Context) {
		both, stop := context.WithCancel(until)
		defer stop()
		var wg sync.WaitGroup
		wg.Go(func() { x.Run(both, a); stop() })
		wg.Go(func() { y.Run(both, b); stop() })
		wg.Wait()
	}
}

// text is n bytes, none like its neighbours, that seed determines.
func text(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(n), byte(n >> 8)})
	rng.Read(b)
	return b
}

// collect receives n bytes.
func collect(ctx context.Context, s *datachannel.Stream, n int) ([]byte, error) {
	var got []byte
	for len(got) < n {
		m, err := s.Receive(ctx)
		if err != nil {
			return got, err
		}
		if m.Kind != wire.KindOutput {
			return got, fmt.Errorf("kind %v", m.Kind)
		}
		got = append(got, m.Payload...)
	}
	return got, nil
}

var networks = []struct {
	name string
	net  network
}{
	{"does no harm", network{}},
	{"is slow", network{delay: 300 * time.Millisecond}},
	{"loses", network{lose: 0.1, delay: 20 * time.Millisecond}},
	{"repeats", network{repeat: 0.3, delay: 20 * time.Millisecond}},
	{"reorders", network{reorder: 0.1, delay: 20 * time.Millisecond}},
	{"is cut", network{life: 700 * time.Millisecond, delay: 20 * time.Millisecond}},
	{"has room for one frame", network{depth: 1, delay: time.Millisecond}},
	{"does all of it", network{lose: 0.05, repeat: 0.1, reorder: 0.05, delay: 50 * time.Millisecond, life: 5 * time.Second, depth: 8}},
}

var peers = []struct {
	name string
	a, b []string // what each is told the other can do
	key  []byte
}{
	{"as AWS's", nil, nil, nil},
	{"as ours", datachannel.Capabilities(), datachannel.Capabilities(), nil},
	{"of whom one does not know", datachannel.Capabilities(), nil, nil},
	{"as ours, with a key", datachannel.Capabilities(), datachannel.Capabilities(), text(7, datachannel.DataKeySize)},
	{"as AWS's, with a key", nil, nil, text(8, datachannel.DataKeySize)},
}

// What comes out is what went in, both ways, over a network that loses, repeats and
// cuts.
func TestWhatComesOutIsWhatWentIn(t *testing.T) {
	for _, n := range networks {
		for _, p := range peers {
			t.Run(n.name+"/"+p.name, func(t *testing.T) {
				for seed := range uint64(4) {
					synctest.Test(t, func(t *testing.T) {
						net := n.net
						net.rng = rand.New(rand.NewPCG(seed, 0))
						a := &datachannel.Stream{Sends: wire.TypeOutputStreamData, SendBuffer: 1 << 16, ReceiveBuffer: 1 << 16}
						b := &datachannel.Stream{Sends: wire.TypeInputStreamData, SendBuffer: 1 << 16, ReceiveBuffer: 1 << 16}
						a.SetPeer(p.a)
						b.SetPeer(p.b)
						if p.key != nil {
							a.Encrypt(cipher(t, a.Sends, p.key))
							b.Encrypt(cipher(t, b.Sends, p.key))
						}
						carry(t, &net, a, b, seed, 300_000)
					})
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

// A screen is what has been received, by whichever way.
type screen struct {
	mu   sync.Mutex
	got  []byte
	left int
	full chan struct{} // closed when nothing is left to come
}

func (s *screen) show(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, p...)
	before := s.left
	if s.left -= len(p); before > 0 && s.left <= 0 {
		close(s.full)
	}
}

func (s *screen) text() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

// carry sends size bytes from each end to the other and checks that they
// arrive, and that both ends come to know it.
func carry(t *testing.T, net *network, a, b *datachannel.Stream, seed uint64, size int) {
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Hour) // of a bubble's time, which is free
	defer cancel()
	joined, part := context.WithCancel(ctx)
	var sockets, ends sync.WaitGroup
	var shown [2]screen
	for i, to := range []*datachannel.Stream{b, a} {
		shown[i] = screen{left: size, full: make(chan struct{})}
		if seed%2 == 1 { // half of the lives have a receiver that takes what it can at once
			rng := rand.New(rand.NewPCG(seed, uint64(i)+9))
			to.Direct = func(m datachannel.Message) int {
				n := rng.IntN(2*len(m.Payload)) - len(m.Payload)/4
				if n > 0 {
					n = min(n, len(m.Payload))
					shown[i].show(m.Payload[:n])
				}
				return n
			}
		}
	}
	sockets.Go(func() { net.join(joined, runBoth(a, b)) })
	begun := time.Now()
	for i, end := range [][2]*datachannel.Stream{{a, b}, {b, a}} {
		from, to := end[0], end[1]
		want := text(seed<<1|uint64(i), size)
		rng := rand.New(rand.NewPCG(seed, uint64(i)+7))
		ends.Go(func() {
			for rest := want; len(rest) > 0; {
				k := min(len(rest), 1+rng.IntN(1<<uint(rng.IntN(17))))
				if rng.IntN(2) == 0 && from.TrySend(wire.KindOutput, rest[:k]) {
					rest = rest[k:]
					continue
				}
				if err := from.Send(ctx, wire.KindOutput, rest[:k]); err != nil {
					t.Errorf("send: %v", err)
					return
				}
				rest = rest[k:]
			}
			if err := from.Flush(ctx); err != nil {
				t.Errorf("flush: %v", err)
			}
		})
		ends.Go(func() {
			received, stop := context.WithCancel(ctx)
			defer stop()
			go func() {
				select {
				case <-shown[i].full:
					stop()
				case <-received.Done():
				}
			}()
			for {
				m, err := to.Receive(received)
				if err != nil {
					break
				}
				shown[i].show(m.Payload)
			}
			if got := shown[i].text(); !bytes.Equal(got, want) {
				t.Errorf("received %d bytes of %d, the same: %v", len(got), len(want), bytes.HasPrefix(want, got))
			}
		})
	}
	ends.Wait()
	if took := time.Since(begun); took > time.Hour {
		t.Errorf("it took %v", took)
	}
	part()
	sockets.Wait()
}
