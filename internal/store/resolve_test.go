package store

import (
	"context"
	"errors"
	"testing"

	"github.com/sallyport/sallyport"
)

// In one call a name means what it meant first. Each row looks a name up, gives
// it to another thing as another call would, and then acts by it.
func TestNamesAreResolvedOnce(t *testing.T) {
	const policy = "arn:aws:iam::123456789012:policy/p"
	makePolicy := func(ctx context.Context, db *DB, id string) error {
		return db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: policy, Name: "p", Path: "/", ID: id, Document: "{}", Created: at(0)})
	}
	makeUser := func(ctx context.Context, db *DB, path, id string) error {
		return db.IAM().CreateUser(ctx, sallyport.User{Name: "x", Path: path, ID: id})
	}
	makeRole := func(ctx context.Context, db *DB, id string) error {
		return db.IAM().CreateRole(ctx, sallyport.Role{Name: "x", Path: "/", ID: id})
	}
	makeGroup := func(ctx context.Context, db *DB, id string) error {
		return db.IAM().CreateGroup(ctx, sallyport.Group{Name: "x", Path: "/", ID: id})
	}
	makeDocument := func(ctx context.Context, db *DB, n int) error {
		return db.Documents().Create(ctx, sallyport.DocumentVersion{Document: "d", Format: "JSON", Content: "{}", Created: at(n)}, nil)
	}
	for claim, tt := range map[string]struct {
		make   func(ctx context.Context, db *DB) error
		look   func(ctx context.Context, db *DB) error
		swap   func(ctx context.Context, db *DB) error
		act    func(ctx context.Context, db *DB) error
		refuse sallyport.Code
	}{
		"a user that was renamed, and another": {
			func(ctx context.Context, db *DB) error { return makeUser(ctx, db, "/", "AIDA1") },
			func(ctx context.Context, db *DB) error { _, err := db.IAM().User(ctx, "x"); return err },
			func(ctx context.Context, db *DB) error {
				return errors.Join(db.IAM().Rename(ctx, User("x"), "y", ""), makeUser(ctx, db, "/admin/", "AIDA2"))
			},
			func(ctx context.Context, db *DB) error { return db.IAM().PutInlinePolicy(ctx, User("x"), "own", "{}") },
			sallyport.NoSuchEntity,
		},
		"a user that came only then": {
			func(context.Context, *DB) error { return nil },
			func(ctx context.Context, db *DB) error {
				if _, err := db.IAM().User(ctx, "x"); sallyport.CodeOf(err) != sallyport.NoSuchEntity {
					return errors.New("there is a user x")
				}
				return nil
			},
			func(ctx context.Context, db *DB) error { return makeUser(ctx, db, "/admin/", "AIDA2") },
			func(ctx context.Context, db *DB) error {
				return db.IAM().Tag(ctx, User("x"), map[string]string{"a": "b"})
			},
			sallyport.NoSuchEntity,
		},
		"a caller, by an access key": {
			func(ctx context.Context, db *DB) error {
				return errors.Join(makeUser(ctx, db, "/", "AIDA1"),
					db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA1", User: "x", Active: true}, sallyport.GenerateSecret()))
			},
			func(ctx context.Context, db *DB) error { _, err := db.IAM().Credential(ctx, "AKIA1"); return err },
			func(ctx context.Context, db *DB) error {
				return errors.Join(db.IAM().Rename(ctx, User("x"), "y", ""), makeUser(ctx, db, "/", "AIDA2"))
			},
			func(ctx context.Context, db *DB) error {
				return db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA2", User: "x", Active: true}, sallyport.GenerateSecret())
			},
			sallyport.NoSuchEntity,
		},
		"a caller, by ID": {
			func(ctx context.Context, db *DB) error { return makeUser(ctx, db, "/", "AIDA1") },
			func(ctx context.Context, db *DB) error { _, err := db.IAM().UserByID(ctx, "AIDA1", "x"); return err },
			func(ctx context.Context, db *DB) error {
				return errors.Join(db.IAM().Delete(ctx, User("x")), makeUser(ctx, db, "/", "AIDA2"))
			},
			func(ctx context.Context, db *DB) error { _, err := db.IAM().AccessKeys(ctx, "x"); return err },
			sallyport.NoSuchEntity,
		},
		"a role that was deleted and made anew": {
			func(ctx context.Context, db *DB) error { return makeRole(ctx, db, "AROA1") },
			func(ctx context.Context, db *DB) error { _, err := db.IAM().Role(ctx, "x"); return err },
			func(ctx context.Context, db *DB) error {
				return errors.Join(db.IAM().Delete(ctx, Role("x")), makeRole(ctx, db, "AROA2"))
			},
			func(ctx context.Context, db *DB) error { return db.IAM().UpdateTrust(ctx, "x", "{}") },
			sallyport.NoSuchEntity,
		},
		"a group's policies": {
			func(ctx context.Context, db *DB) error { return makeGroup(ctx, db, "AGPA1") },
			func(ctx context.Context, db *DB) error { _, err := db.IAM().Group(ctx, "x"); return err },
			func(ctx context.Context, db *DB) error {
				return errors.Join(db.IAM().Delete(ctx, Group("x")), makeGroup(ctx, db, "AGPA2"))
			},
			func(ctx context.Context, db *DB) error { _, err := db.IAM().Grants(ctx, Group("x")); return err },
			sallyport.NoSuchEntity,
		},
		"a managed policy": {
			func(ctx context.Context, db *DB) error { return makePolicy(ctx, db, "ANPA1") },
			func(ctx context.Context, db *DB) error { _, err := db.IAM().Policy(ctx, policy); return err },
			func(ctx context.Context, db *DB) error {
				return errors.Join(db.IAM().DeletePolicy(ctx, policy), makePolicy(ctx, db, "ANPA2"))
			},
			func(ctx context.Context, db *DB) error {
				_, err := db.IAM().CreatePolicyVersion(ctx, policy, "{}", true, at(1))
				return err
			},
			sallyport.NoSuchEntity,
		},
		"a document": {
			func(ctx context.Context, db *DB) error { return makeDocument(ctx, db, 1) },
			func(ctx context.Context, db *DB) error { _, err := db.Documents().Get(ctx, "d"); return err },
			func(ctx context.Context, db *DB) error {
				return errors.Join(db.Documents().Delete(ctx, "d", "", ""), makeDocument(ctx, db, 2))
			},
			func(ctx context.Context, db *DB) error {
				_, err := db.Documents().Update(ctx, sallyport.DocumentVersion{Document: "d", Format: "JSON", Content: "{ }", Created: at(3)}, "")
				return err
			},
			sallyport.InvalidDocument,
		},
		"an alias that is moved to another key": {
			func(ctx context.Context, db *DB) error {
				return errors.Join(db.Keys().Create(ctx, sallyport.KMSKey{ID: "k1", Policy: "{}"}, []byte("m")), db.Keys().Create(ctx, sallyport.KMSKey{ID: "k2", Policy: "{}"}, []byte("m")),
					db.Keys().CreateAlias(ctx, sallyport.KMSAlias{Name: "alias/a", Key: "k1"}))
			},
			func(ctx context.Context, db *DB) error { _, err := db.Keys().Alias(ctx, "alias/a"); return err },
			func(ctx context.Context, db *DB) error { return db.Keys().UpdateAlias(ctx, "alias/a", "k2", at(1)) },
			func(ctx context.Context, db *DB) error {
				_, err := db.Keys().Alias(ctx, "alias/a")
				return errors.Join(db.Keys().DeleteAlias(ctx, "alias/a"), err)
			},
			sallyport.NotFoundException,
		},
	} {
		t.Run(claim, func(t *testing.T) {
			onEach(t, func(t *testing.T, db *DB) {
				must(t, tt.make(t.Context(), db))
				call := ResolveOnce(t.Context())
				must(t, tt.look(call, db))
				must(t, tt.swap(t.Context(), db))
				wantCode(t, tt.act(call, db), tt.refuse, "")
				if err := tt.act(ResolveOnce(t.Context()), db); err != nil {
					t.Errorf("a call of now: %v", err)
				}
			})
		})
	}
}

// A call finds what it makes itself, though it was not there before.
func TestACallFindsWhatItMade(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := ResolveOnce(t.Context())
		if _, err := db.Documents().Get(ctx, "d"); sallyport.CodeOf(err) != sallyport.InvalidDocument {
			t.Fatal(err)
		}
		must(t, db.Documents().Create(ctx, sallyport.DocumentVersion{Document: "d", Format: "JSON", Content: "{}", Created: at(1)}, nil))
		_, err := db.Documents().Get(ctx, "d")
		must(t, err)
		if _, err := db.IAM().Role(ctx, "r"); sallyport.CodeOf(err) != sallyport.NoSuchEntity {
			t.Fatal(err)
		}
		must(t, db.IAM().CreateRole(ctx, sallyport.Role{Name: "r", Path: "/", ID: "AROA1"}))
		_, err = db.IAM().Role(ctx, "r")
		must(t, err)
	})
}
