package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/sallyport/sallyport/internal/panics"
)

// The store's methods are on views: what is remembered of users is on [IAM],
// of machines on [Nodes], and so on. A [DB] gives views whose methods are each
// a transaction of their own, and a [Tx] gives the same views within one. They
// are methods of both, as in db.IAM().User(ctx, name) and tx.IAM().User(ctx, name).
type views struct{ scope }

// IAM returns the view of users, groups, roles, their policies and access keys.
func (v views) IAM() IAM { return IAM(v) }

// Nodes returns the view of managed nodes.
func (v views) Nodes() Nodes { return Nodes(v) }

// Activations returns the view of activations.
func (v views) Activations() Activations { return Activations(v) }

// Sessions returns the view of sessions, on and over.
func (v views) Sessions() Sessions { return Sessions(v) }

// Documents returns the view of session documents.
func (v views) Documents() Documents { return Documents(v) }

// Keys returns the view of KMS keys and their aliases.
func (v views) Keys() Keys { return Keys(v) }

// Meta returns the view of what the database keeps of itself.
func (v views) Meta() Meta { return Meta(v) }

// IAM is users, groups, roles, their policies and access keys.
type IAM struct{ scope }

// Nodes is the managed nodes.
type Nodes struct{ scope }

// Activations is the activations that nodes register by.
type Activations struct{ scope }

// Sessions is the sessions that are on, and the history.
type Sessions struct{ scope }

// Documents is the session documents. AWS's own are in the program, not here.
type Documents struct{ scope }

// Keys is the KMS keys and their aliases.
type Keys struct{ scope }

// Meta is what the database keeps of itself: which account and region it is
// for, and through which steps it was taken.
type Meta struct{ scope }

// A scope is what a view's statements run in: the database, or a transaction.
type scope struct {
	db *DB
	tx *tx // nil outside of a transaction
}

// q is what a view reads from.
func (s scope) q() querier {
	if s.tx != nil {
		return s.tx
	}
	return s.db.reader
}

// write runs do in a transaction: one of its own, or a part of the scope's that
// is undone alone if do fails. The rules for do are those of [DB.transact].
func (s scope) write(ctx context.Context, do func(*tx) error) error {
	if s.tx != nil {
		return translate(s.tx.part(ctx, do))
	}
	return s.db.transact(ctx, do)
}

// change is write for what a revision counts: transactions that change the same
// part of the store take turns, and the part's revision moves on with the change.
func (s scope) change(ctx context.Context, part revision, do func(*tx) error) error {
	return s.write(ctx, func(tx *tx) error {
		if err := tx.moveOn(part); err != nil {
			return err
		}
		return do(tx)
	})
}

// A Tx is a transaction under way, given to the function of [DB.Update]. It is
// for that function's goroutine alone, and refuses everything once the function
// has returned.
type Tx struct{ views }

// Update runs do in one transaction and commits all that it did through its Tx,
// or nothing if it returns an error or panics, which is an error of this call
// alone. What do reads and then writes it must lock first, as with [Tx.LockIAM]:
// on PostgreSQL another transaction may otherwise change it in between.
//
// A method of a view that fails within do has changed nothing, and do may go on.
// The Tx's statements are not interrupted when a context is done: do must be
// short, and wait for nothing. It may be run more than once, so what it hands
// out it must assign, not append. It must use nothing of the DB but its Tx, or
// it waits for itself.
func (db *DB) Update(ctx context.Context, do func(*Tx) error) error {
	return db.transact(ctx, func(t *tx) error { return do(&Tx{views{scope{db, t}}}) })
}

// LockIAM has the transaction wait for any other that changes IAM, and those after
// it wait for its end. What it reads of IAM from then on stays so.
func (t *Tx) LockIAM() error { return t.tx.moveOn(iamRevision) }

// A tx is a transaction under way, and the context its statements run in. That
// context is never cancelled: SQLite undoes a whole transaction when one of its
// statements is interrupted, and the transaction may be several callers'.
type tx struct {
	sql *sql.Tx
	ctx context.Context
	run *run
}

// A run is one execution of one caller's function within a transaction.
type run struct {
	over   atomic.Bool // the function has returned: no statement of it may run any more
	broken error       // why the transaction cannot be committed, also if the function returns nil

	// What follows from the function's changes; see [DB.transact].
	effects
}

// effects is what has to be done with or after the commit.
type effects struct {
	moved  [revisions]int64 // the revisions that were moved on, and to what; 0 is not
	gone   []string         // IDs for OnGone
	events []Event          // to be written with the commit
}

// errOver is the error of a transaction that is used after its function returned.
var errOver = errors.New("store: a transaction was used after the function that it was given to had returned")

// ended is a context that is done.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (t *tx) usable() error {
	if t.run.over.Load() {
		return errOver
	}
	return t.run.broken
}

// Statements keep the values of the caller's context, and not its end.

func (t *tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := t.usable(); err != nil {
		return nil, err
	}
	res, err := t.sql.ExecContext(context.WithoutCancel(ctx), query, args...)
	t.look(err)
	return res, err
}

func (t *tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := t.usable(); err != nil {
		return nil, err
	}
	rows, err := t.sql.QueryContext(context.WithoutCancel(ctx), query, args...)
	t.look(err)
	return rows, err
}

func (t *tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if t.usable() != nil {
		return t.sql.QueryRowContext(ended, query, args...) // a row has no other way to say so
	}
	row := t.sql.QueryRowContext(context.WithoutCancel(ctx), query, args...)
	t.look(row.Err())
	return row
}

// look breaks the run if err is one of those after which SQLite has undone the
// whole transaction by itself: a later statement would be committed alone.
// (SQLite, "Response To Errors Within A Transaction".)
func (t *tx) look(err error) {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT:
			t.run.broken = err
		}
	}
}

func (t *tx) exec(query string, args ...any) (int64, error) {
	res, err := t.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t *tx) row(query string, args ...any) *sql.Row {
	return t.QueryRowContext(t.ctx, query, args...)
}

// part runs do as a part of the transaction, which is undone if do fails or
// panics. What was done before stays.
func (t *tx) part(ctx context.Context, do func(*tx) error) error {
	if _, err := t.exec(`SAVEPOINT part`); err != nil {
		return err
	}
	before := t.run.effects
	err := panics.Run(func() error { return do(&tx{t.sql, context.WithoutCancel(ctx), t.run}) })
	if err != nil {
		t.run.effects = before
		if _, undo := t.exec(`ROLLBACK TO part`); undo != nil {
			t.run.broken = fmt.Errorf("undo a part of a transaction: %w", undo)
			return err
		}
	}
	if _, release := t.exec(`RELEASE part`); release != nil {
		t.run.broken = release
		return errors.Join(err, release)
	}
	return err
}
