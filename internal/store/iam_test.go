package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
)

const (
	ourPolicy = "arn:aws:iam::123456789012:policy/ops"
	awsPolicy = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
)

func createUser(t testing.TB, db *DB, name string) sallyport.User {
	t.Helper()
	u := sallyport.User{Name: name, Path: "/", ID: sallyport.EntityID("AIDA"), Created: at(1)}
	must(t, db.IAM().CreateUser(t.Context(), u))
	return u
}

func createGroup(t testing.TB, db *DB, name string) {
	t.Helper()
	must(t, db.IAM().CreateGroup(t.Context(), sallyport.Group{Name: name, Path: "/", ID: sallyport.EntityID("AGPA"), Created: at(1)}))
}

func createRole(t testing.TB, db *DB, name string) {
	t.Helper()
	must(t, db.IAM().CreateRole(t.Context(), sallyport.Role{Name: name, Path: "/", ID: sallyport.EntityID("AROA"), Trust: "{}", Created: at(1)}))
}

func createPolicy(t testing.TB, db *DB, arn, document string) {
	t.Helper()
	name := arn[strings.LastIndex(arn, "/")+1:]
	must(t, db.IAM().CreatePolicy(t.Context(), sallyport.Policy{ARN: arn, Name: name, Path: "/", ID: sallyport.EntityID("ANPA"), Document: document, Created: at(1)}))
}

func TestEntitiesAreKeptWhole(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		u := &sallyport.User{Name: "ann", Path: "/team/", ID: "AIDA1", Created: at(1), Tags: map[string]string{"dept": "ops"}}
		must(t, db.IAM().CreateUser(ctx, *u))
		gotUser, err := db.IAM().User(ctx, "ann")
		must(t, err)
		if d := cmp.Diff(u, gotUser); d != "" {
			t.Error(d)
		}
		g := &sallyport.Group{Name: "ops", Path: "/", ID: "AGPA1", Created: at(2)}
		must(t, db.IAM().CreateGroup(ctx, *g))
		gotGroup, err := db.IAM().Group(ctx, "ops")
		must(t, err)
		if d := cmp.Diff(g, gotGroup); d != "" {
			t.Error(d)
		}
		r := &sallyport.Role{Name: "node", Path: "/service-role/", ID: "AROA1", Description: "for nodes", Trust: `{"a":1}`, MaxSession: time.Hour, Created: at(3), Tags: map[string]string{"x": "y"}}
		must(t, db.IAM().CreateRole(ctx, *r))
		must(t, db.IAM().UpdateTrust(ctx, "node", `{"b":2}`))
		must(t, db.IAM().UpdateRole(ctx, "node", "for all nodes", 2*time.Hour))
		r.Trust, r.Description, r.MaxSession = `{"b":2}`, "for all nodes", 2*time.Hour
		gotRole, err := db.IAM().Role(ctx, "node")
		must(t, err)
		if d := cmp.Diff(r, gotRole); d != "" {
			t.Error(d)
		}
	})
}

