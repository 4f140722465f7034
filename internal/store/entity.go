package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// An EntityKind is "user", "group" or "role".
type EntityKind string

const (
	userKind  EntityKind = "user"
	groupKind EntityKind = "group"
	roleKind  EntityKind = "role"
)

// An Entity names what a policy may be given to, whether or not it exists.
type Entity struct {
	Kind EntityKind
	Name string
}

// User names a user.
func User(name string) Entity { return Entity{userKind, name} }

// Group names a group.
func Group(name string) Entity { return Entity{groupKind, name} }

// Role names a role.
func Role(name string) Entity { return Entity{roleKind, name} }

// The sentences are IAM's own, which scripts are known to match.

func (e Entity) missing() error {
	return sallyport.Errorf(sallyport.NoSuchEntity, "The %s with name %s cannot be found.", e.Kind, e.Name)
}

func (e Entity) taken() error {
	kind := strings.ToUpper(string(e.Kind[:1])) + string(e.Kind[1:])
	return sallyport.Errorf(sallyport.EntityAlreadyExists, "%s with name %s already exists.", kind, e.Name)
}

// maxTags is how many tags AWS lets a thing have.
const maxTags = 50

// An entity is a row of entities.
type entity struct {
	id, name, path, description, trust, boundary string
	maxSession                                   time.Duration
	tags                                         map[string]string
	created                                      time.Time
}

const entityColumns = `e.id, e.name, e.path, e.description, e.trust, e.boundary, e.max_session, e.tags, e.created`

func scanEntity(s scanner) (e entity, err error) {
	var maxSession, created int64
	var tags string
	if err := s.Scan(&e.id, &e.name, &e.path, &e.description, &e.trust, &e.boundary, &maxSession, &tags, &created); err != nil {
		return entity{}, err
	}
	e.maxSession = time.Duration(maxSession) * time.Millisecond
	e.created = fromMillis(created)
	e.tags, err = parseTags(tags)
	return e, err
}

func (e entity) user() *sallyport.User {
	return &sallyport.User{Name: e.name, Path: e.path, ID: e.id, Created: e.created, Tags: e.tags, Boundary: e.boundary}
}

func (e entity) group() *sallyport.Group {
	return &sallyport.Group{Name: e.name, Path: e.path, ID: e.id, Created: e.created}
}

func (e entity) role() *sallyport.Role {
	return &sallyport.Role{Name: e.name, Path: e.path, ID: e.id, Description: e.description, Trust: e.trust,
		MaxSession: e.maxSession, Created: e.created, Tags: e.tags, Boundary: e.boundary}
}

func findEntity(ctx context.Context, q querier, who Entity) (entity, error) {
	e, err := scanEntity(q.QueryRowContext(ctx,
		`SELECT `+entityColumns+` FROM entities e WHERE e.kind = $1 AND e.name = $2`, string(who.Kind), clean(who.Name)))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return entity{}, fmt.Errorf("read %s %s: %w", who.Kind, who.Name, translate(err))
	}
	if !means(ctx, string(who.Kind), who.Name, e.id) || err != nil {
		return entity{}, who.missing()
	}
	return e, nil
}

