package iam

import (
	"context"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// listedUser is a user as lists have it: without tags and boundary.
func listedUser(c *api.Call) func(*sallyport.User) User {
	return func(u *sallyport.User) User {
		return User{
			Arn: new(c.Server.Realm.User(u.Path, u.Name)), CreateDate: &u.Created,
			Path: &u.Path, UserId: &u.ID, UserName: &u.Name,
		}
	}
}

func wholeUser(c *api.Call, u *sallyport.User) *User {
	out := listedUser(c)(u)
	out.Tags, out.PermissionsBoundary = writeTags(u.Tags), boundary(u.Boundary)
	return &out
}

func createUser(ctx context.Context, c *api.Call, in *CreateUserInput) (*CreateUserOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	u := sallyport.User{
		Name: in.UserName, Path: or(in.Path, "/"), ID: sallyport.EntityID("AIDA"), Created: c.At,
		Tags: tags, Boundary: val(in.PermissionsBoundary),
	}
	if err := checkBoundary(u.Boundary); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().CreateUser(ctx, u); err != nil {
		return nil, err
	}
	return &CreateUserOutput{User: wholeUser(c, &u)}, nil
}

func getUser(ctx context.Context, c *api.Call, in *GetUserInput) (*GetUserOutput, error) {
	name, err := self(c, val(in.UserName))
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
	return &GetUserOutput{User: wholeUser(c, u)}, nil
}

// getRoot answers the account's root, who asks about itself. It is no user, and
// has neither name nor path. Its date, which the model wants, is its first key's; the
// root who comes by the admin socket has none, and is as old as AWS's policies here.
func getRoot(ctx context.Context, c *api.Call) (*GetUserOutput, error) {
	keys, err := c.Server.Store.IAM().AccessKeys(ctx, "")
	if err != nil {
		return nil, err
	}
	out := &User{Arn: new(c.Server.Realm.Root()), UserId: new(c.Server.Realm.Account), CreateDate: new(api.BuiltinSince)}
	if len(keys) > 0 {
		out.CreateDate = &keys[0].Created
	}
	return &GetUserOutput{User: out}, nil
}

func listUsers(ctx context.Context, c *api.Call, in *ListUsersInput) (*ListUsersOutput, error) {
	users, next, err := c.Server.Store.IAM().Users(ctx, val(in.PathPrefix), page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	return &ListUsersOutput{Users: each(users, listedUser(c)), IsTruncated: new(next != ""), Marker: some(string(next))}, nil
}

// updateUser renames. The user's keys, session tokens and sessions go on, since
// they are the user's by ID.
func updateUser(ctx context.Context, c *api.Call, in *UpdateUserInput) (*UpdateUserOutput, error) {
	if err := c.Server.Store.IAM().Rename(ctx, store.User(in.UserName), val(in.NewUserName), val(in.NewPath)); err != nil {
		return nil, err
	}
	return &UpdateUserOutput{}, nil
}

func deleteUser(ctx context.Context, c *api.Call, in *DeleteUserInput) (*DeleteUserOutput, error) {
	if err := c.Server.Store.IAM().Delete(ctx, store.User(in.UserName)); err != nil {
		return nil, err
	}
	return &DeleteUserOutput{}, nil
}

func listGroupsForUser(ctx context.Context, c *api.Call, in *ListGroupsForUserInput) (*ListGroupsForUserOutput, error) {
	groups, next, err := c.Server.Store.IAM().GroupsOf(ctx, in.UserName, page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	return &ListGroupsForUserOutput{Groups: each(groups, groupOutput(c)), IsTruncated: new(next != ""), Marker: some(string(next))}, nil
}
