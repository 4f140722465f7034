//go:build unix

package client

import (
	"context"
	"os"
	"time"
)

// parentEvery is how often it is looked whether the parent process is there.
const parentEvery = 500 * time.Millisecond

// parentGone returns a channel that is closed when the parent of this process has
// ended, before ctx does. A process whose parent is the system's first has none to
// lose.
func parentGone(ctx context.Context) <-chan struct{} {
	gone, parent := make(chan struct{}), os.Getppid()
	if parent <= 1 {
		return gone
	}
	go func() {
		tick := time.NewTicker(parentEvery)
		defer tick.Stop()
		for os.Getppid() == parent {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		close(gone)
	}()
	return gone
}