func TestWhatIsNotThereIsSaidAsIAMSaysIt(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "ann")
		createGroup(t, db, "ops")
		createPolicy(t, db, ourPolicy, "{}")
		only := func(_ any, err error) error { return err }
		list := func(_ any, _ Cursor, err error) error { return err }
		for name, c := range map[string]struct {
			err   error
			words string
		}{
			"a user":                         {only(db.IAM().User(ctx, "bob")), "The user with name bob cannot be found."},
			"a user by another case":         {only(db.IAM().User(ctx, "Ann")), "The user with name Ann cannot be found."},
			"a user whose name is not text":  {only(db.IAM().User(ctx, "ann\x00\xff")), "cannot be found."},
			"a group":                        {only(db.IAM().Group(ctx, "ann")), "The group with name ann cannot be found."},
			"a role":                         {only(db.IAM().Role(ctx, "ann")), "The role with name ann cannot be found."},
			"to delete":                      {db.IAM().Delete(ctx, Role("r")), "The role with name r cannot be found."},
			"to tag":                         {db.IAM().Tag(ctx, User("bob"), nil), "The user with name bob cannot be found."},
			"to rename":                      {db.IAM().Rename(ctx, User("bob"), "x", ""), "The user with name bob cannot be found."},
			"to trust":                       {db.IAM().UpdateTrust(ctx, "r", "{}"), "The role with name r cannot be found."},
			"grants":                         {only(db.IAM().Grants(ctx, User("bob"))), "The user with name bob cannot be found."},
			"a group to join":                {db.IAM().AddUserToGroup(ctx, "dev", "ann"), "The group with name dev cannot be found."},
			"a user to join":                 {db.IAM().AddUserToGroup(ctx, "ops", "bob"), "The user with name bob cannot be found."},
			"a membership":                   {db.IAM().RemoveUserFromGroup(ctx, "ops", "ann"), "User ann is not in group ops."},
			"groups of a user":               {list(db.IAM().GroupsOf(ctx, "bob", Page{})), "The user with name bob cannot be found."},
			"users in a group":               {list(db.IAM().UsersIn(ctx, "dev", Page{})), "The group with name dev cannot be found."},
			"an inline policy":               {only(db.IAM().InlinePolicy(ctx, User("ann"), "p")), "The user policy with name p cannot be found."},
			"an inline policy to delete":     {db.IAM().DeleteInlinePolicy(ctx, Group("ops"), "p"), "The group policy with name p cannot be found."},
			"somebody to give a policy":      {db.IAM().PutInlinePolicy(ctx, Role("r"), "p", "{}"), "The role with name r cannot be found."},
			"inline policies of nobody":      {list(db.IAM().InlinePolicies(ctx, User("bob"), Page{})), "The user with name bob cannot be found."},
			"a managed policy":               {only(db.IAM().Policy(ctx, "arn:x")), "Policy arn:x was not found."},
			"a managed policy, not text":     {only(db.IAM().Policy(ctx, "\x00\xff")), "was not found."},
			"a managed policy to delete":     {db.IAM().DeletePolicy(ctx, "arn:x"), "Policy arn:x was not found."},
			"a managed policy to attach":     {db.IAM().Attach(ctx, User("ann"), "arn:x"), "Policy arn:x does not exist or is not attachable."},
			"a managed policy as a boundary": {db.IAM().SetBoundary(ctx, User("ann"), "arn:x"), "Policy arn:x does not exist or is not attachable."},
			"a boundary to take away":        {db.IAM().SetBoundary(ctx, User("ann"), ""), "does not have a permissions boundary."},
			"an attachment":                  {db.IAM().Detach(ctx, User("ann"), ourPolicy), "Policy " + ourPolicy + " was not found."},
			"attachments of nobody":          {list(db.IAM().Attached(ctx, User("bob"), Page{})), "The user with name bob cannot be found."},
			"versions of a policy":           {only(db.IAM().PolicyVersions(ctx, "arn:x")), "Policy arn:x was not found."},
			"a version":                      {only(db.IAM().PolicyVersion(ctx, ourPolicy, "v2")), "version v2 does not exist"},
			"a version that is no number":    {only(db.IAM().PolicyVersion(ctx, ourPolicy, "v01")), "version v01 does not exist"},
			"a version to delete":            {db.IAM().DeletePolicyVersion(ctx, ourPolicy, "v9"), "version v9 does not exist"},
			"a version to put in force":      {db.IAM().SetDefaultPolicyVersion(ctx, ourPolicy, "", at(1)), "does not exist"},
			"a key":                          {only(db.IAM().Credential(ctx, "AKIA\x00")), "The Access Key with id AKIA"},
			"a key's owner":                  {only(db.IAM().AccessKeyOwner(ctx, "AKIA1")), "The Access Key with id AKIA1 cannot be found."},
			"a key to delete":                {db.IAM().DeleteAccessKey(ctx, "ann", "AKIA1"), "The Access Key with id AKIA1 cannot be found."},
			"a user to give a key":           {db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA1", User: "bob"}, sallyport.Secret{}), "The user with name bob cannot be found."},
			"keys of nobody":                 {only(db.IAM().AccessKeys(ctx, "bob")), "The user with name bob cannot be found."},
		} {
			t.Run(name, func(t *testing.T) { wantCode(t, c.err, sallyport.NoSuchEntity, c.words) })
		}
	})
}

