package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// awsPolicies begins the ARN of every policy of AWS's own. Those are in the
// program; the store knows only what they are attached to.
const awsPolicies = "arn:" + sallyport.Partition + ":iam::aws:policy/"

const (
	maxVersions = 5  // of a managed policy (IAM quotas)
	maxAttached = 10 // managed policies to one entity (IAM quotas)
)

func noPolicy(arn string) error {
	return sallyport.Errorf(sallyport.NoSuchEntity, "Policy %s was not found.", arn)
}

// attachable returns an error unless arn is a policy we hold, or AWS's own.
func attachable(tx *tx, arn string) error {
	if strings.HasPrefix(arn, awsPolicies) {
		return nil
	}
	var n int
	if err := tx.row(`SELECT count(*) FROM policies WHERE arn = $1`, clean(arn)).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return sallyport.Errorf(sallyport.NoSuchEntity, "Policy %s does not exist or is not attachable.", arn)
	}
	return nil
}

// CreatePolicy adds a managed policy whose first version, v1, has p.Document.
func (iam IAM) CreatePolicy(ctx context.Context, p sallyport.Policy) error {
	err := iam.change(ctx, iamRevision, func(tx *tx) error {
		if len(p.Tags) > maxTags {
			return tooManyTags()
		}
		n, err := tx.exec(`INSERT INTO policies (arn, id, name, folded, path, description, tags, default_version, last_version, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, 1, 1, $8, $8) ON CONFLICT DO NOTHING`,
			p.ARN, p.ID, p.Name, strings.ToLower(p.Name), p.Path, p.Description, tagsJSON(p.Tags), millis(p.Created))
		if err != nil {
			return err
		}
		if n == 0 {
			return sallyport.Errorf(sallyport.EntityAlreadyExists, "A policy called %s already exists. Duplicate names are not allowed.", p.Name)
		}
		_, err = tx.exec(`INSERT INTO policy_versions (arn, version, document, created) VALUES ($1, 1, $2, $3)`, p.ARN, p.Document, millis(p.Created))
		return err
	})
	if err == nil {
		made(ctx, "policy", p.ARN, p.ID)
	}
	return wrap(err, "create policy %s", p.Name)
}

const policyColumns = `p.arn, p.id, p.name, p.path, p.description, p.tags, p.default_version, p.created, p.updated,
	(SELECT count(*) FROM attachments a WHERE a.arn = p.arn),
	(SELECT v.document FROM policy_versions v WHERE v.arn = p.arn AND v.version = p.default_version)`

func scanPolicy(s scanner) (*sallyport.Policy, error) {
	var p sallyport.Policy
	var tags string
	var version, created, updated int64
	if err := s.Scan(&p.ARN, &p.ID, &p.Name, &p.Path, &p.Description, &tags, &version, &created, &updated, &p.Attachments, &p.Document); err != nil {
		return nil, err
	}
	p.Default, p.Created, p.Updated = versionName(version), fromMillis(created), fromMillis(updated)
	var err error
	p.Tags, err = parseTags(tags)
	return &p, err
}

func versionName(n int64) string { return "v" + strconv.FormatInt(n, 10) }

// Policy returns a managed policy with its document in force and the number of
// its attachments, or NoSuchEntity.
func (iam IAM) Policy(ctx context.Context, arn string) (*sallyport.Policy, error) {
	return findPolicy(ctx, iam.q(), arn)
}

func findPolicy(ctx context.Context, q querier, arn string) (*sallyport.Policy, error) {
	p, err := scanPolicy(q.QueryRowContext(ctx, `SELECT `+policyColumns+` FROM policies p WHERE p.arn = $1`, clean(arn)))
	id := ""
	switch {
	case err == nil:
		id = p.ID
	case !errors.Is(err, sql.ErrNoRows):
		return nil, fmt.Errorf("read policy %s: %w", arn, translate(err))
	}
	if !means(ctx, "policy", arn, id) || err != nil {
		return nil, noPolicy(arn)
	}
	return p, nil
}

