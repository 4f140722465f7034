package iam_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

func itoa(n int) string { return strconv.Itoa(n) }

// A lister calls one list operation, and says what it answered.
type lister func(marker *string, most *int32) (names []string, truncated bool, next *string, err error)

func names[T any](list []T, name func(T) *string) (all []string) {
	if list == nil {
		return []string{"an empty list that is not there"}
	}
	for _, e := range list {
		all = append(all, *name(e))
	}
	return all
}

// listers are all operations that page, each of a list that furnishMany filled.
func (d *door) listers() map[string]lister {
	ctx, c := d.Context(), d.iam(d.root)
	ann, ops, node, policy := aws.String("ann"), aws.String("ops"), aws.String("node"), aws.String(ourPolicy)
	userName := func(u types.User) *string { return u.UserName }
	groupName := func(g types.Group) *string { return g.GroupName }
	attachedName := func(p types.AttachedPolicy) *string { return p.PolicyName }
	key := func(t types.Tag) *string { return t.Key }
	same := func(s string) *string { return &s }
	return map[string]lister{
		"ListUsers": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListUsers(ctx, &awsiam.ListUsersInput{PathPrefix: aws.String("/many/"), Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Users, userName), o.IsTruncated, o.Marker, nil
		},
		"ListGroups": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListGroups(ctx, &awsiam.ListGroupsInput{PathPrefix: aws.String("/many/"), Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Groups, groupName), o.IsTruncated, o.Marker, nil
		},
		"ListRoles": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListRoles(ctx, &awsiam.ListRolesInput{PathPrefix: aws.String("/many/"), Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Roles, func(r types.Role) *string { return r.RoleName }), o.IsTruncated, o.Marker, nil
		},
		"ListPolicies": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListPolicies(ctx, &awsiam.ListPoliciesInput{PathPrefix: aws.String("/many/"), Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Policies, func(p types.Policy) *string { return p.PolicyName }), o.IsTruncated, o.Marker, nil
		},
		"GetGroup": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.GetGroup(ctx, &awsiam.GetGroupInput{GroupName: ops, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Users, userName), o.IsTruncated, o.Marker, nil
		},
		"ListGroupsForUser": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListGroupsForUser(ctx, &awsiam.ListGroupsForUserInput{UserName: ann, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Groups, groupName), o.IsTruncated, o.Marker, nil
		},
		"ListUserPolicies": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListUserPolicies(ctx, &awsiam.ListUserPoliciesInput{UserName: ann, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.PolicyNames, same), o.IsTruncated, o.Marker, nil
		},
		"ListGroupPolicies": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListGroupPolicies(ctx, &awsiam.ListGroupPoliciesInput{GroupName: ops, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.PolicyNames, same), o.IsTruncated, o.Marker, nil
		},
		"ListRolePolicies": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListRolePolicies(ctx, &awsiam.ListRolePoliciesInput{RoleName: node, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.PolicyNames, same), o.IsTruncated, o.Marker, nil
		},
		"ListAttachedUserPolicies": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListAttachedUserPolicies(ctx, &awsiam.ListAttachedUserPoliciesInput{UserName: ann, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.AttachedPolicies, attachedName), o.IsTruncated, o.Marker, nil
		},
		"ListAttachedGroupPolicies": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListAttachedGroupPolicies(ctx, &awsiam.ListAttachedGroupPoliciesInput{GroupName: ops, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.AttachedPolicies, attachedName), o.IsTruncated, o.Marker, nil
		},
		"ListAttachedRolePolicies": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListAttachedRolePolicies(ctx, &awsiam.ListAttachedRolePoliciesInput{RoleName: node, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.AttachedPolicies, attachedName), o.IsTruncated, o.Marker, nil
		},
		"ListPolicyVersions": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListPolicyVersions(ctx, &awsiam.ListPolicyVersionsInput{PolicyArn: policy, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Versions, func(v types.PolicyVersion) *string { return v.VersionId }), o.IsTruncated, o.Marker, nil
		},
		"ListUserTags": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListUserTags(ctx, &awsiam.ListUserTagsInput{UserName: ann, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Tags, key), o.IsTruncated, o.Marker, nil
		},
		"ListRoleTags": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListRoleTags(ctx, &awsiam.ListRoleTagsInput{RoleName: node, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Tags, key), o.IsTruncated, o.Marker, nil
		},
		"ListPolicyTags": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListPolicyTags(ctx, &awsiam.ListPolicyTagsInput{PolicyArn: policy, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.Tags, key), o.IsTruncated, o.Marker, nil
		},
		"ListAccessKeys": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{UserName: ann, Marker: m, MaxItems: n})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.AccessKeyMetadata, func(k types.AccessKeyMetadata) *string { return k.AccessKeyId }), o.IsTruncated, o.Marker, nil
		},
		"SimulatePrincipalPolicy": func(m *string, n *int32) ([]string, bool, *string, error) {
			o, err := c.SimulatePrincipalPolicy(ctx, &awsiam.SimulatePrincipalPolicyInput{
				PolicySourceArn: aws.String("arn:aws:iam::" + account + ":user/team/ann"), ActionNames: []string{"a:One", "a:Two", "a:Three", "a:Four", "a:Five"}, Marker: m, MaxItems: n,
			})
			if err != nil {
				return nil, false, nil, err
			}
			return names(o.EvaluationResults, func(r types.EvaluationResult) *string { return r.EvalActionName }), o.IsTruncated, o.Marker, nil
		},
	}
}

