package store

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
)

func TestKMSKeyLives(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		k := sallyport.KMSKey{ID: uuid.NewString(), Description: "séssions", Created: at(1), Policy: `{"ü":1}`, Tags: map[string]string{"env": "lab"}}
		material := bytes.Repeat([]byte{7}, 32)
		must(t, db.Keys().Create(ctx, k, material))
		got, err := db.Keys().Get(ctx, k.ID)
		must(t, err)
		if diff := cmp.Diff(&k, got); diff != "" {
			t.Error(diff)
		}
		if m, err := db.Keys().Material(ctx, k.ID); err != nil || !bytes.Equal(m, material) {
			t.Errorf("what it is made of: %x, %v", m, err)
		}
		var kept []byte
		must(t, db.read.QueryRowContext(ctx, `SELECT material FROM kms_keys WHERE id = $1`, k.ID).Scan(&kept))
		if bytes.Contains(kept, material[:8]) {
			t.Error("it is kept as it is")
		}

		outside := sallyport.KMSKey{ID: uuid.NewString(), Created: at(2), Policy: "{}", Outside: sallyport.OutsideKey{Store: "vault", Name: "sessions"}}
		must(t, db.Keys().Create(ctx, outside, nil))
		if m, err := db.Keys().Material(ctx, outside.ID); err != nil || m != nil {
			t.Errorf("an outside key is made of %x, %v", m, err)
		}
		again := outside
		again.ID = uuid.NewString()
		wantCode(t, db.Keys().Create(ctx, again, nil), sallyport.XksKeyAlreadyInUseException, "sessions of key store vault")
		_, err = db.Keys().Get(ctx, again.ID)
		wantCode(t, err, sallyport.NotFoundException, again.ID)

		must(t, db.Keys().Change(ctx, k.ID, func(k *sallyport.KMSKey) error { k.Disabled, k.Tags = true, nil; return nil }))
		refused := fmt.Errorf("no")
		if err := db.Keys().Change(ctx, k.ID, func(k *sallyport.KMSKey) error { k.Policy = "lost"; return refused }); err == nil {
			t.Error("a change that was refused was made")
		}
		got, err = db.Keys().Get(ctx, k.ID)
		must(t, err)
		if !got.Disabled || got.Tags != nil || got.Policy != k.Policy {
			t.Errorf("changed to %+v", got)
		}
		wantCode(t, db.Keys().Change(ctx, again.ID, func(*sallyport.KMSKey) error { return nil }), sallyport.NotFoundException, "")

		// Aliases, which go with their key.
		must(t, db.Keys().CreateAlias(ctx, sallyport.KMSAlias{Name: "alias/a", Key: k.ID, Created: at(3)}))
		must(t, db.Keys().CreateAlias(ctx, sallyport.KMSAlias{Name: "alias/b", Key: outside.ID, Created: at(4)}))
		wantCode(t, db.Keys().CreateAlias(ctx, sallyport.KMSAlias{Name: "alias/a", Key: outside.ID}), sallyport.AlreadyExistsException, "alias/a")
		wantCode(t, db.Keys().CreateAlias(ctx, sallyport.KMSAlias{Name: "alias/c", Key: again.ID}), sallyport.NotFoundException, again.ID)
		must(t, db.Keys().UpdateAlias(ctx, "alias/b", k.ID, at(5)))
		a, err := db.Keys().Alias(ctx, "alias/b")
		must(t, err)
		if diff := cmp.Diff(sallyport.KMSAlias{Name: "alias/b", Key: k.ID, Created: at(4), Updated: at(5)}, a); diff != "" {
			t.Error(diff)
		}
		wantCode(t, db.Keys().UpdateAlias(ctx, "alias/none", k.ID, at(5)), sallyport.NotFoundException, "alias/none")
		wantCode(t, db.Keys().DeleteAlias(ctx, "alias/none\x00"), sallyport.NotFoundException, "")
		names := func(key string) (all []string) {
			for _, a := range pages(t, 1, func(p Page) ([]sallyport.KMSAlias, Cursor, error) { return db.Keys().Aliases(ctx, key, p) }) {
				all = append(all, a.Name)
			}
			return all
		}
		if diff := cmp.Diff([]string{"alias/a", "alias/b"}, names(k.ID)); diff != "" {
			t.Error(diff)
		}
		if all := names(outside.ID); all != nil {
			t.Errorf("the other key's: %q", all)
		}
		must(t, db.Keys().DeleteAlias(ctx, "alias/a"))

		// Deletion, when its time has come and not before.
		due := at(1000)
		must(t, db.Keys().Change(ctx, k.ID, func(k *sallyport.KMSKey) error { k.DeleteAt = due; return nil }))
		if gone, err := db.Keys().DeleteDue(ctx, due.Add(-time.Millisecond)); err != nil || gone != nil {
			t.Errorf("before its time: %q, %v", gone, err)
		}
		if gone, err := db.Keys().DeleteDue(ctx, due); err != nil || !cmp.Equal(gone, []string{k.ID}) {
			t.Errorf("when its time has come: %q, %v", gone, err)
		}
		_, err = db.Keys().Material(ctx, k.ID)
		wantCode(t, err, sallyport.NotFoundException, k.ID)
		if all := names(""); all != nil {
			t.Errorf("aliases that are left: %q", all)
		}
		keys := pages(t, 1, func(p Page) ([]*sallyport.KMSKey, Cursor, error) { return db.Keys().List(ctx, p) })
		if len(keys) != 1 || keys[0].ID != outside.ID || keys[0].Outside != outside.Outside {
			t.Errorf("keys that are left: %+v", keys)
		}
	})
}
