package client

import (
	"context"
	"os"
)

// parentGone returns a channel that is closed when the parent of this process has
// ended.
func parentGone(context.Context) <-chan struct{} {
	gone := make(chan struct{})
	parent, err := os.FindProcess(os.Getppid())
	if err != nil {
		return gone
	}
	go func() { // until this process ends, at the latest
		if _, err := parent.Wait(); err == nil {
			close(gone)
		}
	}()
	return gone
}