func TestNamesDifferByMoreThanCase(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "Ann")
		createUser(t, db, "bob")
		createGroup(t, db, "Ann") // another kind of thing
		createPolicy(t, db, ourPolicy, "{}")
		wantCode(t, db.IAM().CreateUser(ctx, sallyport.User{Name: "ann", Path: "/", ID: "x"}), sallyport.EntityAlreadyExists, "User with name ann already exists.")
		wantCode(t, db.IAM().CreateGroup(ctx, sallyport.Group{Name: "ANN", Path: "/", ID: "y"}), sallyport.EntityAlreadyExists, "Group with name ANN already exists.")
		wantCode(t, db.IAM().Rename(ctx, User("bob"), "aNN", ""), sallyport.EntityAlreadyExists, "User with name aNN already exists.")
		wantCode(t, db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: ourPolicy[:len(ourPolicy)-3] + "OPS", Name: "OPS", ID: "z"}), sallyport.EntityAlreadyExists, "A policy called OPS already exists.")
		must(t, db.IAM().Rename(ctx, User("Ann"), "ann", "/x/")) // its own name in another case
		u, err := db.IAM().User(ctx, "ann")
		must(t, err)
		if u.Path != "/x/" {
			t.Errorf("path = %q, want /x/", u.Path)
		}
	})
}

func TestEntityListsPageByPathPrefix(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		var all, team []string
		for i := range 25 {
			name := fmt.Sprintf("u%02d", i)
			path := []string{"/", "/team/", "/team/sub/", "/te_m/", "/Team/"}[i%5]
			must(t, db.IAM().CreateUser(ctx, sallyport.User{Name: name, Path: path, ID: "AIDA" + name, Created: at(i)}))
			all = append(all, name)
			if strings.HasPrefix(path, "/team/") {
				team = append(team, name)
			}
		}
		createRole(t, db, "u00")
		for prefix, want := range map[string][]string{"": all, "/": all, "/team/": team, "/none/": nil, "/te_m/\x00": nil} {
			for _, limit := range []int{1, 7, 25, 1000} {
				var got []string
				for _, u := range pages(t, limit, func(p Page) ([]*sallyport.User, Cursor, error) { return db.IAM().Users(ctx, prefix, p) }) {
					got = append(got, u.Name)
				}
				if !slices.Equal(got, want) {
					t.Errorf("prefix %q by %d: %v, want %v", prefix, limit, got, want)
				}
			}
		}
		_, next, err := db.IAM().Users(ctx, "", Page{Limit: 1})
		must(t, err)
		_, _, err = db.IAM().Roles(ctx, "", Page{After: next})
		wantCode(t, err, sallyport.InvalidNextToken, "page token")
	})
}

func TestDeleteSaysWhatIsInTheWay(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "ann")
		createGroup(t, db, "ops")
		createPolicy(t, db, ourPolicy, "{}")
		who := User("ann")
		must(t, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA1", User: "ann"}, sallyport.GenerateSecret()))
		must(t, db.IAM().AddUserToGroup(ctx, "ops", "ann"))
		must(t, db.IAM().Attach(ctx, who, ourPolicy))
		must(t, db.IAM().PutInlinePolicy(ctx, who, "p", "{}"))

		wantCode(t, db.IAM().Delete(ctx, Group("ops")), sallyport.DeleteConflict, "must remove users from group first.")
		for _, step := range []struct {
			words string
			undo  error
		}{
			{"must delete access keys first.", nil},
			{"must remove user from its groups first.", nil},
			{"must detach all policies first.", nil},
			{"must delete policies first.", nil},
		} {
			wantCode(t, db.IAM().Delete(ctx, who), sallyport.DeleteConflict, step.words)
			switch step.words {
			case "must delete access keys first.":
				must(t, db.IAM().DeleteAccessKey(ctx, "ann", "AKIA1"))
			case "must remove user from its groups first.":
				must(t, db.IAM().RemoveUserFromGroup(ctx, "ops", "ann"))
			case "must detach all policies first.":
				wantCode(t, db.IAM().DeletePolicy(ctx, ourPolicy), sallyport.DeleteConflict, "attached to entities.")
				must(t, db.IAM().Detach(ctx, who, ourPolicy))
			case "must delete policies first.":
				must(t, db.IAM().DeleteInlinePolicy(ctx, who, "p"))
			}
		}
		must(t, db.IAM().Delete(ctx, who))
		must(t, db.IAM().Delete(ctx, Group("ops")))

		_, err := db.IAM().CreatePolicyVersion(ctx, ourPolicy, "{}", true, at(2))
		must(t, err)
		wantCode(t, db.IAM().DeletePolicy(ctx, ourPolicy), sallyport.DeleteConflict, "more than one version")
		must(t, db.IAM().DeletePolicyVersion(ctx, ourPolicy, "v1"))
		createRole(t, db, "r")
		must(t, db.IAM().SetBoundary(ctx, Role("r"), ourPolicy))
		wantCode(t, db.IAM().DeletePolicy(ctx, ourPolicy), sallyport.DeleteConflict, "attached to entities.")
		must(t, db.IAM().SetBoundary(ctx, Role("r"), ""))
		must(t, db.IAM().DeletePolicy(ctx, ourPolicy))
	})
}

