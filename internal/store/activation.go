package store

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sallyport/sallyport"
)

const activationColumns = `id, code, description, name, role, role_id, most, registrations, created, expires, tags`

func scanActivation(s scanner) (*sallyport.Activation, error) {
	var a sallyport.Activation
	var code []byte
	var created, expires int64
	var tags string
	if err := s.Scan(&a.ID, &code, &a.Description, &a.Name, &a.Role, &a.RoleID, &a.Limit, &a.Count, &created, &expires, &tags); err != nil {
		return nil, err
	}
	copy(a.Code[:], code)
	a.Created, a.Expires = fromMillis(created), fromMillis(expires)
	var err error
	a.Tags, err = parseTags(tags)
	return &a, err
}

func noActivation(id string) error {
	return sallyport.Errorf(sallyport.InvalidActivationID, "There is no activation %s. Create one, and give the machine its id and code.", sallyport.Clip(clean(id), 64))
}

// Create adds an activation. Its Count is 0; a.Count is not read.
func (as Activations) Create(ctx context.Context, a sallyport.Activation) error {
	if err := sallyport.CheckTags(nil, a.Tags); err != nil {
		return wrap(err, "create activation %s", a.ID)
	}
	err := as.write(ctx, func(tx *tx) error {
		_, err := tx.exec(`INSERT INTO activations (id, code, description, name, role, role_id, most, created, expires, tags)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			a.ID, a.Code[:], clean(a.Description), clean(a.Name), a.Role, a.RoleID, a.Limit, millis(a.Created), millis(a.Expires), tagsJSON(a.Tags))
		return err
	})
	return wrap(err, "create activation %s", a.ID)
}

// Get returns an activation, or InvalidActivationId.
func (as Activations) Get(ctx context.Context, id string) (*sallyport.Activation, error) {
	return findActivation(ctx, as.q(), id)
}

func findActivation(ctx context.Context, q querier, id string) (*sallyport.Activation, error) {
	a, err := scanActivation(q.QueryRowContext(ctx, `SELECT `+activationColumns+` FROM activations WHERE id = $1`, clean(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noActivation(id)
	}
	if err != nil {
		return nil, fmt.Errorf("read activation %s: %w", id, translate(err))
	}
	return a, nil
}

// An ActivationFilter says which activations are wanted: those that match one
// of the values of every field that has any.
type ActivationFilter struct {
	IDs, Names, Roles []string
}

// List lists activations, oldest first.
func (as Activations) List(ctx context.Context, f ActivationFilter, page Page) ([]*sallyport.Activation, Cursor, error) {
	at, id, more, err := page.placeTime("activations")
	if err != nil {
		return nil, "", err
	}
	var w where
	w.in("id", f.IDs)
	w.in("name", f.Names)
	w.in("role", f.Roles)
	if more {
		w.add("(created, id) > (?, ?)", at, id)
	}
	list, err := collect(ctx, as.q(), scanActivation, `SELECT `+activationColumns+` FROM activations
		WHERE `+w.String()+` ORDER BY created, id LIMIT `+w.arg(page.limit()+1), w.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list activations: %w", translate(err))
	}
	list, next := cut(list, page, func(a *sallyport.Activation) Cursor {
		return newCursor("activations", strconv.FormatInt(millis(a.Created), 10), a.ID)
	})
	return list, next, nil
}

// Delete removes an activation. The nodes that came by it stay.
func (as Activations) Delete(ctx context.Context, id string) error {
	err := as.write(ctx, func(tx *tx) error {
		n, err := tx.exec(`DELETE FROM activations WHERE id = $1`, clean(id))
		if err == nil && n == 0 {
			return noActivation(id)
		}
		return err
	})
	return wrap(err, "delete activation %s", id)
}

// Register makes a machine a node by an activation: it checks the code, the
// date and the count, counts one more, and adds the node with the
// activation's name, role and tags, all as one step. The nodes of an activation
// that is for several have numbers after the name, so that no two are
// called the same. Of n the caller sets ID,
// PublicKey and Fingerprint, and may set Agent.
//
// A machine that registers again becomes another node, unless it does so with the
// same key and fingerprint: then its first registration may not have been
// answered, and it is the node that it became by that, as stored.
func (ns Nodes) Register(ctx context.Context, activation string, code sallyport.Secret, n sallyport.Node, at time.Time) (*sallyport.Node, error) {
	hash := code.Hash()
	n = sallyport.Node{ID: n.ID, PublicKey: n.PublicKey, Fingerprint: clean(n.Fingerprint), Agent: cleanAgent(n.Agent), Registered: fromMillis(millis(at))}
	var before sallyport.NodeID
	err := ns.write(ctx, func(tx *tx) error {
		a, err := findActivation(tx.ctx, tx, activation)
		if err != nil {
			return err
		}
		if before, err = registered(tx, a, hash, n); !before.IsZero() || err != nil {
			return err
		}
		switch {
		case subtle.ConstantTimeCompare(hash[:], a.Code[:]) != 1:
			// Said before all else: who lacks the code learns nothing more.
			return sallyport.Errorf(sallyport.InvalidActivation, "The activation code is not the one of activation %s. Check that id and code are from the same activation.", a.ID)
		case a.Expired(at):
			return sallyport.Errorf(sallyport.InvalidActivation, "Activation %s expired at %s. Create another.", a.ID, a.Expires.Format(time.RFC3339))
		}
		// Conditional, because on PostgreSQL others may be registering.
		counted, err := tx.exec(`UPDATE activations SET registrations = registrations + 1 WHERE id = $1 AND registrations < most`, a.ID)
		if err != nil {
			return err
		}
		if counted == 0 {
			return sallyport.Errorf(sallyport.InvalidActivation, "Activation %s has been used for the %d registrations it allows. Create another.", a.ID, a.Limit)
		}
		n.Activation, n.Name, n.Role, n.RoleID, n.Tags = a.ID, a.Name, a.Role, a.RoleID, a.Tags
		if a.Limit > 1 && a.Name != "" {
			var number int
			if err := tx.row(`SELECT registrations FROM activations WHERE id = $1`, a.ID).Scan(&number); err != nil {
				return err
			}
			n.Name += "-" + strconv.Itoa(number)
		}
		tx.leaves(Event{At: at, Kind: NodeEvent, Name: "Registered", Subject: n.ID.String(), Details: details("name", n.Name, "activation", n.Activation, "role", n.Role)})
		return insertNode(tx, &n)
	})
	if err != nil {
		return nil, fmt.Errorf("register by activation %s: %w", sallyport.Clip(clean(activation), 64), err)
	}
	if !before.IsZero() {
		return ns.Get(ctx, before)
	}
	return &n, nil
}

// registered returns the ID of the node that a machine with n's key and
// fingerprint became by an activation, if it did, and knows its code; else the
// zero ID.
func registered(tx *tx, a *sallyport.Activation, code sallyport.SecretHash, n sallyport.Node) (sallyport.NodeID, error) {
	if subtle.ConstantTimeCompare(code[:], a.Code[:]) != 1 {
		return sallyport.NodeID{}, nil
	}
	var id string
	err := tx.row(`SELECT id FROM nodes WHERE activation = $1 AND public_key = $2 AND fingerprint = $3`, a.ID, blob(n.PublicKey), n.Fingerprint).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return sallyport.NodeID{}, nil
	}
	if err != nil {
		return sallyport.NodeID{}, err
	}
	return sallyport.ParseNodeID(id)
}

func insertNode(tx *tx, n *sallyport.Node) error {
	a := n.Agent
	if _, err := tx.exec(`INSERT INTO nodes (id, name, activation, role, role_id, registered, public_key, fingerprint,
			agent_name, agent_version, platform_type, platform_name, platform_version, computer_name, ip_address, availability_zone, connection_channel)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)`,
		n.ID.String(), n.Name, n.Activation, n.Role, n.RoleID, millis(n.Registered), blob(n.PublicKey), n.Fingerprint,
		a.Name, a.Version, a.PlatformType, a.PlatformName, a.PlatformVersion, a.ComputerName, a.IPAddress, a.AvailabilityZone, a.ConnectionChannel); err != nil {
		return err
	}
	return setNodeTags(tx, n.ID, n.Tags)
}

func setNodeTags(tx *tx, id sallyport.NodeID, tags map[string]string) error {
	for name, value := range tags {
		if _, err := tx.exec(`INSERT INTO node_tags (node, name, value) VALUES ($1, $2, $3)
			ON CONFLICT (node, name) DO UPDATE SET value = excluded.value`, id.String(), name, value); err != nil {
			return err
		}
	}
	return nil
}
