package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport/internal/panics"
)

// transact runs do in a transaction and commits what it did, unless it returns
// an error. do may be run more than once, so what it hands out it must assign,
// not append; and it must use nothing but its tx, or it would wait for itself. A
// panic in do is an error, of its own caller's alone.
//
// Where there is one writer, callers that arrive while it is busy are committed
// together: one wait for the disk for all of them.
//
// What has to follow a commit is done before transact returns: this process's
// caches learn that a revision has moved on, and OnGone is told which identities
// are not in force any more. What has to go with it is written last: the events.
func (db *DB) transact(ctx context.Context, do func(*tx) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	call, called := take(ctx)
	var after *run             // the last time that do came to its end
	var moved [revisions]int64 // by any of the times
	whole := func(t *tx) error {
		after = nil
		t = &tx{t.sql, t.ctx, &run{}}
		defer t.run.over.Store(true)
		if err := do(t); err != nil {
			return err
		}
		if call != nil {
			t.leaves(*call)
		}
		if err := t.writeEvents(db.dialect); err != nil {
			return err
		}
		if t.run.broken != nil {
			return t.run.broken
		}
		after = t.run
		for part, number := range t.run.moved {
			moved[part] = max(moved[part], number)
		}
		return nil
	}
	var err error
	if db.dialect.oneWriter {
		err = db.commits.join(ctx, db.write, whole)
	} else {
		err = alone(ctx, db.write, whole)
	}
	err = translate(err)
	if call != nil {
		called(err == nil)
	}
	// Also after an error: a commit may fail after the fact.
	for part, number := range moved {
		if number != 0 {
			db.revisions.wrote(revision(part), number)
		}
	}
	if after != nil {
		for _, id := range after.gone {
			db.tellGone(ctx, id, err)
		}
	}
	return err
}

// alone runs do in a transaction of its own. PostgreSQL may ask for it to be
// run again.
func alone(ctx context.Context, pool *sql.DB, do func(*tx) error) error {
	for try := 0; ; try++ {
		err := once(context.WithoutCancel(ctx), pool, do)
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && try < 5 && ctx.Err() == nil &&
			(e.Code == "40001" || e.Code == "40P01") { // serialization_failure, deadlock_detected
			continue
		}
		return err
	}
}

func once(ctx context.Context, pool *sql.DB, do func(*tx) error) error {
	t, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer t.Rollback() // does nothing once committed
	if err := panics.Run(func() error { return do(&tx{sql: t, ctx: ctx}) }); err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// maxTogether bounds how many callers one transaction serves, and with it how
// long the first of them waits for the last.
const maxTogether = 128

// commits gathers callers that want to write. It has no goroutine: a caller that
// finds the writer free leads, and writes for all that have gathered.
//
// The queue is as long as there are callers waiting in join, no longer.
type commits struct {
	turn chan struct{} // holds one token while a caller leads

	mu    sync.Mutex
	queue []*job
}

// A job is one caller's part of a transaction.
type job struct {
	ctx  context.Context
	do   func(*tx) error
	done chan error // takes one, without blocking
}

func newCommits() commits { return commits{turn: make(chan struct{}, 1)} }

func (c *commits) join(ctx context.Context, pool *sql.DB, do func(*tx) error) error {
	j := &job{context.WithoutCancel(ctx), do, make(chan error, 1)}
	c.mu.Lock()
	c.queue = append(c.queue, j)
	c.mu.Unlock()

	for {
		select {
		case err := <-j.done:
			return err
		case <-ctx.Done():
			if c.withdraw(j) {
				return context.Cause(ctx)
			}
			return <-j.done // it is being written, and will be known shortly
		case c.turn <- struct{}{}:
			c.lead(pool)
		}
	}
}

// lead writes one batch and gives up the turn. Every job of the batch gets its
// result, also after a panic: its caller waits for nothing else.
func (c *commits) lead(pool *sql.DB) {
	defer func() { <-c.turn }()
	batch := c.take()
	if len(batch) > 1 && panics.Run(func() error { return together(pool, batch) }) == nil {
		return
	}
	// One caller, or a transaction lost as a whole, as SQLite does when the
	// disk is full. Alone, each learns how it fares itself.
	for _, j := range batch {
		j.tell(panics.Run(func() error { return once(j.ctx, pool, j.do) }))
	}
}

// tell answers a job's caller, who has not been answered, or has and is not
// answered twice.
func (j *job) tell(err error) {
	select {
	case j.done <- err:
	default:
	}
}

// take takes the next batch.
func (c *commits) take() []*job {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.queue), maxTogether)
	batch := slices.Clone(c.queue[:n])
	c.queue = slices.Delete(c.queue, 0, n)
	return batch
}

func (c *commits) withdraw(j *job) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.queue, j)
	if i < 0 {
		return false
	}
	c.queue = slices.Delete(c.queue, i, i+1)
	return true
}

// together runs a batch in one transaction, each job behind a savepoint, and
// gives each its result. If it returns an error it has given none, and nothing was
// written.
func together(pool *sql.DB, batch []*job) error {
	ctx := context.Background()
	t, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback()
	verdicts := make([]error, len(batch))
	for i, j := range batch {
		if _, err := t.ExecContext(ctx, `SAVEPOINT job`); err != nil {
			return err
		}
		verdicts[i] = panics.Run(func() error { return j.do(&tx{sql: t, ctx: j.ctx}) })
		if verdicts[i] != nil {
			if _, err := t.ExecContext(ctx, `ROLLBACK TO job`); err != nil {
				return err
			}
		}
		if _, err := t.ExecContext(ctx, `RELEASE job`); err != nil {
			return err
		}
	}
	if err := t.Commit(); err != nil {
		return err
	}
	for i, j := range batch {
		j.tell(verdicts[i])
	}
	return nil
}