// findEntityByID finds the entity of a kind that has an ID. Nothing else ever
// has that ID, also after it is renamed. Name is what an error calls it.
func findEntityByID(ctx context.Context, q querier, kind EntityKind, id, name string) (entity, error) {
	e, err := scanEntity(q.QueryRowContext(ctx,
		`SELECT `+entityColumns+` FROM entities e WHERE e.kind = $1 AND e.id = $2`, string(kind), clean(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return entity{}, Entity{kind, name}.missing()
	}
	if err != nil {
		return entity{}, fmt.Errorf("read %s %s: %w", kind, name, translate(err))
	}
	means(ctx, string(kind), e.name, e.id)
	return e, nil
}

// onEntity finds who in a transaction that writes IAM, and does something to it.
func (iam IAM) onEntity(ctx context.Context, verb string, who Entity, do func(*tx, entity) error) error {
	err := iam.change(ctx, iamRevision, func(tx *tx) error {
		e, err := findEntity(tx.ctx, tx, who)
		if err != nil {
			return err
		}
		return do(tx, e)
	})
	return wrap(err, verb+" %s %s", who.Kind, who.Name)
}

// wrap adds what was being done to an error, unless there is none.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

func (iam IAM) createEntity(ctx context.Context, who Entity, e entity) error {
	err := iam.change(ctx, iamRevision, func(tx *tx) error {
		if len(e.tags) > maxTags {
			return tooManyTags()
		}
		if e.boundary != "" {
			if err := attachable(tx, e.boundary); err != nil {
				return err
			}
		}
		n, err := tx.exec(`INSERT INTO entities (id, kind, name, folded, path, description, trust, boundary, max_session, tags, created)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (kind, folded) DO NOTHING`,
			e.id, string(who.Kind), e.name, strings.ToLower(e.name), e.path, e.description, e.trust, e.boundary,
			e.maxSession.Milliseconds(), tagsJSON(e.tags), millis(e.created))
		if err == nil && n == 0 {
			return who.taken()
		}
		return err
	})
	if err == nil {
		made(ctx, string(who.Kind), e.name, e.id)
	}
	return wrap(err, "create %s %s", who.Kind, who.Name)
}

// listEntities pages through the entities of one kind, in order of name.
func listEntities[T any](ctx context.Context, iam IAM, kind EntityKind, pathPrefix string, page Page, as func(entity) T) ([]T, Cursor, error) {
	list := string(kind) + "s"
	after, err := page.place(list, 1)
	if err != nil {
		return nil, "", err
	}
	var w where
	w.add("e.kind = ?", string(kind))
	if pathPrefix != "" && pathPrefix != "/" {
		w.add("substr(e.path, 1, length(CAST(? AS TEXT))) = ?", pathPrefix, pathPrefix)
	}
	if after != nil {
		w.add("e.name > ?", after[0])
	}
	query := `SELECT ` + entityColumns + ` FROM entities e WHERE ` + w.String() + ` ORDER BY e.name LIMIT ` + w.arg(page.limit()+1)
	rows, err := collect(ctx, iam.q(), scanEntity, query, w.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %s: %w", list, translate(err))
	}
	rows, next := cut(rows, page, func(e entity) Cursor { return newCursor(list, e.name) })
	return convert(rows, as), next, nil
}

func convert[T any](rows []entity, as func(entity) T) []T {
	out := make([]T, len(rows))
	for i, e := range rows {
		out[i] = as(e)
	}
	return out
}

// CreateUser adds a user, within its boundary from the first. ID and Created
// are the caller's to choose; Groups is not looked at. EntityAlreadyExists if
// there is one whose name differs by no more than case.
func (iam IAM) CreateUser(ctx context.Context, u sallyport.User) error {
	return iam.createEntity(ctx, User(u.Name), entity{id: u.ID, name: u.Name, path: u.Path, boundary: u.Boundary, tags: u.Tags, created: u.Created})
}

// User returns a user without its groups, or NoSuchEntity.
func (iam IAM) User(ctx context.Context, name string) (*sallyport.User, error) {
	e, err := findEntity(ctx, iam.q(), User(name))
	if err != nil {
		return nil, err
	}
	return e.user(), nil
}

// UserByID returns the user with an ID, without its groups, or NoSuchEntity,
// which says its name as the caller knows it.
func (iam IAM) UserByID(ctx context.Context, id, name string) (*sallyport.User, error) {
	e, err := findEntityByID(ctx, iam.q(), userKind, id, name)
	if err != nil {
		return nil, err
	}
	return e.user(), nil
}

// Users lists users whose path begins with pathPrefix, in order of name.
func (iam IAM) Users(ctx context.Context, pathPrefix string, page Page) ([]*sallyport.User, Cursor, error) {
	return listEntities(ctx, iam, userKind, pathPrefix, page, entity.user)
}

// CreateGroup adds a group.
func (iam IAM) CreateGroup(ctx context.Context, g sallyport.Group) error {
	return iam.createEntity(ctx, Group(g.Name), entity{id: g.ID, name: g.Name, path: g.Path, created: g.Created})
}

// Group returns a group, or NoSuchEntity.
func (iam IAM) Group(ctx context.Context, name string) (*sallyport.Group, error) {
	e, err := findEntity(ctx, iam.q(), Group(name))
	if err != nil {
		return nil, err
	}
	return e.group(), nil
}

// Groups lists groups whose path begins with pathPrefix, in order of name.
func (iam IAM) Groups(ctx context.Context, pathPrefix string, page Page) ([]*sallyport.Group, Cursor, error) {
	return listEntities(ctx, iam, groupKind, pathPrefix, page, entity.group)
}

// CreateRole adds a role, within its boundary from the first.
func (iam IAM) CreateRole(ctx context.Context, r sallyport.Role) error {
	return iam.createEntity(ctx, Role(r.Name), entity{id: r.ID, name: r.Name, path: r.Path, description: r.Description,
		trust: r.Trust, boundary: r.Boundary, maxSession: r.MaxSession, tags: r.Tags, created: r.Created})
}

// Role returns a role, or NoSuchEntity.
func (iam IAM) Role(ctx context.Context, name string) (*sallyport.Role, error) {
	e, err := findEntity(ctx, iam.q(), Role(name))
	if err != nil {
		return nil, err
	}
	return e.role(), nil
}

// RoleByID returns the role with an ID, or NoSuchEntity, which says its name
// as the caller knows it.
func (iam IAM) RoleByID(ctx context.Context, id, name string) (*sallyport.Role, error) {
	e, err := findEntityByID(ctx, iam.q(), roleKind, id, name)
	if err != nil {
		return nil, err
	}
	return e.role(), nil
}

// Roles lists roles whose path begins with pathPrefix, in order of name.
func (iam IAM) Roles(ctx context.Context, pathPrefix string, page Page) ([]*sallyport.Role, Cursor, error) {
	return listEntities(ctx, iam, roleKind, pathPrefix, page, entity.role)
}

// UpdateRole changes a role's description and how long its sessions may last.
func (iam IAM) UpdateRole(ctx context.Context, name, description string, maxSession time.Duration) error {
	return iam.onEntity(ctx, "update", Role(name), func(tx *tx, e entity) error {
		_, err := tx.exec(`UPDATE entities SET description = $2, max_session = $3 WHERE id = $1`, e.id, description, maxSession.Milliseconds())
		return err
	})
}

// UpdateTrust changes who may assume a role.
func (iam IAM) UpdateTrust(ctx context.Context, name, trust string) error {
	return iam.onEntity(ctx, "update trust of", Role(name), func(tx *tx, e entity) error {
		_, err := tx.exec(`UPDATE entities SET trust = $2 WHERE id = $1`, e.id, trust)
		return err
	})
}

// Rename gives a user or group another name, path or both; empty leaves what
// is there. All that it has, it keeps.
func (iam IAM) Rename(ctx context.Context, who Entity, name, path string) error {
	return iam.onEntity(ctx, "rename", who, func(tx *tx, e entity) error {
		// Not assigned to the arguments: this may be run again.
		name, path := cmp.Or(name, e.name), cmp.Or(path, e.path)
		var other string
		err := tx.row(`SELECT id FROM entities WHERE kind = $1 AND folded = $2 AND id <> $3`, string(who.Kind), strings.ToLower(name), e.id).Scan(&other)
		if err == nil {
			return Entity{who.Kind, name}.taken()
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = tx.exec(`UPDATE entities SET name = $2, folded = $3, path = $4 WHERE id = $1`, e.id, name, strings.ToLower(name), path)
		return err
	})
}

// Delete removes a user, group or role that nothing hangs on any more, or says
// with DeleteConflict what to take off it first.
func (iam IAM) Delete(ctx context.Context, who Entity) error {
	return iam.onEntity(ctx, "delete", who, func(tx *tx, e entity) error {
		for _, c := range []struct{ query, message string }{
			{`SELECT count(*) FROM access_keys WHERE user_id = $1`, "Cannot delete entity, must delete access keys first."},
			{`SELECT count(*) FROM members WHERE user_id = $1`, "Cannot delete entity, must remove user from its groups first."},
			{`SELECT count(*) FROM members WHERE group_id = $1`, "Cannot delete entity, must remove users from group first."},
			{`SELECT count(*) FROM attachments WHERE entity = $1`, "Cannot delete entity, must detach all policies first."},
			{`SELECT count(*) FROM inline_policies WHERE entity = $1`, "Cannot delete entity, must delete policies first."},
		} {
			var n int
			if err := tx.row(c.query, e.id).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return sallyport.Errorf(sallyport.DeleteConflict, "%s", c.message)
			}
		}
		tx.goes(e.id)
		_, err := tx.exec(`DELETE FROM entities WHERE id = $1`, e.id)
		return err
	})
}

// Tag gives a user or role tags, in place of those whose names differ by case alone:
// IAM has no two such.
func (iam IAM) Tag(ctx context.Context, who Entity, tags map[string]string) error {
	return iam.changeTags(ctx, who, func(all map[string]string) { replaceFolded(all, tags) })
}

// Untag takes tags off a user or role; case does not matter in their names. It does
// not matter if they were not there.
func (iam IAM) Untag(ctx context.Context, who Entity, names []string) error {
	return iam.changeTags(ctx, who, func(all map[string]string) { removeFolded(all, names) })
}

func replaceFolded(all, tags map[string]string) {
	removeFolded(all, slices.Collect(maps.Keys(tags)))
	maps.Copy(all, tags)
}

func removeFolded(all map[string]string, names []string) {
	maps.DeleteFunc(all, func(name, _ string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
	})
}

func (iam IAM) changeTags(ctx context.Context, who Entity, change func(map[string]string)) error {
	return iam.onEntity(ctx, "tag", who, func(tx *tx, e entity) error {
		if e.tags == nil {
			e.tags = map[string]string{}
		}
		change(e.tags)
		if len(e.tags) > maxTags {
			return tooManyTags()
		}
		_, err := tx.exec(`UPDATE entities SET tags = $2 WHERE id = $1`, e.id, tagsJSON(e.tags))
		return err
	})
}

func tooManyTags() error {
	return sallyport.Errorf(sallyport.LimitExceeded, "The number of tags has reached the maximum limit of %d. Remove some first.", maxTags)
}

// Boundary returns the ARN of the permissions boundary of a user or role, or
// "" if it has none.
func (iam IAM) Boundary(ctx context.Context, who Entity) (string, error) {
	e, err := findEntity(ctx, iam.q(), who)
	return e.boundary, err
}

// SetBoundary makes a managed policy the permissions boundary of a user or
// role; an empty ARN takes the boundary away.
func (iam IAM) SetBoundary(ctx context.Context, who Entity, arn string) error {
	return iam.onEntity(ctx, "set boundary of", who, func(tx *tx, e entity) error {
		if arn != "" {
			if err := attachable(tx, arn); err != nil {
				return err
			}
		} else if e.boundary == "" {
			return sallyport.Errorf(sallyport.NoSuchEntity, "The %s with name %s does not have a permissions boundary.", who.Kind, who.Name)
		}
		_, err := tx.exec(`UPDATE entities SET boundary = $2 WHERE id = $1`, e.id, arn)
		return err
	})
}

// AddUserToGroup makes a user a member of a group, if it is not one yet.
func (iam IAM) AddUserToGroup(ctx context.Context, group, user string) error {
	return iam.onEntity(ctx, "add user to", Group(group), func(tx *tx, g entity) error {
		u, err := findEntity(tx.ctx, tx, User(user))
		if err != nil {
			return err
		}
		_, err = tx.exec(`INSERT INTO members (group_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, g.id, u.id)
		return err
	})
}

// RemoveUserFromGroup ends a membership, or returns NoSuchEntity if there was
// none.
func (iam IAM) RemoveUserFromGroup(ctx context.Context, group, user string) error {
	return iam.onEntity(ctx, "remove user from", Group(group), func(tx *tx, g entity) error {
		u, err := findEntity(tx.ctx, tx, User(user))
		if err != nil {
			return err
		}
		n, err := tx.exec(`DELETE FROM members WHERE group_id = $1 AND user_id = $2`, g.id, u.id)
		if err == nil && n == 0 {
			return sallyport.Errorf(sallyport.NoSuchEntity, "User %s is not in group %s.", user, group)
		}
		return err
	})
}

// GroupsOf lists the groups a user is in, in order of name.
func (iam IAM) GroupsOf(ctx context.Context, user string, page Page) ([]*sallyport.Group, Cursor, error) {
	return related(ctx, iam, User(user), "groups of user", `members m JOIN entities e ON e.id = m.group_id WHERE m.user_id`, page, entity.group)
}

// UsersIn lists the members of a group, in order of name.
func (iam IAM) UsersIn(ctx context.Context, group string, page Page) ([]*sallyport.User, Cursor, error) {
	return related(ctx, iam, Group(group), "users in group", `members m JOIN entities e ON e.id = m.user_id WHERE m.group_id`, page, entity.user)
}

func related[T any](ctx context.Context, iam IAM, who Entity, list, from string, page Page, as func(entity) T) ([]T, Cursor, error) {
	after, err := page.place(list, 1)
	if err != nil {
		return nil, "", err
	}
	this, err := findEntity(ctx, iam.q(), who)
	if err != nil {
		return nil, "", err
	}
	query := `SELECT ` + entityColumns + ` FROM ` + from + ` = $1`
	args := []any{this.id, page.limit() + 1}
	if after != nil {
		query += ` AND e.name > $3`
		args = append(args, after[0])
	}
	rows, err := collect(ctx, iam.q(), scanEntity, query+` ORDER BY e.name LIMIT $2`, args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %s %s: %w", list, who.Name, translate(err))
	}
	rows, next := cut(rows, page, func(e entity) Cursor { return newCursor(list, e.name) })
	return convert(rows, as), next, nil
}
