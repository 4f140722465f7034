package iam_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/api/iam"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	ourPolicy   = "arn:aws:iam::" + account + ":policy/team/reading"
	adminPolicy = "arn:aws:iam::aws:policy/AdministratorAccess"
	someTrust   = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + account + `"},"Action":"sts:AssumeRole"}}`
)

// someKey has the form of a key's ID.
const someKey = "AKIAAAAAAAAAAAAAAAAA"

// inputs are forms of every operation, good enough to come to policy.
var inputs = func() map[string]string {
	user, group, role, policy := "UserName=ann", "GroupName=ops", "RoleName=node", "PolicyArn="+ourPolicy
	doc := "PolicyDocument=" + allowing("ssm:StartSession")
	named := "&PolicyName=inline"
	tags, keys := "&Tags.member.1.Key=team&Tags.member.1.Value=red", "&TagKeys.member.1=team"
	all := map[string]string{
		"CreateUser": user, "GetUser": user, "ListUsers": "", "UpdateUser": user + "&NewPath=/there/", "DeleteUser": user, "ListGroupsForUser": user,
		"GetLoginProfile": user, "DeleteLoginProfile": user, "ListMFADevices": user, "ListVirtualMFADevices": "", "ListSSHPublicKeys": user,
		"ListSigningCertificates": user, "ListServiceSpecificCredentials": user, "ListInstanceProfilesForRole": role,
		"CreateAccessKey": user, "ListAccessKeys": user, "DeleteAccessKey": user + "&AccessKeyId=" + someKey,
		"UpdateAccessKey": user + "&Status=Inactive&AccessKeyId=" + someKey, "GetAccessKeyLastUsed": "AccessKeyId=" + someKey,
		"CreateGroup": group, "GetGroup": group, "ListGroups": "", "UpdateGroup": group + "&NewPath=/there/", "DeleteGroup": group,
		"AddUserToGroup": group + "&" + user, "RemoveUserFromGroup": group + "&" + user,
		"CreateRole": role + "&AssumeRolePolicyDocument=" + someTrust, "GetRole": role, "ListRoles": "", "UpdateRole": role, "DeleteRole": role,
		"UpdateRoleDescription": role + "&Description=d", "UpdateAssumeRolePolicy": role + "&PolicyDocument=" + someTrust,
		"CreatePolicy": "PolicyName=reading&Path=/team/&" + doc, "GetPolicy": policy, "ListPolicies": "", "DeletePolicy": policy,
		"CreatePolicyVersion": policy + "&" + doc, "GetPolicyVersion": policy + "&VersionId=v1", "ListPolicyVersions": policy,
		"SetDefaultPolicyVersion": policy + "&VersionId=v1", "DeletePolicyVersion": policy + "&VersionId=v1", "ListEntitiesForPolicy": policy,
		"TagUser": user + tags, "UntagUser": user + keys, "ListUserTags": user,
		"TagRole": role + tags, "UntagRole": role + keys, "ListRoleTags": role,
		"TagPolicy": policy + tags, "UntagPolicy": policy + keys, "ListPolicyTags": policy,
		"SimulatePrincipalPolicy": "PolicySourceArn=arn:aws:iam::" + account + ":user/team/ann&ActionNames.member.1=ssm:StartSession",
	}
	for kind, who := range map[string]string{"User": user, "Group": group, "Role": role} {
		all["Put"+kind+"Policy"] = who + named + "&" + doc
		all["Get"+kind+"Policy"] = who + named
		all["Delete"+kind+"Policy"] = who + named
		all["List"+kind+"Policies"] = who
		all["Attach"+kind+"Policy"] = who + "&" + policy
		all["Detach"+kind+"Policy"] = who + "&" + policy
		all["ListAttached"+kind+"Policies"] = who
		if kind != "Group" {
			all["Put"+kind+"PermissionsBoundary"] = who + "&PermissionsBoundary=" + ourPolicy
			all["Delete"+kind+"PermissionsBoundary"] = who
		}
	}
	return all
}()

// eachOperation runs a subtest for every operation there is, so that a new one
// cannot be forgotten.
func eachOperation(t *testing.T, run func(t *testing.T, operation, form string)) {
	t.Helper()
	ops := iam.Service().Ops
	if len(ops) == 0 {
		t.Fatal("there are no operations")
	}
	for _, name := range slices.Sorted(maps.Keys(ops)) {
		t.Run(name, func(t *testing.T) {
			form, ok := inputs[name]
			if !ok {
				t.Fatal("it has no form in inputs; add one")
			}
			run(t, name, form)
		})
	}
}

