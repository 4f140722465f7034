package store

import (
	"context"
	"fmt"
)

// Gone returns the first of ids that is not in force any more: a user or role
// that was deleted, an access key that was deleted or is not active, a node that
// was deregistered. It returns "" if all are in force.
func (iam IAM) Gone(ctx context.Context, ids []string) (string, error) {
	if len(ids) == 0 {
		return "", nil
	}
	var w where
	list := w.list(ids)
	found, err := collect(ctx, iam.q(), readString, `SELECT id FROM entities WHERE id IN (`+list+`)
		UNION ALL SELECT id FROM access_keys WHERE active = TRUE AND id IN (`+list+`)
		UNION ALL SELECT id FROM nodes WHERE id IN (`+list+`)`, w.args...)
	if err != nil {
		return "", fmt.Errorf("look for identities: %w", translate(err))
	}
	there := map[string]bool{}
	for _, id := range found {
		there[id] = true
	}
	for _, id := range ids {
		if !there[id] {
			return id, nil
		}
	}
	return "", nil
}

// goes notes that an identity is not in force any more once the transaction is
// committed. [DB.OnGone] is told then.
func (t *tx) goes(id string) {
	t.run.gone = append(t.run.gone[:len(t.run.gone):len(t.run.gone)], id)
}

// tellGone tells OnGone that an identity is not in force any more, after a
// transaction that said so ended with err. If err leaves open what happened, as a
// connection does that is lost in a commit, the database is asked.
func (db *DB) tellGone(ctx context.Context, id string, err error) {
	switch {
	case db.OnGone == nil:
		return
	case err != nil:
		if gone, err := db.IAM().Gone(context.WithoutCancel(ctx), []string{id}); err != nil || gone == "" {
			return
		}
	}
	db.OnGone(id)
}
