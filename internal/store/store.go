// Package store is what the control plane remembers: users, groups, roles, their
// policies and keys; activations and the nodes that registered through them;
// documents; and every session, on or over. [Open] gives a [DB].
//
// It is the only package that speaks SQL. It takes and gives values of the
// vocabulary, and its errors are AWS's wherever a caller may see them.
//
//	db.IAM().User(ctx, name)            a method is a transaction of its own,
//	db.Update(ctx, func(tx *Tx) error   or a part of one
//	      │  tx.IAM().User(ctx, name)
//	      │
//	   views: IAM Nodes Activations Sessions Documents Keys Events Jobs Outbox Meta
//	      │
//	     *DB    group commit, coalesced pings
//	   ┌──┴───────────┐
//	SQLite        PostgreSQL        one schema, one text of every query;
//	one writer    a pool            what differs is in dialect.go
//	many readers
//
// Promises:
//
//   - What a method, or [DB.Update], has answered is on the disk. Killing the
//     process, or the machine, at any moment loses nothing that was answered. The
//     exceptions are what a node's pings and an access key's use leave behind,
//     which are written together every so often: [DB.Ping], [DB.SetOnline],
//     [DB.Trouble], [DB.TouchAccessKey].
//   - A method does all that it says or nothing, also within an Update.
//   - A panic, an error or the end of a context in the function of one caller of
//     Update is that caller's alone, also where several are committed together.
//   - With a full disk methods that write return [ErrFull], nothing that was
//     there is harmed, and all is well again when there is room.
//   - Time is what the caller says it is, to the millisecond. A clock is read for
//     events alone, where the caller has not said when they were.
//
// It does not check what the edge must check (names, limits of length, whether
// a policy parses), nor who may do what. Text that strangers chose freely is
// made into UTF-8 without NULs before it is stored.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	"github.com/pressly/goose/v3"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
)

// ErrFull is within the error of a method that could not write because the
// disk under the database is full. Callers may be shown it.
var ErrFull error = sallyport.Errorf(sallyport.ServiceUnavailableException,
	"The control plane cannot save this: the disk under its database is full. Nothing saved before is lost. Free some space and try again.")

// A DB is everything we remember. Its methods may be called from any goroutine.
type DB struct {
	views // methods that are each a transaction of their own

	// OnGone, if it is not nil, is called with the ID of a user, role or group
	// that was deleted, of an access key that was deleted or deactivated, and of a
	// node that was deregistered, before the method that did it returns. What rests on the identity ends
	// then. It is set before the first of those methods is called.
	OnGone func(id string)

	dialect *dialect
	read    *sql.DB
	write   *sql.DB // the same as read on PostgreSQL
	reader  querier // reads from read
	commits commits

	path  string // of an SQLite database
	claim claim

	keys      atomic.Pointer[keyring.Keyring] // nil until Unlock
	revisions seenRevisions
	pending   pending
}

//go:embed migrations/*.sql
var migrations embed.FS

// Open opens the database that dsn names, and brings its schema up to date. A
// path, or "sqlite:" and a path, is an SQLite database, made if it is not
// there; "postgres://…" is a PostgreSQL one, which must be.
//
// An SQLite database belongs to one process at a time. The directory must
// exist; the file is made for its owner's eyes only.
func Open(ctx context.Context, dsn string) (*DB, error) {
	db, err := connect(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", translate(err))
	}
	if err := db.migrate(ctx); err != nil {
		db.shut()
		return nil, fmt.Errorf("open database: %w", translate(err))
	}
	return db, nil
}

func (db *DB) migrate(ctx context.Context) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	if db.dialect.migrationLock != nil {
		lock, err := db.dialect.migrationLock()
		if err != nil {
			return err
		}
		options = append(options, goose.WithSessionLocker(lock))
	}
	p, err := goose.NewProvider(db.dialect.goose, db.write, dir, options...)
	if err != nil {
		return err
	}
	has, knows, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if has > knows {
		return fmt.Errorf("it was last used by a newer version of this program (its schema is %d; this program knows %d); run that version or a newer one", has, knows)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// Close writes what is pending and lets the database go. Nothing may be
// called after it.
func (db *DB) Close() error {
	err := db.Flush(context.Background())
	db.unclaim()
	return errors.Join(err, db.shut())
}

func (db *DB) shut() error {
	var err error
	if p, ok := db.reader.(*prepared); ok {
		p.close()
	}
	if db.read != db.write {
		err = db.read.Close()
	}
	return errors.Join(err, db.write.Close())
}

// Ready reports whether the database can be read.
func (db *DB) Ready(ctx context.Context) error {
	_, err := db.Meta().value(ctx, "key-check")
	return err
}

// Engine is "SQLite" or "PostgreSQL".
func (db *DB) Engine() string { return db.dialect.name }

// Keyed reports whether the database was ever unlocked. One that was must be
// given the same root key again, never a fresh one.
func (db *DB) Keyed(ctx context.Context) (bool, error) {
	check, err := db.Meta().value(ctx, "key-check")
	return check != nil, err
}

// Unlock gives the database the keys it seals access keys with. The first
// keyring a database is given is the one it must always be given, save that
// it may gain and, after [DB.Reseal], lose versions.
func (db *DB) Unlock(ctx context.Context, keys *keyring.Keyring) error {
	check, err := db.Meta().set(ctx, "key-check", keys.Check())
	if err != nil {
		return err
	}
	if err := keys.Verify(check); err != nil {
		return err
	}
	db.keys.Store(keys)
	return nil
}
