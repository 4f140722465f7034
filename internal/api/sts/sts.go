// Package sts answers STS's API: who am I, and whose credentials may I have for
// a while?
//
//	GetCallerIdentity  every caller with credentials
//	GetSessionToken    a user, or the account's root, for itself
//	AssumeRole         the callers that a role trusts
//
// Credentials are made by [api.Server.Issue] and stored nowhere. They are never
// worth more than what they were got with: session tokens get no session
// tokens, and a role assumed by a role lasts an hour at most.
package sts

import (
	"context"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// Service returns STS's operations.
func Service() *api.Service {
	return &api.Service{
		Name:   "sts",
		Door:   api.Query{Version: "2011-06-15", Namespace: "https://sts.amazonaws.com/doc/2011-06-15/"},
		Model:  model,
		Global: true,
		Ops: map[string]api.Op{
			// Neither needs a permission in AWS. (IAM User Guide, "Permissions for
			// GetSessionToken".)
			"GetCallerIdentity": api.Read(getCallerIdentity, api.Nothing("what it tells is the caller's already")),
			"GetSessionToken": api.Read(getSessionToken, api.Nothing("what it gives is the caller's already"),
				api.NotFor(withShortLivedCredentials)),

			"AssumeRole": api.Write(assumeRole, onRole, api.NotFor(theRoot, nodes), api.Answers(sallyport.MalformedPolicyDocument, sallyport.PackedPolicyTooLarge)),
		},
	}
}

// Callers that an operation is not for, though policy allow them.
var (
	withShortLivedCredentials = api.Refusal{
		Who: "short-lived credentials",
		Is: func(who *sallyport.Principal) bool {
			return who.Temporary() || who.Kind != sallyport.UserKind && who.Kind != sallyport.Root
		},
		Says: func(*api.Call) string { return "Cannot call GetSessionToken with session credentials" },
	}
	theRoot = api.Refusal{
		Who:  "the account's root",
		Is:   func(who *sallyport.Principal) bool { return who.Kind == sallyport.Root },
		Says: func(*api.Call) string { return "Roles may not be assumed by root accounts." },
	}
	nodes = api.Refusal{ // a node's credentials speak for that node and for nothing else
		Who:  "managed nodes",
		Is:   func(who *sallyport.Principal) bool { return who.Kind == sallyport.NodeKind },
		Says: func(c *api.Call) string { return refusal(c, "sts:AssumeRole", c.Text("RoleArn")) },
	}
)

func getCallerIdentity(_ context.Context, c *api.Call, _ *GetCallerIdentityInput) (*GetCallerIdentityOutput, error) {
	return &GetCallerIdentityOutput{Account: &c.Server.Realm.Account, Arn: &c.Who.ARN, UserId: &c.Who.ID}, nil
}

const (
	defaultSession = 12 * time.Hour
	maxRootSession = time.Hour
)

// getSessionToken makes short-lived credentials of a user's or root's key. AWS
// gives root an hour, however much it asks for.
func getSessionToken(_ context.Context, c *api.Call, in *GetSessionTokenInput) (*GetSessionTokenOutput, error) {
	if err := checkMFA(in.SerialNumber, in.TokenCode); err != nil {
		return nil, err
	}
	length := seconds(in.DurationSeconds, defaultSession)
	if c.Who.Kind == sallyport.Root {
		length = min(length, maxRootSession)
	}
	t, err := c.Server.Issue(api.Grant{Who: c.Who, SessionToken: true, For: length}, c.At)
	if err != nil {
		return nil, err
	}
	return &GetSessionTokenOutput{Credentials: credentials(t)}, nil
}

// checkMFA refuses a second factor, since no user has an MFA device here. If it were
// ignored, the caller would believe that it was checked.
func checkMFA(serial, code *string) error {
	if serial == nil && code == nil {
		return nil
	}
	return sallyport.Errorf(sallyport.AccessDeniedException, "MultiFactorAuthentication failed, unable to validate MFA code. There are no MFA devices here: leave out SerialNumber and TokenCode.")
}

func seconds(n *int32, otherwise time.Duration) time.Duration {
	if n == nil {
		return otherwise
	}
	return time.Duration(*n) * time.Second
}

func credentials(t api.Temporary) *Credentials {
	return &Credentials{
		AccessKeyId: &t.AccessKeyID, SecretAccessKey: new(t.Secret.Reveal()), SessionToken: new(t.Token.Reveal()), Expiration: &t.Expires,
	}
}
