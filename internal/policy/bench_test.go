package policy_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/policy"
)

// tenPolicies is a user's: as many as AWS lets be attached, each with what
// policies for sessions have. Only the last one allows.
func tenPolicies(tb testing.TB) *policy.Policies {
	var p policy.Policies
	for i := range 10 {
		team := fmt.Sprintf("team-%d", i)
		p.Identity = append(p.Identity, write(tb, team,
			stmt{"Effect": "Allow", "Action": []string{"ssm:StartSession", "ssm:SendCommand"},
				"Resource":  []string{"arn:aws:ec2:*:*:instance/*", "arn:aws:ssm:*:*:managed-instance/*", "arn:aws:ssm:*:*:document/SSM-SessionManagerRunShell"},
				"Condition": stmt{"StringLike": stmt{"ssm:resourceTag/team": team}, "BoolIfExists": stmt{"ssm:SessionDocumentAccessCheck": "true"}}},
			stmt{"Effect": "Allow", "Action": []string{"ssm:DescribeSessions", "ssm:GetConnectionStatus", "ssm:DescribeInstanceInformation", "ssm:DescribeInstanceProperties", "ec2:DescribeInstances"}, "Resource": "*"},
			stmt{"Effect": "Allow", "Action": []string{"ssm:TerminateSession", "ssm:ResumeSession"},
				"Resource": []string{"arn:aws:ssm:*:*:session/${aws:username}-*", "arn:aws:ssm:*:*:session/${aws:userid}-*"}},
			stmt{"Effect": "Deny", "NotAction": []string{"iam:*", "sts:*"}, "Resource": "*",
				"Condition": stmt{"BoolIfExists": stmt{"aws:MultiFactorAuthPresent": "false"}, "NotIpAddress": stmt{"aws:SourceIp": []string{"192.0.2.0/24", "2001:db8::/32"}}}},
			stmt{"Effect": "Deny", "Action": "ssm:*", "Resource": "arn:aws:ssm:*:*:session/root-*", "Condition": stmt{"DateLessThan": stmt{"aws:CurrentTime": "2020-01-01T00:00:00Z"}}},
		))
	}
	return &p
}

// ask puts together all that is known of a request, as the API would.
func ask(action string, names ...string) *policy.Request {
	req := &policy.Request{Action: action, Resources: names}
	c := &req.Context
	c.Set("aws:username", "alice")
	c.Set("aws:userid", "AIDAALICEALICEALICE")
	c.Set("aws:PrincipalArn", "arn:aws:iam::123456789012:user/alice")
	c.Set("aws:PrincipalAccount", "123456789012")
	c.Set("aws:PrincipalType", "User")
	c.Set("aws:SourceIp", "192.0.2.17")
	c.Set("aws:SecureTransport", "true")
	c.Set("aws:CurrentTime", "2026-01-31T09:00:00Z")
	c.Set("aws:EpochTime", "1769850000")
	c.Set("aws:MultiFactorAuthPresent", "true")
	c.Set("aws:UserAgent", "aws-cli/2.31.0")
	c.Set("aws:RequestedRegion", "home-1")
	c.SetTags("aws:PrincipalTag/", map[string]string{"team": "team-9"})
	c.SetTags("ssm:resourceTag/", map[string]string{"team": "team-9", "stage": "dev"})
	c.SetTags("aws:ResourceTag/", map[string]string{"team": "team-9", "stage": "dev"})
	return req
}

var asked = map[string]*policy.Request{
	"node":    ask("ssm:StartSession", "arn:aws:ssm:home-1:123456789012:managed-instance/mi-0123456789abcdef0"),
	"session": ask("ssm:TerminateSession", "arn:aws:ssm:home-1:123456789012:session/alice-0c4f1e9ab27d3355e", "arn:aws:ssm:home-1:123456789012:session/AIDAALICEALICEALICE-0c4f1e9ab27d3355e"),
	"denied":  ask("ssm:DeleteDocument", "arn:aws:ssm:home-1:123456789012:document/SSM-SessionManagerRunShell"),
}

// The budget is 20 µs and no allocation for a user with ten policies.
func BenchmarkDecide(b *testing.B) {
	p := tenPolicies(b)
	for name, req := range asked {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				policy.Decide(req, p)
			}
		})
	}
	b.Run("with context", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			policy.Decide(ask("ssm:StartSession", asked["node"].Resources...), p)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	const doc = `{"Version": "2012-10-17", "Statement": [
		{"Sid": "Connect", "Effect": "Allow", "Action": "ssm:StartSession", "Resource": ["arn:aws:ec2:*:*:instance/*", "arn:aws:ssm:*:*:managed-instance/*"],
		 "Condition": {"StringLike": {"ssm:resourceTag/team": "${aws:PrincipalTag/team}"}}},
		{"Effect": "Allow", "Action": ["ssm:TerminateSession", "ssm:ResumeSession"], "Resource": "arn:aws:ssm:*:*:session/${aws:username}-*"}]}`
	b.ReportAllocs()
	for b.Loop() {
		if _, err := policy.Parse(doc); err != nil {
			b.Fatal(err)
		}
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p := tenPolicies(t)
	for name, req := range asked {
		if !policy.Decide(req, p).Allowed && name != "denied" {
			t.Errorf("%s is not allowed, and would be no measure", name)
		}
		if n := testing.AllocsPerRun(100, func() { policy.Decide(req, p) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// White space does not count; characters do, however many bytes they have.
func TestSize(t *testing.T) {
	for doc, want := range map[string]int{"": 0, " \t\r\n": 0, `{"a b": 1}`: 8, "é €": 2} {
		if got := policy.Size(doc); got != want {
			t.Errorf("Size(%q) = %d, want %d", doc, got, want)
		}
	}
}

// No document is so long that reading it, or deciding by it, is work.
func TestTooLong(t *testing.T) {
	statement := `{"Effect": "Allow", "Action": "ssm:StartSession", "Resource": "*"}`
	for name, doc := range map[string]string{
		"with white space":    fmt.Sprintf(`{"Version": "2012-10-17", "Statement": %*s}`, 1<<17, statement),
		"without white space": fmt.Sprintf(`{"Version": "2012-10-17", "Id": "%0*d", "Statement": %s}`, policy.RoleQuota, 1, statement),
	} {
		if _, err := policy.Parse(doc); sallyport.CodeOf(err) != sallyport.LimitExceeded {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := policy.Parse(fmt.Sprintf(`{"Version": "2012-10-17", "Statement": %*s}`, 1<<16, statement)); err != nil {
		t.Errorf("white space was counted: %v", err)
	}
}

// A policy whose document could not be had allows nothing, in any place.
func TestNoDocument(t *testing.T) {
	all := write(t, "all", stmt{"Effect": "Allow", "Action": "*", "Resource": "*"})
	none := policy.Named{Name: "none"}
	for _, p := range []policy.Policies{
		{},
		{Identity: []policy.Named{none}},
		{Identity: []policy.Named{all}, Boundary: &none},
		{Identity: []policy.Named{all}, Session: []policy.Named{none}},
	} {
		if d := policy.Decide(asked["node"], &p); d.Allowed {
			t.Errorf("%v", d)
		}
	}
	if d := policy.DecideTrust(&policy.Request{Action: "sts:AssumeRole"}, &policy.Caller{Account: "123456789012"}, none); d.Allowed {
		t.Errorf("%v", d)
	}
}
