package worker

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/store"
)

// in runs a test in a bubble of simulated time, over a real database.
func in(t *testing.T, test func(t *testing.T, db *store.DB)) {
	path := filepath.Join(t.TempDir(), "test.db")
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(t.Context(), path)
		must(t, err)
		defer db.Close()
		test(t, db)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func worker(t *testing.T, db *store.DB, do func(context.Context, store.Item) error) *Worker {
	return &Worker{Queue: db.Jobs(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Do: map[string]func(context.Context, store.Item) error{"work": do}}
}

// run runs a worker until stop is called, which returns when the worker has.
func run(t *testing.T, w *Worker) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		must(t, <-ended)
	}
}

func add(t *testing.T, db *store.DB, n int) {
	t.Helper()
	for range n {
		must(t, db.Jobs().Add(t.Context(), store.Item{Kind: "work", Due: time.Now()}))
	}
}

// Two workers do each item once, no more at once than they may, and one that takes
// longer than its lease is still one worker's.
func TestEachOnce(t *testing.T) {
	in(t, func(t *testing.T, db *store.DB) {
		var mu sync.Mutex
		done := map[string]int{}
		var now, most atomic.Int32
		do := func(_ context.Context, i store.Item) error {
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(5 * time.Minute)
			mu.Lock()
			defer mu.Unlock()
			done[i.ID]++
			return nil
		}
		add(t, db, 9)
		one, two := worker(t, db, do), worker(t, db, do)
		one.Limit, two.Limit = 2, 3
		stopOne, stopTwo := run(t, one), run(t, two)
		time.Sleep(time.Hour)
		stopOne()
		stopTwo()
		for id, times := range done {
			if times != 1 {
				t.Errorf("%s was done %d times", id, times)
			}
		}
		if len(done) != 9 || most.Load() != 5 {
			t.Errorf("%d were done, %d at once", len(done), most.Load())
		}
	})
}

// An error, and a panic, are tried again; what has a period comes again.
func TestTriedAgain(t *testing.T) {
	in(t, func(t *testing.T, db *store.DB) {
		began := time.Now()
		var at []time.Duration
		w := worker(t, db, func(_ context.Context, i store.Item) error {
			at = append(at, time.Since(began).Round(time.Second))
			switch len(at) {
			case 1:
				return errors.New("no")
			case 2:
				panic("a bug")
			}
			return nil
		})
		must(t, db.Jobs().Add(t.Context(), store.Item{Kind: "work", Due: began.Add(time.Minute), Every: time.Hour}))
		stop := run(t, w)
		time.Sleep(3 * time.Hour)
		stop()
		want := []time.Duration{60 * time.Second, 61 * time.Second, 63 * time.Second, 3663 * time.Second, 7263 * time.Second}
		if len(at) != len(want) {
			t.Fatalf("done at %v, want %v", at, want)
		}
		for i := range want {
			if late := at[i] - want[i]; late < 0 || late > 2*lookAt {
				t.Errorf("done at %v, want %v", at, want)
			}
		}
	})
}

// A worker that stops has its functions stop, and gives their items back: another has
// them at once, and the attempt is not counted.
func TestStops(t *testing.T) {
	in(t, func(t *testing.T, db *store.DB) {
		add(t, db, 1)
		stop := run(t, worker(t, db, func(ctx context.Context, _ store.Item) error {
			<-ctx.Done()
			return ctx.Err()
		}))
		time.Sleep(time.Minute)
		stop()
		next := make(chan store.Item, 1)
		stop = run(t, worker(t, db, func(_ context.Context, i store.Item) error {
			next <- i
			return nil
		}))
		time.Sleep(time.Second)
		select {
		case i := <-next:
			if i.Attempts != 1 {
				t.Errorf("attempt %d", i.Attempts)
			}
		default:
			t.Error("nothing was done")
		}
		stop()
	})
}

// A worker that has lost an item's lease stops doing it.
func TestLosesItsLease(t *testing.T) {
	in(t, func(t *testing.T, db *store.DB) {
		add(t, db, 1)
		cause := make(chan error, 1)
		stop := run(t, worker(t, db, func(ctx context.Context, _ store.Item) error {
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return nil
		}))
		time.Sleep(time.Second)
		// Another server, whose clock is ahead, takes the lease for lost.
		late := time.Now().Add(time.Hour)
		if list, err := db.Jobs().Lease(t.Context(), []string{"work"}, late, late.Add(time.Hour), 1, 0); err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		time.Sleep(leaseFor)
		select {
		case err := <-cause:
			if !errors.Is(err, store.ErrLeaseLost) {
				t.Error(err)
			}
		default:
			t.Error("it is still being done")
		}
		stop()
	})
}

// A worker that cannot extend an item's lease stops doing it when the lease has run
// out: another server may have begun.
func TestStopsWhenItsLeaseRunsOut(t *testing.T) {
	in(t, func(t *testing.T, db *store.DB) {
		add(t, db, 1)
		cause := make(chan error, 1)
		began, lease := time.Now(), 10*time.Second
		var lasted time.Duration
		w := worker(t, db, func(ctx context.Context, _ store.Item) error {
			<-ctx.Done()
			lasted = time.Since(began)
			cause <- context.Cause(ctx)
			return nil
		})
		w.Lease = lease
		stop := run(t, w)
		time.Sleep(lease) // extended meanwhile
		must(t, db.Close())
		time.Sleep(3 * lease)
		select {
		case err := <-cause:
			if !errors.Is(err, store.ErrLeaseLost) || lasted <= lease || lasted > 2*lease {
				t.Errorf("after %v: %v", lasted, err)
			}
		default:
			t.Error("it is still being done")
		}
		stop()
	})
}
