package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

// leased wants one item, and nothing more to lease.
func leased(t testing.TB, q Queue, kind string, now int) Item {
	t.Helper()
	list, err := q.Lease(t.Context(), []string{kind}, at(now), at(now+1000), 10, 0)
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("%d items are leased at %d: %+v", len(list), now, list)
	}
	return list[0]
}

func nothingLeased(t testing.TB, q Queue, kind string, now int) {
	t.Helper()
	if list, err := q.Lease(t.Context(), []string{kind}, at(now), at(now+1000), 10, 0); err != nil || len(list) != 0 {
		t.Fatalf("leased at %d: %+v, %v", now, list, err)
	}
}

// An item is there exactly if its change is stored; it is one worker's at a time,
// tried again after pauses that grow, and dead in the end.
func TestQueue(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		q := db.Outbox()
		no := errors.New("no")
		if err := db.Update(ctx, func(tx *Tx) error {
			must(t, tx.Outbox().Add(ctx, Item{Kind: "hook", Due: at(0)}))
			return no
		}); !errors.Is(err, no) {
			t.Fatal(err)
		}
		nothingLeased(t, q, "hook", 0)
		must(t, db.Update(ctx, func(tx *Tx) error {
			return errors.Join(tx.IAM().CreateUser(ctx, testUser("ann")), tx.Outbox().Add(ctx, Item{Kind: "hook", Payload: json.RawMessage(`{"to":"x"}`), Due: at(5)}))
		}))
		if next, err := q.Next(ctx, []string{"hook"}); err != nil || !next.Equal(at(5)) {
			t.Errorf("the next is at %v, %v", next, err)
		}
		nothingLeased(t, q, "hook", 4)
		nothingLeased(t, q, "other", 5)
		nothingLeased(t, db.Jobs(), "hook", 5)

		// A worker that is lost: another has the item once the lease has run out, and
		// the first has no say any more.
		lost := leased(t, q, "hook", 5)
		if string(lost.Payload) != `{"to":"x"}` || lost.Attempts != 1 {
			t.Errorf("leased: %+v", lost)
		}
		nothingLeased(t, q, "hook", 1004)
		must(t, q.Extend(ctx, lost, at(2000)))
		nothingLeased(t, q, "hook", 1999)
		now := leased(t, q, "hook", 2000)
		if now.ID != lost.ID || now.Attempts != 2 {
			t.Errorf("leased again: %+v", now)
		}
		_, failed := q.Failed(ctx, lost, at(2000), no)
		for name, err := range map[string]error{"Done": q.Done(ctx, lost, at(2000)), "Failed": failed, "Extend": q.Extend(ctx, lost, at(9999)), "Release": q.Release(ctx, lost)} {
			if !errors.Is(err, ErrLeaseLost) {
				t.Errorf("%s of the worker that was lost: %v", name, err)
			}
		}

		// A server that stops gives it back, and that is no attempt.
		must(t, q.Release(ctx, now))
		clock, pauses := 2000, time.Duration(0)
		for attempt := 2; ; attempt++ {
			i := leased(t, q, "hook", clock)
			if i.Attempts != attempt {
				t.Fatalf("attempt %d: %+v", attempt, i)
			}
			dead, err := q.Failed(ctx, i, at(clock), fmt.Errorf("refused\x00 %d", attempt))
			must(t, err)
			if dead {
				if attempt != defaultAttempts {
					t.Errorf("dead after %d attempts", attempt)
				}
				break
			}
			next, err := q.Next(ctx, []string{"hook"})
			must(t, err)
			pause := next.Sub(at(clock))
			if pause < pauses || pause > longestPause {
				t.Errorf("the pause after attempt %d is %v, and was %v", attempt, pause, pauses)
			}
			pauses = pause
			nothingLeased(t, q, "hook", clock+int(pause/time.Millisecond)-1)
			clock += int(pause / time.Millisecond)
		}
		if pauses != longestPause {
			t.Errorf("the longest pause was %v", pauses)
		}
		nothingLeased(t, q, "hook", clock+1_000_000_000)
		dead := pages(t, 1, func(p Page) ([]Item, Cursor, error) { return q.Dead(ctx, p) })
		if len(dead) != 1 || dead[0].Error != fmt.Sprintf("refused\ufffd %d", defaultAttempts) || !dead[0].Dead {
			t.Errorf("dead: %+v", dead)
		}
		// It is revived by name, and then done.
		must(t, q.Add(ctx, Item{Kind: "hook", Name: dead[0].Name, Due: at(clock)}))
		must(t, q.Done(ctx, leased(t, q, "hook", clock), at(clock)))
		nothingLeased(t, q, "hook", clock+1_000_000_000)
	})
}