// furnishMany fills every list with five, except that a user has at most two keys.
// Names and paths are as long as they may be, since markers hold them.
func furnishMany(d *door) {
	furnish(d)
	ctx, now := d.Context(), time.Now()
	d.key("ann")
	for i := range 5 {
		id := sallyport.EntityID
		name := strings.Repeat("n", 60) + itoa(i)
		long := strings.Repeat("n", 127) + itoa(i)
		d.must(d.db.IAM().CreateUser(ctx, sallyport.User{Name: name, Path: "/many/", ID: id("AIDA"), Created: now}))
		d.must(d.db.IAM().CreateRole(ctx, sallyport.Role{Name: name, Path: "/many/", ID: id("AROA"), Created: now, Trust: someTrust}))
		d.must(d.db.IAM().CreateGroup(ctx, sallyport.Group{Name: long, Path: "/many/", ID: id("AGPA"), Created: now}))
		d.must(d.db.IAM().AddUserToGroup(ctx, "ops", name))
		d.must(d.db.IAM().AddUserToGroup(ctx, long, "ann"))
		path := "/many/" + strings.Repeat("p", 500) + "/"
		arn := "arn:aws:iam::" + account + ":policy" + path + long
		d.must(d.db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: arn, Name: long, Path: path, ID: id("ANPA"), Created: now, Document: allowing("ssm:X")}))
		for _, who := range []store.Entity{store.User("ann"), store.Group("ops"), store.Role("node")} {
			d.must(d.db.IAM().PutInlinePolicy(ctx, who, long, allowing("ssm:X")))
			d.must(d.db.IAM().Attach(ctx, who, arn))
		}
		tags := map[string]string{strings.Repeat("é", 127) + itoa(i): "v"}
		d.must(d.db.IAM().Tag(ctx, store.User("ann"), tags))
		d.must(d.db.IAM().Tag(ctx, store.Role("node"), tags))
		d.must(d.db.IAM().TagPolicy(ctx, ourPolicy, tags))
		if i > 0 {
			_, err := d.db.IAM().CreatePolicyVersion(ctx, ourPolicy, allowing("ssm:X"), false, now)
			d.must(err)
		}
	}
}

// For every size of a page, the pages together are the list.
func TestListsPage(t *testing.T) {
	d := open(t)
	furnishMany(d)
	all := d.listers()
	if len(all) == 0 {
		t.Fatal("there are no lists")
	}
	for name, list := range all {
		t.Run(name, func(t *testing.T) {
			whole, truncated, next, err := list(nil, nil)
			d.must(err)
			want := 5
			if name == "ListAccessKeys" {
				want = 2
			}
			if len(whole) != want || truncated || next != nil {
				t.Fatalf("all at once: %d, truncated %t, marker %v", len(whole), truncated, next)
			}
			for _, most := range []int32{1, 2, 5, 1000} {
				var got []string
				var marker *string
				for range 10 {
					page, truncated, next, err := list(marker, &most)
					d.must(err)
					if len(page) > int(most) || truncated != (next != nil) {
						t.Errorf("by %d: a page of %d, truncated %t, marker %v", most, len(page), truncated, next)
					}
					got = append(got, page...)
					if marker = next; marker == nil {
						break
					}
					if len(*marker) > 320 {
						t.Errorf("by %d: the marker is %d long, and 320 is the most", most, len(*marker))
					}
				}
				if !slices.Equal(got, whole) {
					t.Errorf("by %d: %v, want %v", most, got, whole)
				}
			}
			for _, forged := range []string{"forged", "-1", "99999999999999999999", "local/forged", "aGFja2Vk"} {
				_, _, _, err := list(&forged, nil)
				d.refused(err, "ValidationError", "Invalid Marker")
			}
			_, _, _, err = list(nil, aws.Int32(1001))
			d.refused(err, "ValidationError", "less than or equal to 1000")
		})
	}
}

