package iam

import (
	"context"
	"slices"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// owner is what answers call the user a key belongs to. The account itself has
// keys too.
func owner(user string) *string {
	if user == "" {
		user = "root"
	}
	return &user
}

func status(k *sallyport.AccessKey) StatusType {
	if k.Active {
		return StatusTypeActive
	}
	return StatusTypeInactive
}

// createAccessKey makes a key. Its secret is in this answer and in no other.
func createAccessKey(ctx context.Context, c *api.Call, in *CreateAccessKeyInput) (*CreateAccessKeyOutput, error) {
	user, err := self(c, val(in.UserName))
	if err != nil {
		return nil, err
	}
	// AWS's keys are one character shorter than its other IDs, and programs that
	// look for leaked keys know them by that.
	k := sallyport.AccessKey{ID: sallyport.EntityID("AKIA")[:20], User: user, Active: true, Created: c.At}
	secret := sallyport.GenerateSecretKey()
	if err := c.Server.Store.IAM().CreateAccessKey(ctx, k, secret); err != nil {
		return nil, err
	}
	return &CreateAccessKeyOutput{AccessKey: &AccessKey{
		AccessKeyId: &k.ID, SecretAccessKey: new(secret.Reveal()), Status: status(&k), UserName: owner(user), CreateDate: &k.Created,
	}}, nil
}

func listAccessKeys(ctx context.Context, c *api.Call, in *ListAccessKeysInput) (*ListAccessKeysOutput, error) {
	user, err := self(c, val(in.UserName))
	if err != nil {
		return nil, err
	}
	keys, err := c.Server.Store.IAM().AccessKeys(ctx, user)
	if err != nil {
		return nil, err
	}
	keys, next, err := window(keys, func(k sallyport.AccessKey) string { return k.ID }, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListAccessKeysOutput{
		AccessKeyMetadata: each(keys, func(k sallyport.AccessKey) AccessKeyMetadata {
			return AccessKeyMetadata{AccessKeyId: &k.ID, CreateDate: &k.Created, Status: status(&k), UserName: owner(user)}
		}),
		IsTruncated: new(next != ""), Marker: some(next),
	}, nil
}

func updateAccessKey(ctx context.Context, c *api.Call, in *UpdateAccessKeyInput) (*UpdateAccessKeyOutput, error) {
	user, err := self(c, val(in.UserName))
	if err != nil {
		return nil, err
	}
	if in.Status == StatusTypeExpired {
		return nil, sallyport.Errorf(sallyport.InvalidInput, "A key cannot be made to expire. Its status can be set to Active or Inactive.")
	}
	if err := c.Server.Store.IAM().SetAccessKeyActive(ctx, user, in.AccessKeyId, in.Status == StatusTypeActive); err != nil {
		return nil, err
	}
	return &UpdateAccessKeyOutput{}, nil
}

func deleteAccessKey(ctx context.Context, c *api.Call, in *DeleteAccessKeyInput) (*DeleteAccessKeyOutput, error) {
	user, err := self(c, val(in.UserName))
	if err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().DeleteAccessKey(ctx, user, in.AccessKeyId); err != nil {
		return nil, err
	}
	return &DeleteAccessKeyOutput{}, nil
}

func getAccessKeyLastUsed(ctx context.Context, c *api.Call, in *GetAccessKeyLastUsedInput) (*GetAccessKeyLastUsedOutput, error) {
	user, err := c.Server.Store.IAM().AccessKeyOwner(ctx, in.AccessKeyId)
	if err != nil {
		return nil, err
	}
	keys, err := c.Server.Store.IAM().AccessKeys(ctx, user)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(keys, func(k sallyport.AccessKey) bool { return k.ID == in.AccessKeyId })
	if i < 0 {
		return nil, sallyport.Errorf(sallyport.NoSuchEntity, "The Access Key with id %s cannot be found.", in.AccessKeyId) // any more
	}
	used := &AccessKeyLastUsed{Region: new("N/A"), ServiceName: new("N/A")} // AWS's words for never
	if k := keys[i]; !k.LastUsed.IsZero() {
		used = &AccessKeyLastUsed{LastUsedDate: &k.LastUsed, Region: new(c.Server.Realm.Region), ServiceName: &k.LastService}
	}
	return &GetAccessKeyLastUsedOutput{AccessKeyLastUsed: used, UserName: owner(user)}, nil
}
