package datachannel_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// A ring is a socket in memory that allocates nothing once it runs.
type ring struct {
	in, out   chan []byte
	back, use chan []byte // empty frames, to in's writer and from out's reader
	last      []byte
}

func newRing() (a, b *ring) {
	x, y := make(chan []byte, 64), make(chan []byte, 64)
	fx, fy := make(chan []byte, 65), make(chan []byte, 65)
	return &ring{in: x, back: fx, out: y, use: fy}, &ring{in: y, back: fy, out: x, use: fx}
}

func (r *ring) ReadFrame(ctx context.Context) ([]byte, error) {
	if r.last != nil {
		select {
		case r.back <- r.last:
		default:
		}
	}
	select {
	case r.last = <-r.in:
		return r.last, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *ring) WriteFrame(ctx context.Context, b []byte) error {
	var c []byte
	select {
	case c = <-r.use:
	default:
	}
	c = append(c[:0], b...)
	select {
	case r.out <- c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Bytes a second through two ends, and messages there and back.
func BenchmarkStream(b *testing.B) {
	for _, peer := range []struct {
		name string
		caps []string
	}{{"stock", nil}, {"ours", datachannel.Capabilities()}} {
		start := func(b *testing.B) (x, y *datachannel.Stream) {
			x, y = &datachannel.Stream{Sends: wire.TypeOutputStreamData}, &datachannel.Stream{Sends: wire.TypeInputStreamData}
			x.SetPeer(peer.caps)
			y.SetPeer(peer.caps)
			cx, cy := newRing()
			go x.Run(b.Context(), cx)
			go y.Run(b.Context(), cy)
			b.Cleanup(func() { x.Close(); y.Close() })
			return x, y
		}
		b.Run(fmt.Sprintf("bulk/%s", peer.name), func(b *testing.B) {
			x, y := start(b)
			p := make([]byte, 32<<10)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			go func() {
				for b.Context().Err() == nil {
					x.Send(b.Context(), wire.KindOutput, p)
				}
			}()
			for b.Loop() {
				for n := 0; n < len(p); {
					m, err := y.Receive(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					n += len(m.Payload)
				}
			}
		})
		b.Run(fmt.Sprintf("echo/%s", peer.name), func(b *testing.B) {
			x, y := start(b)
			go func() {
				for {
					m, err := x.Receive(b.Context())
					if err != nil || x.Send(b.Context(), m.Kind, m.Payload) != nil {
						return
					}
				}
			}()
			b.ReportAllocs()
			for b.Loop() {
				if err := y.Send(b.Context(), wire.KindOutput, []byte("x")); err != nil {
					b.Fatal(err)
				}
				if _, err := y.Receive(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