// Policies lists our managed policies whose path begins with pathPrefix, in
// order of name.
func (iam IAM) Policies(ctx context.Context, pathPrefix string, attachedOnly bool, page Page) ([]*sallyport.Policy, Cursor, error) {
	after, err := page.place("policies", 1)
	if err != nil {
		return nil, "", err
	}
	var w where
	if pathPrefix != "" && pathPrefix != "/" {
		w.add("substr(p.path, 1, length(CAST(? AS TEXT))) = ?", pathPrefix, pathPrefix)
	}
	if attachedOnly {
		w.add("EXISTS (SELECT 1 FROM attachments a WHERE a.arn = p.arn)")
	}
	if after != nil {
		w.add("p.folded > ?", after[0])
	}
	list, err := collect(ctx, iam.q(), scanPolicy, `SELECT `+policyColumns+` FROM policies p WHERE `+w.String()+` ORDER BY p.folded LIMIT `+w.arg(page.limit()+1), w.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list policies: %w", translate(err))
	}
	list, next := cut(list, page, func(p *sallyport.Policy) Cursor { return newCursor("policies", strings.ToLower(p.Name)) })
	return list, next, nil
}

// onPolicy finds a managed policy of ours in a transaction that writes IAM,
// and does something to it.
func (iam IAM) onPolicy(ctx context.Context, verb, arn string, do func(*tx, *sallyport.Policy) error) error {
	err := iam.change(ctx, iamRevision, func(tx *tx) error {
		p, err := findPolicy(tx.ctx, tx, arn)
		if err != nil {
			return err
		}
		return do(tx, p)
	})
	return wrap(err, "%s policy %s", verb, arn)
}

// DeletePolicy removes a managed policy that is attached to nothing and has no
// version but its default, or says with DeleteConflict what is in the way.
func (iam IAM) DeletePolicy(ctx context.Context, arn string) error {
	return iam.onPolicy(ctx, "delete", arn, func(tx *tx, p *sallyport.Policy) error {
		var versions, bounded int
		if err := tx.row(`SELECT (SELECT count(*) FROM policy_versions WHERE arn = $1), (SELECT count(*) FROM entities WHERE boundary = $1)`, arn).Scan(&versions, &bounded); err != nil {
			return err
		}
		if p.Attachments > 0 || bounded > 0 {
			return sallyport.Errorf(sallyport.DeleteConflict, "Cannot delete a policy attached to entities.")
		}
		if versions > 1 {
			return sallyport.Errorf(sallyport.DeleteConflict, "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy.")
		}
		_, err := tx.exec(`DELETE FROM policies WHERE arn = $1`, arn) // its version goes with it
		return err
	})
}

// TagPolicy gives a managed policy tags, as [IAM.Tag] does.
func (iam IAM) TagPolicy(ctx context.Context, arn string, tags map[string]string) error {
	return iam.changePolicyTags(ctx, arn, func(all map[string]string) { replaceFolded(all, tags) })
}

// UntagPolicy takes tags off a managed policy, as [IAM.Untag] does.
func (iam IAM) UntagPolicy(ctx context.Context, arn string, names []string) error {
	return iam.changePolicyTags(ctx, arn, func(all map[string]string) { removeFolded(all, names) })
}

func (iam IAM) changePolicyTags(ctx context.Context, arn string, change func(map[string]string)) error {
	return iam.onPolicy(ctx, "tag", arn, func(tx *tx, p *sallyport.Policy) error {
		if p.Tags == nil {
			p.Tags = map[string]string{}
		}
		change(p.Tags)
		if len(p.Tags) > maxTags {
			return tooManyTags()
		}
		_, err := tx.exec(`UPDATE policies SET tags = $2 WHERE arn = $1`, arn, tagsJSON(p.Tags))
		return err
	})
}

