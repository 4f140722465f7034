package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
)

// How many KMS keys there may be, and aliases of one. (AWS's quotas are larger
// for keys: 100,000. Sessions do not need as many.)
const (
	maxKMSKeys    = 1000
	maxKMSAliases = 50
)

// materials seals what KMS keys are made of.
func (db *DB) materials() (*keyring.Box, error) {
	keys := db.keys.Load()
	if keys == nil {
		return nil, errLocked
	}
	return keys.For("kms-key"), nil
}

func noKMSKey(id string) error {
	return sallyport.Errorf(sallyport.NotFoundException, "Key '%s' does not exist.", sallyport.Clip(clean(id), 128))
}

func noKMSAlias(name string) error {
	return sallyport.Errorf(sallyport.NotFoundException, "Alias %s is not found.", sallyport.Clip(clean(name), 256))
}

const kmsKeyColumns = `id, description, created, disabled, policy, tags, delete_at, outside_store, outside_name`

func scanKMSKey(s scanner) (*sallyport.KMSKey, error) {
	var k sallyport.KMSKey
	var created, deleteAt int64
	var tags string
	err := s.Scan(&k.ID, &k.Description, &created, &k.Disabled, &k.Policy, &tags, &deleteAt, &k.Outside.Store, &k.Outside.Name)
	if err != nil {
		return nil, err
	}
	k.Created, k.DeleteAt = fromMillis(created), fromMillis(deleteAt)
	k.Tags, err = parseTags(tags)
	return &k, err
}

