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

const maxAccessKeys = 2 // of one user (IAM quotas)

var errLocked = errors.New("the database has not been given its root key; unlock it first")

// box returns what seals access keys.
func (db *DB) box() (*keyring.Box, error) {
	keys := db.keys.Load()
	if keys == nil {
		return nil, errLocked
	}
	return keys.For("access-key"), nil
}

// keyOwner names a key and whose it is, so that a sealed secret copied to
// another row opens nothing. A user's ID stays when its name changes.
func keyOwner(keyID, userID string) []byte {
	if userID == "" {
		userID = "root"
	}
	return []byte(keyID + "\x00" + userID)
}

func noAccessKey(id string) error {
	return sallyport.Errorf(sallyport.NoSuchEntity, "The Access Key with id %s cannot be found.", id)
}

// CreateAccessKey adds a key and its secret, which is sealed. An empty k.User
// is the account itself. LimitExceeded if there are two already.
func (iam IAM) CreateAccessKey(ctx context.Context, k sallyport.AccessKey, secret sallyport.Secret) error {
	box, err := iam.db.box()
	if err != nil {
		return err
	}
	err = iam.change(ctx, iamRevision, func(tx *tx) error {
		userID, err := userID(tx.ctx, tx, k.User)
		if err != nil {
			return err
		}
		var n int
		if err := tx.row(`SELECT count(*) FROM access_keys WHERE user_id = $1 OR ($1 IS NULL AND user_id IS NULL)`, userID).Scan(&n); err != nil {
			return err
		}
		if n >= maxAccessKeys {
			return sallyport.Errorf(sallyport.LimitExceeded, "Cannot exceed quota for AccessKeysPerUser: %d", maxAccessKeys)
		}
		sealed := box.Seal([]byte(secret.Reveal()), keyOwner(k.ID, userID.String))
		_, err = tx.exec(`INSERT INTO access_keys (id, user_id, secret, active, created) VALUES ($1, $2, $3, $4, $5)`,
			k.ID, userID, sealed, k.Active, millis(k.Created))
		return err
	})
	return wrap(err, "create access key of user %s", k.User)
}

// userID returns the id of a user, which is NULL for the account itself.
func userID(ctx context.Context, q querier, user string) (sql.NullString, error) {
	if user == "" {
		return sql.NullString{}, nil
	}
	e, err := findEntity(ctx, q, User(user))
	return sql.NullString{String: e.id, Valid: true}, err
}

// AccessKeys lists the keys of a user, oldest first; of the account itself if
// user is empty. There are too few to page.
func (iam IAM) AccessKeys(ctx context.Context, user string) ([]sallyport.AccessKey, error) {
	id, err := userID(ctx, iam.q(), user)
	if err != nil {
		return nil, err
	}
	list, err := collect(ctx, iam.q(), func(s scanner) (k sallyport.AccessKey, err error) {
		var created, used int64
		err = s.Scan(&k.ID, &k.Active, &created, &used, &k.LastService)
		k.User, k.Created, k.LastUsed = user, fromMillis(created), fromMillis(used)
		return k, err
	}, `SELECT id, active, created, last_used, last_service FROM access_keys
		WHERE user_id = $1 OR (CAST($1 AS TEXT) IS NULL AND user_id IS NULL) ORDER BY created, id`, id)
	if err != nil {
		return nil, fmt.Errorf("list access keys of user %s: %w", user, translate(err))
	}
	for i := range list {
		iam.db.pending.overlayKey(&list[i])
	}
	return list, nil
}

// A Credential is an access key with what it takes to verify a signature.
type Credential struct {
	Key    sallyport.AccessKey
	Secret sallyport.Secret
	User   *sallyport.User // nil for a key of the account itself
}

// Resolve has the user's name mean this user in ctx, as [IAM.Credential] does: for one
// that was kept. See [ResolveOnce].
func (c *Credential) Resolve(ctx context.Context) {
	if c.User != nil {
		means(ctx, string(userKind), c.User.Name, c.User.ID)
	}
}

// Credential returns an access key, active or not, and its secret.
// NoSuchEntity if there is no such key.
func (iam IAM) Credential(ctx context.Context, keyID string) (*Credential, error) {
	box, err := iam.db.box()
	if err != nil {
		return nil, err
	}
	var c Credential
	var sealed []byte
	var created, used int64
	var id, name, path, tags sql.NullString
	var userCreated sql.NullInt64
	err = iam.q().QueryRowContext(ctx, `SELECT k.id, k.secret, k.active, k.created, k.last_used, k.last_service,
			e.id, e.name, e.path, e.tags, e.created
		FROM access_keys k LEFT JOIN entities e ON e.id = k.user_id WHERE k.id = $1`, clean(keyID)).
		Scan(&c.Key.ID, &sealed, &c.Key.Active, &created, &used, &c.Key.LastService, &id, &name, &path, &tags, &userCreated)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noAccessKey(keyID)
	}
	if err != nil {
		return nil, fmt.Errorf("read access key %s: %w", keyID, translate(err))
	}
	c.Key.Created, c.Key.LastUsed = fromMillis(created), fromMillis(used)
	if id.Valid {
		c.User = &sallyport.User{Name: name.String, Path: path.String, ID: id.String, Created: fromMillis(userCreated.Int64)}
		if c.User.Tags, err = parseTags(tags.String); err != nil {
			return nil, err
		}
		c.Key.User = c.User.Name
		c.Resolve(ctx)
	}
	secret, err := box.Open(sealed, keyOwner(c.Key.ID, id.String))
	if err != nil {
		return nil, fmt.Errorf("open access key %s: %w", keyID, err)
	}
	c.Secret = sallyport.NewSecret(string(secret))
	iam.db.pending.overlayKey(&c.Key)
	return &c, nil
}

