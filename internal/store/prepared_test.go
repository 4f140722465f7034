package store

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

// Statements are kept up to their bound, and queries beyond it are answered as well;
// many callers may prepare one at once.
func TestPreparedIsBounded(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "test.db"))
	p, ok := db.reader.(*prepared)
	if !ok {
		t.Fatalf("an SQLite database is read by a %T", db.reader)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range maxPrepared + 50 {
				var n int
				if err := p.QueryRowContext(t.Context(), fmt.Sprintf(`SELECT %d + $1`, i), 1).Scan(&n); err != nil || n != i+1 {
					t.Errorf("%d + 1 is %d, %v", i, n, err)
				}
			}
		})
	}
	wg.Wait()
	if len(p.kept) != maxPrepared {
		t.Errorf("%d statements are kept, want %d", len(p.kept), maxPrepared)
	}
	if _, err := p.QueryContext(t.Context(), `SELECT no_such_column FROM nodes`); err == nil {
		t.Error("a query that cannot be prepared is no error")
	}
}