// Create adds a key. Material is what it is made of, which is sealed; nil
// for a key in an outside KMS, of which there may be one for each there is.
func (ks Keys) Create(ctx context.Context, k sallyport.KMSKey, material []byte) error {
	if err := sallyport.CheckTags(nil, k.Tags); err != nil {
		return wrap(err, "create KMS key")
	}
	box, err := ks.db.materials()
	if err != nil {
		return err
	}
	sealed := []byte{}
	if material != nil {
		sealed = box.Seal(material, []byte(k.ID))
	}
	err = ks.change(ctx, keyRevision, func(tx *tx) error {
		var all, same int
		err := tx.row(`SELECT count(*), coalesce(sum(CASE WHEN outside_store <> '' AND outside_store = $1 AND outside_name = $2 THEN 1 ELSE 0 END), 0) FROM kms_keys`,
			clean(k.Outside.Store), clean(k.Outside.Name)).Scan(&all, &same)
		switch {
		case err != nil:
			return err
		case same > 0:
			return sallyport.Errorf(sallyport.XksKeyAlreadyInUseException, "There is a KMS key for %s of key store %s already.", k.Outside.Name, k.Outside.Store)
		case all >= maxKMSKeys:
			return sallyport.Errorf(sallyport.LimitExceededException, "There are %d KMS keys, and there may be no more. Schedule the deletion of some.", all)
		}
		_, err = tx.exec(`INSERT INTO kms_keys (`+kmsKeyColumns+`, material) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			k.ID, clean(k.Description), millis(k.Created), k.Disabled, clean(k.Policy), tagsJSON(k.Tags), millis(k.DeleteAt),
			clean(k.Outside.Store), clean(k.Outside.Name), sealed)
		return err
	})
	return wrap(err, "create KMS key")
}

// Get returns a key by its ID, or NotFoundException.
func (ks Keys) Get(ctx context.Context, id string) (*sallyport.KMSKey, error) {
	return findKMSKey(ctx, ks.q(), id)
}

func findKMSKey(ctx context.Context, q querier, id string) (*sallyport.KMSKey, error) {
	k, err := scanKMSKey(q.QueryRowContext(ctx, `SELECT `+kmsKeyColumns+` FROM kms_keys WHERE id = $1`, clean(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noKMSKey(id)
	}
	return k, wrap(translate(err), "read KMS key")
}

// Material returns what a key is made of: nil if it is in an outside KMS.
func (ks Keys) Material(ctx context.Context, id string) ([]byte, error) {
	box, err := ks.db.materials()
	if err != nil {
		return nil, err
	}
	var sealed []byte
	err = ks.q().QueryRowContext(ctx, `SELECT material FROM kms_keys WHERE id = $1`, clean(id)).Scan(&sealed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, noKMSKey(id)
	case err != nil:
		return nil, fmt.Errorf("read KMS key: %w", translate(err))
	case len(sealed) == 0:
		return nil, nil
	}
	material, err := box.Open(sealed, []byte(id))
	return material, wrap(err, "open KMS key %s", id)
}

// List lists keys by ID.
func (ks Keys) List(ctx context.Context, page Page) ([]*sallyport.KMSKey, Cursor, error) {
	place, err := page.place("kms-keys", 1)
	if err != nil {
		return nil, "", err
	}
	var w where
	if place != nil {
		w.add("id > ?", place[0])
	}
	list, err := collect(ctx, ks.q(), scanKMSKey, `SELECT `+kmsKeyColumns+` FROM kms_keys WHERE `+w.String()+` ORDER BY id LIMIT `+w.arg(page.limit()+1), w.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list KMS keys: %w", translate(err))
	}
	list, next := cut(list, page, func(k *sallyport.KMSKey) Cursor { return newCursor("kms-keys", k.ID) })
	return list, next, nil
}

// Change has change alter a key's description, policy, tags, or state. An
// error of change's leaves the key as it was.
func (ks Keys) Change(ctx context.Context, id string, change func(k *sallyport.KMSKey) error) error {
	err := ks.change(ctx, keyRevision, func(tx *tx) error {
		if _, err := tx.exec(`UPDATE kms_keys SET id = id WHERE id = $1`, clean(id)); err != nil { // one at a time
			return err
		}
		k, err := findKMSKey(tx.ctx, tx, id)
		if err != nil {
			return err
		}
		if err := change(k); err != nil {
			return err
		}
		_, err = tx.exec(`UPDATE kms_keys SET description = $2, disabled = $3, policy = $4, tags = $5, delete_at = $6 WHERE id = $1`,
			id, clean(k.Description), k.Disabled, clean(k.Policy), tagsJSON(k.Tags), millis(k.DeleteAt))
		return err
	})
	return wrap(err, "change KMS key")
}

// DeleteDue removes the keys whose time has come, and what they are made of.
// What was sealed with them cannot be opened any more. It returns their IDs.
func (ks Keys) DeleteDue(ctx context.Context, now time.Time) (gone []string, err error) {
	err = ks.change(ctx, keyRevision, func(tx *tx) (err error) {
		gone, err = collect(tx.ctx, tx, readString, `SELECT id FROM kms_keys WHERE delete_at <> 0 AND delete_at <= $1`, millis(now))
		for _, id := range gone {
			if err != nil {
				return err
			}
			if _, err = tx.exec(`DELETE FROM kms_aliases WHERE key_id = $1`, id); err == nil {
				_, err = tx.exec(`DELETE FROM kms_keys WHERE id = $1`, id)
			}
			tx.leaves(Event{At: now, Kind: ServerEvent, Name: "KeyDeleted", Subject: id})
		}
		return err
	})
	return gone, wrap(err, "delete KMS keys")
}

const kmsAliasColumns = `name, key_id, created, updated`

func scanKMSAlias(s scanner) (a sallyport.KMSAlias, err error) {
	var created, updated int64
	err = s.Scan(&a.Name, &a.Key, &created, &updated)
	a.Created, a.Updated = fromMillis(created), fromMillis(updated)
	return a, err
}

// CreateAlias adds a name for a key. One that is there is
// AlreadyExistsException.
func (ks Keys) CreateAlias(ctx context.Context, a sallyport.KMSAlias) error {
	err := ks.change(ctx, keyRevision, func(tx *tx) error {
		var same, ofKey int
		err := tx.row(`SELECT coalesce(sum(CASE WHEN name = $1 THEN 1 ELSE 0 END), 0), coalesce(sum(CASE WHEN key_id = $2 THEN 1 ELSE 0 END), 0) FROM kms_aliases`,
			clean(a.Name), clean(a.Key)).Scan(&same, &ofKey)
		switch {
		case err != nil:
			return err
		case same > 0:
			return sallyport.Errorf(sallyport.AlreadyExistsException, "An alias with the name %s already exists. UpdateAlias gives it to another key.", a.Name)
		case ofKey >= maxKMSAliases:
			return sallyport.Errorf(sallyport.LimitExceededException, "The key has %d aliases, and may have no more.", ofKey)
		}
		if _, err := findKMSKey(tx.ctx, tx, a.Key); err != nil {
			return err
		}
		_, err = tx.exec(`INSERT INTO kms_aliases (`+kmsAliasColumns+`) VALUES ($1, $2, $3, $3)`, clean(a.Name), clean(a.Key), millis(a.Created))
		return err
	})
	if err == nil {
		made(ctx, "alias", a.Name, a.Key)
	}
	return wrap(err, "create alias")
}

// UpdateAlias gives a name to another key.
func (ks Keys) UpdateAlias(ctx context.Context, name, key string, now time.Time) error {
	err := ks.change(ctx, keyRevision, func(tx *tx) error {
		if _, err := findKMSKey(tx.ctx, tx, key); err != nil {
			return err
		}
		a, err := findKMSAlias(tx.ctx, tx, name)
		if err != nil {
			return err
		}
		n, err := tx.exec(`UPDATE kms_aliases SET key_id = $2, updated = $3 WHERE name = $1 AND key_id = $4`, clean(name), clean(key), millis(now), a.Key)
		if err == nil && n == 0 {
			err = noKMSAlias(name)
		}
		return err
	})
	if err == nil {
		made(ctx, "alias", name, key)
	}
	return wrap(err, "update alias")
}

// DeleteAlias takes a name off a key.
func (ks Keys) DeleteAlias(ctx context.Context, name string) error {
	err := ks.change(ctx, keyRevision, func(tx *tx) error {
		a, err := findKMSAlias(tx.ctx, tx, name)
		if err != nil {
			return err
		}
		n, err := tx.exec(`DELETE FROM kms_aliases WHERE name = $1 AND key_id = $2`, clean(name), a.Key)
		if err == nil && n == 0 {
			err = noKMSAlias(name)
		}
		return err
	})
	return wrap(err, "delete alias")
}

// Alias returns an alias by its name, or NotFoundException.
func (ks Keys) Alias(ctx context.Context, name string) (sallyport.KMSAlias, error) {
	return findKMSAlias(ctx, ks.q(), name)
}

func findKMSAlias(ctx context.Context, q querier, name string) (sallyport.KMSAlias, error) {
	a, err := scanKMSAlias(q.QueryRowContext(ctx, `SELECT `+kmsAliasColumns+` FROM kms_aliases WHERE name = $1`, clean(name)))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return a, wrap(translate(err), "read alias")
	}
	if !means(ctx, "alias", name, a.Key) || err != nil {
		return a, noKMSAlias(name)
	}
	return a, nil
}

// Aliases lists aliases by name: all, or those of one key.
func (ks Keys) Aliases(ctx context.Context, key string, page Page) ([]sallyport.KMSAlias, Cursor, error) {
	place, err := page.place("kms-aliases", 1)
	if err != nil {
		return nil, "", err
	}
	var w where
	if key != "" {
		w.add("key_id = ?", key)
	}
	if place != nil {
		w.add("name > ?", place[0])
	}
	list, err := collect(ctx, ks.q(), scanKMSAlias, `SELECT `+kmsAliasColumns+` FROM kms_aliases WHERE `+w.String()+` ORDER BY name LIMIT `+w.arg(page.limit()+1), w.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list aliases: %w", translate(err))
	}
	list, next := cut(list, page, func(a sallyport.KMSAlias) Cursor { return newCursor("kms-aliases", a.Name) })
	return list, next, nil
}
