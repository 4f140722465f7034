package iam_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/sallyport/sallyport"
)

// decoded is a document of an answer, as clients decode it.
func decoded(t *testing.T, document *string) string {
	t.Helper()
	if document == nil {
		t.Fatal("the answer has no document")
	}
	if strings.ContainsAny(*document, ` "{}+*`) {
		t.Errorf("the document is not percent-encoded: %s", *document)
	}
	text, err := url.PathUnescape(*document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func tag(key, value string) types.Tag { return types.Tag{Key: &key, Value: &value} }

func TestTheLifeOfAUser(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	name := aws.String("ann")
	document := `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "ssm:*", "Resource": "arn:aws:ssm:*:*:session/${aws:username}-*"}}`

	made, err := root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: name, Path: aws.String("/team/"), Tags: []types.Tag{tag("Team", "red")}})
	d.must(err)
	if u := made.User; *u.Arn != "arn:aws:iam::"+account+":user/team/ann" || !strings.HasPrefix(*u.UserId, "AIDA") || len(*u.UserId) != 21 ||
		*u.Path != "/team/" || time.Since(*u.CreateDate) > time.Minute || len(u.Tags) != 1 {
		t.Errorf("made %+v", u)
	}
	_, err = root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: aws.String("ANN")})
	d.refused(err, "EntityAlreadyExists", "User with name ANN already exists.")

	_, err = root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: name, PolicyName: aws.String("own"), PolicyDocument: &document})
	d.must(err)
	got, err := root.GetUserPolicy(ctx, &awsiam.GetUserPolicyInput{UserName: name, PolicyName: aws.String("own")})
	d.must(err)
	if text := decoded(t, got.PolicyDocument); text != document || *got.UserName != "ann" || *got.PolicyName != "own" {
		t.Errorf("the policy is %s", text)
	}
	_, err = root.GetUserPolicy(ctx, &awsiam.GetUserPolicyInput{UserName: name, PolicyName: aws.String("other")})
	d.refused(err, "NoSuchEntity", "The user policy with name other cannot be found.")

	_, err = root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: name, PolicyArn: aws.String(adminPolicy)})
	d.must(err)
	attached, err := root.ListAttachedUserPolicies(ctx, &awsiam.ListAttachedUserPoliciesInput{UserName: name})
	d.must(err)
	if len(attached.AttachedPolicies) != 1 || *attached.AttachedPolicies[0].PolicyName != "AdministratorAccess" {
		t.Errorf("attached: %+v", attached.AttachedPolicies)
	}

	_, err = root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: aws.String("ops")})
	d.must(err)
	_, err = root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: aws.String("ops"), UserName: name})
	d.must(err)
	groups, err := root.ListGroupsForUser(ctx, &awsiam.ListGroupsForUserInput{UserName: name})
	d.must(err)
	if len(groups.Groups) != 1 || *groups.Groups[0].Arn != "arn:aws:iam::"+account+":group/ops" {
		t.Errorf("groups: %+v", groups.Groups)
	}
	key, err := root.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: name})
	d.must(err)

	// It is renamed, and keeps all that it has.
	_, err = root.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: name, NewUserName: aws.String("anna"), NewPath: aws.String("/")})
	d.must(err)
	name = aws.String("anna")
	u, err := root.GetUser(ctx, &awsiam.GetUserInput{UserName: name})
	d.must(err)
	if *u.User.UserId != *made.User.UserId || *u.User.Arn != "arn:aws:iam::"+account+":user/anna" || *u.User.Tags[0].Key != "Team" {
		t.Errorf("renamed: %+v", u.User)
	}
	_, err = root.GetUser(ctx, &awsiam.GetUserInput{UserName: aws.String("ann")})
	d.refused(err, "NoSuchEntity", "The user with name ann cannot be found.")

	// It can be deleted when nothing hangs on it.
	gone := func() error {
		_, err := root.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: name})
		return err
	}
	d.refused(gone(), "DeleteConflict", "must delete access keys first.")
	_, err = root.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{UserName: name, AccessKeyId: key.AccessKey.AccessKeyId})
	d.must(err)
	d.refused(gone(), "DeleteConflict", "must remove user from its groups first.")
	_, err = root.RemoveUserFromGroup(ctx, &awsiam.RemoveUserFromGroupInput{GroupName: aws.String("ops"), UserName: name})
	d.must(err)
	_, err = root.RemoveUserFromGroup(ctx, &awsiam.RemoveUserFromGroupInput{GroupName: aws.String("ops"), UserName: name})
	d.refused(err, "NoSuchEntity", "User anna is not in group ops.")
	d.refused(gone(), "DeleteConflict", "must detach all policies first.")
	_, err = root.DetachUserPolicy(ctx, &awsiam.DetachUserPolicyInput{UserName: name, PolicyArn: aws.String(adminPolicy)})
	d.must(err)
	_, err = root.DetachUserPolicy(ctx, &awsiam.DetachUserPolicyInput{UserName: name, PolicyArn: aws.String(adminPolicy)})
	d.refused(err, "NoSuchEntity", "Policy "+adminPolicy+" was not found.")
	d.refused(gone(), "DeleteConflict", "must delete policies first.")
	_, err = root.DeleteUserPolicy(ctx, &awsiam.DeleteUserPolicyInput{UserName: name, PolicyName: aws.String("own")})
	d.must(err)
	d.must(gone())
	d.refused(gone(), "NoSuchEntity", "The user with name anna cannot be found.")
}

