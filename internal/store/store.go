// Package store answers one question: what happened before now?
//
// It remembers users, groups, roles, their policies and keys; activations and
// the nodes that registered through them; and every session, on or over. It is
// the only package that speaks SQL. It takes and gives values of the
// vocabulary, and its errors are AWS's wherever a caller may see them.
//
//	         *DB
//	          │  group commit, coalesced pings
//	   ┌──────┴───────┐
//	SQLite        PostgreSQL        one schema, one text of every query;
//	one writer    a pool            what differs is in dialect.go
//	many readers
//
// Promises:
//
//   - What a method has answered is on the disk. Killing the process, or the
//     machine, at any moment loses nothing that was answered. The exceptions
//     are what a node's pings and an access key's use leave behind, which are
//     written together every so often: [DB.Ping], [DB.SetOnline], [DB.Trouble],
//     [DB.TouchAccessKey].
//   - A method does all that it says or nothing.
//   - With a full disk methods that write return [ErrFull], nothing that was
//     there is harmed, and all is well again when there is room.
//   - Time is what the caller says it is, to the millisecond; nothing here
//     reads a clock.
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
	// OnGone, if it is not nil, is called with the ID of a user, role or group
	// that was deleted, of an access key that was deleted or deactivated, and of a
	// node that was deregistered, before the method that did it returns. What rests on the identity ends
	// then. It is set before the first of those methods is called.
	OnGone func(id string)

	dialect *dialect
	read    *sql.DB
	write   *sql.DB // the same as read on PostgreSQL
	commits commits

	path  string // of an SQLite database
	claim claim

	keys     atomic.Pointer[keyring.Keyring] // nil until Unlock
	revision atomic.Uint64
	pending  pending
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
	if db.read != db.write {
		err = db.read.Close()
	}
	return errors.Join(err, db.write.Close())
}

// Ready reports whether the database can be read.
func (db *DB) Ready(ctx context.Context) error {
	_, err := db.meta(ctx, db.read, "key-check")
	return err
}

// Engine is "SQLite" or "PostgreSQL".
func (db *DB) Engine() string { return db.dialect.name }

// Keyed reports whether the database was ever unlocked. One that was must be
// given the same root key again, never a fresh one.
func (db *DB) Keyed(ctx context.Context) (bool, error) {
	check, err := db.meta(ctx, db.read, "key-check")
	return check != nil, err
}

// Unlock gives the database the keys it seals access keys with. The first
// keyring a database is given is the one it must always be given, save that
// it may gain and, after [DB.Reseal], lose versions.
func (db *DB) Unlock(ctx context.Context, keys *keyring.Keyring) error {
	check, err := db.setMeta(ctx, "key-check", keys.Check())
	if err != nil {
		return err
	}
	if err := keys.Verify(check); err != nil {
		return err
	}
	db.keys.Store(keys)
	return nil
}

// SetRealm records the account and region a new database is for, and refuses
// any other for one in use: its users, policies and history name them.
func (db *DB) SetRealm(ctx context.Context, r sallyport.Realm) error {
	want := r.Account + " " + r.Region
	got, err := db.setMeta(ctx, "realm", []byte(want))
	if err != nil {
		return err
	}
	if string(got) != want {
		var account, region string
		fmt.Sscan(string(got), &account, &region)
		return fmt.Errorf("this database is for account %s and region %s, not account %s and region %s; start the server with those, or with another database", account, region, r.Account, r.Region)
	}
	return nil
}

// Realm returns the account and region recorded by [DB.SetRealm], and whether
// any were.
func (db *DB) Realm(ctx context.Context) (sallyport.Realm, bool, error) {
	v, err := db.meta(ctx, db.read, "realm")
	if err != nil || v == nil {
		return sallyport.Realm{}, false, err
	}
	var account, region string
	if _, err := fmt.Sscan(string(v), &account, &region); err != nil {
		return sallyport.Realm{}, false, fmt.Errorf("read realm: %w", err)
	}
	r, err := sallyport.NewRealm(account, region)
	return r, err == nil, err
}

// meta returns the value of name, or nil if there is none.
func (db *DB) meta(ctx context.Context, q querier, name string) ([]byte, error) {
	var v []byte
	err := q.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = $1`, name).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, translate(err))
	}
	return v, nil
}

// Done reports whether a step that a database is taken through once was taken.
func (db *DB) Done(ctx context.Context, step string) (bool, error) {
	v, err := db.meta(ctx, db.read, step)
	return v != nil, err
}

// SetDone notes that a step was taken.
func (db *DB) SetDone(ctx context.Context, step string) error {
	_, err := db.setMeta(ctx, step, []byte("done"))
	return err
}

// setMeta gives name a value if it has none, and returns the one it has.
func (db *DB) setMeta(ctx context.Context, name string, value []byte) (got []byte, err error) {
	err = db.transact(ctx, func(tx *tx) error {
		if _, err := tx.exec(`INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, value); err != nil {
			return err
		}
		got, err = db.meta(tx.ctx, tx, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", name, err)
	}
	return got, nil
}