func TestTags(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "ann")
		must(t, db.IAM().Tag(ctx, User("ann"), map[string]string{"a": "1", "b": "2"}))
		must(t, db.IAM().Tag(ctx, User("ann"), map[string]string{"b": "3"}))
		must(t, db.IAM().Untag(ctx, User("ann"), []string{"a", "nothing"}))
		u, err := db.IAM().User(ctx, "ann")
		must(t, err)
		if d := cmp.Diff(map[string]string{"b": "3"}, u.Tags); d != "" {
			t.Error(d)
		}
		many := map[string]string{}
		for i := range maxTags {
			many[fmt.Sprint(i)] = ""
		}
		wantCode(t, db.IAM().Tag(ctx, User("ann"), many), sallyport.LimitExceeded, "tags")

		createPolicy(t, db, ourPolicy, "{}")
		must(t, db.IAM().TagPolicy(ctx, ourPolicy, map[string]string{"a": "1", "b": "2"}))
		must(t, db.IAM().UntagPolicy(ctx, ourPolicy, []string{"b"}))
		p, err := db.IAM().Policy(ctx, ourPolicy)
		must(t, err)
		if d := cmp.Diff(map[string]string{"a": "1"}, p.Tags); d != "" {
			t.Error(d)
		}
		wantCode(t, db.IAM().TagPolicy(ctx, ourPolicy, many), sallyport.LimitExceeded, "tags")
	})
}

func TestTagsDifferByMoreThanCase(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "ann")
		must(t, db.IAM().Tag(ctx, User("ann"), map[string]string{"Dept": "1", "site": "x"}))
		must(t, db.IAM().Tag(ctx, User("ann"), map[string]string{"dept": "2"}))
		must(t, db.IAM().Untag(ctx, User("ann"), []string{"SITE"}))
		u, err := db.IAM().User(ctx, "ann")
		must(t, err)
		if d := cmp.Diff(map[string]string{"dept": "2"}, u.Tags); d != "" {
			t.Error(d)
		}
	})
}

func TestPolicyUses(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "ann")
		createUser(t, db, "bob")
		createGroup(t, db, "ops")
		createPolicy(t, db, ourPolicy, "{}")
		createPolicy(t, db, ourPolicy+"2", "{}")
		must(t, db.IAM().Attach(ctx, User("ann"), ourPolicy))
		must(t, db.IAM().Attach(ctx, Group("ops"), ourPolicy))
		must(t, db.IAM().SetBoundary(ctx, User("ann"), ourPolicy))
		must(t, db.IAM().SetBoundary(ctx, User("bob"), ourPolicy))
		must(t, db.IAM().Attach(ctx, User("bob"), awsPolicy))

		uses, err := db.IAM().PolicyUses(ctx, []string{ourPolicy, ourPolicy + "2", awsPolicy, "arn:\x00"})
		must(t, err)
		if d := cmp.Diff(map[string]Uses{ourPolicy: {2, 2}, awsPolicy: {1, 0}}, uses); d != "" {
			t.Error(d)
		}
		if uses, err := db.IAM().PolicyUses(ctx, nil); err != nil || len(uses) != 0 {
			t.Errorf("uses of no policies: %v, %v", uses, err)
		}
		for use, want := range map[Use][]string{
			AsPolicy:              {"group ops", "user ann"},
			AsBoundary:            {"user ann", "user bob"},
			AsPolicy | AsBoundary: {"group ops", "user ann", "user bob"}, // ann once, though she has it as both
			0:                     nil,
		} {
			for _, limit := range []int{1, 2, 9} {
				var got []string
				for _, h := range pages(t, limit, func(p Page) ([]Holder, Cursor, error) { return db.IAM().HoldersAs(ctx, ourPolicy, use, "", p) }) {
					got = append(got, string(h.Kind)+" "+h.Name)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("use %d by %d: %s", use, limit, d)
				}
			}
		}
	})
}

