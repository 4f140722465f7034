package datachannel_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

type pipe struct{ in, out chan []byte }

func newPipe() (a, b *pipe) {
	x, y := make(chan []byte, 64), make(chan []byte, 64)
	return &pipe{x, y}, &pipe{y, x}
}

func (p *pipe) ReadFrame(ctx context.Context) ([]byte, error) {
	select {
	case b := <-p.in:
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *pipe) WriteFrame(ctx context.Context, b []byte) error {
	select {
	case p.out <- bytes.Clone(b):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func TestSmoke(t *testing.T) {
	for _, caps := range [][]string{nil, datachannel.Capabilities()} {
		synctest.Test(t, func(t *testing.T) {
			a := &datachannel.Stream{Sends: wire.TypeOutputStreamData}
			b := &datachannel.Stream{Sends: wire.TypeInputStreamData}
			a.SetPeer(caps)
			b.SetPeer(caps)
			ca, cb := newPipe()
			go a.Run(t.Context(), ca)
			go b.Run(t.Context(), cb)
			want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
			go func() {
				if err := a.Send(t.Context(), wire.KindOutput, want); err != nil {
					t.Error(err)
				}
				if err := a.Flush(t.Context()); err != nil {
					t.Error(err)
				}
				b.Close()
				a.Close()
			}()
			var got []byte
			for {
				m, err := b.Receive(t.Context())
				if err != nil {
					break
				}
				got = append(got, m.Payload...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, want %d", len(got), len(want))
			}
		})
	}
}
