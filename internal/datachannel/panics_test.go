package datachannel_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/wire"
)

// A bug is a Conn that panics in reading or writing, once it has been told to.
type bug struct {
	read, write chan struct{}
}

func (b bug) ReadFrame(ctx context.Context) ([]byte, error) {
	select {
	case <-b.read:
		panic("a bug in reading")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b bug) WriteFrame(context.Context, []byte) error {
	select {
	case <-b.write:
		panic("a bug in writing")
	default:
		return nil
	}
}

// A panic on one socket is the error of its Run. The stream goes on over the
// next: no lock is left held.
func TestPanic(t *testing.T) {
	now := make(chan struct{})
	close(now)
	tests := []struct {
		name   string
		bug    bug
		unsaid bool // what is sent is written by the pump, and not by Send
	}{
		{name: "in reading", bug: bug{read: now}},
		{name: "in Send's writing", bug: bug{write: now}},
		{name: "in the pump's writing", bug: bug{write: now}, unsaid: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &datachannel.Stream{Sends: wire.TypeInputStreamData}
				defer s.Close()
				send := func() error { return s.SendMessage(t.Context(), wire.KindOutput, []byte("x")) }
				if tt.unsaid {
					if err := send(); err != nil {
						t.Fatal(err)
					}
				}
				ran := make(chan error, 1)
				go func() { ran <- s.Run(t.Context(), tt.bug) }()
				synctest.Wait()
				sent := panics.Run(send) // Send's panic is its caller's
				if wrote := !tt.unsaid && tt.bug.write != nil; panics.Is(sent) != wrote {
					t.Errorf("Send: %v", sent)
				} else if wrote {
					return // and the caller's to end
				}
				synctest.Wait()
				if err := <-ran; !panics.Is(err) {
					t.Errorf("Run: %v", err)
				}
				if err := send(); err != nil {
					t.Errorf("Send afterwards: %v", err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				go func() { ran <- s.Run(ctx, bug{}) }()
				synctest.Wait()
				cancel()
				if err := <-ran; panics.Is(err) {
					t.Errorf("Run afterwards: %v", err)
				}
			})
		})
	}
}
