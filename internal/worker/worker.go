// Package worker does what waits in a queue of the store. A [Worker]'s Run leases
// items, has the function of their kind do them, and says how that ended.
//
//	store.Queue ──Lease──▶ Worker ──▶ Do[kind](ctx, item)
//	     ▲                    │ Extend, while it runs
//	     └──Done, Failed──────┘
//
// An item whose server is killed is leased again when its lease has run out; see
// [store.Queue] for what follows from that. A panic in a function is a failure of
// its item alone. It knows nothing of what is done.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/store"
)

// How long things take by default.
const (
	leaseFor = time.Minute     // as long as an item of a killed server waits
	lookAt   = 5 * time.Second // at most, between two looks into the queue
	sayEnd   = 5 * time.Second // to say how an item ended, also when the server stops
)

// A Worker does the items of one queue. Its fields are set before Run.
type Worker struct {
	Queue store.Queue
	Log   *slog.Logger

	// Do has the function for each kind. It returns when its context is done, which
	// is when the server stops, or when the item's lease was lost or has run out.
	Do map[string]func(context.Context, store.Item) error

	Limit   int           // items at once; 0 means 4
	PerNode int           // items of one node at once, on all servers together; 0 means no bound
	Lease   time.Duration // 0 means a minute
	Look    time.Duration // between two looks into the queue, if nothing ended meanwhile; 0 means 5 seconds
}

// Run does items until ctx is done, and returns when the functions it called have.
// What they had not done is another server's at once.
func (w *Worker) Run(ctx context.Context) error {
	limit, look := or(w.Limit, 4), or(w.Look, lookAt)
	kinds := slices.Sorted(maps.Keys(w.Do))
	ended := make(chan struct{}, limit) // takes one of each that ended
	running := 0
	defer func() {
		for ; running > 0; running-- {
			<-ended
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			running--
		case <-timer.C:
		}
		items, wait, err := w.take(ctx, kinds, limit-running, look)
		if err != nil && ctx.Err() == nil {
			w.Log.ErrorContext(ctx, "queue not read", sallyport.LogErr, err)
		}
		for _, i := range items {
			running++
			go func() {
				defer func() { ended <- struct{}{} }()
				w.do(ctx, i)
			}()
		}
		timer.Reset(wait)
	}
}

// take leases what is due, up to n items, and says when to look again. Looking alone
// writes nothing.
func (w *Worker) take(ctx context.Context, kinds []string, n int, look time.Duration) ([]store.Item, time.Duration, error) {
	if n <= 0 {
		return nil, look, nil
	}
	next, err := w.Queue.Next(ctx, kinds)
	now := time.Now()
	if err != nil || next.IsZero() {
		return nil, look, err
	}
	if next.After(now) {
		return nil, min(look, next.Sub(now)), nil
	}
	items, err := w.Queue.Lease(ctx, kinds, now, now.Add(or(w.Lease, leaseFor)), n, w.PerNode)
	return items, look, err
}

// do does one item, and keeps its lease meanwhile.
func (w *Worker) do(ctx context.Context, i store.Item) {
	log := w.Log.With("kind", i.Kind, "item", i.ID)
	doing, cancel := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		w.keep(doing, cancel, i)
	}()
	err := panics.Run(func() error { return w.Do[i.Kind](doing, i) })
	cancel(nil)
	<-kept

	late, done := context.WithTimeout(context.WithoutCancel(ctx), sayEnd)
	defer done()
	dead := false
	why := err
	switch {
	case err == nil:
		err = w.Queue.Done(late, i, time.Now())
	case ctx.Err() != nil && !panics.Is(err): // it was not let end
		why, err = nil, w.Queue.Release(late, i)
	default:
		dead, err = w.Queue.Failed(late, i, time.Now(), why)
	}
	if why != nil {
		log.Error("queued work failed", sallyport.LogErr, why, "attempts", i.Attempts, "given_up", dead, panics.Stack(why))
	}
	if err != nil && !errors.Is(err, store.ErrLeaseLost) {
		log.Error("end of queued work not saved", sallyport.LogErr, err) // it is done again
	}
}

// keep extends an item's lease until ctx is done, and cancels what is done when the
// lease is lost, or has run out: while the database does not answer, this worker
// cannot know whether another has the item.
func (w *Worker) keep(ctx context.Context, cancel context.CancelCauseFunc, i store.Item) {
	lease := or(w.Lease, leaseFor)
	tick := time.NewTicker(lease / 3)
	defer tick.Stop()
	over := time.AfterFunc(time.Until(i.LeaseUntil), func() { cancel(fmt.Errorf("extend: %w", store.ErrLeaseLost)) })
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		switch err := w.Queue.Extend(ctx, i, asked.Add(lease)); {
		case errors.Is(err, store.ErrLeaseLost):
			cancel(err)
			return
		case err == nil:
			over.Reset(time.Until(asked.Add(lease)))
		}
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