// CreatePolicyVersion gives a managed policy another text, and returns the
// version it became. A policy has five at most; numbers are never used again.
func (iam IAM) CreatePolicyVersion(ctx context.Context, arn, document string, makeDefault bool, at time.Time) (v sallyport.PolicyVersion, err error) {
	err = iam.onPolicy(ctx, "create version of", arn, func(tx *tx, p *sallyport.Policy) error {
		var versions int
		var last int64
		if err := tx.row(`SELECT (SELECT count(*) FROM policy_versions WHERE arn = $1), last_version FROM policies WHERE arn = $1`, arn).Scan(&versions, &last); err != nil {
			return err
		}
		if versions >= maxVersions {
			return sallyport.Errorf(sallyport.LimitExceeded, "A managed policy can have up to %d versions. Before you create a new version, you must delete an existing version.", maxVersions)
		}
		last++
		if _, err := tx.exec(`INSERT INTO policy_versions (arn, version, document, created) VALUES ($1, $2, $3, $4)`, arn, last, document, millis(at)); err != nil {
			return err
		}
		if _, err := tx.exec(`UPDATE policies SET last_version = $2, updated = $3 WHERE arn = $1`, arn, last, millis(at)); err != nil {
			return err
		}
		v = sallyport.PolicyVersion{ID: versionName(last), Document: document, Default: makeDefault, Created: fromMillis(millis(at))}
		if !makeDefault {
			return nil
		}
		_, err := tx.exec(`UPDATE policies SET default_version = $2 WHERE arn = $1`, arn, last)
		return err
	})
	return v, err
}

const versionQuery = `SELECT v.version, v.document, v.created, v.version = p.default_version
	FROM policy_versions v JOIN policies p ON p.arn = v.arn WHERE v.arn = $1`

func scanVersion(s scanner) (v sallyport.PolicyVersion, err error) {
	var n, created int64
	err = s.Scan(&n, &v.Document, &created, &v.Default)
	v.ID, v.Created = versionName(n), fromMillis(created)
	return v, err
}

// PolicyVersions lists the versions of a managed policy, newest first. There
// are too few to page.
func (iam IAM) PolicyVersions(ctx context.Context, arn string) ([]sallyport.PolicyVersion, error) {
	list, err := collect(ctx, iam.q(), scanVersion, versionQuery+` ORDER BY v.version DESC`, clean(arn))
	if err != nil {
		return nil, fmt.Errorf("list versions of policy %s: %w", arn, translate(err))
	}
	if len(list) == 0 { // every policy has one
		return nil, noPolicy(arn)
	}
	return list, nil
}

// PolicyVersion returns one version of a managed policy, or NoSuchEntity.
func (iam IAM) PolicyVersion(ctx context.Context, arn, version string) (sallyport.PolicyVersion, error) {
	return findVersion(ctx, iam.q(), arn, version)
}

func findVersion(ctx context.Context, q querier, arn, version string) (sallyport.PolicyVersion, error) {
	missing := sallyport.Errorf(sallyport.NoSuchEntity, "Policy %s version %s does not exist or is not attachable.", arn, version)
	n, err := strconv.ParseInt(strings.TrimPrefix(version, "v"), 10, 64)
	if err != nil || versionName(n) != version {
		return sallyport.PolicyVersion{}, missing
	}
	v, err := scanVersion(q.QueryRowContext(ctx, versionQuery+` AND v.version = $2`, clean(arn), n))
	if errors.Is(err, sql.ErrNoRows) {
		return sallyport.PolicyVersion{}, missing
	}
	if err != nil {
		return sallyport.PolicyVersion{}, fmt.Errorf("read policy %s %s: %w", arn, version, translate(err))
	}
	return v, nil
}

// DeletePolicyVersion removes a version that is not the default.
func (iam IAM) DeletePolicyVersion(ctx context.Context, arn, version string) error {
	return iam.onPolicy(ctx, "delete version of", arn, func(tx *tx, p *sallyport.Policy) error {
		v, err := findVersion(tx.ctx, tx, arn, version)
		if err != nil {
			return err
		}
		if v.Default {
			return sallyport.Errorf(sallyport.DeleteConflict, "Cannot delete the default version of a policy.")
		}
		_, err = tx.exec(`DELETE FROM policy_versions WHERE arn = $1 AND version = $2`, arn, versionNumber(v))
		return err
	})
}

