package sts_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// remove deletes a user with a policy and keys, and all that hangs on it.
func (d *door) remove(user string) {
	d.Helper()
	keys, err := d.db.IAM().AccessKeys(d.Context(), user)
	d.must(err)
	for _, k := range keys {
		d.must(d.db.IAM().DeleteAccessKey(d.Context(), user, k.ID))
	}
	if err := d.db.IAM().DeleteInlinePolicy(d.Context(), store.User(user), "own"); sallyport.CodeOf(err) != sallyport.NoSuchEntity {
		d.must(err)
	}
	d.must(d.db.IAM().Delete(d.Context(), store.User(user)))
}

// A role trusts the users and roles that its policy named when it was put, also after
// they are renamed, and not others that get their names later.
func TestTrustNamesByID(t *testing.T) {
	d := open(t)
	ctx := t.Context()
	root := d.iam(d.root)
	ann := d.user(named("ann"), "")
	bob := d.user(named("bob"), policyOf(allow(assumeAny)))
	d.role(sallyport.Role{Name: "first", Trust: trust(`{"AWS":"`+account+`"}`, "")}, policyOf(deny(`"none:None"`)))
	text := policyOf(
		`"Effect":"Allow", "Principal":{"AWS":["`+arn+`user/ann", "arn:aws:sts::`+account+`:assumed-role/first/work"]},"Action":"sts:AssumeRole"`,
		`"Effect":"Deny","Principal":{"AWS":"`+arn+`user/bob"},"Action":"sts:AssumeRole"`)
	_, err := root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: aws.String("second"), AssumeRolePolicyDocument: &text})
	d.must(err)
	shown := func() string {
		t.Helper()
		got, err := root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: aws.String("second")})
		d.must(err)
		list, err := root.ListRoles(ctx, &awsiam.ListRolesInput{})
		d.must(err)
		for _, r := range list.Roles {
			if *r.RoleName == "second" && *r.AssumeRolePolicyDocument != *got.Role.AssumeRolePolicyDocument {
				t.Errorf("it is listed with %s", *r.AssumeRolePolicyDocument)
			}
		}
		doc, err := url.PathUnescape(*got.Role.AssumeRolePolicyDocument)
		d.must(err)
		return doc
	}
	may := func(c aws.Credentials) error {
		_, _, err := d.assume(c, "second", nil)
		return err
	}
	if got := shown(); got != text {
		t.Errorf("the policy is shown as %s", got)
	}
	d.must(may(ann))
	d.must(may(d.assumed(bob, "first", nil)))
	d.refused(may(d.assumed(bob, "first", func(in *awssts.AssumeRoleInput) { in.RoleSessionName = aws.String("rest") })), "AccessDenied", "sts:AssumeRole")
	d.refused(may(bob), "AccessDenied", "sts:AssumeRole")

	_, err = root.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: aws.String("ann"), NewUserName: aws.String("anna"), NewPath: aws.String("/team/")})
	d.must(err)
	d.must(may(ann))
	if got := shown(); got != strings.Replace(text, "user/ann", "user/team/anna", 1) {
		t.Errorf("after the user was renamed the policy is shown as %s", got)
	}
	d.refused(may(d.user(named("ann"), "")), "AccessDenied", "sts:AssumeRole")

	d.remove("anna")
	d.remove("ann")
	d.refused(may(d.user(named("ann"), "")), "AccessDenied", "sts:AssumeRole")
	got := shown()
	if strings.Contains(got, "user/ann") || !strings.Contains(got, `["AIDA`) {
		t.Errorf("after the user was deleted the policy is shown as %s", got)
	}
	for _, name := range []string{arn + "user/nobody", arn + "user/team/bob", arn + "role/bob", arn + "federated-user/bob", "arn:aws:sts::" + account + ":assumed-role/none/work", "AIDANOBODY", "AROANOBODY", "AROANOBODY:work"} {
		_, err := root.UpdateAssumeRolePolicy(ctx, &awsiam.UpdateAssumeRolePolicyInput{RoleName: aws.String("second"), PolicyDocument: aws.String(trust(`{"AWS":"`+name+`"}`, ""))})
		d.refused(err, "MalformedPolicyDocument", `Invalid principal in policy: "AWS":"`+name+`". There is no such user or role here`)
		_, err = root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: aws.String("third"), AssumeRolePolicyDocument: aws.String(trust(`{"AWS":"`+name+`"}`, ""))})
		d.refused(err, "MalformedPolicyDocument", "Invalid principal in policy")
	}
	_, err = root.UpdateAssumeRolePolicy(ctx, &awsiam.UpdateAssumeRolePolicyInput{RoleName: aws.String("second"), PolicyDocument: &got})
	d.refused(err, "MalformedPolicyDocument", `"AWS":"AIDA`)
	_, err = root.UpdateAssumeRolePolicy(ctx, &awsiam.UpdateAssumeRolePolicyInput{RoleName: aws.String("second"), PolicyDocument: aws.String(trust(`{"AWS":["999999999999","arn:aws:iam::999999999999:user/ann"]}`, ""))})
	d.must(err) // of other accounts nothing is known
}

// Policies that a database has from before are bound once, to what their names
// mean then.
func TestStoredTrustIsBoundOnce(t *testing.T) {
	d := open(t)
	ann := d.user(named("ann"), "")
	now := time.Now()
	for name, whom := range map[string]string{"anns": "ann", "gones": "gone"} {
		d.must(d.db.IAM().CreateRole(t.Context(), sallyport.Role{Name: name, Path: "/", ID: sallyport.EntityID("AROA"), Created: now, MaxSession: time.Hour, Trust: trust(`{"AWS":"`+arn+`user/`+whom+`"}`, "")}))
	}
	d.must(d.api.BindStored(t.Context()))
	d.assumed(ann, "anns", nil)
	gone := d.user(named("gone"), "")
	d.must(d.api.BindStored(t.Context()))
	_, _, err := d.assume(gone, "gones", nil)
	d.refused(err, "AccessDenied", "sts:AssumeRole")
	d.remove("ann")
	_, _, err = d.assume(d.user(named("ann"), ""), "anns", nil)
	d.refused(err, "AccessDenied", "sts:AssumeRole")
}

