package iam_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/store"
)

func TestSimulation(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	const arn = "arn:aws:iam::" + account + ":"
	own := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"ssm:StartSession","Resource":"arn:aws:ec2:*:*:instance/*","Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}},
		{"Effect":"Allow","Action":"ssm:TerminateSession","Resource":"arn:aws:ssm:*:*:session/${aws:username}-*"},
		{"Effect":"Allow","Action":"ssm:GetParameter","Resource":"*","Condition":{"ForAllValues:StringEquals":{"aws:TagKeys":["a","b"]},"Null":{"aws:TagKeys":"false"}}},
		{"Effect":"Deny","Action":"ssm:Delete*","Resource":"*"}]}`
	d.must(d.db.IAM().CreateUser(ctx, sallyport.User{Name: "ann", Path: "/team/", ID: sallyport.EntityID("AIDA"), Created: time.Now(), Tags: map[string]string{"team": "red"}}))
	d.must(d.db.IAM().PutInlinePolicy(ctx, store.User("ann"), "own", own))
	d.must(d.db.IAM().CreateGroup(ctx, sallyport.Group{Name: "ops", Path: "/", ID: sallyport.EntityID("AGPA"), Created: time.Now()}))
	d.must(d.db.IAM().PutInlinePolicy(ctx, store.Group("ops"), "own", allowing("ssm:DescribeSessions")))
	d.must(d.db.IAM().AddUserToGroup(ctx, "ops", "ann"))
	d.must(d.db.IAM().Attach(ctx, store.User("ann"), "arn:aws:iam::aws:policy/IAMReadOnlyAccess"))
	d.must(d.db.IAM().CreatePolicy(ctx, sallyport.Policy{ARN: ourPolicy, Name: "reading", Path: "/team/", ID: sallyport.EntityID("ANPA"), Document: allowing("ssm:GetDocument")}))
	d.must(d.db.IAM().CreateRole(ctx, sallyport.Role{Name: "node", Path: "/", ID: sallyport.EntityID("AROA"), Created: time.Now(), Trust: someTrust, Boundary: ourPolicy}))
	d.must(d.db.IAM().Attach(ctx, store.Role("node"), adminPolicy))
	d.user("bob", "")

	entry := func(key string, kind types.ContextKeyTypeEnum, values ...string) []types.ContextEntry {
		return []types.ContextEntry{{ContextKeyName: &key, ContextKeyType: kind, ContextKeyValues: values}}
	}
	const allowed, denied, not = types.PolicyEvaluationDecisionTypeAllowed, types.PolicyEvaluationDecisionTypeExplicitDeny, types.PolicyEvaluationDecisionTypeImplicitDeny
	for _, tt := range []struct {
		claim, source, action, resource string
		in                              awsiam.SimulatePrincipalPolicyInput
		want                            types.PolicyEvaluationDecisionType
		by                              string // SourcePolicyType and SourcePolicyId
	}{
		{"a deny is explicit", "user/team/ann", "ssm:DeleteDocument", "*", awsiam.SimulatePrincipalPolicyInput{}, denied, "user user_ann_own"},
		{"what nothing allows is not", "user/team/ann", "ssm:PutParameter", "*", awsiam.SimulatePrincipalPolicyInput{}, not, ""},
		{"a group's policies are its members'", "user/team/ann", "ssm:DescribeSessions", "*", awsiam.SimulatePrincipalPolicyInput{}, allowed, "group group_ops_own"},
		{"a group has its own", "group/ops", "ssm:DescribeSessions", "*", awsiam.SimulatePrincipalPolicyInput{}, allowed, "group group_ops_own"},
		{"AWS's own policies count", "user/team/ann", "iam:ListUsers", "*", awsiam.SimulatePrincipalPolicyInput{}, allowed, "aws-managed arn:aws:iam::aws:policy/IAMReadOnlyAccess"},
		{"resources are looked at", "user/team/ann", "ssm:TerminateSession", "arn:aws:ssm:home-1:" + account + ":session/ann-0123", awsiam.SimulatePrincipalPolicyInput{}, allowed, "user user_ann_own"},
		{"and others' are others'", "user/team/ann", "ssm:TerminateSession", "arn:aws:ssm:home-1:" + account + ":session/bob-0123", awsiam.SimulatePrincipalPolicyInput{}, not, ""},
		{"a context may be given", "user/team/ann", "ssm:StartSession", "arn:aws:ec2:home-1:" + account + ":instance/i-0123", awsiam.SimulatePrincipalPolicyInput{ContextEntries: entry("aws:ResourceTag/team", "string", "red")}, allowed, "user user_ann_own"},
		{"and another", "user/team/ann", "ssm:StartSession", "arn:aws:ec2:home-1:" + account + ":instance/i-0123", awsiam.SimulatePrincipalPolicyInput{ContextEntries: entry("aws:ResourceTag/team", "string", "blue")}, not, ""},
		{"of several values", "user/team/ann", "ssm:GetParameter", "*", awsiam.SimulatePrincipalPolicyInput{ContextEntries: entry("aws:TagKeys", "stringList", "a", "b")}, allowed, "user user_ann_own"},
		{"of which one is wrong", "user/team/ann", "ssm:GetParameter", "*", awsiam.SimulatePrincipalPolicyInput{ContextEntries: entry("aws:TagKeys", "stringList", "a", "c")}, not, ""},
		{"policies may be added", "user/bob", "ssm:PutParameter", "*", awsiam.SimulatePrincipalPolicyInput{PolicyInputList: []string{allowing("ssm:Get*"), allowing("ssm:Put*")}}, allowed, "none PolicyInputList.2"},
		{"a boundary limits", "role/node", "ssm:PutParameter", "*", awsiam.SimulatePrincipalPolicyInput{}, not, ""},
		{"and allows", "role/node", "ssm:GetDocument", "*", awsiam.SimulatePrincipalPolicyInput{}, allowed, "aws-managed " + adminPolicy},
		{"another boundary may be tried", "role/node", "ssm:PutParameter", "*", awsiam.SimulatePrincipalPolicyInput{PermissionsBoundaryPolicyInputList: []string{allowing("ssm:Put*")}}, allowed, "aws-managed " + adminPolicy},
		{"another may be tried in her place", "user/team/ann", "ssm:TerminateSession", "arn:aws:ssm:home-1:" + account + ":session/bob-0123", awsiam.SimulatePrincipalPolicyInput{CallerArn: aws.String(arn + "user/bob")}, allowed, "user user_ann_own"},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			tt.in.PolicySourceArn, tt.in.ActionNames, tt.in.ResourceArns = aws.String(arn+tt.source), []string{tt.action}, []string{tt.resource}
			out, err := root.SimulatePrincipalPolicy(ctx, &tt.in)
			d.must(err)
			r := out.EvaluationResults[0]
			by := ""
			for _, s := range r.MatchedStatements {
				by = string(s.SourcePolicyType) + " " + *s.SourcePolicyId
			}
			if r.EvalDecision != tt.want || by != tt.by || *r.EvalActionName != tt.action || *r.EvalResourceName != tt.resource {
				t.Errorf("%s by %q, want %s by %q", r.EvalDecision, by, tt.want, tt.by)
			}
			if strings.HasPrefix(tt.source, "role") != (r.PermissionsBoundaryDecisionDetail != nil) {
				t.Errorf("the boundary: %+v", r.PermissionsBoundaryDecisionDetail)
			} else if b := r.PermissionsBoundaryDecisionDetail; b != nil && b.AllowedByPermissionsBoundary != (tt.want == allowed) {
				t.Errorf("the boundary: %+v", b)
			}
		})
	}

	out, err := root.SimulatePrincipalPolicy(ctx, &awsiam.SimulatePrincipalPolicyInput{
		PolicySourceArn: aws.String(arn + "user/team/ann"), ActionNames: []string{"ssm:DescribeSessions", "ssm:DeleteDocument"}, ResourceArns: []string{"*", "arn:aws:ssm:home-1:" + account + ":document/d"},
	})
	d.must(err)
	if len(out.EvaluationResults) != 4 {
		t.Errorf("two actions on two resources are %d results", len(out.EvaluationResults))
	}

	for claim, in := range map[string]struct {
		form, code, message string
	}{
		"root has no policies":          {"PolicySourceArn=" + arn + "root&ActionNames.member.1=a:B", "InvalidInput", "does not clearly define entity type and name."},
		"sessions have no policies":     {"PolicySourceArn=arn:aws:sts::" + account + ":assumed-role/node/s&ActionNames.member.1=a:B", "InvalidInput", "Invalid Entity Arn"},
		"another account's are not":     {"PolicySourceArn=arn:aws:iam::999999999999:user/team/ann&ActionNames.member.1=a:B", "NoSuchEntity", "cannot be found."},
		"nor are those of another path": {"PolicySourceArn=" + arn + "user/ann&ActionNames.member.1=a:B", "NoSuchEntity", "cannot be found."},
		"actions have no wildcards":     {"PolicySourceArn=" + arn + "user/team/ann&ActionNames.member.1=ssm:*", "InvalidInput", "without wildcards"},
		"actions have a service":        {"PolicySourceArn=" + arn + "user/team/ann&ActionNames.member.1=StartSession", "InvalidInput", "Invalid action"},
		"policies have to parse":        {"PolicySourceArn=" + arn + "user/team/ann&ActionNames.member.1=a:B&PolicyInputList.member.1={}", "InvalidInput", "PolicyInputList.1: "},
		"there is one boundary":         {"PolicySourceArn=" + arn + "user/team/ann&ActionNames.member.1=a:B&PermissionsBoundaryPolicyInputList.member.1={}&PermissionsBoundaryPolicyInputList.member.2={}", "InvalidInput", "one boundary"},
		"resource policies are refused": {"PolicySourceArn=" + arn + "user/team/ann&ActionNames.member.1=a:B&ResourcePolicy={}", "InvalidInput", "not simulated here"},
	} {
		if a := d.call(d.root, "SimulatePrincipalPolicy", in.form); a.code != in.code || !strings.Contains(a.message, in.message) {
			t.Errorf("%s: %+v", claim, a)
		}
	}
}
