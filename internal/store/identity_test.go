package store

import (
	"io/fs"
	"slices"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/sallyport/sallyport"
)

// What is in force, and who is told when it is not any more.
func TestGone(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		ann := createUser(t, db, "ann")
		createRole(t, db, "admin")
		admin, err := db.IAM().Role(ctx, "admin")
		must(t, err)
		for _, id := range []string{"AKIA1", "AKIA2"} {
			must(t, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: id, User: "ann", Active: true, Created: at(0)}, sallyport.GenerateSecret()))
		}
		var told []string
		db.OnGone = func(id string) { told = append(told, id) }
		check := func(want string, ids ...string) {
			t.Helper()
			if got, err := db.IAM().Gone(ctx, ids); err != nil || got != want {
				t.Errorf("of %v %q is gone, %v; want %q", ids, got, err, want)
			}
		}
		check("")
		check("", "AKIA1", ann.ID, admin.ID)
		check("AKIA3", "AKIA1", "AKIA3", ann.ID)
		must(t, db.IAM().SetAccessKeyActive(ctx, "ann", "AKIA1", true)) // as it was
		must(t, db.IAM().SetAccessKeyActive(ctx, "ann", "AKIA1", false))
		check("AKIA1", ann.ID, "AKIA1")
		must(t, db.IAM().SetAccessKeyActive(ctx, "ann", "AKIA1", true))
		check("", ann.ID, "AKIA1")
		wantCode(t, db.IAM().Delete(ctx, User("ann")), sallyport.DeleteConflict, "access keys")
		must(t, db.IAM().DeleteAccessKey(ctx, "ann", "AKIA1"))
		must(t, db.IAM().DeleteAccessKey(ctx, "ann", "AKIA2"))
		wantCode(t, db.IAM().DeleteAccessKey(ctx, "ann", "AKIA2"), sallyport.NoSuchEntity, "AKIA2")
		must(t, db.IAM().Delete(ctx, User("ann")))
		must(t, db.IAM().Delete(ctx, Role("admin")))
		node := register(t, db, sallyport.Node{}, sallyport.Activation{}).ID
		check("", node.String())
		must(t, db.Nodes().Deregister(ctx, node))
		check(node.String(), node.String())
		createUser(t, db, "ann") // a namesake
		check(ann.ID, ann.ID)
		check(admin.ID, admin.ID)
		if want := []string{"AKIA1", "AKIA1", "AKIA2", ann.ID, admin.ID, node.String()}; !slices.Equal(told, want) {
			t.Errorf("told of %v, want %v", told, want)
		}
	})
}

// An ID finds its entity also after it is renamed, and not another of its name.
func TestByID(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		ann := createUser(t, db, "ann")
		must(t, db.IAM().PutInlinePolicy(ctx, User("ann"), "own", "{}"))
		must(t, db.IAM().Rename(ctx, User("ann"), "anna", "/moved/"))
		createUser(t, db, "ann")
		if u, err := db.IAM().UserByID(ctx, ann.ID, "ann"); err != nil || u.Name != "anna" || u.Path != "/moved/" {
			t.Errorf("%+v, %v", u, err)
		}
		if g, err := db.IAM().GrantsOf(ctx, ann.ID); err != nil || len(g.Policies) != 1 {
			t.Errorf("%+v, %v", g, err)
		}
		_, err := db.IAM().RoleByID(ctx, ann.ID, "ann")
		wantCode(t, err, sallyport.NoSuchEntity, "The role with name ann cannot be found.")
		must(t, db.IAM().DeleteInlinePolicy(ctx, User("anna"), "own"))
		must(t, db.IAM().Delete(ctx, User("anna")))
		_, err = db.IAM().UserByID(ctx, ann.ID, "anna")
		wantCode(t, err, sallyport.NoSuchEntity, "The user with name anna cannot be found.")
		_, err = db.IAM().GrantsOf(ctx, ann.ID)
		wantCode(t, err, sallyport.NoSuchEntity, ann.ID)
	})
}