// furnish puts everything there that inputs speak of.
func furnish(d *door) {
	ctx := d.Context()
	now := time.Now()
	d.must(d.db.IAM().CreateUser(ctx, sallyport.User{Name: "ann", Path: "/team/", ID: sallyport.EntityID("AIDA"), Created: now}))
	d.must(d.db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: someKey, User: "ann", Active: true, Created: now}, sallyport.GenerateSecret()))
	d.must(d.db.IAM().CreateGroup(ctx, sallyport.Group{Name: "ops", Path: "/team/", ID: sallyport.EntityID("AGPA"), Created: now}))
	d.must(d.db.IAM().CreateRole(ctx, sallyport.Role{Name: "node", Path: "/team/", ID: sallyport.EntityID("AROA"), Created: now, Trust: someTrust, MaxSession: time.Hour}))
	d.must(d.db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: ourPolicy, Name: "reading", Path: "/team/", ID: sallyport.EntityID("ANPA"), Created: now, Document: allowing("ssm:Get*")}))
}

// A caller that is allowed one operation may call it, and a caller that is allowed
// all but that one may not. Since every question must be allowed, the first means that no
// operation asks for another's right, and the second that each asks for its
// own: so a right to one is never a right to another.
func TestAnOperationNeedsItsOwnRightAndNoOther(t *testing.T) {
	d := open(t)
	furnish(d)
	eachOperation(t, func(t *testing.T, operation, form string) {
		but := d.user("but-"+operation, `{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"iam:`+operation+`","Resource":"*"}]}`)
		if a := d.call(but, operation, form); a.code != "AccessDenied" || a.status != 403 || !strings.Contains(a.message, "iam:"+operation) {
			t.Errorf("allowed all but this: %+v", a)
		}
		only := d.user("only-"+operation, allowing("iam:"+operation))
		if a := d.call(only, operation, form); a.code == "AccessDenied" {
			t.Errorf("allowed this alone: %+v", a)
		}
	})
}

// A caller that may not ask is answered the same whether or not what it asks about
// is there, and in every path.
func TestARefusalDoesNotTellWhatExists(t *testing.T) {
	empty, full := open(t), open(t)
	furnish(full)
	eveThere, eveHere := empty.user("eve", ""), full.user("eve", "")
	eachOperation(t, func(t *testing.T, operation, form string) {
		there, here := empty.call(eveThere, operation, form), full.call(eveHere, operation, form)
		if here.code != "AccessDenied" || here != there {
			t.Errorf("where it exists: %+v\nwhere it does not: %+v", here, there)
		}
	})
}

func TestEveryOperationIsHeldToAWSsModel(t *testing.T) {
	d := open(t)
	wantsNothing := []string{
		"ListUsers", "ListGroups", "ListRoles", "ListPolicies", "GetUser", "CreateAccessKey", "ListAccessKeys", "GetLoginProfile", "DeleteLoginProfile",
		"ListMFADevices", "ListVirtualMFADevices", "ListSSHPublicKeys", "ListSigningCertificates", "ListServiceSpecificCredentials",
	}
	eachOperation(t, func(t *testing.T, operation, _ string) {
		a := d.call(d.root, operation, "")
		if slices.Contains(wantsNothing, operation) {
			if a.code != "" && a.code != "NoSuchEntity" {
				t.Errorf("asked for nothing in particular: %+v", a)
			}
		} else if a.code != "ValidationError" || a.status != 400 || !strings.Contains(a.message, "Member must not be null") {
			t.Errorf("without what it requires: %+v", a)
		}
	})
}

