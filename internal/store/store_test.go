package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/text", []byte(strings.Repeat("not a database\n", 100)), 0o600))
	for name, c := range map[string]struct{ dsn, words string }{
		"nothing":             {"", "no database is named"},
		"another engine":      {"mysql://host/db", "mysql is no kind of database we know"},
		"a missing directory": {filepath.Join(dir, "no", "state.db"), "make it first"},
		"a file of text":      {filepath.Join(dir, "text"), "not a database"},
		"nobody's PostgreSQL": {"postgres://postgres@/x?host=" + dir, "open database"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := Open(t.Context(), c.dsn)
			if err == nil {
				db.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("Open = %v, want %q", err, c.words)
			}
		})
	}
}

func TestSQLitePathsOfAnySpelling(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"plain.db", "a b.db", "100%41#x.db", "ü✓.db"} {
		for _, prefix := range []string{"", "sqlite:", "sqlite://"} {
			path := filepath.Join(dir, name)
			db, err := Open(t.Context(), prefix+path)
			must(t, err)
			must(t, db.Ready(t.Context()))
			must(t, db.Close())
			st, err := os.Stat(path)
			must(t, err)
			if mode := st.Mode().Perm(); runtime.GOOS != "windows" && mode != 0o600 {
				t.Errorf("%s has mode %o, want 600", name, mode)
			}
		}
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 4 { // a name that was misread would be a fifth
		t.Errorf("the directory has %v", left)
	}
}

func TestSQLiteIsDurable(t *testing.T) {
	db := open(t, engines["SQLite"](t))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		must(t, db.write.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got))
		if got != want {
			t.Errorf("%s = %s, want %s", pragma, got, want)
		}
	}
	if _, err := db.read.ExecContext(t.Context(), `DELETE FROM meta`); err == nil {
		t.Error("a reader can write")
	}
}

func TestPostgresIsDurableDespiteItsDefault(t *testing.T) {
	onPostgres(t, func(t *testing.T, db *DB, dsn string) {
		_, err := db.write.ExecContext(t.Context(), `DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET synchronous_commit = off'; END $$`)
		must(t, err)
		var got string
		must(t, open(t, dsn).write.QueryRowContext(t.Context(), `SHOW synchronous_commit`).Scan(&got))
		if got != "on" {
			t.Errorf("synchronous_commit = %s, want on", got)
		}
	})
}

// Everything is there after closing and opening, and migrating again does
// nothing.
func TestReopen(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		for i := range 3 {
			db, err := Open(t.Context(), dsn)
			must(t, err)
			name := []string{"a", "b", "c"}[i]
			createUser(t, db, name)
			users, _, err := db.IAM().Users(t.Context(), "", Page{})
			must(t, err)
			if len(users) != i+1 {
				t.Errorf("at the start number %d there are %d users", i+1, len(users))
			}
			must(t, db.Close())
		}
	})
}

// An SQLite database has one server; a PostgreSQL one may meet several that
// start together.
func TestManyServersMigrateAtOnce(t *testing.T) {
	needPostgres(t)
	pool, err := sql.Open("pgx", postgresURL)
	must(t, err)
	defer pool.Close()
	_, err = pool.Exec(`CREATE DATABASE together`)
	must(t, err)
	dsn := strings.Replace(postgresURL, "/postgres?", "/together?", 1)
	var servers sync.WaitGroup
	for range 3 {
		servers.Go(func() {
			db, err := Open(t.Context(), dsn)
			if err != nil {
				t.Error(err)
				return
			}
			if err := db.Ready(t.Context()); err != nil {
				t.Error(err)
			}
			db.Close()
		})
	}
	servers.Wait()
}