// Short-lived credentials are worth no more than what they were got with.
func TestCredentialsEndWithWhatTheyRestOn(t *testing.T) {
	d := open(t)
	ctx := t.Context()
	ann := d.user(named("ann"), policyOf(allow(`"sts:AssumeRole"`)))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	d.role(sallyport.Role{Name: "other", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	token := func(c aws.Credentials) aws.Credentials {
		t.Helper()
		out, err := d.sts(c).GetSessionToken(ctx, &awssts.GetSessionTokenInput{})
		d.must(err)
		return session(out.Credentials)
	}
	all := map[string]aws.Credentials{
		"a session token":                       token(ann),
		"a role":                                d.assumed(ann, "admin", nil),
		"a role, by a session token":            d.assumed(token(ann), "admin", nil),
		"a role, by a role":                     d.assumed(d.assumed(ann, "admin", nil), "other", nil),
		"a role, by a role, by a session token": d.assumed(d.assumed(token(ann), "admin", nil), "other", nil),
	}
	second := d.key("ann")
	others := map[string]aws.Credentials{"another key's session token": token(second), "root's session token": token(d.root)}
	check := func(moment string, good bool, set map[string]aws.Credentials) {
		t.Helper()
		for claim, c := range set {
			if it, err := d.who(c); good && err != nil {
				t.Errorf("%s, %s: %v", moment, claim, err)
			} else if !good && err == nil {
				t.Errorf("%s, %s: it is still good, and %s's", moment, claim, it)
			} else if !good {
				d.refused(err, "InvalidClientTokenId", "security token")
			}
		}
	}
	check("to begin with", true, all)
	_, err := d.iam(d.root).UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: aws.String("ann"), NewUserName: aws.String("anna")})
	d.must(err)
	check("after a change of name", true, all)
	d.must(d.db.IAM().SetAccessKeyActive(ctx, "anna", ann.AccessKeyID, false))
	check("the key deactivated", false, all)
	check("the key deactivated", true, others)
	d.must(d.db.IAM().SetAccessKeyActive(ctx, "anna", ann.AccessKeyID, true))
	check("and activated", true, all)
	d.must(d.db.IAM().DeleteInlinePolicy(ctx, store.Role("admin"), "own"))
	d.must(d.db.IAM().Delete(ctx, store.Role("admin")))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	for claim := range all {
		if claim != "a session token" {
			check("the role deleted", false, map[string]aws.Credentials{claim: all[claim]})
		}
	}
	d.remove("anna")
	check("the user deleted", false, all)
	d.must(d.db.IAM().SetAccessKeyActive(ctx, "", d.root.AccessKeyID, false))
	check("root's key deactivated", false, map[string]aws.Credentials{"root": others["root's session token"]})
}

// A session is limited by the managed policy that it was given, and not by one
// that has its ARN now.
func TestSessionPoliciesAreKeptByID(t *testing.T) {
	d := open(t)
	ctx := t.Context()
	const managed = arn + "policy/limits"
	make := func(document string) {
		d.must(d.db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: managed, Name: "limits", Path: "/", ID: sallyport.EntityID("ANPA"), Document: document, Created: time.Now()}))
	}
	make(policyOf(allow(`"iam:ListUsers"`)))
	ann := d.user(named("ann"), policyOf(allow(`"sts:AssumeRole"`)))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	with := func(in *awssts.AssumeRoleInput) {
		in.PolicyArns = []types.PolicyDescriptorType{{Arn: aws.String(managed)}}
	}
	limited := d.assumed(ann, "admin", with)
	d.must(d.listUsers(limited))
	d.must(d.db.IAM().DeletePolicy(ctx, managed))
	make(policyOf(allow(`"*"`)))
	d.refused(d.listUsers(limited), "AccessDenied", "session policy")
	d.must(d.listUsers(d.assumed(ann, "admin", with)))
}

// As in AWS, a session token that was got without a second factor does not call
// IAM. A role that was assumed with it does.
func TestSessionTokensAndIAM(t *testing.T) {
	d := open(t)
	ann := d.user(named("ann"), policyOf(allow(`"*"`)))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	for claim, c := range map[string]aws.Credentials{"a user's": ann, "root's": d.root} {
		out, err := d.sts(c).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})
		d.must(err)
		token := session(out.Credentials)
		d.refused(d.listUsers(token), "InvalidClientTokenId", "a second factor")
		_, err = d.iam(token).GetUser(t.Context(), &awsiam.GetUserInput{})
		d.refused(err, "InvalidClientTokenId", "a second factor")
		if _, err := d.who(token); err != nil {
			t.Errorf("%s token is good for nothing: %v", claim, err)
		}
		if claim == "a user's" {
			d.must(d.listUsers(d.assumed(token, "admin", nil)))
		}
	}
	u, err := d.db.IAM().User(t.Context(), "ann")
	d.must(err)
	who := &sallyport.Principal{Kind: sallyport.UserKind, Name: "ann", ID: u.ID, Root: u.ID}
	d.must(d.listUsers(d.issue(api.Grant{Who: who, SessionToken: true, MFA: time.Now(), For: time.Hour}, time.Now())))
}