// What a policy may say of users, groups, roles and policies, and of what is
// done with them.
func TestRightsAreOnARNsAndConditions(t *testing.T) {
	statement := func(action, resource, condition string) string {
		s := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:` + action + `","Resource":"` + resource + `"`
		if condition != "" {
			s += `,"Condition":{` + condition + `}`
		}
		return s + `}]}`
	}
	const arn = "arn:aws:iam::" + account + ":"
	boundary := `"StringEquals":{"iam:PermissionsBoundary":"` + ourPolicy + `"}`
	for _, tt := range []struct {
		claim     string
		document  string
		operation string
		form      string
		want      string // the error's code; "" is none
	}{
		{"a user in a path is in it", statement("GetUser", arn+"user/team/*", ""), "GetUser", "UserName=ann", ""},
		{"a user in a path is in no other", statement("GetUser", arn+"user/other/*", ""), "GetUser", "UserName=ann", "AccessDenied"},
		{"nor at the root", statement("GetUser", arn+"user/ann", ""), "GetUser", "UserName=ann", "AccessDenied"},
		{"what is not there is said to whoever may ask about it", statement("GetUser", arn+"user/nobody", ""), "GetUser", "UserName=nobody", "NoSuchEntity"},
		{"a new user is asked about where it is to be", statement("CreateUser", arn+"user/team/*", ""), "CreateUser", "UserName=new&Path=/team/", ""},
		{"and nowhere else", statement("CreateUser", arn+"user/team/*", ""), "CreateUser", "UserName=new", "AccessDenied"},
		{"a user may not be moved to where one has no right", statement("UpdateUser", arn+"user/team/*", ""), "UpdateUser", "UserName=ann&NewPath=/admin/", "AccessDenied"},
		{"nor from there", statement("UpdateUser", arn+"user/admin/*", ""), "UpdateUser", "UserName=ann&NewPath=/admin/", "AccessDenied"},
		{"nor given a name that one has no right to", statement("UpdateUser", arn+"user/team/ann", ""), "UpdateUser", "UserName=ann&NewUserName=boss", "AccessDenied"},
		{"a user may be moved within what one has a right to", statement("UpdateUser", arn+"user/team/*", ""), "UpdateUser", "UserName=ann&NewUserName=anna", ""},
		{"a group may not be moved to where one has no right", statement("UpdateGroup", arn+"group/team/*", ""), "UpdateGroup", "GroupName=ops&NewPath=/admin/", "AccessDenied"},
		{"a group may be moved within what one has a right to", statement("UpdateGroup", arn+"group/team/*", ""), "UpdateGroup", "GroupName=ops&NewPath=/team/b/", ""},
		{"a group is a group's resource, whoever joins it", statement("AddUserToGroup", arn+"group/team/ops", ""), "AddUserToGroup", "GroupName=ops&UserName=ann", ""},
		{"a role in a path", statement("GetRole", arn+"role/team/*", ""), "GetRole", "RoleName=node", ""},
		{"a policy by its ARN", statement("GetPolicy", ourPolicy, ""), "GetPolicy", "PolicyArn=" + ourPolicy, ""},
		{"a policy by another's", statement("GetPolicy", ourPolicy+"s", ""), "GetPolicy", "PolicyArn=" + ourPolicy, "AccessDenied"},
		{"a key is its user's", statement("GetAccessKeyLastUsed", arn+"user/team/ann", ""), "GetAccessKeyLastUsed", "AccessKeyId=" + someKey, ""},
		{"a key that is not there is nobody's", statement("GetAccessKeyLastUsed", arn+"user/*", ""), "GetAccessKeyLastUsed", "AccessKeyId=" + someKey + "2", "AccessDenied"},
		{"and whoever may ask about every user hears so", statement("GetAccessKeyLastUsed", "*", ""), "GetAccessKeyLastUsed", "AccessKeyId=" + someKey + "2", "NoSuchEntity"},
		{"a list is on everything", statement("ListUsers", arn+"user/*", ""), "ListUsers", "", "AccessDenied"},

		{"aws:ResourceTag", statement("GetUser", "*", `"StringEquals":{"aws:ResourceTag/team":"red"}`), "GetUser", "UserName=tagged", ""},
		{"aws:ResourceTag of another value", statement("GetUser", "*", `"StringEquals":{"aws:ResourceTag/team":"blue"}`), "GetUser", "UserName=tagged", "AccessDenied"},
		{"iam:ResourceTag", statement("GetUser", "*", `"StringEquals":{"iam:ResourceTag/team":"red"}`), "GetUser", "UserName=tagged", ""},
		{"aws:RequestTag", statement("TagUser", "*", `"StringEquals":{"aws:RequestTag/team":"red"}`), "TagUser", inputs["TagUser"], ""},
		{"aws:RequestTag of another value", statement("TagUser", "*", `"StringEquals":{"aws:RequestTag/team":"blue"}`), "TagUser", inputs["TagUser"], "AccessDenied"},
		{"aws:TagKeys when tagging", statement("TagUser", "*", `"ForAllValues:StringEquals":{"aws:TagKeys":["cost"]}`), "TagUser", inputs["TagUser"], "AccessDenied"},
		{"aws:TagKeys when untagging", statement("UntagUser", "*", `"ForAllValues:StringEquals":{"aws:TagKeys":["cost"]}`), "UntagUser", inputs["UntagUser"], "AccessDenied"},
		{"iam:PolicyARN", statement("AttachUserPolicy", "*", `"ArnEquals":{"iam:PolicyARN":"`+ourPolicy+`"}`), "AttachUserPolicy", "UserName=ann&PolicyArn=" + ourPolicy, ""},
		{"iam:PolicyARN of another", statement("AttachUserPolicy", "*", `"ArnEquals":{"iam:PolicyARN":"`+ourPolicy+`"}`), "AttachUserPolicy", "UserName=ann&PolicyArn=" + adminPolicy, "AccessDenied"},

		{"a user made within a boundary", statement("CreateUser", "*", boundary), "CreateUser", "UserName=new&PermissionsBoundary=" + ourPolicy, ""},
		{"a user made without the boundary", statement("CreateUser", "*", boundary), "CreateUser", "UserName=new", "AccessDenied"},
		{"a user made within another boundary", statement("CreateUser", "*", boundary), "CreateUser", "UserName=new&PermissionsBoundary=" + adminPolicy, "AccessDenied"},
		{"rights given to a user within the boundary", statement("PutUserPolicy", "*", boundary), "PutUserPolicy", strings.Replace(inputs["PutUserPolicy"], "ann", "bounded", 1), ""},
		{"rights given to a user without one", statement("PutUserPolicy", "*", boundary), "PutUserPolicy", inputs["PutUserPolicy"], "AccessDenied"},
		{"a policy attached to a user without one", statement("AttachUserPolicy", "*", boundary), "AttachUserPolicy", inputs["AttachUserPolicy"], "AccessDenied"},
		{"a boundary changed for another", statement("PutUserPermissionsBoundary", "*", boundary), "PutUserPermissionsBoundary", "UserName=bounded&PermissionsBoundary=" + adminPolicy, "AccessDenied"},
		{"a boundary taken away", statement("DeleteUserPermissionsBoundary", "*", strings.Replace(boundary, "Equals", "NotEquals", 1)), "DeleteUserPermissionsBoundary", "UserName=bounded", "AccessDenied"},

		{"a simulation of whom one may ask about", statement("SimulatePrincipalPolicy", arn+"user/team/*", ""), "SimulatePrincipalPolicy", inputs["SimulatePrincipalPolicy"], ""},
		{"a simulation by an ARN that is not quite theirs", statement("SimulatePrincipalPolicy", arn+"user/mine/*", ""), "SimulatePrincipalPolicy", strings.Replace(inputs["SimulatePrincipalPolicy"], "team", "mine", 1), "NoSuchEntity"},
		{"a simulation on somebody else", statement("SimulatePrincipalPolicy", arn+"user/team/*", ""), "SimulatePrincipalPolicy", inputs["SimulatePrincipalPolicy"] + "&CallerArn=" + arn + "user/tagged", "AccessDenied"},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			d := open(t)
			furnish(d)
			now := time.Now()
			d.must(d.db.IAM().CreateUser(t.Context(), sallyport.User{Name: "tagged", Path: "/", ID: sallyport.EntityID("AIDA"), Created: now, Tags: map[string]string{"team": "red"}}))
			d.must(d.db.IAM().CreateUser(t.Context(), sallyport.User{Name: "bounded", Path: "/", ID: sallyport.EntityID("AIDA"), Created: now, Boundary: ourPolicy}))
			if a := d.call(d.user("eve", tt.document), tt.operation, tt.form); a.code != tt.want {
				t.Errorf("got %+v, want %q", a, tt.want)
			}
		})
	}
}