// SetDefaultPolicyVersion puts a version in force.
func (iam IAM) SetDefaultPolicyVersion(ctx context.Context, arn, version string, at time.Time) error {
	return iam.onPolicy(ctx, "set default version of", arn, func(tx *tx, p *sallyport.Policy) error {
		v, err := findVersion(tx.ctx, tx, arn, version)
		if err != nil {
			return err
		}
		_, err = tx.exec(`UPDATE policies SET default_version = $2, updated = $3 WHERE arn = $1`, arn, versionNumber(v), millis(at))
		return err
	})
}

// versionNumber is for versions that were read, so it parses.
func versionNumber(v sallyport.PolicyVersion) int64 {
	n, _ := strconv.ParseInt(strings.TrimPrefix(v.ID, "v"), 10, 64)
	return n
}

// Attach gives a managed policy to who. It does not matter if who has it. The
// caller sees to it that a policy of AWS's own exists.
func (iam IAM) Attach(ctx context.Context, who Entity, arn string) error {
	return iam.onEntity(ctx, "attach policy to", who, func(tx *tx, e entity) error {
		if err := attachable(tx, arn); err != nil {
			return err
		}
		if _, err := tx.exec(`INSERT INTO attachments (entity, arn) VALUES ($1, $2) ON CONFLICT DO NOTHING`, e.id, arn); err != nil {
			return err
		}
		var n int
		if err := tx.row(`SELECT count(*) FROM attachments WHERE entity = $1`, e.id).Scan(&n); err != nil {
			return err
		}
		if n > maxAttached {
			return sallyport.Errorf(sallyport.LimitExceeded, "Cannot exceed quota for PoliciesPer%s: %d", strings.ToUpper(string(who.Kind[:1]))+string(who.Kind[1:]), maxAttached)
		}
		return nil
	})
}

// Detach takes a managed policy from who, or returns NoSuchEntity if who did
// not have it.
func (iam IAM) Detach(ctx context.Context, who Entity, arn string) error {
	return iam.onEntity(ctx, "detach policy from", who, func(tx *tx, e entity) error {
		n, err := tx.exec(`DELETE FROM attachments WHERE entity = $1 AND arn = $2`, e.id, clean(arn))
		if err == nil && n == 0 {
			return noPolicy(arn)
		}
		return err
	})
}

// Attached lists the ARNs of the managed policies who has, in order.
func (iam IAM) Attached(ctx context.Context, who Entity, page Page) ([]string, Cursor, error) {
	return iam.hanging(ctx, who, "attached policies", "attachments", "arn", page)
}

// InlinePolicies lists the names of who's inline policies, in order.
func (iam IAM) InlinePolicies(ctx context.Context, who Entity, page Page) ([]string, Cursor, error) {
	return iam.hanging(ctx, who, "inline policies", "inline_policies", "name", page)
}

// hanging lists one column of a table of what hangs on entities.
func (iam IAM) hanging(ctx context.Context, who Entity, list, table, column string, page Page) ([]string, Cursor, error) {
	after, err := page.place(list, 1)
	if err != nil {
		return nil, "", err
	}
	e, err := findEntity(ctx, iam.q(), who)
	if err != nil {
		return nil, "", err
	}
	var w where
	w.add("entity = ?", e.id)
	if after != nil {
		w.add(column+" > ?", after[0])
	}
	names, err := collect(ctx, iam.q(), readString, `SELECT `+column+` FROM `+table+` WHERE `+w.String()+` ORDER BY `+column+` LIMIT `+w.arg(page.limit()+1), w.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %s of %s %s: %w", list, who.Kind, who.Name, translate(err))
	}
	names, next := cut(names, page, func(name string) Cursor { return newCursor(list, name) })
	return names, next, nil
}

// A Holder is an entity that a managed policy is attached to.
type Holder struct {
	Entity
	ID   string
	Path string
}

// A Use is what a managed policy is to those who have it.
type Use uint8

const (
	AsPolicy   Use = 1 << iota // it is attached to them
	AsBoundary                 // it bounds them
)

// Holders lists what a managed policy is attached to: groups, roles, then
// users, each in order of name. kind may narrow it to one of them. It asks
// nothing about whether the policy exists.
func (iam IAM) Holders(ctx context.Context, arn string, kind EntityKind, page Page) ([]Holder, Cursor, error) {
	return iam.HoldersAs(ctx, arn, AsPolicy, kind, page)
}