func TestPolicyVersions(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createPolicy(t, db, ourPolicy, "one")
		for n := 2; n <= 5; n++ {
			v, err := db.IAM().CreatePolicyVersion(ctx, ourPolicy, fmt.Sprint("text", n), n == 3, at(n))
			must(t, err)
			if v.ID != fmt.Sprint("v", n) || v.Default != (n == 3) {
				t.Errorf("version %d is %+v", n, v)
			}
		}
		_, err := db.IAM().CreatePolicyVersion(ctx, ourPolicy, "six", false, at(6))
		wantCode(t, err, sallyport.LimitExceeded, "up to 5 versions")
		wantCode(t, db.IAM().DeletePolicyVersion(ctx, ourPolicy, "v3"), sallyport.DeleteConflict, "default version")
		must(t, db.IAM().DeletePolicyVersion(ctx, ourPolicy, "v5"))
		v, err := db.IAM().CreatePolicyVersion(ctx, ourPolicy, "six", false, at(6))
		must(t, err)
		if v.ID != "v6" { // a number is never used twice
			t.Errorf("after v5 was deleted comes %s, want v6", v.ID)
		}
		must(t, db.IAM().SetDefaultPolicyVersion(ctx, ourPolicy, "v2", at(7)))

		got, err := db.IAM().PolicyVersions(ctx, ourPolicy)
		must(t, err)
		want := []sallyport.PolicyVersion{
			{ID: "v6", Document: "six", Created: at(6)},
			{ID: "v4", Document: "text4", Created: at(4)},
			{ID: "v3", Document: "text3", Created: at(3)},
			{ID: "v2", Document: "text2", Created: at(2), Default: true},
			{ID: "v1", Document: "one", Created: at(1)},
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		p, err := db.IAM().Policy(ctx, ourPolicy)
		must(t, err)
		if p.Default != "v2" || p.Document != "text2" || !p.Updated.Equal(at(7)) {
			t.Errorf("policy is %+v", p)
		}
	})
}

func TestAttachments(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "ann")
		createUser(t, db, "bob")
		createGroup(t, db, "ops")
		createRole(t, db, "node")
		createPolicy(t, db, ourPolicy, "{}")
		for _, who := range []Entity{User("bob"), User("ann"), Group("ops"), Role("node")} {
			must(t, db.IAM().Attach(ctx, who, ourPolicy))
			must(t, db.IAM().Attach(ctx, who, ourPolicy)) // again is as once
		}
		must(t, db.IAM().Attach(ctx, User("ann"), awsPolicy))
		p, err := db.IAM().Policy(ctx, ourPolicy)
		must(t, err)
		if p.Attachments != 4 {
			t.Errorf("Attachments = %d, want 4", p.Attachments)
		}
		for _, limit := range []int{1, 3, 9} {
			var got []string
			for _, h := range pages(t, limit, func(p Page) ([]Holder, Cursor, error) { return db.IAM().Holders(ctx, ourPolicy, "", p) }) {
				got = append(got, string(h.Kind)+" "+h.Name)
			}
			if d := cmp.Diff([]string{"group ops", "role node", "user ann", "user bob"}, got); d != "" {
				t.Errorf("by %d: %s", limit, d)
			}
			attached := pages(t, limit, func(p Page) ([]string, Cursor, error) { return db.IAM().Attached(ctx, User("ann"), p) })
			if d := cmp.Diff([]string{ourPolicy, awsPolicy}, attached); d != "" {
				t.Errorf("by %d: %s", limit, d)
			}
		}
		users, _, err := db.IAM().Holders(ctx, ourPolicy, User("").Kind, Page{})
		must(t, err)
		if len(users) != 2 || users[0].ID == "" {
			t.Errorf("users that hold it: %+v", users)
		}
		list, _, err := db.IAM().Policies(ctx, "/", true, Page{})
		must(t, err)
		if len(list) != 1 || list[0].ARN != ourPolicy {
			t.Errorf("attached policies: %v", list)
		}
		for i := range maxAttached - 2 {
			must(t, db.IAM().Attach(ctx, User("ann"), awsPolicies+fmt.Sprint(i)))
		}
		wantCode(t, db.IAM().Attach(ctx, User("ann"), awsPolicies+"more"), sallyport.LimitExceeded, "PoliciesPerUser: 10")
	})
}

