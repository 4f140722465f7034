package api

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

// What is kept of IAM is bounded, and is forgotten when IAM changes.
func TestWhatIsKeptOfCallers(t *testing.T) {
	ctx := t.Context()
	db, err := store.Open(ctx, filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Unlock(ctx, keyring.Generate()); err != nil {
		t.Fatal(err)
	}
	if err := db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA1", Active: true, Created: time.Now()}, sallyport.GenerateSecret()); err != nil {
		t.Fatal(err)
	}
	s := &Server{Store: db}
	ask := func(id string) (entries int) {
		t.Helper()
		if _, err := s.policies(ctx, &sallyport.Principal{Kind: sallyport.UserKind, ID: id}); err != nil {
			t.Fatal(err)
		}
		if gone, err := s.gone(ctx, []string{id}); err != nil || gone != id {
			t.Fatalf("%s is gone: %q, %v", id, gone, err)
		}
		return len(s.grants.parsed) + len(s.grants.gone)
	}
	ask("AIDA0")
	for i := len(s.grants.gone) + len(s.grants.parsed); i < maxCached-2; i++ { // as asking would, in less time
		s.grants.gone[fmt.Sprint("AIDA", i)] = ""
	}
	if n := ask("AIDA1"); n != maxCached {
		t.Errorf("%d entries are kept, want %d", n, maxCached)
	}
	if n := ask("AIDA2"); n != 2 {
		t.Errorf("past the bound %d entries are kept, want those of the last caller", n)
	}

	if id, err := s.gone(ctx, []string{"AKIA1"}); id != "" || err != nil {
		t.Errorf("of an active key %q is gone, %v", id, err)
	}
	if err := db.IAM().SetAccessKeyActive(ctx, "", "AKIA1", false); err != nil {
		t.Fatal(err)
	}
	if id, err := s.gone(ctx, []string{"AKIA1"}); id != "AKIA1" || err != nil {
		t.Errorf("of a deactivated key %q is gone, %v", id, err)
	}
}
