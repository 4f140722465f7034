package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Pauses double, vary, and have the bounds that the package promises.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Backoff{First: time.Second, Soon: 3 * time.Second, Last: 20 * time.Second}
		within := func(step time.Duration) {
			t.Helper()
			if d := b.Next(); d < step/2 || d >= step {
				t.Errorf("pause of %v, want half of %v to all of it", d, step)
			}
		}
		within(time.Second)
		within(2 * time.Second)
		within(3 * time.Second)
		within(3 * time.Second)
		time.Sleep(soonFor)
		within(6 * time.Second)
		within(12 * time.Second)
		within(20 * time.Second)
		b.Answered()
		within(3 * time.Second)
		time.Sleep(soonFor)
		within(6 * time.Second)
		b.Reset()
		within(time.Second)
		within(2 * time.Second)

		began := time.Now()
		if err := b.Wait(t.Context()); err != nil || time.Since(began) == 0 {
			t.Errorf("waited %v, %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("it was stopped")
		cancel(why)
		if err := b.Wait(ctx); err != why {
			t.Errorf("a wait that was stopped: %v", err)
		}
	})
}
