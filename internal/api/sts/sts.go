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

	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// Service returns STS's operations.
func Service() *api.Service {
	return &api.Service{
		Name:    "sts",
		Version: "2011-06-15",
		XMLNS:   "https://sts.amazonaws.com/doc/2011-06-15/",
		Global:  true,
		Ops: map[string]api.Op{
			// Neither needs a permission in AWS, and what they tell or give is
			// the caller's already. (IAM User Guide, "Permissions for
			// GetSessionToken".)
			"GetCallerIdentity": api.Query(api.OnNothing, getCallerIdentity),
			"GetSessionToken":   api.Query(api.OnNothing, getSessionToken),

			"AssumeRole": api.Query(onRole, assumeRole),
		},
	}
}

func getCallerIdentity(_ context.Context, c *api.Call, _ *sts.GetCallerIdentityInput) (*sts.GetCallerIdentityOutput, error) {
	return &sts.GetCallerIdentityOutput{Account: &c.Server.Realm.Account, Arn: &c.Who.ARN, UserId: &c.Who.ID}, nil
}

const (
	defaultSession = 12 * time.Hour
	maxRootSession = time.Hour
)

// getSessionToken makes short-lived credentials of a user's or root's key. AWS
// gives root an hour, however much it asks for.
func getSessionToken(_ context.Context, c *api.Call, in *sts.GetSessionTokenInput) (*sts.GetSessionTokenOutput, error) {
	if c.Who.Temporary() || c.Who.Kind != sallyport.UserKind && c.Who.Kind != sallyport.Root {
		return nil, sallyport.Errorf(sallyport.AccessDeniedException, "Cannot call GetSessionToken with session credentials")
	}
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
	return &sts.GetSessionTokenOutput{Credentials: credentials(t)}, nil
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

func credentials(t api.Temporary) *types.Credentials {
	return &types.Credentials{
		AccessKeyId: &t.AccessKeyID, SecretAccessKey: new(t.Secret.Reveal()), SessionToken: new(t.Token.Reveal()), Expiration: &t.Expires,
	}
}