// AccessKeyOwner returns the user a key belongs to, "" for the account itself,
// or NoSuchEntity.
func (iam IAM) AccessKeyOwner(ctx context.Context, keyID string) (string, error) {
	var user sql.NullString
	err := iam.q().QueryRowContext(ctx, `SELECT e.name FROM access_keys k LEFT JOIN entities e ON e.id = k.user_id WHERE k.id = $1`, clean(keyID)).Scan(&user)
	if errors.Is(err, sql.ErrNoRows) {
		return "", noAccessKey(keyID)
	}
	return user.String, wrap(translate(err), "read access key %s", keyID)
}

// SetAccessKeyActive turns a key of a user's on or off.
func (iam IAM) SetAccessKeyActive(ctx context.Context, user, keyID string, active bool) error {
	return iam.onAccessKey(ctx, "update", user, keyID, func(tx *tx) error {
		if !active {
			tx.goes(keyID)
		}
		_, err := tx.exec(`UPDATE access_keys SET active = $2 WHERE id = $1`, keyID, active)
		return err
	})
}

// DeleteAccessKey removes a key of a user's.
func (iam IAM) DeleteAccessKey(ctx context.Context, user, keyID string) error {
	return iam.onAccessKey(ctx, "delete", user, keyID, func(tx *tx) error {
		tx.goes(keyID)
		_, err := tx.exec(`DELETE FROM access_keys WHERE id = $1`, keyID)
		return err
	})
}

func (iam IAM) onAccessKey(ctx context.Context, verb, user, keyID string, do func(*tx) error) error {
	err := iam.change(ctx, iamRevision, func(tx *tx) error {
		id, err := userID(tx.ctx, tx, user)
		if err != nil {
			return err
		}
		var owner sql.NullString
		err = tx.row(`SELECT user_id FROM access_keys WHERE id = $1`, clean(keyID)).Scan(&owner)
		if errors.Is(err, sql.ErrNoRows) || err == nil && owner != id {
			return noAccessKey(keyID)
		}
		if err != nil {
			return err
		}
		return do(tx)
	})
	return wrap(err, "%s access key %s", verb, keyID)
}

// Reseal seals every access key, the material of every KMS key, and the key-check
// value with the newest root key, and returns how many keys it sealed anew. After
// it the older versions may be dropped: all that they still open are short-lived
// credentials. It is one transaction.
func (db *DB) Reseal(ctx context.Context) (n int, err error) {
	box, err := db.box()
	if err != nil {
		return 0, err
	}
	materials, err := db.materials()
	if err != nil {
		return 0, err
	}
	keys := db.keys.Load()
	type row struct {
		id     string
		user   sql.NullString
		sealed []byte
	}
	err = db.IAM().change(ctx, iamRevision, func(tx *tx) error {
		n = 0
		rows, err := collect(tx.ctx, tx, func(s scanner) (r row, err error) {
			return r, s.Scan(&r.id, &r.user, &r.sealed)
		}, `SELECT id, user_id, secret FROM access_keys`)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if keyring.Version(r.sealed) == keys.Newest() {
				continue
			}
			secret, err := box.Open(r.sealed, keyOwner(r.id, r.user.String))
			if err != nil {
				return fmt.Errorf("open access key %s: %w", r.id, err)
			}
			if _, err := tx.exec(`UPDATE access_keys SET secret = $2 WHERE id = $1`, r.id, box.Seal(secret, keyOwner(r.id, r.user.String))); err != nil {
				return err
			}
			n++
		}
		made, err := collect(tx.ctx, tx, func(s scanner) (r row, err error) {
			return r, s.Scan(&r.id, &r.sealed)
		}, `SELECT id, material FROM kms_keys WHERE material IS NOT NULL`)
		if err != nil {
			return err
		}
		for _, r := range made {
			if keyring.Version(r.sealed) == keys.Newest() {
				continue
			}
			material, err := materials.Open(r.sealed, []byte(r.id))
			if err != nil {
				return fmt.Errorf("open KMS key %s: %w", r.id, err)
			}
			if _, err := tx.exec(`UPDATE kms_keys SET material = $2 WHERE id = $1`, r.id, materials.Seal(material, []byte(r.id))); err != nil {
				return err
			}
			n++
		}
		_, err = tx.exec(`UPDATE meta SET value = $2 WHERE name = $1`, "key-check", keys.Check())
		return err
	})
	return n, wrap(err, "seal keys anew")
}

// TouchAccessKey notes that a key was used. It is written with others later,
// see [DB.Run].
func (db *DB) TouchAccessKey(ctx context.Context, keyID, service string, at time.Time) {
	db.note(ctx, func(p *pending) {
		if use := p.keys[keyID]; at.After(use.at) {
			p.keys[keyID] = keyUse{at, service}
		}
	})
}
