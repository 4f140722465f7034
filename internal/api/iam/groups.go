package iam

import (
	"context"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

func groupOutput(c *api.Call) func(*sallyport.Group) Group {
	return func(g *sallyport.Group) Group {
		return Group{
			Arn: new(c.Server.Realm.Group(g.Path, g.Name)), CreateDate: &g.Created,
			GroupId: &g.ID, GroupName: &g.Name, Path: &g.Path,
		}
	}
}

func createGroup(ctx context.Context, c *api.Call, in *CreateGroupInput) (*CreateGroupOutput, error) {
	g := sallyport.Group{Name: in.GroupName, Path: or(in.Path, "/"), ID: sallyport.EntityID("AGPA"), Created: c.At}
	if err := c.Server.Store.IAM().CreateGroup(ctx, g); err != nil {
		return nil, err
	}
	return &CreateGroupOutput{Group: new(groupOutput(c)(&g))}, nil
}

// getGroup answers a group and a page of its members.
func getGroup(ctx context.Context, c *api.Call, in *GetGroupInput) (*GetGroupOutput, error) {
	g, err := c.Server.Store.IAM().Group(ctx, in.GroupName)
	if err != nil {
		return nil, err
	}
	users, next, err := c.Server.Store.IAM().UsersIn(ctx, g.Name, page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	return &GetGroupOutput{Group: new(groupOutput(c)(g)), Users: each(users, listedUser(c)), IsTruncated: new(next != ""), Marker: some(string(next))}, nil
}

func listGroups(ctx context.Context, c *api.Call, in *ListGroupsInput) (*ListGroupsOutput, error) {
	groups, next, err := c.Server.Store.IAM().Groups(ctx, val(in.PathPrefix), page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	return &ListGroupsOutput{Groups: each(groups, groupOutput(c)), IsTruncated: new(next != ""), Marker: some(string(next))}, nil
}

func updateGroup(ctx context.Context, c *api.Call, in *UpdateGroupInput) (*UpdateGroupOutput, error) {
	if err := c.Server.Store.IAM().Rename(ctx, store.Group(in.GroupName), val(in.NewGroupName), val(in.NewPath)); err != nil {
		return nil, err
	}
	return &UpdateGroupOutput{}, nil
}

func deleteGroup(ctx context.Context, c *api.Call, in *DeleteGroupInput) (*DeleteGroupOutput, error) {
	if err := c.Server.Store.IAM().Delete(ctx, store.Group(in.GroupName)); err != nil {
		return nil, err
	}
	return &DeleteGroupOutput{}, nil
}

func addUserToGroup(ctx context.Context, c *api.Call, in *AddUserToGroupInput) (*AddUserToGroupOutput, error) {
	if err := c.Server.Store.IAM().AddUserToGroup(ctx, in.GroupName, in.UserName); err != nil {
		return nil, err
	}
	return &AddUserToGroupOutput{}, nil
}

func removeUserFromGroup(ctx context.Context, c *api.Call, in *RemoveUserFromGroupInput) (*RemoveUserFromGroupOutput, error) {
	if err := c.Server.Store.IAM().RemoveUserFromGroup(ctx, in.GroupName, in.UserName); err != nil {
		return nil, err
	}
	return &RemoveUserFromGroupOutput{}, nil
}
