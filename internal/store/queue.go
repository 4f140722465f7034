package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
)

// A Queue is work that waits to be done by one server at a time. An item is added
// in the transaction of what asks for it, so there is work exactly if that was
// stored. A worker leases it, does it, and says [Queue.Done] or [Queue.Failed]; a
// lease that runs out, as when its server was killed, is another worker's. So an
// item is done at least once: what it does must bear to be done again, and the
// item's ID tells the repeats.
//
// What failed is tried again, after pauses that grow, so items may overtake one
// another. One that has failed as often as it may is dead: it is kept with its last
// error until it is revived or forgotten.
type Queue struct {
	scope
	name string
}

// Jobs returns the queue of what the servers have to do themselves.
func (v views) Jobs() Queue { return Queue{v.scope, "jobs"} }

// Outbox returns the queue of what has to be told outside. An item's kind is its
// destination.
func (v views) Outbox() Queue { return Queue{v.scope, "outbox"} }

// ErrQueueFull is within the error of [Queue.Add] when a kind has as many items as it may.
var ErrQueueFull = errors.New("too many items of this kind are waiting")

// ErrLeaseLost is within the error of a worker's method when the item is not leased
// to that worker any more.
var ErrLeaseLost = errors.New("the lease of the item has run out, and another worker may have it")

// Bounds of a queue.
const (
	maxQueued         = 10_000   // items of one kind, dead ones included
	maxQueuedPayload  = 64 << 10 // bytes
	defaultAttempts   = 20       // of an item: with the pauses, about nine hours
	firstPause        = time.Second
	longestPause      = time.Hour
	maxQueuedErrorLen = 1000
)

// An Item is one piece of work.
type Item struct {
	ID       string // set by the store
	Kind     string
	Name     string          // two of one kind and name are one item; empty is a name of its own
	Node     string          // counted against a bound on what one node has at once; empty is none
	Payload  json.RawMessage // up to 64 KiB
	Due      time.Time       // when it is to be done first
	Every    time.Duration   // how long after it was done it is to be done again; 0 is never
	Attempts int             // so far, this one included
	Error    string          // of the last attempt
	Dead     bool

	LeaseUntil time.Time // set by [Queue.Lease]: another worker may have the item from then on

	lease string
	asked int64
}

const itemColumns = `id, kind, name, node, payload, every, due, asked, attempts, lease, lease_until, dead, error`

func scanItem(s scanner) (i Item, err error) {
	var payload string
	var every, due, until int64
	err = s.Scan(&i.ID, &i.Kind, &i.Name, &i.Node, &payload, &every, &due, &i.asked, &i.Attempts, &i.lease, &until, &i.Dead, &i.Error)
	i.Payload, i.Every, i.Due, i.LeaseUntil = fromText(payload), time.Duration(every)*time.Millisecond, fromMillis(due), fromMillis(until)
	return i, err
}

// Add adds an item. One of that kind and name that is there is done at the earlier
// of the two times, with the payload and the period of this one; it is done again if
// it is being done just now, and revived if it is dead.
func (q Queue) Add(ctx context.Context, i Item) error {
	err := q.write(ctx, func(tx *tx) error {
		if len(i.Payload) > maxQueuedPayload {
			return fmt.Errorf("its payload has %d bytes, and may have %d", len(i.Payload), maxQueuedPayload)
		}
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		name := clean(cmp.Or(i.Name, id.String()))
		if err := tx.lockQueues(); err != nil {
			return err
		}
		var others int
		if err := tx.row(`SELECT count(*) FROM queued WHERE queue = $1 AND kind = $2 AND name <> $3`, q.name, i.Kind, name).Scan(&others); err != nil {
			return err
		}
		if others >= maxQueued {
			return fmt.Errorf("%w: %d", ErrQueueFull, others)
		}
		_, err = tx.exec(`INSERT INTO queued (id, queue, kind, name, node, payload, every, due, created) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
			ON CONFLICT (queue, kind, name) DO UPDATE SET payload = excluded.payload, every = excluded.every, asked = queued.asked + 1,
				due = CASE WHEN queued.dead OR excluded.due < queued.due THEN excluded.due ELSE queued.due END,
				attempts = CASE WHEN queued.dead THEN 0 ELSE queued.attempts END, dead = FALSE`,
			id.String(), q.name, i.Kind, name, i.Node, clean(string(i.Payload)), i.Every.Milliseconds(), millis(i.Due))
		return err
	})
	return wrap(err, "add %s to the %s", i.Kind, q.name)
}