// A job with a period comes again; one that is asked for while it is being done is
// done once more; two of one name are one.
func TestJobsComeAgain(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		q := db.Jobs()
		hourly := Item{Kind: "tidy", Name: "tidy", Due: at(100), Every: 500 * time.Millisecond}
		must(t, q.Add(ctx, hourly))
		hourly.Due = at(50)
		must(t, q.Add(ctx, hourly)) // the server has been started again
		i := leased(t, q, "tidy", 50)
		must(t, q.Done(ctx, i, at(60)))
		nothingLeased(t, q, "tidy", 559)
		for attempt := range defaultAttempts + 5 { // it fails for ever, and comes for ever
			now := 560 + attempt*500
			i := leased(t, q, "tidy", now)
			if dead, err := q.Failed(ctx, i, at(now), errors.New("no")); dead || err != nil {
				t.Fatalf("attempt %d: %v, %v", attempt, dead, err)
			}
		}

		must(t, q.Add(ctx, Item{Kind: "seal", Name: "s-1", Due: at(0)}))
		i = leased(t, q, "seal", 1)
		must(t, q.Add(ctx, Item{Kind: "seal", Name: "s-1", Due: at(0)}))
		nothingLeased(t, q, "seal", 2)
		must(t, q.Done(ctx, i, at(3)))
		must(t, q.Done(ctx, leased(t, q, "seal", 3), at(4)))
		nothingLeased(t, q, "seal", 5000)
	})
}

// A queue is bounded, one node has no more at once than it may, and old dead items go.
func TestQueueBounds(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		q := db.Jobs()
		for n := range 7 {
			must(t, q.Add(ctx, Item{Kind: "run", Node: fmt.Sprint("mi-", n%2), Due: at(n)}))
		}
		list, err := q.Lease(ctx, []string{"run"}, at(10), at(1000), 10, 2)
		must(t, err)
		if len(list) != 4 {
			t.Fatalf("%d of two nodes are leased at once", len(list))
		}
		must(t, q.Done(ctx, list[0], at(11)))
		if list, err = q.Lease(ctx, []string{"run"}, at(12), at(1000), 10, 2); err != nil || len(list) != 1 {
			t.Errorf("after one was done, %d are leased, %v", len(list), err)
		}

		if err := q.Add(ctx, Item{Kind: "large", Payload: json.RawMessage(`"` + strings.Repeat("x", maxQueuedPayload) + `"`)}); err == nil {
			t.Error("a payload of any length is taken")
		}
		must(t, db.transact(ctx, func(tx *tx) error {
			_, err := tx.exec(`WITH RECURSIVE seq (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM seq WHERE i < $1)
				INSERT INTO queued (id, queue, kind, name, node, payload, every, due, dead, created) SELECT 'x' || i, 'jobs', 'many', 'x' || i, '', '', 0, 0, TRUE, i FROM seq`, maxQueued)
			return err
		}))
		if err := q.Add(ctx, Item{Kind: "many"}); !errors.Is(err, ErrQueueFull) {
			t.Errorf("one more than there may be: %v", err)
		}
		if n, err := q.Forget(ctx, time.UnixMilli(forgetTogether*2)); err != nil || n != forgetTogether*2-1 {
			t.Errorf("forgot %d, %v", n, err)
		}
		must(t, q.Add(ctx, Item{Kind: "many"}))
	})
}

