package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/need"
	"github.com/sallyport/sallyport/internal/pgtest"
)

// The one suite runs over both engines. It starts a throwaway PostgreSQL
// itself, on a socket in a directory of its own and no port, where the
// programs are installed. Where they are not, PostgreSQL's half of the suite is
// skipped, or fails in CI: see package need.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && childMain(os.Args[1]) {
		return
	}
	cluster, err := pgtest.Start()
	if err != nil {
		noPostgres = err
	} else {
		postgresURL = cluster.URL
	}
	code := m.Run()
	if cluster != nil {
		if err := cluster.Stop(); err != nil {
			fmt.Fprintf(os.Stderr, "store: stop PostgreSQL: %v\n", err)
			code = max(code, 1)
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// postgresURL names the throwaway PostgreSQL's first database; "" if there is
// no PostgreSQL.
var postgresURL string

// noPostgres is why there is none.
var noPostgres error

// migratedOnce makes a PostgreSQL database to copy, which is quicker than
// migrating each.
var migratedOnce = sync.OnceValue(func() error {
	pool, err := sql.Open("pgx", postgresURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(`CREATE DATABASE migrated`); err != nil {
		return err
	}
	db, err := Open(context.Background(), strings.Replace(postgresURL, "/postgres?", "/migrated?", 1))
	if err != nil {
		return err
	}
	return db.Close()
})

// replaceDatabase names another database of the same cluster.
func replaceDatabase(url, name string) string {
	return strings.Replace(url, "/postgres?", "/"+name+"?", 1)
}

// engines makes a fresh database of each engine.
var engines = map[string]func(testing.TB) (dsn string){
	"SQLite": func(t testing.TB) string { return filepath.Join(t.TempDir(), "state.db") },
	"PostgreSQL": func(t testing.TB) string {
		needPostgres(t)
		must(t, migratedOnce())
		name := "test" + strconv.FormatInt(databases.Add(1), 10)
		pool, err := sql.Open("pgx", postgresURL)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		if _, err := pool.Exec(`CREATE DATABASE ` + name + ` TEMPLATE migrated`); err != nil {
			t.Fatal(err)
		}
		return replaceDatabase(postgresURL, name)
	},
}

var databases atomic.Int64

func needPostgres(t testing.TB) {
	t.Helper()
	if postgresURL == "" {
		need.Missing(t, fmt.Sprintf("there is no PostgreSQL: install Debian's package postgresql: %v", noPostgres))
	}
}

// onEach runs a test over a fresh database of each engine.
func onEach(t *testing.T, test func(t *testing.T, db *DB)) {
	onEachDSN(t, func(t *testing.T, dsn string) { test(t, open(t, dsn)) })
}

func onEachDSN(t *testing.T, test func(t *testing.T, dsn string)) {
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		t.Run(engine, func(t *testing.T) { test(t, engines[engine](t)) })
	}
}

// onPostgres runs a test over a fresh database of PostgreSQL, for what SQLite,
// which runs in this process, has no part in.
func onPostgres(t *testing.T, test func(t *testing.T, db *DB, dsn string)) {
	dsn := engines["PostgreSQL"](t)
	test(t, open(t, dsn), dsn)
}

var testKeys = keyring.Generate()

func open(t testing.TB, dsn string) *DB {
	t.Helper()
	db, err := Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if err := db.Unlock(t.Context(), testKeys); err != nil {
		t.Fatal(err)
	}
	return db
}

// at is n milliseconds after some time in the past.
func at(n int) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(n)).UTC() }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode wants an error a caller may see, with this code and these words.
func wantCode(t testing.TB, err error, code sallyport.Code, words string) {
	t.Helper()
	e := sallyport.Public(err)
	if err == nil || e.Code != code || !strings.Contains(e.Message, words) {
		t.Errorf("error is %v, want %s with %q", err, code, words)
	}
}

// pages reads a whole list, limit at a time.
func pages[T any](t testing.TB, limit int, list func(Page) ([]T, Cursor, error)) []T {
	t.Helper()
	var all []T
	p := Page{Limit: limit}
	for range 10_000 {
		part, next, err := list(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(part) > limit {
			t.Fatalf("a page of %d has %d", limit, len(part))
		}
		all = append(all, part...)
		if next == "" {
			return all
		}
		if next == p.After {
			t.Fatalf("the same cursor twice: %q", next)
		}
		p.After = next
	}
	t.Fatal("the list does not end")
	return nil
}
