package iam

import (
	"context"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// checkAttachable refuses policies of AWS's own that are not here. The store
// refuses ours.
func checkAttachable(arn string) error {
	if _, ok := api.Builtin(arn); isBuiltin(arn) && !ok {
		return sallyport.Errorf(sallyport.NoSuchEntity, "Policy %s does not exist or is not attachable.", arn)
	}
	return nil
}

func attach(ctx context.Context, c *api.Call, who store.Entity, arn string) error {
	if err := checkAttachable(arn); err != nil {
		return err
	}
	return c.Server.Store.IAM().Attach(ctx, who, arn)
}

// attached is a page of the managed policies that who has. There are ten at
// most, so the page is cut here; the store's cursors would be too long for a
// Marker.
func attached(ctx context.Context, c *api.Call, who store.Entity, prefix, marker *string, maxItems *int32) ([]AttachedPolicy, string, error) {
	arns, _, err := c.Server.Store.IAM().Attached(ctx, who, store.Page{Limit: 1000})
	if err != nil {
		return nil, "", err
	}
	list := []AttachedPolicy{}
	for _, arn := range arns {
		parts := policyARN.FindStringSubmatch(arn)
		if parts != nil && strings.HasPrefix(parts[2], val(prefix)) {
			list = append(list, AttachedPolicy{PolicyArn: &arn, PolicyName: &parts[3]})
		}
	}
	return window(list, func(p AttachedPolicy) string { return *p.PolicyArn }, marker, maxItems)
}

func attachUserPolicy(ctx context.Context, c *api.Call, in *AttachUserPolicyInput) (*AttachUserPolicyOutput, error) {
	if err := attach(ctx, c, store.User(in.UserName), in.PolicyArn); err != nil {
		return nil, err
	}
	return &AttachUserPolicyOutput{}, nil
}

func detachUserPolicy(ctx context.Context, c *api.Call, in *DetachUserPolicyInput) (*DetachUserPolicyOutput, error) {
	if err := c.Server.Store.IAM().Detach(ctx, store.User(in.UserName), in.PolicyArn); err != nil {
		return nil, err
	}
	return &DetachUserPolicyOutput{}, nil
}

func listAttachedUserPolicies(ctx context.Context, c *api.Call, in *ListAttachedUserPoliciesInput) (*ListAttachedUserPoliciesOutput, error) {
	list, next, err := attached(ctx, c, store.User(in.UserName), in.PathPrefix, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListAttachedUserPoliciesOutput{AttachedPolicies: list, IsTruncated: new(next != ""), Marker: some(next)}, nil
}

func attachGroupPolicy(ctx context.Context, c *api.Call, in *AttachGroupPolicyInput) (*AttachGroupPolicyOutput, error) {
	if err := attach(ctx, c, store.Group(in.GroupName), in.PolicyArn); err != nil {
		return nil, err
	}
	return &AttachGroupPolicyOutput{}, nil
}

func detachGroupPolicy(ctx context.Context, c *api.Call, in *DetachGroupPolicyInput) (*DetachGroupPolicyOutput, error) {
	if err := c.Server.Store.IAM().Detach(ctx, store.Group(in.GroupName), in.PolicyArn); err != nil {
		return nil, err
	}
	return &DetachGroupPolicyOutput{}, nil
}

func listAttachedGroupPolicies(ctx context.Context, c *api.Call, in *ListAttachedGroupPoliciesInput) (*ListAttachedGroupPoliciesOutput, error) {
	list, next, err := attached(ctx, c, store.Group(in.GroupName), in.PathPrefix, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListAttachedGroupPoliciesOutput{AttachedPolicies: list, IsTruncated: new(next != ""), Marker: some(next)}, nil
}

func attachRolePolicy(ctx context.Context, c *api.Call, in *AttachRolePolicyInput) (*AttachRolePolicyOutput, error) {
	if err := attach(ctx, c, store.Role(in.RoleName), in.PolicyArn); err != nil {
		return nil, err
	}
	return &AttachRolePolicyOutput{}, nil
}

func detachRolePolicy(ctx context.Context, c *api.Call, in *DetachRolePolicyInput) (*DetachRolePolicyOutput, error) {
	if err := c.Server.Store.IAM().Detach(ctx, store.Role(in.RoleName), in.PolicyArn); err != nil {
		return nil, err
	}
	return &DetachRolePolicyOutput{}, nil
}

func listAttachedRolePolicies(ctx context.Context, c *api.Call, in *ListAttachedRolePoliciesInput) (*ListAttachedRolePoliciesOutput, error) {
	list, next, err := attached(ctx, c, store.Role(in.RoleName), in.PathPrefix, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListAttachedRolePoliciesOutput{AttachedPolicies: list, IsTruncated: new(next != ""), Marker: some(next)}, nil
}

// boundary is a permissions boundary as answers have it.
func boundary(arn string) *AttachedPermissionsBoundary {
	if arn == "" {
		return nil
	}
	// IAM says Policy where its model says PermissionsBoundaryPolicy. (AWS CLI
	// reference, get-user and get-role.)
	return &AttachedPermissionsBoundary{PermissionsBoundaryArn: &arn, PermissionsBoundaryType: "Policy"}
}

// checkBoundary refuses an ARN that is no policy's; "" is no boundary.
func checkBoundary(arn string) error {
	if arn == "" {
		return nil
	}
	return checkAttachable(arn)
}

func setBoundary(ctx context.Context, c *api.Call, who store.Entity, arn string) error {
	if err := checkBoundary(arn); err != nil {
		return err
	}
	return c.Server.Store.IAM().SetBoundary(ctx, who, arn)
}

func putUserPermissionsBoundary(ctx context.Context, c *api.Call, in *PutUserPermissionsBoundaryInput) (*PutUserPermissionsBoundaryOutput, error) {
	if err := setBoundary(ctx, c, store.User(in.UserName), in.PermissionsBoundary); err != nil {
		return nil, err
	}
	return &PutUserPermissionsBoundaryOutput{}, nil
}

func deleteUserPermissionsBoundary(ctx context.Context, c *api.Call, in *DeleteUserPermissionsBoundaryInput) (*DeleteUserPermissionsBoundaryOutput, error) {
	if err := setBoundary(ctx, c, store.User(in.UserName), ""); err != nil {
		return nil, err
	}
	return &DeleteUserPermissionsBoundaryOutput{}, nil
}

func putRolePermissionsBoundary(ctx context.Context, c *api.Call, in *PutRolePermissionsBoundaryInput) (*PutRolePermissionsBoundaryOutput, error) {
	if err := setBoundary(ctx, c, store.Role(in.RoleName), in.PermissionsBoundary); err != nil {
		return nil, err
	}
	return &PutRolePermissionsBoundaryOutput{}, nil
}

func deleteRolePermissionsBoundary(ctx context.Context, c *api.Call, in *DeleteRolePermissionsBoundaryInput) (*DeleteRolePermissionsBoundaryOutput, error) {
	if err := setBoundary(ctx, c, store.Role(in.RoleName), ""); err != nil {
		return nil, err
	}
	return &DeleteRolePermissionsBoundaryOutput{}, nil
}
