// Package retry spaces the tries of what a network carries. A [Backoff] says how
// long to wait before the next one; [Backoff.Wait] waits.
//
// A pause doubles from First to Last, less up to half of it, so that the many
// clients of a server that was restarted do not come back as one. For the first
// minute it stays below Soon: such a server is back in seconds.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Backoff is one series of tries. Its bounds are set before it is first used, and
// First is at least 2 ns. It is for one goroutine.
type Backoff struct {
	First, Soon, Last time.Duration

	step  time.Duration // 0 before the first
	began time.Time     // of the series
}

// soonFor is how long pauses stay below Soon.
const soonFor = time.Minute

// Next returns the next pause.
func (b *Backoff) Next() time.Duration {
	if b.step == 0 {
		b.step, b.began = b.First, time.Now()
	} else {
		b.step = min(2*b.step, b.Last)
	}
	if time.Since(b.began) < soonFor {
		b.step = min(b.step, b.Soon)
	}
	return b.step/2 + rand.N(b.step/2)
}

// Wait waits for the next pause. It returns the context's cause if that ends first.
func (b *Backoff) Wait(ctx context.Context) error {
	t := time.NewTimer(b.Next())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Reset begins the series anew: a try has succeeded for good.
func (b *Backoff) Reset() { b.step = 0 }

// Answered keeps the pauses below Soon for another minute: a try did not last, and
// was answered.
func (b *Backoff) Answered() {
	if b.step > 0 {
		b.began = time.Now()
	}
}