// A database from before IDs were kept has those of what the names mean on the
// day it is migrated.
func TestIDsAreFilledIn(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		db := connectAt(t, dsn, 3)
		for _, q := range []string{
			`INSERT INTO entities (id, kind, name, folded, path, created) VALUES ('AROA1', 'role', 'Nodes', 'nodes', '/service-role/', 0), ('AIDA1', 'user', 'Nodes', 'nodes', '/service-role/', 0), ('AROA2', 'role', 'Plain', 'plain', '/', 0)`,
			`INSERT INTO activations (id, code, description, name, role, most, created, expires, tags) VALUES ('a', '', '', '', 'Plain', 1, 0, 0, '{}'), ('b', '', '', '', 'Gone', 1, 0, 0, '{}')`,
			`INSERT INTO nodes (id, name, activation, role, registered, public_key, fingerprint) VALUES ('mi-00000000000000001', '', '', 'service-role/Nodes', 0, '', ''), ('mi-00000000000000002', '', '', 'Nodes', 0, '', '')`,
			`INSERT INTO sessions (id, owner, owner_id, node, document, reason, started, max_duration, state, parameters, token, client, bound, node_token, resume, log_hash)
				VALUES ('ann-00000000000000001', 'arn', 'AIDA1', 'mi-00000000000000001', 'D', '', 1, 0, 'Connected', '', '', '', FALSE, '', '', ''),
				('ann-00000000000000002', 'arn', 'AROA1:ann', 'mi-00000000000000001', 'D', '', 2, 0, 'Connected', '', '', '', FALSE, '', '', '')`,
		} {
			_, err := db.write.ExecContext(ctx, q)
			must(t, err)
		}
		must(t, db.shut())

		now := open(t, dsn)
		roles := map[string]string{}
		for _, table := range []string{"nodes", "activations"} {
			type row struct{ id, role string }
			rows, err := collect(ctx, now.read, func(s scanner) (r row, err error) { return r, s.Scan(&r.id, &r.role) }, `SELECT id, role_id FROM `+table)
			must(t, err)
			for _, r := range rows {
				roles[r.id] = r.role
			}
		}
		for id, want := range map[string]string{"mi-00000000000000001": "AROA1", "mi-00000000000000002": "", "a": "AROA2", "b": ""} {
			if got, ok := roles[id]; !ok || got != want {
				t.Errorf("the role of %s is %q, want %q", id, got, want)
			}
		}
		left, err := now.Sessions().Unfinished(ctx)
		must(t, err)
		if len(left) != 2 || left[0].Root != "AIDA1" || !slices.Equal(left[0].Basis, []string{"AIDA1"}) || left[1].Root != "AROA1:ann" || len(left[1].Basis) != 0 {
			t.Errorf("sessions: %+v %+v", left[0].Session, left[1].Session)
		}
	})
}

// connectAt connects to a database whose schema is of an earlier version.
func connectAt(t *testing.T, dsn string, version int64) *DB {
	t.Helper()
	ctx := t.Context()
	db, err := connect(ctx, dsn)
	must(t, err)
	dir, err := fs.Sub(migrations, "migrations")
	must(t, err)
	p, err := goose.NewProvider(db.dialect.goose, db.write, dir, goose.WithDisableGlobalRegistry(true))
	must(t, err)
	_, err = p.UpTo(ctx, version)
	must(t, err)
	_, err = p.DownTo(ctx, version) // PostgreSQL's is a copy of one that is migrated
	must(t, err)
	return db
}

// A database of the version before sessions had a kind and an epoch: what is on goes
// on, and what is not known of a session is said not to be.
func TestSessionColumnsAreFilledIn(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		old := connectAt(t, dsn, 4)
		_, err := old.write.ExecContext(ctx, `INSERT INTO sessions (id, owner, owner_id, root, basis, node, document, reason, started, max_duration, state, ended, parameters, token, client, bound, node_token, resume, log_size, log_hash)
			VALUES ('ann-00000000000000001', 'arn', 'AIDA1', 'AIDA1', 'AIDA1', 'mi-00000000000000001', 'D', '', 1, 0, 'Connected', 0, '', '', '', FALSE, '', '', 0, ''),
			('ann-00000000000000002', 'arn', 'AIDA1', 'AIDA1', '', 'mi-00000000000000001', 'D', '', 2, 0, 'Terminated', 3, '', '', '', FALSE, '', '', 9, 'abc'),
			('ann-00000000000000003', 'arn', 'AIDA1', 'AIDA1', '', 'mi-00000000000000001', 'D', '', 3, 0, 'Failed', 4, '', '', '', FALSE, '', '', 0, '')`)
		must(t, err)
		must(t, old.shut())

		db := open(t, dsn)
		for id, recording := range map[string]string{"ann-00000000000000001": RecordingOpen, "ann-00000000000000002": RecordingSealed, "ann-00000000000000003": ""} {
			s, err := sallyport.ParseSessionID(id)
			must(t, err)
			r, err := db.Sessions().Get(ctx, s)
			must(t, err)
			if r.Recording != recording || r.Epoch != 1 || r.Kind != "" || !r.MFA.IsZero() || r.Root != "AIDA1" {
				t.Errorf("%s: %+v %+v", id, r, r.Session)
			}
		}
		taken, err := db.Sessions().TakeUp(ctx)
		if err != nil || len(taken) != 1 || taken[0].Epoch != 2 {
			t.Errorf("taken up: %+v, %v", taken, err)
		}
	})
}