func TestGrants(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "ann")
		createUser(t, db, "bob")
		createGroup(t, db, "dev")
		createGroup(t, db, "ops")
		createGroup(t, db, "others")
		createRole(t, db, "ann") // a namesake
		createPolicy(t, db, ourPolicy, "managed")
		createPolicy(t, db, ourPolicy+"2", "bounding")
		must(t, db.IAM().AddUserToGroup(ctx, "dev", "ann"))
		must(t, db.IAM().AddUserToGroup(ctx, "ops", "ann"))
		must(t, db.IAM().PutInlinePolicy(ctx, User("ann"), "own", "first"))
		must(t, db.IAM().PutInlinePolicy(ctx, User("ann"), "own", "own inline"))
		must(t, db.IAM().PutInlinePolicy(ctx, Group("dev"), "own", "dev inline"))
		must(t, db.IAM().PutInlinePolicy(ctx, Group("others"), "own", "not hers"))
		must(t, db.IAM().PutInlinePolicy(ctx, User("bob"), "own", "not hers"))
		must(t, db.IAM().PutInlinePolicy(ctx, Role("ann"), "own", "role inline"))
		must(t, db.IAM().Attach(ctx, User("ann"), awsPolicy))
		must(t, db.IAM().Attach(ctx, Group("ops"), ourPolicy))

		want := &Grants{Policies: []Grant{
			{"own", Group("dev"), "dev inline"},
			{"own", User("ann"), "own inline"},
			{ourPolicy, Group("ops"), "managed"},
			{awsPolicy, User("ann"), ""},
		}}
		check := func(who Entity) {
			t.Helper()
			got, err := db.IAM().Grants(ctx, who)
			must(t, err)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%+v: %s", who, d)
			}
		}
		check(User("ann"))

		must(t, db.IAM().SetBoundary(ctx, User("ann"), ourPolicy+"2"))
		_, err := db.IAM().CreatePolicyVersion(ctx, ourPolicy, "managed, version 2", true, at(2))
		must(t, err)
		must(t, db.IAM().RemoveUserFromGroup(ctx, "dev", "ann"))
		must(t, db.IAM().Rename(ctx, User("ann"), "ann-marie", ""))
		want.Policies = want.Policies[1:]
		want.Policies[0].From, want.Policies[2].From = User("ann-marie"), User("ann-marie")
		want.Policies[1].Document = "managed, version 2"
		want.Boundary = &Grant{ourPolicy + "2", User("ann-marie"), "bounding"}
		check(User("ann-marie"))
		if b, err := db.IAM().Boundary(ctx, User("ann-marie")); err != nil || b != ourPolicy+"2" {
			t.Errorf("Boundary = %q, %v", b, err)
		}

		bob, err := db.IAM().Grants(ctx, Role("ann"))
		must(t, err)
		if len(bob.Policies) != 1 || bob.Policies[0].Document != "role inline" {
			t.Errorf("the role has %+v", bob.Policies)
		}
	})
}

func TestGroups(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createGroup(t, db, "ops")
		createGroup(t, db, "dev")
		for _, name := range []string{"cat", "ann", "bob"} {
			createUser(t, db, name)
			must(t, db.IAM().AddUserToGroup(ctx, "ops", name))
		}
		must(t, db.IAM().AddUserToGroup(ctx, "dev", "bob"))
		must(t, db.IAM().AddUserToGroup(ctx, "dev", "bob")) // again is as once
		for _, limit := range []int{1, 2, 3, 4} {
			var users, groups []string
			for _, u := range pages(t, limit, func(p Page) ([]*sallyport.User, Cursor, error) { return db.IAM().UsersIn(ctx, "ops", p) }) {
				users = append(users, u.Name)
			}
			for _, g := range pages(t, limit, func(p Page) ([]*sallyport.Group, Cursor, error) { return db.IAM().GroupsOf(ctx, "bob", p) }) {
				groups = append(groups, g.Name)
			}
			if d := cmp.Diff([]string{"ann", "bob", "cat"}, users); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff([]string{"dev", "ops"}, groups); d != "" {
				t.Error(d)
			}
		}
	})
}