// alwaysEmpty are lists of what no user or role has: see TestWhatNoUserHas.
var alwaysEmpty = map[string]bool{
	"ListMFADevices": true, "ListVirtualMFADevices": true, "ListSSHPublicKeys": true, "ListSigningCertificates": true,
	"ListServiceSpecificCredentials": true, "ListInstanceProfilesForRole": true,
}

// A new operation that takes a marker has to be among the listers.
func TestEveryListIsPaged(t *testing.T) {
	d := open(t)
	furnish(d)
	all := d.listers()
	eachOperation(t, func(t *testing.T, operation, form string) {
		a := d.call(d.root, operation, form+"&MaxItems=0") // which only what takes one minds
		_, listed := all[operation]
		if takes := strings.Contains(a.message, "maxItems"); takes && !listed && operation != "ListEntitiesForPolicy" && !alwaysEmpty[operation] {
			t.Error("it takes MaxItems and is not among the listers")
		}
	})
}

func TestEmptyListsAreThere(t *testing.T) {
	d := open(t)
	root, ctx := d.iam(d.root), t.Context()
	users, err := root.ListUsers(ctx, &awsiam.ListUsersInput{PathPrefix: aws.String("/nowhere/")})
	d.must(err)
	groups, err := root.ListGroups(ctx, &awsiam.ListGroupsInput{})
	d.must(err)
	policies, err := root.ListPolicies(ctx, &awsiam.ListPoliciesInput{Scope: types.PolicyScopeTypeLocal})
	d.must(err)
	if users.Users == nil || groups.Groups == nil || policies.Policies == nil || len(users.Users)+len(groups.Groups)+len(policies.Policies) > 0 {
		t.Errorf("%v %v %v", users.Users, groups.Groups, policies.Policies)
	}
}

func TestWhichPoliciesAreListed(t *testing.T) {
	d := open(t)
	furnish(d)
	ctx, root := t.Context(), d.iam(d.root)
	d.must(d.db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: "arn:aws:iam::" + account + ":policy/unused", Name: "unused", Path: "/", ID: sallyport.EntityID("ANPA"), Document: allowing("ssm:X")}))
	d.must(d.db.IAM().Attach(ctx, store.User("ann"), ourPolicy))
	d.must(d.db.IAM().Attach(ctx, store.Group("ops"), ourPolicy))
	d.must(d.db.IAM().Attach(ctx, store.Role("node"), adminPolicy))
	d.must(d.db.IAM().SetBoundary(ctx, store.Role("node"), "arn:aws:iam::aws:policy/IAMFullAccess"))
	var builtins []string
	for _, p := range api.Builtins() {
		builtins = append(builtins, p.Name)
	}
	slices.Sort(builtins)
	for _, tt := range []struct {
		claim string
		in    awsiam.ListPoliciesInput
		want  []string
	}{
		{"all", awsiam.ListPoliciesInput{}, append(slices.Clone(builtins), "reading", "unused")},
		{"AWS's", awsiam.ListPoliciesInput{Scope: types.PolicyScopeTypeAws}, builtins},
		{"ours", awsiam.ListPoliciesInput{Scope: types.PolicyScopeTypeLocal}, []string{"reading", "unused"}},
		{"attached", awsiam.ListPoliciesInput{OnlyAttached: true}, []string{"AdministratorAccess", "reading"}},
		{"ours, attached", awsiam.ListPoliciesInput{Scope: types.PolicyScopeTypeLocal, OnlyAttached: true}, []string{"reading"}},
		{"in a path", awsiam.ListPoliciesInput{PathPrefix: aws.String("/team/")}, []string{"reading"}},
		{"boundaries", awsiam.ListPoliciesInput{PolicyUsageFilter: types.PolicyUsageTypePermissionsBoundary}, []string{"IAMFullAccess"}},
		{"in use as policies", awsiam.ListPoliciesInput{PolicyUsageFilter: types.PolicyUsageTypePermissionsPolicy}, []string{"AdministratorAccess", "reading"}},
	} {
		for _, most := range []int32{1, 3, int32(len(builtins)), 1000} {
			tt.in.MaxItems = &most
			var got []string
			for p := awsiam.NewListPoliciesPaginator(root, &tt.in); p.HasMorePages(); {
				out, err := p.NextPage(ctx)
				d.must(err)
				for _, p := range out.Policies {
					got = append(got, *p.PolicyName)
					if *p.PolicyName == "reading" && *p.AttachmentCount != 2 {
						t.Errorf("reading is attached %d times", *p.AttachmentCount)
					}
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s, by %d: %v, want %v", tt.claim, most, got, tt.want)
			}
		}
	}
}
