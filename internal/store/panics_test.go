package store

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/panics"
)

// A caller that panics in the middle of a write has written nothing, and is told
// so. Those who are written with it, and those who come after, do not notice.
func TestAPanicIsItsOwnCallers(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		put := func(key string, bug bool) error {
			return db.transact(t.Context(), func(tx *tx) error {
				if _, err := tx.exec(`INSERT INTO meta (name, value) VALUES ($1, $2)`, key, []byte("x")); err != nil {
					return err
				}
				if bug {
					panic("a bug")
				}
				return nil
			})
		}
		// The first holds the writer until all others wait for it, where there is
		// one: they are one batch.
		const n = 12
		began, finish := make(chan struct{}), make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			must(t, db.transact(t.Context(), func(*tx) error {
				close(began)
				<-finish
				return nil
			}))
		})
		<-began
		for i := range n {
			all.Go(func() {
				bug := i%3 == 0
				if err := put(fmt.Sprint("panics", i), bug); panics.Is(err) != bug || !bug && err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		if db.dialect.oneWriter {
			for waiting := 0; waiting < n; {
				db.commits.mu.Lock()
				waiting = len(db.commits.queue)
				db.commits.mu.Unlock()
				runtime.Gosched()
			}
		}
		close(finish)
		all.Wait()
		must(t, put("panics-after", false))
		var stored int
		must(t, db.read.QueryRowContext(t.Context(), `SELECT count(*) FROM meta WHERE name LIKE 'panics%'`).Scan(&stored))
		if want := n - n/3 + 1; stored != want {
			t.Errorf("%d rows are stored, want %d", stored, want)
		}
	})
}