// HoldersAs is [IAM.Holders] for the entities that have the policy for a use.
func (iam IAM) HoldersAs(ctx context.Context, arn string, use Use, kind EntityKind, page Page) ([]Holder, Cursor, error) {
	after, err := page.place("holders", 2)
	if err != nil {
		return nil, "", err
	}
	var w where
	var uses []string
	if use&AsPolicy != 0 {
		uses = append(uses, "e.id IN (SELECT entity FROM attachments WHERE arn = "+w.arg(arn)+")")
	}
	if use&AsBoundary != 0 {
		uses = append(uses, "e.boundary <> '' AND e.boundary = "+w.arg(arn))
	}
	if len(uses) == 0 {
		return nil, "", nil
	}
	w.add("(" + strings.Join(uses, " OR ") + ")")
	if kind != "" {
		w.add("e.kind = ?", string(kind))
	}
	if after != nil {
		w.add("(e.kind, e.name) > (?, ?)", after[0], after[1])
	}
	list, err := collect(ctx, iam.q(), func(s scanner) (h Holder, err error) {
		return h, s.Scan(&h.Kind, &h.Name, &h.ID, &h.Path)
	}, `SELECT e.kind, e.name, e.id, e.path FROM entities e
		WHERE `+w.String()+` ORDER BY e.kind, e.name LIMIT `+w.arg(page.limit()+1), w.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list holders of policy %s: %w", arn, translate(err))
	}
	list, next := cut(list, page, func(h Holder) Cursor { return newCursor("holders", string(h.Kind), h.Name) })
	return list, next, nil
}

// Uses counts what a managed policy is used for.
type Uses struct {
	Attachments int
	Boundaries  int
}

// PolicyUses counts the uses of managed policies, AWS's own among them. Those
// that have none are not in the answer.
func (iam IAM) PolicyUses(ctx context.Context, arns []string) (map[string]Uses, error) {
	all := map[string]Uses{}
	if len(arns) == 0 {
		return all, nil
	}
	var w where
	names := "IN (" + w.list(arns) + ")" // the same in both halves
	type row struct {
		arn  string
		uses Uses
	}
	rows, err := collect(ctx, iam.q(), func(s scanner) (r row, err error) {
		return r, s.Scan(&r.arn, &r.uses.Attachments, &r.uses.Boundaries)
	}, `SELECT arn, count(*), 0 FROM attachments WHERE arn `+names+` GROUP BY arn
		UNION ALL
		SELECT boundary, 0, count(*) FROM entities WHERE boundary <> '' AND boundary `+names+` GROUP BY boundary`, w.args...)
	if err != nil {
		return nil, fmt.Errorf("count uses of policies: %w", translate(err))
	}
	for _, r := range rows {
		u := all[r.arn]
		all[r.arn] = Uses{u.Attachments + r.uses.Attachments, u.Boundaries + r.uses.Boundaries}
	}
	return all, nil
}

// PutInlinePolicy gives who an inline policy, in place of one by the same name.
func (iam IAM) PutInlinePolicy(ctx context.Context, who Entity, name, document string) error {
	return iam.onEntity(ctx, "put policy of", who, func(tx *tx, e entity) error {
		_, err := tx.exec(`INSERT INTO inline_policies (entity, name, document) VALUES ($1, $2, $3)
			ON CONFLICT (entity, name) DO UPDATE SET document = excluded.document`, e.id, name, document)
		return err
	})
}

func noInlinePolicy(who Entity, name string) error {
	return sallyport.Errorf(sallyport.NoSuchEntity, "The %s policy with name %s cannot be found.", who.Kind, name)
}

// InlinePolicy returns the document of an inline policy, or NoSuchEntity.
func (iam IAM) InlinePolicy(ctx context.Context, who Entity, name string) (string, error) {
	e, err := findEntity(ctx, iam.q(), who)
	if err != nil {
		return "", err
	}
	document, err := readString(iam.q().QueryRowContext(ctx, `SELECT document FROM inline_policies WHERE entity = $1 AND name = $2`, e.id, clean(name)))
	if errors.Is(err, sql.ErrNoRows) {
		return "", noInlinePolicy(who, name)
	}
	if err != nil {
		return "", fmt.Errorf("read policy %s of %s %s: %w", name, who.Kind, who.Name, translate(err))
	}
	return document, nil
}

