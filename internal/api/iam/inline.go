package iam

import (
	"context"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
)

// putInline gives who an inline policy. The quota is for all that who has
// together, so nothing else may be put while they are counted.
func putInline(ctx context.Context, c *api.Call, who store.Entity, name, document string, quota int) error {
	if _, err := policy.Parse(document); err != nil {
		return err
	}
	return c.Server.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.LockIAM(); err != nil {
			return err
		}
		g, err := tx.IAM().Grants(ctx, who)
		if err != nil {
			return err
		}
		total := policy.Size(document)
		for _, p := range g.Policies {
			if p.From == who && p.Name != name && !isARN(p.Name) {
				total += policy.Size(p.Document)
			}
		}
		if total > quota {
			return sallyport.Errorf(sallyport.LimitExceeded, "Maximum policy size of %d bytes exceeded for %s %s", quota, who.Kind, who.Name)
		}
		return tx.IAM().PutInlinePolicy(ctx, who, name, document)
	})
}

// isARN tells managed policies from inline ones, whose names have no colons.
func isARN(name string) bool { return strings.Contains(name, ":") }

// listInline is a page of the names of who's inline policies.
func listInline(ctx context.Context, c *api.Call, who store.Entity, marker *string, maxItems *int32) ([]string, string, error) {
	names, next, err := c.Server.Store.IAM().InlinePolicies(ctx, who, page(marker, maxItems))
	if err != nil {
		return nil, "", marked(err)
	}
	return each(names, func(name string) string { return name }), string(next), nil
}

func putUserPolicy(ctx context.Context, c *api.Call, in *PutUserPolicyInput) (*PutUserPolicyOutput, error) {
	if err := putInline(ctx, c, store.User(in.UserName), in.PolicyName, in.PolicyDocument, policy.UserQuota); err != nil {
		return nil, err
	}
	return &PutUserPolicyOutput{}, nil
}

func getUserPolicy(ctx context.Context, c *api.Call, in *GetUserPolicyInput) (*GetUserPolicyOutput, error) {
	doc, err := c.Server.Store.IAM().InlinePolicy(ctx, store.User(in.UserName), in.PolicyName)
	if err != nil {
		return nil, err
	}
	return &GetUserPolicyOutput{UserName: &in.UserName, PolicyName: &in.PolicyName, PolicyDocument: document(doc)}, nil
}

func listUserPolicies(ctx context.Context, c *api.Call, in *ListUserPoliciesInput) (*ListUserPoliciesOutput, error) {
	names, next, err := listInline(ctx, c, store.User(in.UserName), in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListUserPoliciesOutput{PolicyNames: names, IsTruncated: new(next != ""), Marker: some(next)}, nil
}

func deleteUserPolicy(ctx context.Context, c *api.Call, in *DeleteUserPolicyInput) (*DeleteUserPolicyOutput, error) {
	if err := c.Server.Store.IAM().DeleteInlinePolicy(ctx, store.User(in.UserName), in.PolicyName); err != nil {
		return nil, err
	}
	return &DeleteUserPolicyOutput{}, nil
}

func putGroupPolicy(ctx context.Context, c *api.Call, in *PutGroupPolicyInput) (*PutGroupPolicyOutput, error) {
	if err := putInline(ctx, c, store.Group(in.GroupName), in.PolicyName, in.PolicyDocument, policy.GroupQuota); err != nil {
		return nil, err
	}
	return &PutGroupPolicyOutput{}, nil
}

func getGroupPolicy(ctx context.Context, c *api.Call, in *GetGroupPolicyInput) (*GetGroupPolicyOutput, error) {
	doc, err := c.Server.Store.IAM().InlinePolicy(ctx, store.Group(in.GroupName), in.PolicyName)
	if err != nil {
		return nil, err
	}
	return &GetGroupPolicyOutput{GroupName: &in.GroupName, PolicyName: &in.PolicyName, PolicyDocument: document(doc)}, nil
}

func listGroupPolicies(ctx context.Context, c *api.Call, in *ListGroupPoliciesInput) (*ListGroupPoliciesOutput, error) {
	names, next, err := listInline(ctx, c, store.Group(in.GroupName), in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListGroupPoliciesOutput{PolicyNames: names, IsTruncated: new(next != ""), Marker: some(next)}, nil
}

func deleteGroupPolicy(ctx context.Context, c *api.Call, in *DeleteGroupPolicyInput) (*DeleteGroupPolicyOutput, error) {
	if err := c.Server.Store.IAM().DeleteInlinePolicy(ctx, store.Group(in.GroupName), in.PolicyName); err != nil {
		return nil, err
	}
	return &DeleteGroupPolicyOutput{}, nil
}

func putRolePolicy(ctx context.Context, c *api.Call, in *PutRolePolicyInput) (*PutRolePolicyOutput, error) {
	if err := putInline(ctx, c, store.Role(in.RoleName), in.PolicyName, in.PolicyDocument, policy.RoleQuota); err != nil {
		return nil, err
	}
	return &PutRolePolicyOutput{}, nil
}

func getRolePolicy(ctx context.Context, c *api.Call, in *GetRolePolicyInput) (*GetRolePolicyOutput, error) {
	doc, err := c.Server.Store.IAM().InlinePolicy(ctx, store.Role(in.RoleName), in.PolicyName)
	if err != nil {
		return nil, err
	}
	return &GetRolePolicyOutput{RoleName: &in.RoleName, PolicyName: &in.PolicyName, PolicyDocument: document(doc)}, nil
}

func listRolePolicies(ctx context.Context, c *api.Call, in *ListRolePoliciesInput) (*ListRolePoliciesOutput, error) {
	names, next, err := listInline(ctx, c, store.Role(in.RoleName), in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListRolePoliciesOutput{PolicyNames: names, IsTruncated: new(next != ""), Marker: some(next)}, nil
}

func deleteRolePolicy(ctx context.Context, c *api.Call, in *DeleteRolePolicyInput) (*DeleteRolePolicyOutput, error) {
	if err := c.Server.Store.IAM().DeleteInlinePolicy(ctx, store.Role(in.RoleName), in.PolicyName); err != nil {
		return nil, err
	}
	return &DeleteRolePolicyOutput{}, nil
}