// A cache that keeps answers by the revision never keeps one that is no longer true.
func TestRevisionMovesWithEveryChange(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		last := db.IAM().Revision()
		moved := func(what string, err error) {
			t.Helper()
			must(t, err)
			if now := db.IAM().Revision(); now == last {
				t.Errorf("the revision stayed as it was: %s", what)
			} else {
				last = now
			}
		}
		moved("create user", db.IAM().CreateUser(ctx, sallyport.User{Name: "ann", Path: "/", ID: "AIDA1"}))
		moved("create group", db.IAM().CreateGroup(ctx, sallyport.Group{Name: "ops", Path: "/", ID: "AGPA1"}))
		moved("create policy", db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: ourPolicy, Name: "ops", ID: "ANPA1"}))
		moved("tag", db.IAM().Tag(ctx, User("ann"), map[string]string{"a": "b"}))
		moved("join", db.IAM().AddUserToGroup(ctx, "ops", "ann"))
		moved("attach", db.IAM().Attach(ctx, Group("ops"), ourPolicy))
		_, err := db.IAM().CreatePolicyVersion(ctx, ourPolicy, "{}", true, at(1))
		moved("create version", err)
		moved("put inline", db.IAM().PutInlinePolicy(ctx, User("ann"), "p", "{}"))
		moved("create key", db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA1", User: "ann", Active: true}, sallyport.GenerateSecret()))
		moved("turn key off", db.IAM().SetAccessKeyActive(ctx, "ann", "AKIA1", false))
		moved("delete key", db.IAM().DeleteAccessKey(ctx, "ann", "AKIA1"))
		moved("detach", db.IAM().Detach(ctx, Group("ops"), ourPolicy))
		moved("leave", db.IAM().RemoveUserFromGroup(ctx, "ops", "ann"))
		moved("delete", db.IAM().Delete(ctx, Group("ops")))

		_, err = db.IAM().Grants(ctx, User("ann"))
		must(t, err)
		db.Ping(ctx, sallyport.NewNodeID(), at(1))
		must(t, db.Flush(ctx))
		if db.IAM().Revision() != last {
			t.Error("the revision moved though nothing in IAM did")
		}
	})
}

