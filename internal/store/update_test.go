package store

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
)

func userNames(t *testing.T, db *DB) (names []string) {
	t.Helper()
	users, _, err := db.IAM().Users(t.Context(), "/", Page{})
	must(t, err)
	for _, u := range users {
		names = append(names, u.Name)
	}
	return names
}

func testUser(name string) sallyport.User {
	return sallyport.User{Name: name, Path: "/", ID: sallyport.EntityID("AIDA"), Created: at(0)}
}

// Everything that a function does through its Tx is stored, or nothing is: also
// when it panics, when its context ends in the middle or with
// other callers written in the same transaction.
func TestUpdateIsOneStep(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		node := register(t, db, sallyport.Node{}, sallyport.Activation{}).ID
		must(t, db.Update(ctx, func(tx *Tx) error {
			return errors.Join(
				tx.IAM().CreateUser(ctx, testUser("ann")),
				tx.IAM().PutInlinePolicy(ctx, User("ann"), "own", "{}"),
				tx.Nodes().Tag(ctx, node, map[string]string{"owner": "ann"}))
		}))
		if n, err := db.Nodes().Get(ctx, node); err != nil || n.Tags["owner"] != "ann" {
			t.Errorf("the node is %+v, %v", n, err)
		}

		no := errors.New("no")
		if err := db.Update(ctx, func(tx *Tx) error {
			must(t, tx.IAM().CreateUser(ctx, testUser("refused")))
			return no
		}); !errors.Is(err, no) {
			t.Errorf("an error of the function's became %v", err)
		}
		if err := db.Update(ctx, func(tx *Tx) error {
			must(t, tx.IAM().CreateUser(ctx, testUser("panicked")))
			panic("a bug")
		}); !panics.Is(err) {
			t.Errorf("a panic became %v", err)
		}
		// A context that ends in the middle interrupts nothing.
		short, cancel := context.WithCancel(ctx)
		must(t, db.Update(short, func(tx *Tx) error {
			if err := tx.IAM().CreateUser(short, testUser("bob")); err != nil {
				return err
			}
			cancel()
			if _, err := tx.IAM().User(short, "bob"); err != nil {
				return err
			}
			return tx.IAM().PutInlinePolicy(short, User("bob"), "own", "{}")
		}))
		if err := db.Update(short, func(*Tx) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that had ended gave %v", err)
		}
		if names := userNames(t, db); !slices.Equal(names, []string{"ann", "bob"}) {
			t.Errorf("the users are %q", names)
		}
	})
}

// A method that fails within a function has changed nothing, and what the function
// does before and after is stored.
func TestPartOfAnUpdateFails(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		var told []string
		db.OnGone = func(id string) { told = append(told, id) }
		must(t, db.IAM().CreateUser(ctx, testUser("ann")))
		doomed := testUser("doomed")
		must(t, db.IAM().CreateUser(ctx, doomed))
		group := sallyport.Group{Name: "ops", Path: "/", ID: sallyport.EntityID("AGPA"), Created: at(0)}
		before := db.IAM().Revision()
		must(t, db.Update(ctx, func(tx *Tx) error {
			wantCode(t, tx.IAM().CreateUser(ctx, testUser("ANN")), sallyport.EntityAlreadyExists, "")
			must(t, tx.IAM().CreateGroup(ctx, group))
			// Attached first, then found to be one too many: the attachment must go.
			for i := range maxAttached {
				must(t, tx.IAM().Attach(ctx, Group("ops"), awsPolicies+string(rune('a'+i))))
			}
			wantCode(t, tx.IAM().Attach(ctx, Group("ops"), awsPolicies+"z"), sallyport.LimitExceeded, "")
			return tx.IAM().AddUserToGroup(ctx, "ops", "ann")
		}))
		if list, _, err := db.IAM().Attached(ctx, Group("ops"), Page{}); err != nil || len(list) != maxAttached {
			t.Errorf("attached: %d, %v", len(list), err)
		}
		if db.IAM().Revision() == before {
			t.Error("the revision has not moved on")
		}

		// What was undone has no effects.
		before = db.IAM().Revision()
		no := errors.New("no")
		if err := db.Update(ctx, func(tx *Tx) error {
			must(t, tx.IAM().Delete(ctx, User("doomed")))
			return no
		}); !errors.Is(err, no) || len(told) != 0 || db.IAM().Revision() != before {
			t.Errorf("%v; told of %q; revision %d, was %d", err, told, db.IAM().Revision(), before)
		}
		must(t, db.Update(ctx, func(tx *Tx) error {
			if err := tx.IAM().Delete(ctx, User("doomed")); err != nil {
				return err
			}
			if len(told) != 0 {
				t.Error("told before the commit")
			}
			return nil
		}))
		if !slices.Equal(told, []string{doomed.ID}) {
			t.Errorf("told of %q, want %s", told, doomed.ID)
		}
	})
}

// A Tx that outlives its function touches nothing: by then its transaction may be
// another caller's.
func TestTxAfterItsEnd(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		var kept *Tx
		must(t, db.Update(ctx, func(tx *Tx) error {
			kept = tx
			return nil
		}))
		if err := kept.IAM().CreateUser(ctx, testUser("late")); !errors.Is(err, errOver) {
			t.Errorf("a late write gave %v", err)
		}
		if _, err := kept.IAM().User(ctx, "ann"); err == nil || sallyport.CodeOf(err) != "" {
			t.Errorf("a late read gave %v", err)
		}
		if _, _, err := kept.IAM().Users(ctx, "/", Page{}); !errors.Is(err, errOver) {
			t.Errorf("a late list gave %v", err)
		}
	})
}

// Two that read before they write, with nothing between them but the store, do not
// lose one another's changes.
func TestReadThenWrite(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		must(t, db.IAM().CreateRole(ctx, sallyport.Role{Name: "r", Path: "/", ID: sallyport.EntityID("AROA"), Created: at(0)}))
		const n = 20
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				err := db.Update(ctx, func(tx *Tx) error {
					if err := tx.LockIAM(); err != nil {
						return err
					}
					r, err := tx.IAM().Role(ctx, "r")
					if err != nil {
						return err
					}
					return tx.IAM().UpdateRole(ctx, "r", r.Description+"x", 0)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if r, err := db.IAM().Role(ctx, "r"); err != nil || len(r.Description) != n {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// A change that one server makes moves the revision of another.
func TestRevisionOfAnotherServer(t *testing.T) {
	onPostgres(t, func(t *testing.T, one *DB, dsn string) {
		ctx := t.Context()
		two := open(t, dsn)
		must(t, two.lookAtRevisions(ctx))
		before, documents := two.IAM().Revision(), two.revisions.moved[documentRevision].Load()
		must(t, two.lookAtRevisions(ctx))
		if two.IAM().Revision() != before {
			t.Fatal("the revision moved on, and nothing was changed")
		}
		must(t, one.IAM().CreateUser(ctx, testUser("ann")))
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- two.Run(running, time.Millisecond, func(err error) { t.Error(err) }) }()
		for two.IAM().Revision() == before {
			select {
			case <-ctx.Done():
				t.Fatal("the revision has not moved on")
			case <-time.After(time.Millisecond):
			}
		}
		stop()
		must(t, <-ended)
		if two.revisions.moved[documentRevision].Load() != documents {
			t.Error("the revision of documents moved on")
		}
	})
}
