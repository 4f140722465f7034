package sts_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	assumeAny = `"sts:AssumeRole"`
	boundary  = "arn:aws:iam::" + account + ":policy/boundary"
)

// Who may assume a role: the role's trust and the caller's own policies, as
// they count for one another.
func TestWhoMayAssumeARole(t *testing.T) {
	byAccount, byName := `{"AWS":"`+account+`"}`, `{"AWS":"`+arn+`user/ann"}`
	if_ := func(condition string) string { return `,"Condition":{` + condition + `}` }
	give := func(change func(*awssts.AssumeRoleInput)) func(*awssts.AssumeRoleInput) { return change }
	tagged := give(func(in *awssts.AssumeRoleInput) {
		in.Tags = []types.Tag{{Key: aws.String("team"), Value: aws.String("red")}}
	})
	external := func(id string) func(*awssts.AssumeRoleInput) {
		return func(in *awssts.AssumeRoleInput) { in.ExternalId = &id }
	}
	for _, tt := range []struct {
		claim  string
		trust  string
		own    string // ann's policy
		bound  string // ann's boundary
		change func(*awssts.AssumeRoleInput)
		may    bool
	}{
		{claim: "an account that is trusted has to allow it", trust: trust(byAccount, "")},
		{claim: "and may", trust: trust(byAccount, ""), own: policyOf(allow(assumeAny)), may: true},
		{claim: "on this role", trust: trust(byAccount, ""), own: policyOf(`"Effect":"Allow","Action":"sts:AssumeRole","Resource":"` + arn + `role/team/admin"`), may: true},
		{claim: "not on another", trust: trust(byAccount, ""), own: policyOf(`"Effect":"Allow","Action":"sts:AssumeRole","Resource":"` + arn + `role/admin"`)},
		{claim: "everyone is no more than the account", trust: trust(`{"AWS":"*"}`, "")},
		{claim: "and no less", trust: trust(`{"AWS":"*"}`, ""), own: policyOf(allow(assumeAny)), may: true},
		{claim: "root of the account is the account", trust: trust(`{"AWS":"`+arn+`root"}`, ""), own: policyOf(allow(assumeAny)), may: true},
		{claim: "whoever is named needs nothing", trust: trust(byName, ""), may: true},
		{claim: "unless it is denied", trust: trust(byName, ""), own: policyOf(deny(assumeAny))},
		{claim: "another is not trusted", trust: trust(`{"AWS":"`+arn+`user/ann-marie"}`, ""), own: policyOf(allow(`"*"`))},
		{claim: "another account is not ours", trust: trust(`{"AWS":"999999999999"}`, ""), own: policyOf(allow(`"*"`))},
		{claim: "a service is nobody of ours", trust: trust(`{"Service":"ssm.amazonaws.com"}`, ""), own: policyOf(allow(`"*"`))},
		{claim: "a boundary binds whoever is trusted by account", trust: trust(byAccount, ""), own: policyOf(allow(assumeAny)), bound: policyOf(allow(`"ssm:*"`))},
		{claim: "and not whoever is named", trust: trust(byName, ""), bound: policyOf(allow(`"ssm:*"`)), may: true},
		{claim: "unless it denies", trust: trust(byName, ""), bound: policyOf(deny(assumeAny))},
		{claim: "a deny of the trust policy wins", trust: policyOf(`"Effect":"Allow","Principal":`+byName+`,"Action":"sts:AssumeRole"`, `"Effect":"Deny","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"`), own: policyOf(allow(`"*"`))},

		{claim: "an external ID that is wanted", trust: trust(byName, if_(`"StringEquals":{"sts:ExternalId":"guest"}`)), change: external("guest"), may: true},
		{claim: "another external ID", trust: trust(byName, if_(`"StringEquals":{"sts:ExternalId":"guest"}`)), change: external("ghost")},
		{claim: "no external ID", trust: trust(byName, if_(`"StringEquals":{"sts:ExternalId":"guest"}`))},
		{claim: "the session's name", trust: trust(byAccount, if_(`"StringEquals":{"sts:RoleSessionName":"${aws:username}"}`)), own: policyOf(allow(assumeAny)),
			change: func(in *awssts.AssumeRoleInput) { in.RoleSessionName = aws.String("ann") }, may: true},
		{claim: "another name", trust: trust(byAccount, if_(`"StringEquals":{"sts:RoleSessionName":"${aws:username}"}`)), own: policyOf(allow(assumeAny))},
		{claim: "a tag of the caller's", trust: trust(byAccount, if_(`"StringEquals":{"aws:PrincipalTag/team":"red"}`)), own: policyOf(allow(assumeAny)), may: true},
		{claim: "another tag", trust: trust(byAccount, if_(`"StringEquals":{"aws:PrincipalTag/team":"blue"}`)), own: policyOf(allow(assumeAny))},
		{claim: "a tag of the role's", trust: trust(byAccount, ""), own: policyOf(allow(assumeAny) + if_(`"StringEquals":{"iam:ResourceTag/stage":"dev","aws:ResourceTag/stage":"dev"}`)), may: true},
		{claim: "a second factor that is wanted", trust: trust(byName, if_(`"Bool":{"aws:MultiFactorAuthPresent":"true"}`))},

		{claim: "tags of the session need their own right", trust: trust(byAccount, ""), own: policyOf(allow(assumeAny)), change: tagged},
		{claim: "and have it", trust: trust(byAccount, ""), own: policyOf(allow(`["sts:AssumeRole","sts:TagSession"]`)), change: tagged, may: true},
		{claim: "and the role's leave", trust: policyOf(`"Effect":"Allow","Principal":` + byName + `,"Action":"sts:AssumeRole"`), own: policyOf(allow(`"*"`)), change: tagged},
		{claim: "of a value that is wanted", trust: trust(byName, if_(`"StringEquals":{"aws:RequestTag/team":"red"}`)), change: tagged, may: true},
		{claim: "of a key that is wanted", trust: trust(byName, if_(`"ForAllValues:StringEquals":{"aws:TagKeys":["cost"]}`)), change: tagged},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			d := open(t)
			u := sallyport.User{Name: "ann", Tags: map[string]string{"team": "red"}}
			if tt.bound != "" {
				d.must(d.db.IAM().CreatePolicy(t.Context(), sallyport.Policy{ARN: boundary, Name: "boundary", Path: "/", ID: sallyport.EntityID("ANPA"), Document: tt.bound}))
				u.Boundary = boundary
			}
			ann := d.user(u, tt.own)
			d.user(named("ann-marie"), "")
			d.role(sallyport.Role{Name: "admin", Path: "/team/", Trust: tt.trust, Tags: map[string]string{"stage": "dev"}})
			_, _, err := d.assume(ann, "team/admin", tt.change)
			switch {
			case tt.may:
				d.must(err)
			default:
				d.refused(err, "AccessDenied", "User: "+arn+"user/ann is not authorized to perform: sts:")
				d.refused(err, "AccessDenied", " on resource: "+arn+"role/team/admin")
			}
		})
	}
}