func TestAccessKeys(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		must(t, db.IAM().CreateUser(ctx, sallyport.User{Name: "ann", Path: "/x/", ID: "AIDA1", Created: at(1), Tags: map[string]string{"a": "b"}}))
		createUser(t, db, "bob")
		secret := sallyport.GenerateSecret()
		key := sallyport.AccessKey{ID: "AKIA1", User: "ann", Active: true, Created: at(1)}
		must(t, db.IAM().CreateAccessKey(ctx, key, secret))
		must(t, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA2", User: "ann", Created: at(2)}, sallyport.GenerateSecret()))
		wantCode(t, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA3", User: "ann"}, sallyport.GenerateSecret()), sallyport.LimitExceeded, "AccessKeysPerUser: 2")
		root := sallyport.GenerateSecret()
		must(t, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIAROOT", Active: true, Created: at(3)}, root))

		c, err := db.IAM().Credential(ctx, "AKIA1")
		must(t, err)
		if !c.Secret.Equal(secret) || c.User.Name != "ann" || c.User.ID != "AIDA1" || c.User.Tags["a"] != "b" || c.User.Path != "/x/" {
			t.Errorf("Credential = %+v of %+v", c, c.User)
		}
		if d := cmp.Diff(key, c.Key); d != "" {
			t.Error(d)
		}
		c, err = db.IAM().Credential(ctx, "AKIAROOT")
		must(t, err)
		if !c.Secret.Equal(root) || c.User != nil || c.Key.User != "" {
			t.Errorf("the account's own: %+v", c)
		}

		// A key is its owner's to change.
		wantCode(t, db.IAM().DeleteAccessKey(ctx, "bob", "AKIA1"), sallyport.NoSuchEntity, "AKIA1")
		wantCode(t, db.IAM().SetAccessKeyActive(ctx, "", "AKIA1", false), sallyport.NoSuchEntity, "AKIA1")
		must(t, db.IAM().SetAccessKeyActive(ctx, "ann", "AKIA1", false))
		key.Active = false

		// Use is seen at once, and written in time.
		for range 2 {
			db.TouchAccessKey(ctx, "AKIA1", "ssm", at(100))
			db.TouchAccessKey(ctx, "AKIA1", "iam", at(50)) // overtaken
			key.LastUsed, key.LastService = at(100), "ssm"
			keys, err := db.IAM().AccessKeys(ctx, "ann")
			must(t, err)
			if d := cmp.Diff([]sallyport.AccessKey{key, {ID: "AKIA2", User: "ann", Created: at(2)}}, keys); d != "" {
				t.Error(d)
			}
			must(t, db.Flush(ctx))
		}
		roots, err := db.IAM().AccessKeys(ctx, "")
		must(t, err)
		if len(roots) != 1 || roots[0].ID != "AKIAROOT" {
			t.Errorf("the account's keys: %+v", roots)
		}
		must(t, db.IAM().Rename(ctx, User("ann"), "ann-marie", ""))
		if owner, err := db.IAM().AccessKeyOwner(ctx, "AKIA1"); err != nil || owner != "ann-marie" {
			t.Errorf("AccessKeyOwner = %q, %v", owner, err)
		}
		if c, err = db.IAM().Credential(ctx, "AKIA1"); err != nil || !c.Secret.Equal(secret) {
			t.Errorf("after its owner was renamed: %v", err)
		}
		must(t, db.IAM().DeleteAccessKey(ctx, "ann-marie", "AKIA1"))
		must(t, db.IAM().DeleteAccessKey(ctx, "", "AKIAROOT"))
		_, err = db.IAM().Credential(ctx, "AKIA1")
		wantCode(t, err, sallyport.NoSuchEntity, "AKIA1")
	})
}

func TestNoThirdKeyByHaste(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		createUser(t, db, "ann")
		var made atomic.Int64
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				err := db.IAM().CreateAccessKey(t.Context(), sallyport.AccessKey{ID: fmt.Sprint("AKIA", i), User: "ann"}, sallyport.GenerateSecret())
				if err == nil {
					made.Add(1)
				} else {
					wantCode(t, err, sallyport.LimitExceeded, "2")
				}
			})
		}
		all.Wait()
		if made.Load() != 2 {
			t.Errorf("%d keys were made, want 2", made.Load())
		}
	})
}

// What is stored of a secret is neither the secret nor good in another row.
func TestSecretsAreSealedToTheirRow(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		createUser(t, db, "ann")
		createUser(t, db, "bob")
		secret := sallyport.GenerateSecret()
		must(t, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA1", User: "ann"}, secret))
		must(t, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA2", User: "bob"}, sallyport.GenerateSecret()))
		var sealed []byte
		must(t, db.read.QueryRowContext(ctx, `SELECT secret FROM access_keys WHERE id = 'AKIA1'`).Scan(&sealed))
		if bytes.Contains(sealed, []byte(secret.Reveal())) {
			t.Error("the secret is stored as it is")
		}
		for name, statement := range map[string]string{
			"copied to another key":    `UPDATE access_keys SET secret = (SELECT secret FROM access_keys WHERE id = 'AKIA1') WHERE id = 'AKIA2'`,
			"given to another user":    `UPDATE access_keys SET user_id = (SELECT user_id FROM access_keys WHERE id = 'AKIA1') WHERE id = 'AKIA2'`,
			"made the account's own":   `UPDATE access_keys SET user_id = NULL WHERE id = 'AKIA2'`,
			"replaced by nothing":      `UPDATE access_keys SET secret = (SELECT value FROM meta WHERE name = 'key-check') WHERE id = 'AKIA2'`,
			"a stranger's from before": `UPDATE access_keys SET secret = (SELECT secret FROM access_keys WHERE id = 'AKIA1'), user_id = (SELECT user_id FROM access_keys WHERE id = 'AKIA1') WHERE id = 'AKIA2'`,
		} {
			_, err := db.write.ExecContext(ctx, statement)
			must(t, err)
			if _, err := db.IAM().Credential(ctx, "AKIA2"); !errors.Is(err, keyring.ErrWrongKey) || sallyport.CodeOf(err) != "" {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
