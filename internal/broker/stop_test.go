package broker

import (
	"errors"
	"testing"

	"github.com/sallyport/sallyport/internal/wire"
)

// An end that comes when the server has let go of the session is told to come
// again, and not left at a socket that nothing reads.
func TestComesAsTheServerStops(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(wire.CapEnd)
		w.stop()
		person.leave()
		node.leave()

		broker, far := sockets()
		defer far.Cut()
		if err := w.JoinPerson(t.Context(), w.ann, inv.Session, inv.Token, "client-1", broker, nil); !errors.Is(err, errStopped) {
			t.Errorf("a client is told %v, want %v", err, errStopped)
		}
		w.stop = func() {}
	})
}