// A caller that may not assume a role is answered the same about one that is there,
// one that is not, and one that is in another path.
func TestARefusalDoesNotTellWhichRolesExist(t *testing.T) {
	empty, full := open(t), open(t)
	full.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"999999999999"}`, "")})
	full.role(sallyport.Role{Name: "trusting", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	for _, own := range []string{"", policyOf(allow(`["sts:*","iam:SimulatePrincipalPolicy"]`))} {
		name := "eve"
		if own != "" {
			name = "may-simulate"
		}
		here, there := full.user(named(name), own), empty.user(named(name), own)
		for _, role := range []string{"admin", "trusting", "team/trusting", "nobody", "*", "../role/trusting", "trusting/"} {
			_, _, a := full.assume(here, role, nil)
			_, _, b := empty.assume(there, role, nil)
			if role == "trusting" && own != "" {
				full.must(a)
				continue
			}
			want := "User: " + arn + "user/" + name + " is not authorized to perform: sts:AssumeRole on resource: " + arn + "role/" + role
			full.refused(a, "AccessDenied", want)
			empty.refused(b, "AccessDenied", want)
			if !strings.HasSuffix(a.Error(), want) || !strings.HasSuffix(b.Error(), want) {
				t.Errorf("it says more:\n%v\n%v", a, b)
			}
		}
		for _, role := range []string{"arn:aws:iam::999999999999:role/trusting", "arn:aws:iam::" + account + ":user/trusting", "arn:aws:s3:::" + account + "/role/trusting", "trusting-trusting-trusting"} {
			_, _, err := full.assume(here, "", func(in *awssts.AssumeRoleInput) { in.RoleArn = &role })
			full.refused(err, "AccessDenied", "sts:AssumeRole on resource: "+role)
		}
	}
}

func TestRootAndNodesAssumeNoRoles(t *testing.T) {
	d := open(t)
	d.role(sallyport.Role{Name: "open", Trust: trust(`{"AWS":"*"}`, "")})
	d.role(sallyport.Role{Name: "nodes", Trust: trust(`{"Service":"ssm.amazonaws.com"}`, "")})
	_, _, err := d.assume(d.root, "open", nil)
	d.refused(err, "AccessDenied", "Roles may not be assumed by root accounts.")
	token, err := d.sts(d.root).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})
	d.must(err)
	_, _, err = d.assume(session(token.Credentials), "open", nil)
	d.refused(err, "AccessDenied", "Roles may not be assumed by root accounts.")
	_, node := d.node("nodes")
	_, _, err = d.assume(node, "open", nil)
	d.refused(err, "AccessDenied", "is not authorized to perform: sts:AssumeRole")
}

func TestHowLongARoleLasts(t *testing.T) {
	d := open(t)
	ann := d.user(named("ann"), policyOf(allow(assumeAny)))
	d.role(sallyport.Role{Name: "short", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	d.role(sallyport.Role{Name: "long", Trust: trust(`{"AWS":"`+account+`"}`, ""), MaxSession: 12 * time.Hour})
	chained := d.assumed(ann, "long", nil)
	for _, tt := range []struct {
		claim   string
		by      aws.Credentials
		role    string
		seconds int32
		want    time.Duration
		message string
	}{
		{"an hour", ann, "long", 0, time.Hour, ""},
		{"or less", ann, "short", 900, 15 * time.Minute, ""},
		{"up to the role's most", ann, "long", 43200, 12 * time.Hour, ""},
		{"and no more", ann, "short", 3601, 0, "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."},
		{"from a role, an hour", chained, "long", 3600, time.Hour, ""},
		{"from a role, no more than an hour", chained, "long", 3601, 0, "exceeds the 1 hour session limit for roles assumed by role chaining"},
		{"no less than a quarter of one", ann, "long", 899, 0, "greater than or equal to 900"},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			_, out, err := d.assume(tt.by, tt.role, func(in *awssts.AssumeRoleInput) {
				if tt.seconds > 0 {
					in.DurationSeconds = &tt.seconds
				}
			})
			if tt.message != "" {
				d.refused(err, "ValidationError", tt.message)
				return
			}
			d.must(err)
			if length := time.Until(*out.Credentials.Expiration).Round(time.Minute); length != tt.want {
				t.Errorf("it lasts %v, want %v", length, tt.want)
			}
			//lint:ignore SA1019 what replaces it no released client reads
			if out.PackedPolicySize != nil {
				t.Error("it speaks of policies that it has not")
			}
			if u := out.AssumedRoleUser; *u.Arn != "arn:aws:sts::"+account+":assumed-role/"+tt.role+"/work" || !strings.HasPrefix(*u.AssumedRoleId, "AROA") || !strings.HasSuffix(*u.AssumedRoleId, ":work") {
				t.Errorf("it is %+v", u)
			}
		})
	}
}

// Session policies limit a session and give it nothing; managed ones are as
// they are when the session is used.
func TestSessionPolicies(t *testing.T) {
	d := open(t)
	ctx := t.Context()
	ann := d.user(named("ann"), policyOf(allow(assumeAny)))
	trusting := trust(`{"AWS":"`+account+`"}`, "")
	d.role(sallyport.Role{Name: "admin", Trust: trusting})
	d.role(sallyport.Role{Name: "nothing", Trust: trusting}, policyOf(deny(`"none:None"`)))
	d.role(sallyport.Role{Name: "named", Trust: trust(`{"AWS":"`+arn+`role/admin"}`, "")})
	const managed = arn + "policy/limits"
	d.must(d.db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: managed, Name: "limits", Path: "/", ID: sallyport.EntityID("ANPA"), Document: policyOf(allow(`"iam:List*"`))}))
	with := func(document string, arns ...string) func(*awssts.AssumeRoleInput) {
		return func(in *awssts.AssumeRoleInput) {
			if document != "" {
				in.Policy = &document
			}
			for _, a := range arns {
				in.PolicyArns = append(in.PolicyArns, types.PolicyDescriptorType{Arn: &a})
			}
		}
	}
	lists := policyOf(allow(`"iam:ListUsers"`))

	d.must(d.listUsers(d.assumed(ann, "admin", nil)))
	d.must(d.listUsers(d.assumed(ann, "admin", with(lists))))
	d.must(d.listUsers(d.assumed(ann, "admin", with("", managed))))
	d.must(d.listUsers(d.assumed(ann, "admin", with("", "arn:aws:iam::aws:policy/IAMReadOnlyAccess"))))
	d.refused(d.listUsers(d.assumed(ann, "admin", with(policyOf(allow(`"ssm:*"`))))), "AccessDenied", "because no session policy allows the iam:ListUsers action")
	d.refused(d.listUsers(d.assumed(ann, "nothing", with(lists))), "AccessDenied", "because no identity-based policy allows")
	d.refused(d.listUsers(d.assumed(ann, "admin", with(policyOf(allow(`"*"`), deny(`"iam:List*"`))))), "AccessDenied", "with an explicit deny in a session policy")

	// A role trusted by name needs no right to assume, but a session policy
	// that leaves it out takes it away.
	d.assumed(d.assumed(ann, "admin", nil), "named", nil)
	d.assumed(d.assumed(ann, "admin", with(policyOf(allow(assumeAny)))), "named", nil)
	_, _, err := d.assume(d.assumed(ann, "admin", with(lists)), "named", nil)
	d.refused(err, "AccessDenied", "sts:AssumeRole")

	limited := d.assumed(ann, "admin", with("", managed))
	both := d.assumed(ann, "admin", with(lists, managed))
	d.must(d.listUsers(limited))
	_, err = d.db.IAM().CreatePolicyVersion(ctx, managed, policyOf(allow(`"ssm:*"`)), true, time.Now())
	d.must(err)
	d.refused(d.listUsers(limited), "AccessDenied", "session policy")
	d.must(d.listUsers(both))
	d.must(d.db.IAM().DeletePolicyVersion(ctx, managed, "v1"))
	d.must(d.db.IAM().DeletePolicy(ctx, managed))
	d.refused(d.listUsers(limited), "AccessDenied", "session policy")
	d.refused(d.listUsers(both), "AccessDenied", "session policy") // what it denied is not known

	_, out, err := d.assume(ann, "admin", with(lists))
	d.must(err)
	//lint:ignore SA1019 what replaces it no released client reads
	if p := out.PackedPolicySize; p == nil || *p < 1 || *p > 20 {
		t.Errorf("PackedPolicySize is %v", p)
	}
	many := make([]string, 11)
	for i := range many {
		many[i] = "arn:aws:iam::aws:policy/IAMReadOnlyAccess"
	}
	for claim, tt := range map[string]struct {
		change        func(*awssts.AssumeRoleInput)
		code, message string
	}{
		"a document that does not parse":   {with(`{"Version":`), "MalformedPolicyDocument", ""},
		"a document that is too long":      {with(policyOf(allow(`"ssm:` + strings.Repeat("x", 2100) + `"`))), "PackedPolicyTooLarge", "Packed policy consumes 1"},
		"a policy that is not there":       {with("", managed), "ValidationError", "was not found."},
		"what is not a policy":             {with("", arn+"user/ann/ann"), "ValidationError", "is not valid."},
		"more policies than a session has": {with("", many...), "ValidationError", "10 is the most"},
	} {
		t.Run(claim, func(t *testing.T) {
			_, _, err := d.assume(ann, "admin", tt.change)
			d.refused(err, tt.code, tt.message)
		})
	}
}

func TestSessionTags(t *testing.T) {
	d := open(t)
	ann := d.user(named("ann"), policyOf(allow(`["sts:AssumeRole","sts:TagSession"]`)))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, ""), Tags: map[string]string{"team": "blue"}},
		policyOf(allow(`"iam:ListUsers"`)+`,"Condition":{"StringEquals":{"aws:PrincipalTag/team":"red"}}`))
	with := func(pairs ...string) func(*awssts.AssumeRoleInput) {
		return func(in *awssts.AssumeRoleInput) {
			for i := 0; i < len(pairs); i += 2 {
				in.Tags = append(in.Tags, types.Tag{Key: &pairs[i], Value: &pairs[i+1]})
			}
		}
	}
	d.refused(d.listUsers(d.assumed(ann, "admin", nil)), "AccessDenied", "iam:ListUsers") // the role's own
	d.must(d.listUsers(d.assumed(ann, "admin", with("team", "red"))))                     // the session's, over the role's
	d.must(d.listUsers(d.assumed(ann, "admin", with("TEAM", "red"))))                     // however it is spelt
	d.refused(d.listUsers(d.assumed(ann, "admin", with("Team", "green"))), "AccessDenied", "iam:ListUsers")
	d.must(d.listUsers(d.assumed(ann, "admin", func(in *awssts.AssumeRoleInput) {
		with("team", "red", "cost", "")(in)
		in.TransitiveTagKeys = []string{"team"}
	})))
	for claim, tt := range map[string]struct {
		change  func(*awssts.AssumeRoleInput)
		message string
	}{
		"two that differ by case":       {with("a", "1", "A", "2"), "Duplicate tag keys found."},
		"one of AWS's own":              {with("aws:x", "1"), "reserved"},
		"transitive, and not there":     {func(in *awssts.AssumeRoleInput) { in.TransitiveTagKeys = []string{"team"} }, "not among the tags"},
		"characters that tags have not": {with("a*", "1"), "regular expression"},
	} {
		t.Run(claim, func(t *testing.T) {
			_, _, err := d.assume(ann, "admin", tt.change)
			d.refused(err, "ValidationError", tt.message)
		})
	}
}

// A source identity needs the caller's right and the role's leave. It is a condition
// of both, stays with the session and with those that follow from it, and cannot be
// changed on the way.
func TestSourceIdentity(t *testing.T) {
	d := open(t)
	byAccount := func(actions string) string {
		return policyOf(`"Effect":"Allow","Principal":{"AWS":"` + account + `"},"Action":` + actions)
	}
	both := `["sts:AssumeRole","sts:SetSourceIdentity"]`
	given := func(source string) func(*awssts.AssumeRoleInput) {
		return func(in *awssts.AssumeRoleInput) { in.SourceIdentity = &source }
	}
	ann := d.user(named("ann"), policyOf(allow(both)))
	bob := d.user(named("bob"), policyOf(allow(assumeAny)))
	eve := d.user(named("eve"), policyOf(allow(both), deny(`"sts:SetSourceIdentity"`)+`,"Condition":{"StringNotEquals":{"sts:SourceIdentity":"${aws:username}"}}`))
	d.role(sallyport.Role{Name: "first", Trust: byAccount(both)}, policyOf(allow(both), allow(`"iam:ListUsers"`)+`,"Condition":{"StringEquals":{"aws:SourceIdentity":"ann"}}`))
	d.role(sallyport.Role{Name: "second", Trust: policyOf(
		`"Effect":"Allow","Principal":{"AWS":"` + account + `"},"Action":` + both + `,"Condition":{"StringLike":{"sts:SourceIdentity":"a*"}}`)},
		policyOf(allow(`"iam:ListUsers"`)+`,"Condition":{"StringEquals":{"aws:SourceIdentity":"ann"}}`))
	d.role(sallyport.Role{Name: "strict", Trust: byAccount(`"sts:AssumeRole"`)})

	_, out, err := d.assume(ann, "first", given("ann"))
	d.must(err)
	if out.SourceIdentity == nil || *out.SourceIdentity != "ann" {
		t.Errorf("the answer has the source identity %v", out.SourceIdentity)
	}
	first := d.assumed(ann, "first", given("ann"))
	d.must(d.listUsers(first))
	d.refused(d.listUsers(d.assumed(ann, "first", given("bob"))), "AccessDenied", "iam:ListUsers")
	d.refused(d.listUsers(d.assumed(ann, "first", nil)), "AccessDenied", "iam:ListUsers")

	_, out, err = d.assume(first, "second", nil)
	d.must(err)
	if out.SourceIdentity == nil || *out.SourceIdentity != "ann" {
		t.Errorf("the chained session has the source identity %v", out.SourceIdentity)
	}
	d.must(d.listUsers(d.assumed(first, "second", given("ann"))))
	for claim, tt := range map[string]struct {
		who    aws.Credentials
		role   string
		change func(*awssts.AssumeRoleInput)
	}{
		"the caller may not set one":           {bob, "first", given("bob")},
		"the role's trust does not let":        {ann, "strict", given("ann")},
		"nor when it follows from another":     {first, "strict", nil},
		"it is not one that the role wants":    {ann, "second", given("bob")},
		"it is not one that the caller may":    {eve, "first", given("ann")},
		"it is another than the session's own": {first, "first", given("bob")},
	} {
		_, _, err := d.assume(tt.who, tt.role, tt.change)
		t.Log(claim)
		d.refused(err, "AccessDenied", "sts:")
	}
	_, _, err = d.assume(eve, "first", given("eve"))
	d.must(err)
	for _, bad := range []string{"a", "a b", "aws:x", strings.Repeat("a", 65)} {
		_, _, err := d.assume(ann, "first", given(bad))
		d.refused(err, "ValidationError", "")
	}
}

// What would be ignored is refused, since the caller relies on it.
func TestWhatSessionsDoNotHave(t *testing.T) {
	d := open(t)
	ann := d.user(named("ann"), policyOf(allow(`"sts:*"`)))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	_, _, err := d.assume(ann, "admin", func(in *awssts.AssumeRoleInput) {
		in.ProvidedContexts = []types.ProvidedContext{{ProviderArn: aws.String("arn:aws:iam::aws:contextProvider/x"), ContextAssertion: aws.String("assertion")}}
	})
	d.refused(err, "ValidationError", "ProvidedContexts")
	_, _, err = d.assume(ann, "admin", func(in *awssts.AssumeRoleInput) {
		in.SerialNumber, in.TokenCode = aws.String(arn+"mfa/ann"), aws.String("123456")
	})
	d.refused(err, "AccessDenied", "MultiFactorAuthentication failed")
	for _, name := range []string{"a", "a b", "a/b", "a:b", strings.Repeat("a", 65)} {
		_, _, err = d.assume(ann, "admin", func(in *awssts.AssumeRoleInput) { in.RoleSessionName = &name })
		d.refused(err, "ValidationError", "'roleSessionName'")
	}
}

// Rights to a role that are taken away are gone for the next session, and what
// the role may do is looked up for every call of those there are.
func TestATrustThatIsTakenAway(t *testing.T) {
	d := open(t)
	ann := d.user(named("ann"), policyOf(allow(assumeAny)))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	s := d.assumed(ann, "admin", nil)
	d.must(d.listUsers(s))
	d.must(d.db.IAM().UpdateTrust(t.Context(), "admin", trust(`{"AWS":"999999999999"}`, "")))
	_, _, err := d.assume(ann, "admin", nil)
	d.refused(err, "AccessDenied", "sts:AssumeRole")
	d.must(d.db.IAM().PutInlinePolicy(t.Context(), store.Role("admin"), "own", policyOf(deny(`"iam:*"`))))
	d.refused(d.listUsers(s), "AccessDenied", "with an explicit deny in an identity-based policy")
}

// A new operation has to be thought of here: each is open to everyone, or
// decides for itself.
func TestOperationsOfSTS(t *testing.T) {
	d := open(t)
	nobody := d.user(named("nobody"), "")
	calls := map[string]func() error{
		"GetCallerIdentity": func() error { _, err := d.who(nobody); return err },
		"GetSessionToken": func() error {
			_, err := d.sts(nobody).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})
			return err
		},
		"AssumeRole": func() error { _, _, err := d.assume(nobody, "admin", nil); return err },
	}
	var service *api.Service
	for _, s := range d.api.Services {
		if s.Name == "sts" {
			service = s
		}
	}
	if len(service.Ops) == 0 {
		t.Fatal("there are no operations")
	}
	for name := range service.Ops {
		call, ok := calls[name]
		if !ok {
			t.Errorf("%s is not tried here", name)
			continue
		}
		if name == "AssumeRole" {
			d.refused(call(), "AccessDenied", "sts:AssumeRole")
		} else {
			d.must(call())
		}
	}
}
