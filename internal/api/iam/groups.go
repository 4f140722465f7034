package iam

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

func aGroup(c *api.Call) func(*sallyport.Group) types.Group {
	return func(g *sallyport.Group) types.Group {
		return types.Group{
			Arn: new(c.Server.Realm.Group(g.Path, g.Name)), CreateDate: &g.Created,
			GroupId: &g.ID, GroupName: &g.Name, Path: &g.Path,
		}
	}
}

func createGroup(ctx context.Context, c *api.Call, in *iam.CreateGroupInput) (*iam.CreateGroupOutput, error) {
	g := sallyport.Group{Name: *in.GroupName, Path: path(in), ID: sallyport.EntityID("AGPA"), Created: c.At}
	if err := c.Server.Store.IAM().CreateGroup(ctx, g); err != nil {
		return nil, err
	}
	return &iam.CreateGroupOutput{Group: new(aGroup(c)(&g))}, nil
}

// getGroup answers a group and a page of its members.
func getGroup(ctx context.Context, c *api.Call, in *iam.GetGroupInput) (*iam.GetGroupOutput, error) {
	g, err := c.Server.Store.IAM().Group(ctx, *in.GroupName)
	if err != nil {
		return nil, err
	}
	users, next, err := c.Server.Store.IAM().UsersIn(ctx, g.Name, page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	return &iam.GetGroupOutput{Group: new(aGroup(c)(g)), Users: each(users, listedUser(c)), IsTruncated: next != "", Marker: some(string(next))}, nil
}

func listGroups(ctx context.Context, c *api.Call, in *iam.ListGroupsInput) (*iam.ListGroupsOutput, error) {
	groups, next, err := c.Server.Store.IAM().Groups(ctx, val(in.PathPrefix), page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	return &iam.ListGroupsOutput{Groups: each(groups, aGroup(c)), IsTruncated: next != "", Marker: some(string(next))}, nil
}

func updateGroup(ctx context.Context, c *api.Call, in *iam.UpdateGroupInput) (*iam.UpdateGroupOutput, error) {
	if err := c.Server.Store.IAM().Rename(ctx, store.Group(*in.GroupName), val(in.NewGroupName), val(in.NewPath)); err != nil {
		return nil, err
	}
	return &iam.UpdateGroupOutput{}, nil
}

func deleteGroup(ctx context.Context, c *api.Call, in *iam.DeleteGroupInput) (*iam.DeleteGroupOutput, error) {
	if err := c.Server.Store.IAM().Delete(ctx, store.Group(*in.GroupName)); err != nil {
		return nil, err
	}
	return &iam.DeleteGroupOutput{}, nil
}

func addUserToGroup(ctx context.Context, c *api.Call, in *iam.AddUserToGroupInput) (*iam.AddUserToGroupOutput, error) {
	if err := c.Server.Store.IAM().AddUserToGroup(ctx, *in.GroupName, *in.UserName); err != nil {
		return nil, err
	}
	return &iam.AddUserToGroupOutput{}, nil
}

func removeUserFromGroup(ctx context.Context, c *api.Call, in *iam.RemoveUserFromGroupInput) (*iam.RemoveUserFromGroupOutput, error) {
	if err := c.Server.Store.IAM().RemoveUserFromGroup(ctx, *in.GroupName, *in.UserName); err != nil {
		return nil, err
	}
	return &iam.RemoveUserFromGroupOutput{}, nil
}
