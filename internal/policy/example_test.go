package policy_test

import (
	"fmt"

	"github.com/sallyport/sallyport/internal/policy"
)

func Example() {
	developers, err := policy.Parse(`{
	  "Version": "2012-10-17",
	  "Statement": [
	    {"Sid": "Connect", "Effect": "Allow", "Action": "ssm:StartSession", "Resource": "arn:aws:ssm:*:*:managed-instance/*",
	     "Condition": {"StringEquals": {"aws:ResourceTag/team": "${aws:PrincipalTag/team}"}}},
	    {"Effect": "Deny", "Action": "ssm:*", "Resource": "*", "Condition": {"Bool": {"aws:MultiFactorAuthPresent": "false"}}}
	  ]
	}`)
	if err != nil {
		fmt.Println(err)
		return
	}
	alice := policy.Policies{Identity: []policy.Named{{Name: "developers", Document: developers}}}

	ask := func(team, mfa string) {
		req := &policy.Request{
			Action:    "ssm:StartSession",
			Resources: []string{"arn:aws:ssm:home-1:123456789012:managed-instance/mi-0123456789abcdef0"},
		}
		req.Context.SetTags("aws:PrincipalTag/", map[string]string{"team": "blue"})
		req.Context.SetTags("aws:ResourceTag/", map[string]string{"team": team})
		req.Context.Set("aws:MultiFactorAuthPresent", mfa)
		fmt.Println(policy.Decide(req, &alice))
	}
	ask("blue", "true")
	ask("red", "true")
	ask("blue", "false")
	// Output:
	// allowed by statement 1 ("Connect") of policy developers
	// nothing allows it
	// denied by statement 2 of policy developers
}

func ExampleParse() {
	_, err := policy.Parse(`{
	  "Version": "2012-10-17",
	  "Statement": {"Effect": "Allow", "Action": "StartSession", "Resource": "*"}
	}`)
	fmt.Println(err)
	// Output: MalformedPolicyDocument: Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc. Statement 1 has the Action "StartSession"; write the service before it, as in ssm:StartSession.
}

func ExampleDecideTrust() {
	trust, err := policy.ParseTrust(`{
	  "Version": "2012-10-17",
	  "Statement": {"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"}
	}`)
	if err != nil {
		fmt.Println(err)
		return
	}
	alice := &policy.Caller{Account: "123456789012", Names: []string{"arn:aws:iam::123456789012:user/alice", "AIDAALICE"}}
	d := policy.DecideTrust(&policy.Request{Action: "sts:AssumeRole"}, alice, policy.Named{Name: "operator", Document: trust})
	fmt.Println(d)
	fmt.Println("her own policies must allow it too:", d.Delegated)
	// Output:
	// allowed by statement 1 of trust policy operator
	// her own policies must allow it too: true
}