// An operation is about the caller's own user if its input names no user.
func TestYourself(t *testing.T) {
	d := open(t)
	own := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::*:user/${aws:username}"}}`
	ann := d.iam(d.user("ann", own))
	d.user("ann-marie", "")

	u, err := ann.GetUser(t.Context(), &awsiam.GetUserInput{})
	d.must(err)
	if *u.User.UserName != "ann" {
		t.Errorf("GetUser is %s", *u.User.UserName)
	}
	_, err = ann.GetUser(t.Context(), &awsiam.GetUserInput{UserName: aws.String("ann-marie")})
	d.refused(err, "AccessDenied", "User: arn:aws:iam::123456789012:user/ann is not authorized to perform: iam:GetUser on resource: user ann-marie because no identity-based policy allows the iam:GetUser action")

	made, err := ann.CreateAccessKey(t.Context(), &awsiam.CreateAccessKeyInput{})
	d.must(err)
	if *made.AccessKey.UserName != "ann" {
		t.Errorf("the key is %s's", *made.AccessKey.UserName)
	}
	_, err = ann.UpdateAccessKey(t.Context(), &awsiam.UpdateAccessKeyInput{AccessKeyId: made.AccessKey.AccessKeyId, Status: types.StatusTypeInactive})
	d.must(err)
	keys, err := ann.ListAccessKeys(t.Context(), &awsiam.ListAccessKeysInput{})
	d.must(err)
	if len(keys.AccessKeyMetadata) != 2 || keys.AccessKeyMetadata[1].Status != types.StatusTypeInactive {
		t.Errorf("her keys: %+v", keys.AccessKeyMetadata)
	}
	_, err = ann.DeleteAccessKey(t.Context(), &awsiam.DeleteAccessKeyInput{AccessKeyId: made.AccessKey.AccessKeyId})
	d.must(err)

	root := d.iam(d.root)
	r, err := root.GetUser(t.Context(), &awsiam.GetUserInput{})
	d.must(err)
	if *r.User.Arn != "arn:aws:iam::"+account+":root" || *r.User.UserId != account || r.User.UserName != nil || r.User.CreateDate == nil {
		t.Errorf("root is %+v", r.User)
	}
	keys, err = root.ListAccessKeys(t.Context(), &awsiam.ListAccessKeysInput{})
	d.must(err)
	if len(keys.AccessKeyMetadata) != 1 || *keys.AccessKeyMetadata[0].AccessKeyId != d.root.AccessKeyID {
		t.Errorf("root's keys: %+v", keys.AccessKeyMetadata)
	}
	_, err = root.DeleteAccessKey(t.Context(), &awsiam.DeleteAccessKeyInput{AccessKeyId: keys.AccessKeyMetadata[0].AccessKeyId, UserName: aws.String("ann")})
	d.refused(err, "NoSuchEntity", "The Access Key with id "+d.root.AccessKeyID+" cannot be found.")

	// The root of the admin socket has credentials that are no key of the account's.
	_, err = root.DeleteAccessKey(t.Context(), &awsiam.DeleteAccessKeyInput{AccessKeyId: keys.AccessKeyMetadata[0].AccessKeyId})
	d.must(err)
	short, err := d.api.Issue(api.Grant{Who: d.api.Root(), For: time.Hour}, time.Now())
	d.must(err)
	r, err = d.iam(aws.Credentials{AccessKeyID: short.AccessKeyID, SecretAccessKey: short.Secret.Reveal(), SessionToken: short.Token.Reveal()}).GetUser(t.Context(), &awsiam.GetUserInput{})
	d.must(err)
	if r.User.CreateDate == nil || r.User.CreateDate.IsZero() {
		t.Errorf("root without a key is %+v", r.User)
	}
}