// DeleteInlinePolicy removes an inline policy, or returns NoSuchEntity.
func (iam IAM) DeleteInlinePolicy(ctx context.Context, who Entity, name string) error {
	return iam.onEntity(ctx, "delete policy of", who, func(tx *tx, e entity) error {
		n, err := tx.exec(`DELETE FROM inline_policies WHERE entity = $1 AND name = $2`, e.id, clean(name))
		if err == nil && n == 0 {
			return noInlinePolicy(who, name)
		}
		return err
	})
}

// A Grant is one policy that applies to a principal.
type Grant struct {
	Name     string // an inline policy's name, or a managed policy's ARN
	From     Entity // who it was given to: the user or role, or a group of the user's
	Document string // empty for a policy of AWS's own, which the caller has
}

// Grants is all that decides what a user or role may do.
type Grants struct {
	Policies []Grant
	Boundary *Grant // the permissions boundary, if there is one
}

// Grants is [IAM.GrantsOf] for the user, group or role with a name.
func (iam IAM) Grants(ctx context.Context, who Entity) (*Grants, error) {
	e, err := findEntity(ctx, iam.q(), who)
	if err != nil {
		return nil, err
	}
	g, err := iam.GrantsOf(ctx, e.id)
	if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
		return nil, who.missing() // it was deleted in between
	}
	return g, err
}

// GrantsOf returns every policy that applies to the user, group or role with an
// ID: its own inline and managed ones, its groups', and its boundary, all as of
// one moment; NoSuchEntity if there is none. [IAM.Revision] says how long the
// answer is good for.
func (iam IAM) GrantsOf(ctx context.Context, id string) (*Grants, error) {
	type row struct {
		what string // "self", "boundary", "inline" or "managed"
		Grant
	}
	// One statement, so that it sees one moment. A row for the entity itself
	// tells one that has nothing from one that is not there.
	rows, err := collect(ctx, iam.q(), func(s scanner) (r row, err error) {
		return r, s.Scan(&r.what, &r.From.Kind, &r.From.Name, &r.Name, &r.Document)
	}, `WITH self AS (
			SELECT id, kind, name, boundary FROM entities WHERE id = $1
		), held AS (
			SELECT id, kind, name FROM self
			UNION ALL
			SELECT g.id, g.kind, g.name FROM self JOIN members m ON m.user_id = self.id JOIN entities g ON g.id = m.group_id
		)
		SELECT 'self', kind, name, id, '' FROM self
		UNION ALL
		SELECT 'boundary', s.kind, s.name, s.boundary, coalesce(v.document, '')
			FROM self s LEFT JOIN policies p ON p.arn = s.boundary
			LEFT JOIN policy_versions v ON v.arn = p.arn AND v.version = p.default_version
			WHERE s.boundary <> ''
		UNION ALL
		SELECT 'inline', h.kind, h.name, i.name, i.document FROM held h JOIN inline_policies i ON i.entity = h.id
		UNION ALL
		SELECT 'managed', h.kind, h.name, a.arn, coalesce(v.document, '')
			FROM held h JOIN attachments a ON a.entity = h.id
			LEFT JOIN policies p ON p.arn = a.arn
			LEFT JOIN policy_versions v ON v.arn = p.arn AND v.version = p.default_version
		ORDER BY 1, 2, 3, 4`, clean(id))
	if err != nil {
		return nil, fmt.Errorf("read policies of %s: %w", id, translate(err))
	}
	if len(rows) == 0 {
		return nil, sallyport.Errorf(sallyport.NoSuchEntity, "There is no user, group or role with the ID %s.", sallyport.Clip(clean(id), 64))
	}
	var g Grants
	for _, r := range rows {
		switch r.what {
		case "self": // it is there
		case "boundary":
			g.Boundary = &r.Grant
		default:
			g.Policies = append(g.Policies, r.Grant)
		}
	}
	return &g, nil
}