func TestTheLifeOfAGroup(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	name := aws.String("ops")
	made, err := root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: name, Path: aws.String("/team/")})
	d.must(err)
	if g := made.Group; *g.Arn != "arn:aws:iam::"+account+":group/team/ops" || !strings.HasPrefix(*g.GroupId, "AGPA") || *g.GroupName != "ops" {
		t.Errorf("made %+v", g)
	}
	_, err = root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: aws.String("Ops")})
	d.refused(err, "EntityAlreadyExists", "Group with name Ops already exists.")
	_, err = root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: name, UserName: aws.String("ann")})
	d.refused(err, "NoSuchEntity", "The user with name ann cannot be found.")
	ann := d.user("ann", "")
	_, err = root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: name, UserName: aws.String("ann")})
	d.must(err)

	// What it has, its members have.
	_, err = d.iam(ann).ListUsers(ctx, &awsiam.ListUsersInput{})
	d.refused(err, "AccessDenied", "iam:ListUsers")
	_, err = root.PutGroupPolicy(ctx, &awsiam.PutGroupPolicyInput{GroupName: name, PolicyName: aws.String("p"), PolicyDocument: aws.String(allowing("iam:ListUsers"))})
	d.must(err)
	_, err = d.iam(ann).ListUsers(ctx, &awsiam.ListUsersInput{})
	d.must(err)
	_, err = root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: name, PolicyArn: aws.String("arn:aws:iam::aws:policy/IAMReadOnlyAccess")})
	d.must(err)
	_, err = d.iam(ann).ListRoles(ctx, &awsiam.ListRolesInput{})
	d.must(err)

	p, err := root.GetGroupPolicy(ctx, &awsiam.GetGroupPolicyInput{GroupName: name, PolicyName: aws.String("p")})
	d.must(err)
	if decoded(t, p.PolicyDocument) != allowing("iam:ListUsers") {
		t.Errorf("the policy is %s", *p.PolicyDocument)
	}
	inline, err := root.ListGroupPolicies(ctx, &awsiam.ListGroupPoliciesInput{GroupName: name})
	d.must(err)
	attached, err := root.ListAttachedGroupPolicies(ctx, &awsiam.ListAttachedGroupPoliciesInput{GroupName: name})
	d.must(err)
	if len(inline.PolicyNames) != 1 || len(attached.AttachedPolicies) != 1 {
		t.Errorf("it has %v and %v", inline.PolicyNames, attached.AttachedPolicies)
	}
	_, err = root.UpdateGroup(ctx, &awsiam.UpdateGroupInput{GroupName: name, NewGroupName: aws.String("operators")})
	d.must(err)
	name = aws.String("operators")
	g, err := root.GetGroup(ctx, &awsiam.GetGroupInput{GroupName: name})
	d.must(err)
	if *g.Group.Arn != "arn:aws:iam::"+account+":group/team/operators" || len(g.Users) != 1 || *g.Users[0].UserName != "ann" {
		t.Errorf("renamed: %+v %+v", g.Group, g.Users)
	}

	gone := func() error {
		_, err := root.DeleteGroup(ctx, &awsiam.DeleteGroupInput{GroupName: name})
		return err
	}
	d.refused(gone(), "DeleteConflict", "must remove users from group first.")
	_, err = root.RemoveUserFromGroup(ctx, &awsiam.RemoveUserFromGroupInput{GroupName: name, UserName: aws.String("ann")})
	d.must(err)
	d.refused(gone(), "DeleteConflict", "must detach all policies first.")
	_, err = root.DetachGroupPolicy(ctx, &awsiam.DetachGroupPolicyInput{GroupName: name, PolicyArn: aws.String("arn:aws:iam::aws:policy/IAMReadOnlyAccess")})
	d.must(err)
	d.refused(gone(), "DeleteConflict", "must delete policies first.")
	_, err = root.DeleteGroupPolicy(ctx, &awsiam.DeleteGroupPolicyInput{GroupName: name, PolicyName: aws.String("p")})
	d.must(err)
	d.must(gone())
	d.refused(gone(), "NoSuchEntity", "The group with name operators cannot be found.")
	_, err = d.iam(ann).ListUsers(ctx, &awsiam.ListUsersInput{})
	d.refused(err, "AccessDenied", "iam:ListUsers")
}

