package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// A dialect is all that the two engines do not share.
type dialect struct {
	name  string
	goose goose.Dialect

	// migrationLock keeps server nodes that start together from migrating
	// together; nil where there is only one.
	migrationLock func() (lock.SessionLocker, error)

	// oneWriter says that writers wait for one another, so that it pays to
	// commit what has gathered while they waited as one.
	oneWriter bool

	// nestedWrites says that a statement may have another within it that writes
	// (WITH … AS (UPDATE …)).
	nestedWrites bool

	// use, before an index's name, has a query use that index. SQLite has no
	// statistics here, and guesses badly between two indexes that both seem to
	// do; PostgreSQL has them, and is left to choose.
	use string
}

var (
	sqliteDialect = &dialect{
		name:      "SQLite",
		goose:     goose.DialectSQLite3,
		oneWriter: true,
		use:       " INDEXED BY ",
	}
	postgresDialect = &dialect{
		name:         "PostgreSQL",
		goose:        goose.DialectPostgres,
		nestedWrites: true,
		migrationLock: func() (lock.SessionLocker, error) {
			return lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300)) // every second, for five minutes
		},
	}
)

func connect(ctx context.Context, dsn string) (*DB, error) {
	scheme, rest, ok := strings.Cut(dsn, ":")
	switch {
	case dsn == "":
		return nil, errors.New("no database is named; name a file, or a PostgreSQL database as postgres://user@host/name")
	case ok && (scheme == "postgres" || scheme == "postgresql"):
		return connectPostgres(ctx, dsn)
	case ok && scheme == "sqlite":
		return connectSQLite(ctx, strings.TrimPrefix(rest, "//"))
	case ok && strings.HasPrefix(rest, "//"):
		return nil, fmt.Errorf("%s is no kind of database we know; name a file, or a PostgreSQL database as postgres://user@host/name", scheme)
	}
	return connectSQLite(ctx, dsn)
}

func connectSQLite(ctx context.Context, path string) (*DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// SQLite would make the file for all to read, and gives its log the mode
	// the file has.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the directory %s is not there; make it first: %w", filepath.Dir(path), err)
	}
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}

	write, err := sql.Open("sqlite", sqliteURL(path, "journal_mode(WAL)", "synchronous(FULL)"))
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	// The first connection makes the file a WAL database, which readers can't.
	if err := write.PingContext(ctx); err != nil {
		write.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	read, err := sql.Open("sqlite", sqliteURL(path, "query_only(1)"))
	if err != nil {
		write.Close()
		return nil, err
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	db := newDB(sqliteDialect, read, write)
	db.path = path
	return db, nil
}

// sqliteURL names a database file as SQLite's URIs do, so that no character of
// a path can be mistaken for the beginning of the options.
func sqliteURL(path string, pragmas ...string) string {
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // C:/…
	}
	options := url.Values{
		"_txlock": {"immediate"}, // or two that read, then write, would deadlock
		"_pragma": append([]string{"busy_timeout(5000)", "foreign_keys(1)"}, pragmas...),
	}
	return "file://" + (&url.URL{Path: slashed}).EscapedPath() + "?" + options.Encode()
}

func connectPostgres(ctx context.Context, dsn string) (*DB, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err // it leaves the password out
	}
	for name, value := range map[string]string{
		"application_name": "sallyport",
		// No caller waits longer for a database that answers; one that does not is
		// found out by TCP.
		"statement_timeout":                   "30s",
		"lock_timeout":                        "10s",
		"idle_in_transaction_session_timeout": "60s",
	} {
		if config.RuntimeParams[name] == "" {
			config.RuntimeParams[name] = value
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	dialer := &net.Dialer{Timeout: config.ConnectTimeout, Control: giveUpOnSilence, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	config.DialFunc = dialer.DialContext
	// A cluster that answers before it has written would break our promise.
	durable := stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
		return err
	})
	pool := stdlib.OpenDB(*config, durable)
	pool.SetMaxOpenConns(16)
	pool.SetMaxIdleConns(16)
	if err := pool.PingContext(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return newDB(postgresDialect, pool, pool), nil
}

func newDB(d *dialect, read, write *sql.DB) *DB {
	db := &DB{dialect: d, read: read, write: write, commits: newCommits(), pending: newPending()}
	db.reader = read
	if d == sqliteDialect {
		db.reader = &prepared{db: read}
	}
	db.views = views{scope{db: db}}
	return db
}

// using is the hint that follows a table's name to have its query use an index.
func (d *dialect) using(index string) string {
	if d.use == "" || index == "" {
		return ""
	}
	return d.use + index
}

// translate puts [ErrFull] into an error that says the disk is full, and
// [ErrUnavailable] into one that says that the database does not answer.
func translate(err error) error {
	if err == nil || errors.Is(err, ErrFull) || errors.Is(err, ErrUnavailable) {
		return err
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		// The second is what the shared-memory file meets on a full disk.
		if e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE {
			return fmt.Errorf("%w (%w)", ErrFull, err)
		}
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "53100" { // disk_full
		return fmt.Errorf("%w (%w)", ErrFull, err)
	}
	if unavailable(err) {
		return fmt.Errorf("%w (%w)", ErrUnavailable, err)
	}
	return err
}
