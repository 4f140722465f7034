package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

// A database is one server's, until it closes it.
func TestClaim(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		must(t, db.Claim(t.Context()))
		dsn := db.path
		if dsn == "" {
			var name string
			must(t, db.read.QueryRow(`SELECT current_database()`).Scan(&name))
			dsn = replaceDatabase(postgresURL, name)
		}
		second, err := Open(t.Context(), dsn)
		must(t, err)
		defer second.Close()
		if err := second.Claim(t.Context()); !errors.Is(err, ErrClaimed) {
			t.Fatalf("claimed twice: %v", err)
		}
		if db.dialect.oneWriter {
			return
		}
		// PostgreSQL ends the connection, and the second server is faster.
		var pid int
		must(t, db.claim.conn.QueryRowContext(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid))
		if _, err := db.write.Exec(`SELECT pg_terminate_backend($1)`, pid); err != nil {
			t.Fatal(err)
		}
		for second.Claim(t.Context()) != nil { // until the connection has ended
			if t.Context().Err() != nil {
				t.Fatal("the lock is never free")
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := db.Hold(ctx); !errors.Is(err, ErrClaimed) {
			t.Errorf("the first server goes on: %v", err)
		}
	})
}

// PostgreSQL is told how long a statement may take, and the caller who waits for
// one that takes longer hears that the database is not there.
func TestPostgresIsBounded(t *testing.T) {
	onPostgres(t, func(t *testing.T, db *DB, _ string) {
		for name, want := range map[string]string{"statement_timeout": "30s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "1min"} {
			var got string
			must(t, db.read.QueryRow(`SELECT current_setting($1)`, name).Scan(&got))
			if got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
		conn, err := db.read.Conn(t.Context())
		must(t, err)
		defer conn.Close()
		_, err = conn.ExecContext(t.Context(), `SET statement_timeout = '10ms'`)
		must(t, err)
		_, err = conn.ExecContext(t.Context(), `SELECT pg_sleep(60)`)
		if err := translate(err); sallyport.CodeOf(err) != sallyport.ServiceUnavailableException {
			t.Errorf("a statement that takes too long: %v", err)
		}
	})
}