func TestNewerSchemaIsRefused(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		db := open(t, dsn)
		_, err := db.write.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, TRUE)`)
		must(t, err)
		if newer, err := Open(t.Context(), dsn); err == nil || !strings.Contains(err.Error(), "newer version of this program") {
			if err == nil {
				newer.Close()
			}
			t.Errorf("Open = %v, want a refusal", err)
		}
	})
}

func TestDatabaseKeepsItsKey(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		db, err := Open(ctx, dsn)
		must(t, err)
		defer db.Close()
		if keyed, err := db.Keyed(ctx); err != nil || keyed {
			t.Errorf("Keyed = %v, %v for a new database", keyed, err)
		}
		if _, err := db.IAM().Credential(ctx, "AKIA1"); err == nil || !strings.Contains(err.Error(), "root key") {
			t.Errorf("Credential before Unlock: %v", err)
		}
		path := filepath.Join(t.TempDir(), "root.key")
		keys, err := keyring.CreateFile(path)
		must(t, err)
		must(t, db.Unlock(ctx, keys))
		if keyed, err := db.Keyed(ctx); err != nil || !keyed {
			t.Errorf("Keyed = %v, %v", keyed, err)
		}
		secret := sallyport.GenerateSecret()
		must(t, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA1"}, secret))
		if err := db.Unlock(ctx, keyring.Generate()); !errors.Is(err, keyring.ErrWrongKey) {
			t.Errorf("Unlock with a fresh key: %v", err)
		}
		if _, err := db.IAM().Credential(ctx, "AKIA1"); err != nil {
			t.Errorf("after a refused Unlock: %v", err)
		}

		// Rotation: the new version opens what the old sealed; once resealed,
		// the old one may go.
		material := []byte("0123456789abcdef0123456789abcdef")
		must(t, db.Keys().Create(ctx, sallyport.KMSKey{ID: "00000000-0000-0000-0000-000000000001", Created: time.Now(), Policy: "{}"}, material))
		rotated, err := keyring.RotateFile(path)
		must(t, err)
		must(t, db.Unlock(ctx, rotated))
		if n, err := db.Reseal(ctx); err != nil || n != 2 {
			t.Errorf("Reseal = %d, %v, want 2", n, err)
		}
		if n, err := db.Reseal(ctx); err != nil || n != 0 {
			t.Errorf("Reseal again = %d, %v, want 0", n, err)
		}
		newest, err := keyring.DropOld(path)
		must(t, err)
		must(t, db.Unlock(ctx, newest))
		if c, err := db.IAM().Credential(ctx, "AKIA1"); err != nil || !c.Secret.Equal(secret) {
			t.Errorf("after rotation: %v", err)
		}
		if got, err := db.Keys().Material(ctx, "00000000-0000-0000-0000-000000000001"); err != nil || !bytes.Equal(got, material) {
			t.Errorf("a KMS key's material after rotation: %v", err)
		}
		if err := db.Unlock(ctx, keys); !errors.Is(err, keyring.ErrWrongKey) {
			t.Errorf("Unlock with the key from before: %v", err)
		}
	})
}

func TestDatabaseKeepsItsRealm(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		if _, ok, err := db.Meta().Realm(ctx); ok || err != nil {
			t.Errorf("a new database has a realm: %v", err)
		}
		home := sallyport.Realm{Account: "123456789012", Region: "home-1"}
		must(t, db.Meta().SetRealm(ctx, home))
		must(t, db.Meta().SetRealm(ctx, home))
		if r, ok, err := db.Meta().Realm(ctx); !ok || err != nil || r != home {
			t.Errorf("Realm = %v, %v, %v", r, ok, err)
		}
		err := db.Meta().SetRealm(ctx, sallyport.Realm{Account: "123456789012", Region: "away-1"})
		if err == nil || !strings.Contains(err.Error(), "is for account 123456789012 and region home-1") {
			t.Errorf("SetRealm = %v, want a refusal", err)
		}
	})
}

// A caller that waits its turn and is called away leaves; the others do not
// notice.
func TestLeavingTheQueue(t *testing.T) {
	db := open(t, engines["SQLite"](t))
	began, finish := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		first <- db.transact(context.Background(), func(tx *tx) error {
			close(began)
			<-finish
			return nil
		})
	}()
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	leaving := make(chan error)
	go func() {
		leaving <- db.transact(ctx, func(*tx) error { t.Error("a write was made for a caller who had left"); return nil })
	}()
	cancel()
	if err := <-leaving; !errors.Is(err, context.Canceled) {
		t.Errorf("transact = %v, want Canceled", err)
	}
	close(finish)
	must(t, <-first)
	must(t, db.transact(t.Context(), func(*tx) error { return nil }))
}

func TestCorruptRowIsAnErrorAndNoPanic(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		s := testSession(0, "ann", sallyport.NewNodeID())
		must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: s}))
		for _, change := range []string{`state = 'Dancing'`, `state = 'Terminated'`, `node = 'mi-../..'`} {
			_, err := db.write.ExecContext(ctx, `UPDATE sessions SET `+change)
			must(t, err)
			if _, err := db.Sessions().Get(ctx, s.ID); err == nil {
				t.Errorf("%s: read without an error", change)
			}
		}
	})
}