func TestTheLifeOfARole(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	name := aws.String("node")
	_, err := root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: name, AssumeRolePolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[]`)})
	d.refused(err, "MalformedPolicyDocument", "")
	made, err := root.CreateRole(ctx, &awsiam.CreateRoleInput{
		RoleName: name, Path: aws.String("/service-role/"), AssumeRolePolicyDocument: aws.String(someTrust), Description: aws.String("for nodes"),
		MaxSessionDuration: aws.Int32(7200), Tags: []types.Tag{tag("a", "1"), tag("b", "")},
	})
	d.must(err)
	if r := made.Role; *r.Arn != "arn:aws:iam::"+account+":role/service-role/node" || !strings.HasPrefix(*r.RoleId, "AROA") || *r.MaxSessionDuration != 7200 ||
		decoded(t, r.AssumeRolePolicyDocument) != someTrust || len(r.Tags) != 2 || *r.Tags[1].Value != "" {
		t.Errorf("made %+v", r)
	}
	_, err = root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: name, AssumeRolePolicyDocument: aws.String(someTrust)})
	d.refused(err, "EntityAlreadyExists", "Role with name node already exists.")

	_, err = root.UpdateAssumeRolePolicy(ctx, &awsiam.UpdateAssumeRolePolicyInput{RoleName: name, PolicyDocument: aws.String(allowing("sts:AssumeRole"))})
	d.refused(err, "MalformedPolicyDocument", "")
	nodes := strings.Replace(someTrust, `"AWS":"`+account+`"`, `"Service":"ssm.amazonaws.com"`, 1)
	_, err = root.UpdateAssumeRolePolicy(ctx, &awsiam.UpdateAssumeRolePolicyInput{RoleName: name, PolicyDocument: &nodes})
	d.must(err)
	described, err := root.UpdateRoleDescription(ctx, &awsiam.UpdateRoleDescriptionInput{RoleName: name, Description: aws.String("for all nodes")})
	d.must(err)
	if r := described.Role; *r.Description != "for all nodes" || *r.MaxSessionDuration != 7200 || decoded(t, r.AssumeRolePolicyDocument) != nodes {
		t.Errorf("described: %+v", r)
	}
	_, err = root.UpdateRole(ctx, &awsiam.UpdateRoleInput{RoleName: name, MaxSessionDuration: aws.Int32(43200)})
	d.must(err)
	got, err := root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: name})
	d.must(err)
	if r := got.Role; *r.Description != "for all nodes" || *r.MaxSessionDuration != 43200 {
		t.Errorf("updated: %+v", r)
	}
	_, err = root.UpdateRole(ctx, &awsiam.UpdateRoleInput{RoleName: name, MaxSessionDuration: aws.Int32(43201)})
	d.refused(err, "ValidationError", "Member must have value less than or equal to 43200")

	_, err = root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: name, PolicyName: aws.String("p"), PolicyDocument: aws.String(allowing("s3:GetObject"))})
	d.must(err)
	p, err := root.GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: name, PolicyName: aws.String("p")})
	d.must(err)
	if decoded(t, p.PolicyDocument) != allowing("s3:GetObject") {
		t.Errorf("the policy is %s", *p.PolicyDocument)
	}
	_, err = root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: name, PolicyArn: aws.String("arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore")})
	d.must(err)
	inline, err := root.ListRolePolicies(ctx, &awsiam.ListRolePoliciesInput{RoleName: name})
	d.must(err)
	attached, err := root.ListAttachedRolePolicies(ctx, &awsiam.ListAttachedRolePoliciesInput{RoleName: name})
	d.must(err)
	if len(inline.PolicyNames) != 1 || len(attached.AttachedPolicies) != 1 {
		t.Errorf("it has %v and %v", inline.PolicyNames, attached.AttachedPolicies)
	}
	gone := func() error {
		_, err := root.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: name})
		return err
	}
	d.refused(gone(), "DeleteConflict", "must detach all policies first.")
	_, err = root.DetachRolePolicy(ctx, &awsiam.DetachRolePolicyInput{RoleName: name, PolicyArn: attached.AttachedPolicies[0].PolicyArn})
	d.must(err)
	d.refused(gone(), "DeleteConflict", "must delete policies first.")
	_, err = root.DeleteRolePolicy(ctx, &awsiam.DeleteRolePolicyInput{RoleName: name, PolicyName: aws.String("p")})
	d.must(err)
	d.must(gone())
	_, err = root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: name})
	d.refused(err, "NoSuchEntity", "The role with name node cannot be found.")
}

func TestTheLifeOfAManagedPolicy(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	first, second := allowing("ssm:GetDocument"), allowing("ssm:GetDocument", "ssm:DescribeSessions")
	made, err := root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{
		PolicyName: aws.String("reading"), Path: aws.String("/team/"), PolicyDocument: &first, Description: aws.String("to read"), Tags: []types.Tag{tag("a", "1")},
	})
	d.must(err)
	arn := made.Policy.Arn
	if p := made.Policy; *arn != ourPolicy || *p.DefaultVersionId != "v1" || !strings.HasPrefix(*p.PolicyId, "ANPA") || !p.IsAttachable || *p.AttachmentCount != 0 || len(p.Tags) != 1 {
		t.Errorf("made %+v", p)
	}
	_, err = root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{PolicyName: aws.String("Reading"), PolicyDocument: &first})
	d.refused(err, "EntityAlreadyExists", "A policy called Reading already exists. Duplicate names are not allowed.")

	v, err := root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: arn, PolicyDocument: &second})
	d.must(err)
	if *v.PolicyVersion.VersionId != "v2" || v.PolicyVersion.IsDefaultVersion {
		t.Errorf("version %+v", v.PolicyVersion)
	}
	_, err = root.SetDefaultPolicyVersion(ctx, &awsiam.SetDefaultPolicyVersionInput{PolicyArn: arn, VersionId: aws.String("v2")})
	d.must(err)
	one, err := root.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: arn, VersionId: aws.String("v2")})
	d.must(err)
	if decoded(t, one.PolicyVersion.Document) != second || !one.PolicyVersion.IsDefaultVersion {
		t.Errorf("v2 is %+v", one.PolicyVersion)
	}
	for range 3 {
		_, err = root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: arn, PolicyDocument: &second, SetAsDefault: true})
		d.must(err)
	}
	_, err = root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: arn, PolicyDocument: &second})
	d.refused(err, "LimitExceeded", "A managed policy can have up to 5 versions.")
	_, err = root.DeletePolicyVersion(ctx, &awsiam.DeletePolicyVersionInput{PolicyArn: arn, VersionId: aws.String("v5")})
	d.refused(err, "DeleteConflict", "Cannot delete the default version of a policy.")
	_, err = root.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: arn, VersionId: aws.String("v6")})
	d.refused(err, "NoSuchEntity", "version v6 does not exist")

	d.user("ann", "")
	_, err = root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: aws.String("ann"), PolicyArn: arn})
	d.must(err)
	_, err = root.PutUserPermissionsBoundary(ctx, &awsiam.PutUserPermissionsBoundaryInput{UserName: aws.String("ann"), PermissionsBoundary: arn})
	d.must(err)
	got, err := root.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: arn})
	d.must(err)
	if p := got.Policy; *p.AttachmentCount != 1 || *p.PermissionsBoundaryUsageCount != 1 || *p.DefaultVersionId != "v5" || *p.Description != "to read" {
		t.Errorf("it is %+v", p)
	}
	gone := func() error {
		_, err := root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: arn})
		return err
	}
	d.refused(gone(), "DeleteConflict", "Cannot delete a policy attached to entities.")
	_, err = root.DetachUserPolicy(ctx, &awsiam.DetachUserPolicyInput{UserName: aws.String("ann"), PolicyArn: arn})
	d.must(err)
	d.refused(gone(), "DeleteConflict", "Cannot delete a policy attached to entities.")
	_, err = root.DeleteUserPermissionsBoundary(ctx, &awsiam.DeleteUserPermissionsBoundaryInput{UserName: aws.String("ann")})
	d.must(err)
	d.refused(gone(), "DeleteConflict", "This policy has more than one version.")
	for _, version := range []string{"v1", "v2", "v3", "v4"} {
		_, err = root.DeletePolicyVersion(ctx, &awsiam.DeletePolicyVersionInput{PolicyArn: arn, VersionId: &version})
		d.must(err)
	}
	d.must(gone())
	d.refused(gone(), "NoSuchEntity", "Policy "+ourPolicy+" was not found.")
}

// Policies of AWS's own are there from the start, can be read and attached, and
// no caller can change them.
func TestPoliciesOfAWSsOwn(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	arn := aws.String(adminPolicy)
	p, err := root.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: arn})
	d.must(err)
	v, err := root.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: arn, VersionId: p.Policy.DefaultVersionId})
	d.must(err)
	if !strings.Contains(decoded(t, v.PolicyVersion.Document), `"Allow"`) {
		t.Errorf("its document is %s", *v.PolicyVersion.Document)
	}
	d.user("ann", "")
	_, err = root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: aws.String("ann"), PolicyArn: arn})
	d.must(err)
	if p, err = root.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: arn}); err != nil || *p.Policy.AttachmentCount != 1 {
		t.Errorf("attached: %+v, %v", p, err)
	}
	tags, err := root.ListPolicyTags(ctx, &awsiam.ListPolicyTagsInput{PolicyArn: arn})
	d.must(err)
	if tags.Tags == nil || len(tags.Tags) != 0 {
		t.Errorf("its tags: %v", tags.Tags)
	}

	for operation, form := range map[string]string{
		"CreatePolicyVersion": "&PolicyDocument=" + allowing("*"), "DeletePolicy": "", "DeletePolicyVersion": "&VersionId=v1",
		"SetDefaultPolicyVersion": "&VersionId=v1", "TagPolicy": "&Tags.member.1.Key=a&Tags.member.1.Value=b", "UntagPolicy": "&TagKeys.member.1=a",
	} {
		if a := d.call(d.root, operation, "PolicyArn="+adminPolicy+form); a.code != "AccessDenied" || !strings.Contains(a.message, "no caller can change") {
			t.Errorf("%s: %+v", operation, a)
		}
	}
	missing := "arn:aws:iam::aws:policy/AmazonS3FullAccess"
	for operation, form := range map[string]string{
		"AttachUserPolicy": "UserName=ann&PolicyArn=", "PutUserPermissionsBoundary": "UserName=ann&PermissionsBoundary=",
		"CreateUser": "UserName=bob&PermissionsBoundary=", "CreateRole": "RoleName=r&AssumeRolePolicyDocument=" + someTrust + "&PermissionsBoundary=",
		"GetPolicy": "PolicyArn=", "GetPolicyVersion": "VersionId=v1&PolicyArn=", "ListEntitiesForPolicy": "PolicyArn=",
	} {
		if a := d.call(d.root, operation, form+missing); a.code != "NoSuchEntity" || a.status != 404 {
			t.Errorf("%s of one that is not here: %+v", operation, a)
		}
	}
}

// Nothing gets at a policy by a name that is not quite its ARN.
func TestARNsThatEscape(t *testing.T) {
	d := open(t)
	furnish(d)
	for arn, code := range map[string]string{
		"arn:aws:iam::" + account + ":policy/team/../team/reading":   "NoSuchEntity",
		"arn:aws:iam::999999999999:policy/team/reading":              "NoSuchEntity",
		"arn:aws:iam::" + account + ":policy/reading":                "NoSuchEntity",
		"arn:aws:iam::aws:policy/team/reading":                       "NoSuchEntity",
		"arn:aws:iam::" + account + ":policy/team/":                  "InvalidInput",
		"arn:aws:iam::" + account + ":policy/team/*":                 "InvalidInput",
		"arn:aws:iam::" + account + ":policy/team/${aws:username}":   "InvalidInput",
		"arn:aws:iam::" + account + ":user/team/ann":                 "InvalidInput",
		"arn:aws:iam::" + account + ":policyreading":                 "InvalidInput",
		"arn:aws:iam:home-1:" + account + ":policy/team/reading":     "InvalidInput",
		"arn:aws-cn:iam::" + account + ":policy/team/reading":        "InvalidInput",
		"arn:aws:s3:::policy/team/reading":                           "InvalidInput",
		"arn:aws:iam::" + account + ":policy/team/reading\n":         "InvalidInput",
		"arn:aws:iam::" + account + ":policy/team/reading:policy/no": "InvalidInput",
	} {
		for operation, form := range map[string]string{
			"AttachUserPolicy": "UserName=ann&PolicyArn=", "AttachRolePolicy": "RoleName=node&PolicyArn=", "GetPolicy": "PolicyArn=",
			"PutRolePermissionsBoundary": "RoleName=node&PermissionsBoundary=", "DetachGroupPolicy": "GroupName=ops&PolicyArn=", "DeletePolicy": "PolicyArn=",
		} {
			want := code
			if strings.HasPrefix(arn, "arn:aws:iam::aws:") && operation == "DeletePolicy" {
				want = "AccessDenied"
			}
			if a := d.call(d.root, operation, form+url.QueryEscape(arn)); a.code != want {
				t.Errorf("%s %q: %+v, want %s", operation, arn, a, want)
			}
		}
	}
	for operation, form := range map[string]string{
		"GetUser": "UserName=", "DeleteUser": "UserName=", "GetRole": "RoleName=", "GetGroup": "GroupName=",
		"GetUserPolicy": "UserName=ann&PolicyName=", "CreateUser": "UserName=ok&Path=",
	} {
		for _, name := range []string{"../ann", "team/ann", "ann*", "ann?", "${aws:username}", "a:b", " ", strings.Repeat("a", 600)} {
			if a := d.call(d.root, operation, form+url.QueryEscape(name)); a.code != "ValidationError" {
				t.Errorf("%s %q: %+v", operation, name, a)
			}
		}
	}
}

// A member by another spelling is no member: it would not be held to the model.
func TestMembersAreSpeltOneWay(t *testing.T) {
	d := open(t)
	furnish(d)
	for _, form := range []string{"userName=ann", "username=ann", "UserName.member.1=ann", "User-Name=ann", ".UserName=ann"} {
		if a := d.call(d.root, "DeleteUser", form); a.code != "ValidationError" {
			t.Errorf("%s: %+v", form, a)
		}
	}
}

func TestTags(t *testing.T) {
	d := open(t)
	furnish(d)
	root := d.iam(d.root)
	for kind, who := range map[string]string{"User": "UserName=ann", "Role": "RoleName=node", "Policy": "PolicyArn=" + ourPolicy} {
		t.Run(kind, func(t *testing.T) {
			tagged := func() (tags []string) {
				t.Helper()
				var list []types.Tag
				switch kind {
				case "User":
					out, err := root.ListUserTags(t.Context(), &awsiam.ListUserTagsInput{UserName: aws.String("ann")})
					d.must(err)
					list = out.Tags
				case "Role":
					out, err := root.ListRoleTags(t.Context(), &awsiam.ListRoleTagsInput{RoleName: aws.String("node")})
					d.must(err)
					list = out.Tags
				case "Policy":
					out, err := root.ListPolicyTags(t.Context(), &awsiam.ListPolicyTagsInput{PolicyArn: aws.String(ourPolicy)})
					d.must(err)
					list = out.Tags
				}
				if list == nil {
					t.Error("an empty list is not there")
				}
				for _, tag := range list {
					tags = append(tags, *tag.Key+"="+*tag.Value)
				}
				return tags
			}
			many := func(n int) string {
				var b strings.Builder
				for i := range n {
					b.WriteString("&Tags.member." + itoa(i+1) + ".Key=k" + itoa(i) + "&Tags.member." + itoa(i+1) + ".Value=v")
				}
				return b.String()
			}
			for _, step := range []struct {
				claim, operation, form string
				code, message          string
				want                   []string
			}{
				{"there are none at first", "Tag", "&Tags=", "", "", nil},
				{"tags keep their case", "Tag", "&Tags.member.1.Key=Team&Tags.member.1.Value=red&Tags.member.2.Key=b&Tags.member.2.Value=", "", "", []string{"Team=red", "b="}},
				{"one that differs by case takes its place", "Tag", "&Tags.member.1.Key=team&Tags.member.1.Value=blue", "", "", []string{"b=", "team=blue"}},
				{"two that differ by case are refused", "Tag", "&Tags.member.1.Key=x&Tags.member.1.Value=1&Tags.member.2.Key=X&Tags.member.2.Value=2", "InvalidInput", "Duplicate tag keys found.", []string{"b=", "team=blue"}},
				{"AWS's own are refused", "Tag", "&Tags.member.1.Key=AWS:x&Tags.member.1.Value=1", "InvalidInput", "reserved", []string{"b=", "team=blue"}},
				{"characters that tags may not have are refused", "Tag", "&Tags.member.1.Key=a*&Tags.member.1.Value=1", "ValidationError", "regular expression", []string{"b=", "team=blue"}},
				{"fifty are the most at once", "Tag", many(51), "ValidationError", "less than or equal to 50", []string{"b=", "team=blue"}},
				{"and the most in all", "Tag", many(49), "LimitExceeded", "maximum limit of 50", []string{"b=", "team=blue"}},
				{"they are taken off in whatever case", "Untag", "&TagKeys.member.1=TEAM&TagKeys.member.2=never", "", "", []string{"b="}},
			} {
				a := d.call(d.root, step.operation+kind, who+step.form)
				if a.code != step.code || !strings.Contains(a.message, step.message) {
					t.Errorf("%s: %+v", step.claim, a)
				}
				if got := tagged(); !slices.Equal(got, step.want) {
					t.Errorf("%s: it has %v, want %v", step.claim, got, step.want)
				}
			}
		})
	}
}

func TestDocumentsThatAreRefused(t *testing.T) {
	d := open(t)
	furnish(d)
	fat := func(n int) string { // a document of n characters, as AWS counts
		doc := strings.Replace(allowing("ssm:X"), "{", `{"Id":"`+"\x00"+`",`, 1)
		return strings.Replace(doc, "\x00", strings.Repeat("x", n-len(doc)+1), 1)
	}
	fatTrust := func(n int) string {
		return strings.Replace(someTrust, "{", `{"Id":"`+strings.Repeat("x", n-len(someTrust)-len(`"Id":"",`))+`",`, 1)
	}
	const inline, managed, trust = "&PolicyName=p&PolicyDocument=", "&PolicyDocument=", "&AssumeRolePolicyDocument="
	for _, tt := range []struct {
		claim, operation, form, document string
		code, message                    string
	}{
		{"JSON that breaks off", "PutUserPolicy", "UserName=ann" + inline, `{"Version":`, "MalformedPolicyDocument", ""},
		{"an effect nobody knows", "PutRolePolicy", "RoleName=node" + inline, strings.Replace(allowing("ssm:*"), "Allow", "Permit", 1), "MalformedPolicyDocument", ""},
		{"a managed policy of the old version", "CreatePolicy", "PolicyName=old" + managed, strings.Replace(allowing("ssm:*"), "2012-10-17", "2008-10-17", 1), "MalformedPolicyDocument", ""},
		{"a trust policy without a principal", "CreateRole", "RoleName=r" + trust, allowing("sts:AssumeRole"), "MalformedPolicyDocument", ""},
		{"characters no document has", "PutUserPolicy", "UserName=ann" + inline, "☃", "ValidationError", "regular expression"},

		{"2048 characters of a user's", "PutUserPolicy", "UserName=ann" + inline, fat(2048), "", ""},
		{"2049 of a user's", "PutUserPolicy", "UserName=ann" + inline, fat(2049), "LimitExceeded", "Maximum policy size of 2048 bytes exceeded for user ann"},
		{"2049 of a user's in two policies", "PutUserPolicy", "UserName=ann&PolicyName=q&PolicyDocument=", fat(200), "LimitExceeded", "2048"},
		{"white space does not count", "PutUserPolicy", "UserName=ann" + inline, strings.Repeat(" ", 5000) + fat(2048), "", ""},
		{"5121 of a group's", "PutGroupPolicy", "GroupName=ops" + inline, fat(5121), "LimitExceeded", "Maximum policy size of 5120 bytes exceeded for group ops"},
		{"10240 of a role's", "PutRolePolicy", "RoleName=node" + inline, fat(10240), "", ""},
		{"one more in another", "PutRolePolicy", "RoleName=node&PolicyName=q&PolicyDocument=", allowing("ssm:X"), "LimitExceeded", "Maximum policy size of 10240 bytes exceeded for role node"},
		{"6145 of a managed policy", "CreatePolicy", "PolicyName=fat" + managed, fat(6145), "LimitExceeded", "Cannot exceed quota for PolicySize: 6144"},
		{"6145 of a version", "CreatePolicyVersion", "PolicyArn=" + ourPolicy + managed, fat(6145), "LimitExceeded", "Cannot exceed quota for PolicySize: 6144"},
		{"2048 of a trust policy", "CreateRole", "RoleName=fit" + trust, fatTrust(2048), "", ""},
		{"2049 of a trust policy", "CreateRole", "RoleName=fat" + trust, fatTrust(2049), "LimitExceeded", "Cannot exceed quota for ACLSizePerRole: 2048"},
		{"2049 of a trust policy there is", "UpdateAssumeRolePolicy", "RoleName=node" + managed, fatTrust(2049), "LimitExceeded", "ACLSizePerRole"},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			if a := d.call(d.root, tt.operation, tt.form+url.QueryEscape(tt.document)); a.code != tt.code || !strings.Contains(a.message, tt.message) {
				t.Errorf("got %+v", a)
			}
		})
	}
}

func TestAtMostTwoKeysAndTheirRotation(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	old := d.user("ann", allowing("iam:GetUser"))
	works := func(c aws.Credentials) error {
		_, err := d.iam(c).GetUser(ctx, &awsiam.GetUserInput{})
		return err
	}
	made, err := root.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: aws.String("ann")})
	d.must(err)
	fresh := aws.Credentials{AccessKeyID: *made.AccessKey.AccessKeyId, SecretAccessKey: *made.AccessKey.SecretAccessKey}
	if len(fresh.AccessKeyID) != 20 || len(fresh.SecretAccessKey) != 40 || !strings.HasPrefix(fresh.AccessKeyID, "AKIA") || made.AccessKey.Status != types.StatusTypeActive {
		t.Errorf("made %+v", made.AccessKey)
	}
	_, err = root.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: aws.String("ann")})
	d.refused(err, "LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2")
	never, err := root.GetAccessKeyLastUsed(ctx, &awsiam.GetAccessKeyLastUsedInput{AccessKeyId: &fresh.AccessKeyID})
	d.must(err)
	if u := never.AccessKeyLastUsed; *u.ServiceName != "N/A" || *u.Region != "N/A" || u.LastUsedDate != nil || *never.UserName != "ann" {
		t.Errorf("before it was used: %+v", u)
	}
	d.must(works(old))
	d.must(works(fresh))
	used, err := root.GetAccessKeyLastUsed(ctx, &awsiam.GetAccessKeyLastUsedInput{AccessKeyId: &fresh.AccessKeyID})
	d.must(err)
	if u := used.AccessKeyLastUsed; *u.ServiceName != "iam" || *u.Region != "home-1" || time.Since(*u.LastUsedDate) > 2*time.Minute {
		t.Errorf("after it was used: %+v", u)
	}

	status := func(s types.StatusType) error {
		_, err := root.UpdateAccessKey(ctx, &awsiam.UpdateAccessKeyInput{UserName: aws.String("ann"), AccessKeyId: &old.AccessKeyID, Status: s})
		return err
	}
	d.must(status(types.StatusTypeInactive))
	d.refused(works(old), "InvalidClientTokenId", "")
	d.must(works(fresh))
	d.must(status(types.StatusTypeActive))
	d.must(works(old))
	d.refused(status(types.StatusTypeExpired), "InvalidInput", "")
	_, err = root.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{UserName: aws.String("ann"), AccessKeyId: &old.AccessKeyID})
	d.must(err)
	d.refused(works(old), "InvalidClientTokenId", "")
	d.must(works(fresh))

	// A secret is said once: no other answer has it.
	list, err := root.ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{UserName: aws.String("ann")})
	d.must(err)
	if len(list.AccessKeyMetadata) != 1 || *list.AccessKeyMetadata[0].AccessKeyId != fresh.AccessKeyID {
		t.Errorf("her keys: %+v", list.AccessKeyMetadata)
	}
	_, err = root.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{UserName: aws.String("ann"), AccessKeyId: &d.root.AccessKeyID})
	d.refused(err, "NoSuchEntity", "cannot be found.")
}

func TestRightsThatAreTakenAwayAreGoneAtOnce(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	ann := d.iam(d.user("ann", ""))
	may := func() error {
		_, err := ann.ListUsers(ctx, &awsiam.ListUsersInput{})
		return err
	}
	mayNot := func(when string) {
		t.Helper()
		if err := may(); err == nil {
			t.Errorf("%s she may", when)
		} else {
			d.refused(err, "AccessDenied", "iam:ListUsers")
		}
	}
	name, p := aws.String("ann"), aws.String("p")
	mayNot("with nothing")
	for range 3 {
		_, err := root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: name, PolicyName: p, PolicyDocument: aws.String(allowing("iam:List*"))})
		d.must(err)
		d.must(may())
		_, err = root.DeleteUserPolicy(ctx, &awsiam.DeleteUserPolicyInput{UserName: name, PolicyName: p})
		d.must(err)
		mayNot("without her policy")
	}
	made, err := root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{PolicyName: p, PolicyDocument: aws.String(allowing("iam:List*"))})
	d.must(err)
	_, err = root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: name, PolicyArn: made.Policy.Arn})
	d.must(err)
	d.must(may())
	_, err = root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: made.Policy.Arn, PolicyDocument: aws.String(allowing("iam:Get*")), SetAsDefault: true})
	d.must(err)
	mayNot("by another version")
	_, err = root.SetDefaultPolicyVersion(ctx, &awsiam.SetDefaultPolicyVersionInput{PolicyArn: made.Policy.Arn, VersionId: aws.String("v1")})
	d.must(err)
	d.must(may())
	_, err = root.PutUserPermissionsBoundary(ctx, &awsiam.PutUserPermissionsBoundaryInput{UserName: name, PermissionsBoundary: aws.String("arn:aws:iam::aws:policy/AmazonSSMFullAccess")})
	d.must(err)
	mayNot("outside her boundary")
	u, err := root.GetUser(ctx, &awsiam.GetUserInput{UserName: name})
	d.must(err)
	if b := u.User.PermissionsBoundary; b == nil || *b.PermissionsBoundaryArn != "arn:aws:iam::aws:policy/AmazonSSMFullAccess" || b.PermissionsBoundaryType != "Policy" {
		t.Errorf("her boundary is %+v", b)
	}
	_, err = root.DeleteUserPermissionsBoundary(ctx, &awsiam.DeleteUserPermissionsBoundaryInput{UserName: name})
	d.must(err)
	d.must(may())
	_, err = root.DetachUserPolicy(ctx, &awsiam.DetachUserPolicyInput{UserName: name, PolicyArn: made.Policy.Arn})
	d.must(err)
	mayNot("with nothing again")
}

// A user that is made within a boundary is never without it, not even with a
// boundary that is not there.
func TestMadeWithinABoundary(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	for _, arn := range []string{ourPolicy, "arn:aws:iam::aws:policy/Missing"} {
		_, err := root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: aws.String("ann"), PermissionsBoundary: &arn})
		d.refused(err, "NoSuchEntity", "Policy "+arn+" does not exist or is not attachable.")
		_, err = root.GetUser(ctx, &awsiam.GetUserInput{UserName: aws.String("ann")})
		d.refused(err, "NoSuchEntity", "")
	}
	made, err := root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: aws.String("r"), AssumeRolePolicyDocument: aws.String(someTrust), PermissionsBoundary: aws.String(adminPolicy)})
	d.must(err)
	if b := made.Role.PermissionsBoundary; b == nil || *b.PermissionsBoundaryArn != adminPolicy {
		t.Errorf("its boundary is %+v", b)
	}
	got, err := root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: aws.String("r")})
	d.must(err)
	if b := got.Role.PermissionsBoundary; b == nil || *b.PermissionsBoundaryArn != adminPolicy {
		t.Errorf("its boundary is %+v", b)
	}
	_, err = root.DeleteRolePermissionsBoundary(ctx, &awsiam.DeleteRolePermissionsBoundaryInput{RoleName: aws.String("r")})
	d.must(err)
	_, err = root.DeleteRolePermissionsBoundary(ctx, &awsiam.DeleteRolePermissionsBoundaryInput{RoleName: aws.String("r")})
	d.refused(err, "NoSuchEntity", "does not have a permissions boundary.")
}

func TestADeletedUsersCredentialsAreDead(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	key := d.user("ann", "")
	who := func(c aws.Credentials) error {
		_, err := d.sts(c).GetCallerIdentity(ctx, &awssts.GetCallerIdentityInput{})
		return err
	}
	out, err := d.sts(key).GetSessionToken(ctx, &awssts.GetSessionTokenInput{})
	d.must(err)
	token := aws.Credentials{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken}
	d.must(who(key))
	d.must(who(token))

	remove := func() {
		t.Helper()
		_, err := root.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{UserName: aws.String("ann"), AccessKeyId: &key.AccessKeyID})
		d.must(err)
		d.refused(who(key), "InvalidClientTokenId", "")
		_, err = root.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: aws.String("ann")})
		d.must(err)
	}
	remove()
	d.refused(who(token), "InvalidClientTokenId", "")

	// A user made later by the same name is another user.
	key = d.user("ann", allowing("*"))
	d.must(who(key))
	d.refused(who(token), "InvalidClientTokenId", "")
}

func TestALocalPolicyIsNamedOnceInThePlaceOfItsHolder(t *testing.T) {
	d := open(t)
	furnish(d)
	ctx, root := t.Context(), d.iam(d.root)
	for operation, form := range map[string]string{
		"AttachUserPolicy": "UserName=ann", "AttachGroupPolicy": "GroupName=ops", "AttachRolePolicy": "RoleName=node",
	} {
		if a := d.call(d.root, operation, form+"&PolicyArn="+ourPolicy); a.code != "" {
			t.Fatalf("%+v", a)
		}
	}
	for operation, form := range map[string]string{
		"PutUserPermissionsBoundary": "UserName=ann", "PutRolePermissionsBoundary": "RoleName=bounded",
	} {
		if form == "RoleName=bounded" {
			d.must(d.db.IAM().CreateRole(ctx, sallyport.Role{Name: "bounded", Path: "/", ID: sallyport.EntityID("AROA"), Created: time.Now(), Trust: someTrust}))
		}
		if a := d.call(d.root, operation, form+"&PermissionsBoundary="+ourPolicy); a.code != "" {
			t.Fatalf("%+v", a)
		}
	}
	for _, tt := range []struct {
		in   awsiam.ListEntitiesForPolicyInput
		want string
	}{
		{awsiam.ListEntitiesForPolicyInput{}, "group ops, role bounded, role node, user ann"},
		{awsiam.ListEntitiesForPolicyInput{EntityFilter: types.EntityTypeRole}, "role bounded, role node"},
		{awsiam.ListEntitiesForPolicyInput{PathPrefix: aws.String("/team/")}, "group ops, role node, user ann"},
		{awsiam.ListEntitiesForPolicyInput{PolicyUsageFilter: types.PolicyUsageTypePermissionsBoundary}, "role bounded, user ann"},
		{awsiam.ListEntitiesForPolicyInput{PolicyUsageFilter: types.PolicyUsageTypePermissionsPolicy}, "group ops, role node, user ann"},
	} {
		for _, most := range []int32{1, 2, 100} {
			tt.in.PolicyArn, tt.in.MaxItems = aws.String(ourPolicy), &most
			var got []string
			for p := awsiam.NewListEntitiesForPolicyPaginator(root, &tt.in); p.HasMorePages(); {
				out, err := p.NextPage(ctx)
				d.must(err)
				for _, g := range out.PolicyGroups {
					got = append(got, "group "+*g.GroupName)
				}
				for _, r := range out.PolicyRoles {
					got = append(got, "role "+*r.RoleName)
				}
				for _, u := range out.PolicyUsers {
					got = append(got, "user "+*u.UserName)
				}
			}
			if s := strings.Join(got, ", "); s != tt.want {
				t.Errorf("%+v by %d: %s, want %s", tt.in, most, s, tt.want)
			}
		}
	}
	_, err := root.ListEntitiesForPolicy(ctx, &awsiam.ListEntitiesForPolicyInput{PolicyArn: aws.String(ourPolicy), EntityFilter: types.EntityTypeLocalManagedPolicy})
	d.refused(err, "InvalidInput", "")
}
