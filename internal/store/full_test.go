package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport"
)

// fill saves sessions from several goroutines until the disk is full, and
// returns the ids that were answered and the errors that were met.
func fill(ctx context.Context, db *DB) (ids []sallyport.SessionID, errs []error) {
	var mu sync.Mutex
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 100_000 {
				s := testSession(0, "ann", sallyport.NewNodeID())
				s.Reason = strings.Repeat("because ", 100)
				err := db.Sessions().Insert(ctx, &SessionRecord{Session: s})
				mu.Lock()
				if err == nil {
					ids = append(ids, s.ID)
				} else {
					errs = append(errs, err)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	writers.Wait()
	return ids, errs
}

// checkFull checks that a disk ran full as it should have.
func checkFull(ctx context.Context, db *DB, ids []sallyport.SessionID, errs []error) error {
	if len(ids) == 0 || len(errs) == 0 {
		return fmt.Errorf("%d sessions were saved and %d refused; the test proves nothing", len(ids), len(errs))
	}
	for _, err := range errs {
		if !errors.Is(err, ErrFull) || sallyport.Public(err).Code != sallyport.ServiceUnavailableException {
			return fmt.Errorf("the full disk is reported as %w", err)
		}
	}
	for _, id := range ids {
		if _, err := db.Sessions().Get(ctx, id); err != nil {
			return fmt.Errorf("a session that was saved: %w", err)
		}
	}
	var verdict string
	if err := db.read.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
		return fmt.Errorf("integrity check: %s, %w", verdict, err)
	}
	return nil
}

// A full disk is said to be one, harms nothing, and is got over.
func TestFullDisk(t *testing.T) {
	ctx := t.Context()
	db := open(t, engines["SQLite"](t))
	limit := func(pages int) {
		_, err := db.write.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
		must(t, err)
	}
	limit(150)
	ids, errs := fill(ctx, db)
	must(t, checkFull(ctx, db, ids, errs))

	id := sallyport.NewNodeID()
	db.Ping(ctx, id, at(0)) // readers go on while a write is pending
	if _, _, err := db.Nodes().List(ctx, NodeFilter{PingStatuses: []string{PingOnline}}, Page{}); err != nil {
		t.Error(err)
	}

	limit(1 << 30)
	must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: testSession(0, "ann", id)}))
}

// A full disk that a statement which returns a row meets breaks its transaction, as
// one that any other statement meets: SQLite may have undone it by itself, and what a
// function that goes on writes after it would be stored alone.
func TestFullDiskWithinAnUpdate(t *testing.T) {
	ctx := t.Context()
	db := open(t, engines["SQLite"](t))
	var pages int
	must(t, db.write.QueryRowContext(ctx, `PRAGMA page_count`).Scan(&pages))
	_, err := db.write.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count = %d`, pages+8))
	must(t, err)
	insert := `INSERT INTO meta (name, value) VALUES ($1, $2) RETURNING name`
	var name string
	err = db.transact(ctx, func(tx *tx) error {
		must(t, tx.row(insert, "before", []byte("x")).Scan(&name))
		if err := tx.row(insert, "large", make([]byte, 1<<20)).Scan(&name); err == nil {
			t.Error("a megabyte has room in eight pages")
		}
		tx.row(insert, "after", []byte("x")).Scan(&name)
		return nil
	})
	if !errors.Is(err, ErrFull) {
		t.Errorf("it gave %v", err)
	}
	var stored int
	must(t, db.read.QueryRowContext(ctx, `SELECT count(*) FROM meta WHERE name IN ('before', 'large', 'after')`).Scan(&stored))
	if stored != 0 {
		t.Errorf("%d of the rows are stored", stored)
	}
}

// fillDisk fills the file system that dsn lies on, makes room by removing the
// file beside it called ballast, and goes on.
func fillDisk(dir string) {
	ctx := context.Background()
	err := func() error {
		db, err := Open(ctx, dir+"/state.db")
		if err != nil {
			return err
		}
		ids, errs := fill(ctx, db)
		if err := checkFull(ctx, db, ids, errs); err != nil {
			return err
		}
		if err := db.Close(); err != nil {
			return err
		}
		if db, err = Open(ctx, dir+"/state.db"); err != nil {
			return fmt.Errorf("open on a full disk: %w", err)
		}
		if err := os.Remove(dir + "/ballast"); err != nil {
			return err
		}
		last := testSession(0, "ann", sallyport.NewNodeID())
		if err := db.Sessions().Insert(ctx, &SessionRecord{Session: last}); err != nil {
			return fmt.Errorf("with room again: %w", err)
		}
		if err := checkFull(ctx, db, append(ids, last.ID), errs); err != nil {
			return err
		}
		return db.Close()
	}()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ok")
}