// lockQueues has transactions that add or lease items take turns, or two of them would
// count at once what each is about to add.
func (t *tx) lockQueues() error {
	_, err := t.exec(`UPDATE revisions SET number = number + 1 WHERE name = 'queues'`)
	return err
}

// Next returns when the earliest item of these kinds that is not dead is to be done,
// or its lease runs out; zero if there is none.
func (q Queue) Next(ctx context.Context, kinds []string) (time.Time, error) {
	if len(kinds) == 0 {
		return time.Time{}, nil
	}
	var w where
	w.add("queue = ?", q.name)
	w.in("kind", kinds)
	var at sql.NullInt64
	err := q.q().QueryRowContext(ctx, `SELECT min(CASE WHEN lease_until > due THEN lease_until ELSE due END) FROM queued WHERE dead = FALSE AND `+w.String(), w.args...).Scan(&at)
	return fromMillis(at.Int64), wrap(translate(err), "look into the %s", q.name)
}

// Lease gives the caller up to n items of these kinds that are due, until a time. No
// node has more than perNode leased items at once; 0 is no bound. An item that was
// leased as often as it may be, and was never said to be done or to have failed, ends
// the servers that do it, and is dead.
func (q Queue) Lease(ctx context.Context, kinds []string, now, until time.Time, n, perNode int) (list []Item, err error) {
	if len(kinds) == 0 {
		return nil, nil
	}
	err = q.write(withoutCall(ctx), func(tx *tx) error {
		list = nil
		if err := tx.lockQueues(); err != nil {
			return err
		}
		if _, err := tx.exec(`UPDATE queued SET dead = TRUE, error = 'It was begun as often as it may be, and never ended.'
			WHERE queue = $1 AND dead = FALSE AND every = 0 AND lease <> '' AND lease_until <= $2 AND attempts >= $3`, q.name, millis(now), defaultAttempts); err != nil {
			return err
		}
		var w where
		lease, end, at := w.arg(uuid.NewString()), w.arg(millis(until)), w.arg(millis(now))
		w.add("j.queue = ?", q.name)
		w.in("j.kind", kinds)
		w.conds = append(w.conds, "j.dead = FALSE", "j.due <= "+at, "j.lease_until <= "+at)
		if perNode > 0 {
			w.add("(j.node = '' OR (SELECT count(*) FROM queued r WHERE r.queue = j.queue AND r.node = j.node AND r.lease_until > "+at+") < ?)", perNode)
		}
		query := `UPDATE queued SET lease = ` + lease + `, lease_until = ` + end + `, attempts = attempts + 1
			WHERE id = (SELECT j.id FROM queued j WHERE ` + w.String() + ` ORDER BY j.due, j.id LIMIT 1) RETURNING ` + itemColumns
		for range n { // one by one, so that those taken are counted
			i, err := scanItem(tx.row(query, w.args...))
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			list = append(list, i)
		}
		return nil
	})
	return list, wrap(err, "lease from the %s", q.name)
}

// held runs a statement on an item that the caller has leased; $1 is its ID and $2
// the lease.
func (q Queue) held(ctx context.Context, verb string, i Item, statement string, args ...any) error {
	err := q.write(ctx, func(tx *tx) error {
		n, err := tx.exec(statement, append([]any{i.ID, i.lease}, args...)...)
		if err == nil && n == 0 {
			err = ErrLeaseLost
		}
		return err
	})
	return wrap(err, "%s %s of the %s", verb, i.Kind, q.name)
}

