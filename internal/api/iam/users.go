package iam

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// listedUser is a user as lists have it: without tags and boundary.
func listedUser(c *api.Call) func(*sallyport.User) types.User {
	return func(u *sallyport.User) types.User {
		return types.User{
			Arn: new(c.Server.Realm.User(u.Path, u.Name)), CreateDate: &u.Created,
			Path: &u.Path, UserId: &u.ID, UserName: &u.Name,
		}
	}
}

func wholeUser(c *api.Call, u *sallyport.User) *types.User {
	out := listedUser(c)(u)
	out.Tags, out.PermissionsBoundary = writeTags(u.Tags), boundary(u.Boundary)
	return &out
}

func createUser(ctx context.Context, c *api.Call, in *iam.CreateUserInput) (*iam.CreateUserOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	u := sallyport.User{
		Name: *in.UserName, Path: path(in), ID: sallyport.EntityID("AIDA"), Created: c.At,
		Tags: tags, Boundary: val(in.PermissionsBoundary),
	}
	if err := checkBoundary(u.Boundary); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().CreateUser(ctx, u); err != nil {
		return nil, err
	}
	return &iam.CreateUserOutput{User: wholeUser(c, &u)}, nil
}

func getUser(ctx context.Context, c *api.Call, in *iam.GetUserInput) (*iam.GetUserOutput, error) {
	name, err := self(c, in.UserName)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return getRoot(ctx, c)
	}
	u, err := c.Server.Store.IAM().User(ctx, name)
	if err != nil {
		return nil, err
	}
	return &iam.GetUserOutput{User: wholeUser(c, u)}, nil
}

// getRoot answers the account's root, who asks about itself. It is no user, and
// has neither name nor path; its date, which the model wants, is its first
// key's.
func getRoot(ctx context.Context, c *api.Call) (*iam.GetUserOutput, error) {
	keys, err := c.Server.Store.IAM().AccessKeys(ctx, "")
	if err != nil {
		return nil, err
	}
	out := &types.User{Arn: new(c.Server.Realm.Root()), UserId: new(c.Server.Realm.Account)}
	if len(keys) > 0 {
		out.CreateDate = &keys[0].Created
	}
	return &iam.GetUserOutput{User: out}, nil
}

func listUsers(ctx context.Context, c *api.Call, in *iam.ListUsersInput) (*iam.ListUsersOutput, error) {
	users, next, err := c.Server.Store.IAM().Users(ctx, val(in.PathPrefix), page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	return &iam.ListUsersOutput{Users: each(users, listedUser(c)), IsTruncated: next != "", Marker: some(string(next))}, nil
}

// updateUser renames. The user's keys, session tokens and sessions go on, since
// they are the user's by ID.
func updateUser(ctx context.Context, c *api.Call, in *iam.UpdateUserInput) (*iam.UpdateUserOutput, error) {
	if err := c.Server.Store.IAM().Rename(ctx, store.User(*in.UserName), val(in.NewUserName), val(in.NewPath)); err != nil {
		return nil, err
	}
	return &iam.UpdateUserOutput{}, nil
}

func deleteUser(ctx context.Context, c *api.Call, in *iam.DeleteUserInput) (*iam.DeleteUserOutput, error) {
	if err := c.Server.Store.IAM().Delete(ctx, store.User(*in.UserName)); err != nil {
		return nil, err
	}
	return &iam.DeleteUserOutput{}, nil
}

func listGroupsForUser(ctx context.Context, c *api.Call, in *iam.ListGroupsForUserInput) (*iam.ListGroupsForUserOutput, error) {
	groups, next, err := c.Server.Store.IAM().GroupsOf(ctx, *in.UserName, page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	return &iam.ListGroupsForUserOutput{Groups: each(groups, aGroup(c)), IsTruncated: next != "", Marker: some(string(next))}, nil
}
