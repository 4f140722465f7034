package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
)

// The one suite runs over both engines. It starts a throwaway PostgreSQL
// itself, on a socket in a directory of its own and no port, where the
// programs are installed. Where they are not, it is SQLite's suite alone, and
// says so; unless SALLYPORT_TEST_POSTGRES is "require" or CI is "true", when
// that is a failure, or a CI that lost its PostgreSQL would go on being green.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && childMain(os.Args[1]) {
		return
	}
	stop, err := startPostgres()
	if err != nil {
		required := os.Getenv("SALLYPORT_TEST_POSTGRES") == "require" || os.Getenv("CI") == "true"
		fmt.Fprintf(os.Stderr, "store: PostgreSQL is left out: %v\n", err)
		if required {
			os.Exit(1)
		}
	}
	code := m.Run()
	if stop != nil {
		if err := stop(); err != nil {
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

func postgresProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	paths, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(paths) == 0 {
		return "", fmt.Errorf("%s is not installed: it is neither on the path nor under /usr/lib/postgresql", name)
	}
	return paths[len(paths)-1], nil
}

func startPostgres() (stop func() error, err error) {
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return nil, err
	}
	postgres, err := postgresProgram("postgres")
	if err != nil {
		return nil, err
	}
	// Short, because the name of a socket must be; not the test's own
	// directory, because the user that PostgreSQL runs as must get there.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	attr, err := asNobody(dir) // PostgreSQL refuses root
	if err != nil {
		return nil, err
	}

	init := exec.Command(initdb, "--pgdata", dir+"/data", "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	init.Dir, init.SysProcAttr = dir, attr
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	// The shell ends PostgreSQL and takes its directory away when its standard
	// input ends, which it does with us however we end.
	serve := exec.Command("/bin/sh", "-c", `"$0" "$@" </dev/null & read -r _; kill -INT $!; wait $!; status=$?; rm -rf "$PWD"; exit $status`,
		postgres, "-D", dir+"/data", "-k", dir, "-c", "listen_addresses=", "-c", "max_connections=200",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=64MB", "-c", "max_wal_size=2GB")
	serve.Dir, serve.SysProcAttr = dir, attr
	var log lockedBuffer
	serve.Stdout, serve.Stderr = &log, &log
	input, err := serve.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := serve.Start(); err != nil {
		return nil, err
	}
	stop = func() error {
		input.Close()
		return errors.Join(serve.Wait(), os.RemoveAll(dir))
	}

	url := "postgres://postgres@/postgres?host=" + dir
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pool, err := sql.Open("pgx", url)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	defer pool.Close()
	for {
		err := pool.PingContext(ctx)
		if err == nil {
			postgresURL = url
			return stop, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("it did not answer in 30 s: %w: %s", err, log.String()), stop())
		case <-time.After(20 * time.Millisecond): // it has no way to tell us
		}
	}
}

// A lockedBuffer keeps the last of what a program says.
type lockedBuffer struct{ last atomic.Pointer[string] }

func (b *lockedBuffer) Write(p []byte) (int, error) {
	s := b.String() + string(p)
	s = s[max(0, len(s)-4096):]
	b.last.Store(&s)
	return len(p), nil
}

func (b *lockedBuffer) String() string {
	if s := b.last.Load(); s != nil {
		return *s
	}
	return ""
}

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

// engines makes a fresh database of each engine.
var engines = map[string]func(testing.TB) (dsn string){
	"SQLite": func(t testing.TB) string { return filepath.Join(t.TempDir(), "state.db") },
	"PostgreSQL": func(t testing.TB) string {
		if postgresURL == "" {
			return ""
		}
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
		return strings.Replace(postgresURL, "/postgres?", "/"+name+"?", 1)
	},
}

var databases atomic.Int64

// onEach runs a test over a fresh database of each engine.
func onEach(t *testing.T, test func(t *testing.T, db *DB)) {
	onEachDSN(t, func(t *testing.T, dsn string) { test(t, open(t, dsn)) })
}

func onEachDSN(t *testing.T, test func(t *testing.T, dsn string)) {
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		if engine == "PostgreSQL" && postgresURL == "" {
			continue
		}
		t.Run(engine, func(t *testing.T) { test(t, engines[engine](t)) })
	}
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