// Extend gives the caller a leased item for longer.
func (q Queue) Extend(ctx context.Context, i Item, until time.Time) error {
	return q.held(ctx, "extend", i, `UPDATE queued SET lease_until = $3 WHERE id = $1 AND lease = $2`, millis(until))
}

// Done ends a leased item. One that has a period, or was asked for again since it was
// leased, waits for its next time.
func (q Queue) Done(ctx context.Context, i Item, now time.Time) error {
	err := q.write(ctx, func(tx *tx) error {
		n, err := tx.exec(`DELETE FROM queued WHERE id = $1 AND lease = $2 AND every = 0 AND asked = $3`, i.ID, i.lease, i.asked)
		if err != nil || n == 1 {
			return err
		}
		n, err = tx.exec(`UPDATE queued SET lease = '', lease_until = 0, attempts = 0, error = '', due = CAST($4 AS BIGINT) + CASE WHEN asked <> $3 THEN 0 ELSE every END
			WHERE id = $1 AND lease = $2`, i.ID, i.lease, i.asked, millis(now))
		if err == nil && n == 0 {
			err = ErrLeaseLost
		}
		return err
	})
	return wrap(err, "end %s of the %s", i.Kind, q.name)
}

// Failed says that a leased item could not be done, and why. It is done again after a
// pause: a second, doubled with each attempt, up to an hour, or its period if that is
// less. It is dead after 20 attempts, if it has no period.
func (q Queue) Failed(ctx context.Context, i Item, now time.Time, why error) (dead bool, err error) {
	dead = i.Every == 0 && i.Attempts >= defaultAttempts
	due := now.Add(pauseAfter(i))
	return dead, q.held(ctx, "retry", i, `UPDATE queued SET lease = '', lease_until = 0, due = $3, dead = $4, error = $5 WHERE id = $1 AND lease = $2`,
		millis(due), dead, sallyport.Clip(clean(why.Error()), maxQueuedErrorLen))
}

func pauseAfter(i Item) time.Duration {
	pause := longestPause
	if n := i.Attempts - 1; n < 12 { // more would be longer than an hour
		pause = firstPause << max(n, 0)
	}
	if i.Every > 0 {
		pause = min(pause, i.Every)
	}
	return pause
}

// Release gives a leased item back as if it had not been leased: its server stops.
func (q Queue) Release(ctx context.Context, i Item) error {
	return q.held(ctx, "release", i, `UPDATE queued SET lease = '', lease_until = 0, attempts = attempts - 1 WHERE id = $1 AND lease = $2`)
}

// Dead lists the items that have failed as often as they may, by ID.
func (q Queue) Dead(ctx context.Context, page Page) ([]Item, Cursor, error) {
	list := "dead of the " + q.name
	place, err := page.place(list, 1)
	if err != nil {
		return nil, "", err
	}
	var w where
	w.add("queue = ? AND dead = TRUE", q.name)
	if place != nil {
		w.add("id > ?", place[0])
	}
	items, err := collect(ctx, q.q(), scanItem, `SELECT `+itemColumns+` FROM queued WHERE `+w.String()+` ORDER BY id LIMIT `+w.arg(page.limit()+1), w.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %s: %w", list, translate(err))
	}
	items, next := cut(items, page, func(i Item) Cursor { return newCursor(list, i.ID) })
	return items, next, nil
}

// Forget deletes dead items that were added before then, in steps, and returns how
// many.
func (q Queue) Forget(ctx context.Context, then time.Time) (forgotten int64, err error) {
	for {
		var n int64
		err := q.write(ctx, func(tx *tx) (err error) {
			n, err = tx.exec(`DELETE FROM queued WHERE id IN (SELECT id FROM queued WHERE queue = $1 AND dead = TRUE AND created < $2 LIMIT $3)`, q.name, millis(then), forgetTogether)
			return err
		})
		if err != nil {
			return forgotten, fmt.Errorf("forget dead items of the %s: %w", q.name, err)
		}
		forgotten += n
		if n < forgetTogether {
			return forgotten, nil
		}
	}
}