func TestYourselfIsAUserOrRoot(t *testing.T) {
	d := open(t)
	trust := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}}`
	d.must(d.db.IAM().CreateRole(t.Context(), sallyport.Role{Name: "admin", Path: "/", ID: sallyport.EntityID("AROA"), Created: time.Now(), Trust: trust, MaxSession: time.Hour}))
	session := d.assume(d.user("ann", allowing("sts:AssumeRole")), "admin")
	for _, operation := range []string{"GetUser", "CreateAccessKey", "ListAccessKeys"} {
		if a := d.call(session, operation, ""); a.code != "ValidationError" || a.message != "Must specify userName when calling with non-User credentials" {
			t.Errorf("%s: %+v", operation, a)
		}
	}
}

// A policy that was stored by rules which were less strict, and cannot be read
// any more, allows nothing to whom it binds, and leaves the others alone.
func TestStoredPolicyThatCannotBeRead(t *testing.T) {
	d := open(t)
	ann, bob := d.user("ann", allowing("iam:ListUsers")), d.user("bob", allowing("iam:ListUsers"))
	d.must(d.db.IAM().PutInlinePolicy(t.Context(), store.User("ann"), "older",
		`{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"iam:ListUsers","Resource":"arn:aws:iam::*:user/${aws:PrincipalTag/${aws:username}}"}}`))
	_, err := d.iam(ann).ListUsers(t.Context(), &awsiam.ListUsersInput{})
	d.refused(err, "AccessDenied", "A policy that binds arn:aws:iam::"+account+":user/ann cannot be read, so nothing is allowed.")
	for _, c := range []aws.Credentials{bob, d.root} {
		_, err := d.iam(c).ListUsers(t.Context(), &awsiam.ListUsersInput{})
		d.must(err)
	}
}
