package store

import (
	"context"
	"encoding/base64"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport"
)

// Any text for a page token, of any list and on either engine, is a place in the
// list or refused as one that it is not. It is never a failure of the database.
func FuzzCursor(f *testing.F) {
	var dbs []*DB
	dsns := []string{filepath.Join(f.TempDir(), "state.db")}
	if postgresURL != "" {
		dsns = append(dsns, engines["PostgreSQL"](f))
	}
	for _, dsn := range dsns {
		db := open(f, dsn)
		must(f, db.IAM().CreateUser(f.Context(), sallyport.User{Name: "ann", Path: "/", ID: "AIDA1", Created: at(0)}))
		must(f, db.IAM().CreateGroup(f.Context(), sallyport.Group{Name: "ops", Path: "/", ID: "AGPA1", Created: at(0)}))
		must(f, db.Sessions().Insert(f.Context(), &SessionRecord{Session: testSession(0, "ann", sallyport.NewNodeID())}))
		dbs = append(dbs, db)
	}
	type list struct {
		name string
		page func(context.Context, *DB, Page) error
	}
	user := User("ann")
	lists := []list{
		{"activations", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.Activations().List(ctx, ActivationFilter{}, p)
			return err
		}},
		{"document-versions", func(ctx context.Context, db *DB, p Page) error {
			_, _, _, err := db.Documents().Versions(ctx, "x", p)
			return err
		}},
		{"users", func(ctx context.Context, db *DB, p Page) error { _, _, err := db.IAM().Users(ctx, "/", p); return err }},
		{"groups", func(ctx context.Context, db *DB, p Page) error { _, _, err := db.IAM().Groups(ctx, "/", p); return err }},
		{"roles", func(ctx context.Context, db *DB, p Page) error { _, _, err := db.IAM().Roles(ctx, "/", p); return err }},
		{"groups of user", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.IAM().GroupsOf(ctx, "ann", p)
			return err
		}},
		{"users in group", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.IAM().UsersIn(ctx, "ops", p)
			return err
		}},
		{"kms-keys", func(ctx context.Context, db *DB, p Page) error { _, _, err := db.Keys().List(ctx, p); return err }},
		{"kms-aliases", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.Keys().Aliases(ctx, "", p)
			return err
		}},
		{"nodes", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.Nodes().List(ctx, NodeFilter{}, p)
			return err
		}},
		{"policies", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.IAM().Policies(ctx, "/", false, p)
			return err
		}},
		{"attached policies", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.IAM().Attached(ctx, user, p)
			return err
		}},
		{"inline policies", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.IAM().InlinePolicies(ctx, user, p)
			return err
		}},
		{"holders", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.IAM().Holders(ctx, "arn:aws:iam::aws:policy/ReadOnlyAccess", "", p)
			return err
		}},
		{"session history", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.Sessions().History(ctx, SessionFilter{}, p)
			return err
		}},
		{"active sessions", func(ctx context.Context, db *DB, p Page) error {
			_, _, err := db.Sessions().Active(ctx, SessionFilter{}, p)
			return err
		}},
	}
	for _, l := range lists {
		for _, place := range []string{"\x00x", "\x001\x00x", "\x00", "\x00\x00", "\x00-9223372036854775808\x00", "\x0099999999999999999999\x00x", "\x00\xff", ""} {
			f.Add(l.name + place)
		}
	}
	f.Add("")
	f.Add("%")
	f.Fuzz(func(t *testing.T, text string) {
		for _, cursor := range []Cursor{Cursor(text), Cursor(base64.RawURLEncoding.EncodeToString([]byte(text)))} {
			for _, l := range lists {
				for _, db := range dbs {
					err := l.page(t.Context(), db, Page{After: cursor, Limit: 1})
					if code := sallyport.CodeOf(err); err != nil && code != sallyport.InvalidNextToken && code != sallyport.InvalidDocument {
						t.Errorf("%s after %q: %v", l.name, cursor, err)
					}
				}
			}
		}
	})
}
