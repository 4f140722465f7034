package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport"
)

// SetRealm records the account and region a new database is for, and refuses
// any other for one in use: its users, policies and history name them.
func (m Meta) SetRealm(ctx context.Context, r sallyport.Realm) error {
	want := r.Account + " " + r.Region
	got, err := m.set(ctx, "realm", []byte(want))
	if err != nil {
		return err
	}
	if string(got) != want {
		var account, region string
		fmt.Sscan(string(got), &account, &region)
		return fmt.Errorf("this database is for account %s and region %s, not account %s and region %s; start the server with those, or with another database", account, region, r.Account, r.Region)
	}
	return nil
}

// Realm returns the account and region recorded by [Meta.SetRealm], and whether
// any were.
func (m Meta) Realm(ctx context.Context) (sallyport.Realm, bool, error) {
	v, err := m.value(ctx, "realm")
	if err != nil || v == nil {
		return sallyport.Realm{}, false, err
	}
	var account, region string
	if _, err := fmt.Sscan(string(v), &account, &region); err != nil {
		return sallyport.Realm{}, false, fmt.Errorf("read realm: %w", err)
	}
	r, err := sallyport.NewRealm(account, region)
	return r, err == nil, err
}

// value returns the value of name, or nil if there is none.
func (m Meta) value(ctx context.Context, name string) ([]byte, error) {
	var v []byte
	err := m.q().QueryRowContext(ctx, `SELECT value FROM meta WHERE name = $1`, name).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, translate(err))
	}
	return v, nil
}

// Done reports whether a step that a database is taken through once was taken.
func (m Meta) Done(ctx context.Context, step string) (bool, error) {
	v, err := m.value(ctx, step)
	return v != nil, err
}

// SetDone notes that a step was taken.
func (m Meta) SetDone(ctx context.Context, step string) error {
	_, err := m.set(ctx, step, []byte("done"))
	return err
}

// set gives name a value if it has none, and returns the one it has.
func (m Meta) set(ctx context.Context, name string, value []byte) (got []byte, err error) {
	err = m.write(ctx, func(tx *tx) error {
		if _, err := tx.exec(`INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, value); err != nil {
			return err
		}
		got, err = Meta{scope{m.db, tx}}.value(ctx, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", name, err)
	}
	return got, nil
}