// Of several that are added at once where there is room for one, one is; an item that
// is there is asked for again also in a full queue.
func TestQueueBoundIsExact(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		q := db.Jobs()
		must(t, q.Add(ctx, Item{Kind: "many", Name: "first"}))
		must(t, db.transact(ctx, func(tx *tx) error {
			_, err := tx.exec(`WITH RECURSIVE seq (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM seq WHERE i < $1)
				INSERT INTO queued (id, queue, kind, name, node, payload, every, due, created) SELECT 'x' || i, 'jobs', 'many', 'x' || i, '', '', 0, 0, i FROM seq`, maxQueued-2)
			return err
		}))
		var added atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				switch err := q.Add(ctx, Item{Kind: "many"}); {
				case err == nil:
					added.Add(1)
				case !errors.Is(err, ErrQueueFull):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := added.Load(); n != 1 {
			t.Errorf("%d were added", n)
		}
		must(t, q.Add(ctx, Item{Kind: "many", Name: "first"}))
	})
}

// leaseAndWait leases an item, says so, and waits to be killed.
func leaseAndWait(dsn string) {
	ctx := context.Background()
	db, err := Open(ctx, dsn)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	list, err := db.Jobs().Lease(ctx, []string{"work"}, at(0), at(1000), 1, 0)
	fmt.Println("leased", len(list), err)
	select {}
}

// An item whose server was killed while it did it is done by another, once the lease
// has run out; and one that kills every server that does it is dead in the end.
func TestServerIsKilledWhileItWorks(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		db, err := Open(ctx, dsn)
		must(t, err)
		must(t, db.Jobs().Add(ctx, Item{Kind: "work", Due: at(0)}))
		must(t, db.Close())

		child := exec.Command(os.Args[0], "lease-and-wait", dsn)
		out, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		must(t, child.Process.Kill())
		child.Wait() // it was killed, and says so
		if err != nil || line != "leased 1 <nil>\n" {
			t.Fatalf("the child says %q, %v", line, err)
		}

		db = open(t, dsn)
		nothingLeased(t, db.Jobs(), "work", 999)
		for attempt := 2; attempt <= defaultAttempts; attempt++ {
			if i := leased(t, db.Jobs(), "work", 1000*attempt); i.Attempts != attempt {
				t.Fatalf("attempt %d: %+v", attempt, i)
			}
		}
		nothingLeased(t, db.Jobs(), "work", 1000*(defaultAttempts+1))
		if dead, _, err := db.Jobs().Dead(ctx, Page{}); err != nil || len(dead) != 1 || dead[0].Error == "" {
			t.Errorf("dead: %+v, %v", dead, err)
		}
	})
}

// Two servers never have one item, and together they have them all.
func TestTwoServersLease(t *testing.T) {
	onPostgres(t, func(t *testing.T, one *DB, dsn string) {
		ctx := t.Context()
		two := open(t, dsn)
		const n = 60
		must(t, one.Update(ctx, func(tx *Tx) error {
			for range n {
				if err := tx.Jobs().Add(ctx, Item{Kind: "work", Node: sallyport.NewNodeID().String(), Due: at(0)}); err != nil {
					return err
				}
			}
			return nil
		}))
		var mu sync.Mutex
		seen := map[string]int{}
		var all sync.WaitGroup
		for _, db := range []*DB{one, two, one, two} {
			all.Go(func() {
				for {
					list, err := db.Jobs().Lease(ctx, []string{"work"}, at(1), at(1000), 4, 1)
					if err != nil || len(list) == 0 {
						if err != nil {
							t.Error(err)
						}
						return
					}
					mu.Lock()
					for _, i := range list {
						seen[i.ID]++
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		for id, times := range seen {
			if times != 1 {
				t.Errorf("%s was leased %d times", id, times)
			}
		}
		if len(seen) != n {
			t.Errorf("%d of %d were leased", len(seen), n)
		}
	})
}
