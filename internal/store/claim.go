package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/statedir"
)

// ErrClaimed is within the error of [DB.Claim] and [DB.Hold] when another server
// has the database.
var ErrClaimed = errors.New("another server is using this database")

// ErrUnavailable is within the error of a method whose database does not answer.
// Callers may be shown it.
var ErrUnavailable error = sallyport.Errorf(sallyport.ServiceUnavailableException,
	"The control plane's database does not answer. Sessions that are on go on. Try again in a moment.")

// claimLock is the advisory lock that a server holds on a PostgreSQL database.
const claimLock = 7308895159

// How often a claim is looked after.
const (
	holdEvery  = 5 * time.Second
	holdWithin = 10 * time.Second
)

// A claim is what keeps a second server from a database.
type claim struct {
	unlock func() // of SQLite's

	// mu guards all below, and is held while the lock is looked after.
	mu   sync.Mutex
	made bool      // PostgreSQL's lock has been taken once
	conn *sql.Conn // that has it; nil while it is lost
}

// Claim takes the database for this server until Close, or until the process
// ends: two servers on one database would each end the other's sessions, and
// overwrite what it writes. A database that another server has is [ErrClaimed].
func (db *DB) Claim(ctx context.Context) error {
	if db.dialect.oneWriter {
		unlock, err := statedir.LockFile(db.path+".lock", "sallyport server")
		if errors.Is(err, statedir.ErrLocked) {
			return fmt.Errorf("claim database %s: %w (%w)", db.path, ErrClaimed, err)
		}
		if err != nil {
			return fmt.Errorf("claim database: %w", err)
		}
		db.claim.unlock = unlock
		return nil
	}
	db.claim.mu.Lock()
	defer db.claim.mu.Unlock()
	err := db.claimPostgres(ctx)
	db.claim.made = err == nil
	return err
}

// StillClaimed reports, as [ErrClaimed], that another server has the database by
// now. It is asked before something is told that only this server knows. Where the
// database does not answer the claim is not known to be lost.
func (db *DB) StillClaimed(ctx context.Context) error {
	db.claim.mu.Lock()
	defer db.claim.mu.Unlock()
	if !db.claim.made || db.claim.conn != nil && db.holds(ctx) {
		return nil
	}
	if db.claim.conn != nil {
		// Closed for good, and not put back: what it locked must not stay locked.
		db.claim.conn.Raw(func(any) error { return driver.ErrBadConn })
		db.claim.conn.Close()
		db.claim.conn = nil
	}
	if err := db.claimPostgres(ctx); errors.Is(err, ErrClaimed) {
		return fmt.Errorf("the connection to the database was lost, and meanwhile %w", ErrClaimed)
	}
	return nil
}

// claimPostgres takes the lock. The caller holds the claim's mu.
func (db *DB) claimPostgres(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, holdWithin)
	defer cancel()
	conn, err := db.write.Conn(ctx)
	if err != nil {
		return fmt.Errorf("claim database: %w", translate(err))
	}
	var got bool
	err = conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, claimLock).Scan(&got)
	if err == nil && !got {
		conn.Close()
		return fmt.Errorf("claim database: %w", ErrClaimed)
	}
	if err != nil {
		conn.Raw(func(any) error { return driver.ErrBadConn })
		conn.Close()
		return fmt.Errorf("claim database: %w", translate(err))
	}
	db.claim.conn = conn
	return nil
}

// Hold keeps the claim until ctx is done. PostgreSQL's ends with the connection
// that took it: then it is taken again, once the database is there. The error is
// [ErrClaimed], if another server was faster; this one must stop.
func (db *DB) Hold(ctx context.Context) error {
	if db.dialect.oneWriter {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(holdEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := db.StillClaimed(ctx); err != nil {
			return err
		}
	}
}

// holds reports whether the connection with the lock is there.
func (db *DB) holds(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, holdWithin)
	defer cancel()
	return db.claim.conn.PingContext(ctx) == nil
}

func (db *DB) unclaim() {
	db.claim.mu.Lock()
	defer db.claim.mu.Unlock()
	if db.claim.unlock != nil {
		db.claim.unlock()
	}
	if db.claim.conn != nil {
		db.claim.conn.Raw(func(any) error { return driver.ErrBadConn }) // or the lock would stay with a connection in the pool
		db.claim.conn.Close()
	}
}

// unavailable reports whether err is that the database cannot be reached, or is
// stopping or starting.
func unavailable(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "57P01", "57P02", "57P03", "53300", "57014": // shutdowns, cannot_connect_now, too_many_connections, query_canceled by statement_timeout
			return true
		}
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	_, ofNet := errors.AsType[net.Error](err)
	return ofNet || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}
