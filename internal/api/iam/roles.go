package iam

import (
	"context"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
)

// defaultMaxSession is how long a role's credentials may last unless it says
// otherwise, in seconds.
const defaultMaxSession = 3600

// show makes the trust policies of roles that were read what they are shown as.
func show(ctx context.Context, c *api.Call, roles ...*sallyport.Role) error {
	return c.Server.ShowPrincipals(ctx, each(roles, func(r *sallyport.Role) *string { return &r.Trust })...)
}

// listedRole is a role as lists have it: without tags and boundary.
func listedRole(c *api.Call) func(*sallyport.Role) Role {
	return func(r *sallyport.Role) Role {
		return Role{
			Arn: new(c.Server.Realm.Role(r.Path, r.Name)), CreateDate: &r.Created,
			Path: &r.Path, RoleId: &r.ID, RoleName: &r.Name,
			AssumeRolePolicyDocument: document(r.Trust), Description: some(r.Description),
			MaxSessionDuration: new(int32(r.MaxSession / time.Second)),
		}
	}
}

func wholeRole(c *api.Call, r *sallyport.Role) *Role {
	out := listedRole(c)(r)
	out.Tags, out.PermissionsBoundary = writeTags(r.Tags), boundary(r.Boundary)
	return &out
}

// readTrust checks a trust policy and returns it as it is kept.
func readTrust(ctx context.Context, c *api.Call, text string) (string, error) {
	if _, err := policy.ParseTrust(text); err != nil {
		return "", err
	}
	if policy.Size(text) > policy.TrustQuota {
		return "", sallyport.Errorf(sallyport.LimitExceeded, "Cannot exceed quota for ACLSizePerRole: %d", policy.TrustQuota)
	}
	return c.Server.BindPrincipals(ctx, text)
}

func createRole(ctx context.Context, c *api.Call, in *CreateRoleInput) (*CreateRoleOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	trust, err := readTrust(ctx, c, in.AssumeRolePolicyDocument)
	if err != nil {
		return nil, err
	}
	r := sallyport.Role{
		Name: in.RoleName, Path: or(in.Path, "/"), ID: sallyport.EntityID("AROA"), Description: val(in.Description),
		Trust: trust, MaxSession: time.Duration(or(in.MaxSessionDuration, defaultMaxSession)) * time.Second,
		Created: c.At, Tags: tags, Boundary: val(in.PermissionsBoundary),
	}
	if err := checkBoundary(r.Boundary); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().CreateRole(ctx, r); err != nil {
		return nil, err
	}
	r.Trust = in.AssumeRolePolicyDocument
	return &CreateRoleOutput{Role: wholeRole(c, &r)}, nil
}

func getRole(ctx context.Context, c *api.Call, in *GetRoleInput) (*GetRoleOutput, error) {
	r, err := c.Server.Store.IAM().Role(ctx, in.RoleName)
	if err == nil {
		err = show(ctx, c, r)
	}
	if err != nil {
		return nil, err
	}
	out := wholeRole(c, r)
	out.RoleLastUsed = &RoleLastUsed{} // when is not kept
	return &GetRoleOutput{Role: out}, nil
}

func listRoles(ctx context.Context, c *api.Call, in *ListRolesInput) (*ListRolesOutput, error) {
	roles, next, err := c.Server.Store.IAM().Roles(ctx, val(in.PathPrefix), page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	if err := show(ctx, c, roles...); err != nil {
		return nil, err
	}
	return &ListRolesOutput{Roles: each(roles, listedRole(c)), IsTruncated: new(next != ""), Marker: some(string(next))}, nil
}

// changeRole has change alter a role's description and how long its sessions may
// be, and returns the role as it is then.
func changeRole(ctx context.Context, c *api.Call, name string, change func(*sallyport.Role)) (r *sallyport.Role, err error) {
	err = c.Server.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if err := tx.LockIAM(); err != nil {
			return err
		}
		if r, err = tx.IAM().Role(ctx, name); err != nil {
			return err
		}
		change(r)
		return tx.IAM().UpdateRole(ctx, name, r.Description, r.MaxSession)
	})
	return r, err
}

// updateRole changes a role's description, if one is given, and how long its
// sessions may be: an hour if the input does not say, as in AWS.
func updateRole(ctx context.Context, c *api.Call, in *UpdateRoleInput) (*UpdateRoleOutput, error) {
	_, err := changeRole(ctx, c, in.RoleName, func(r *sallyport.Role) {
		r.Description = or(in.Description, r.Description)
		r.MaxSession = time.Duration(or(in.MaxSessionDuration, defaultMaxSession)) * time.Second
	})
	if err != nil {
		return nil, err
	}
	return &UpdateRoleOutput{}, nil
}

func updateRoleDescription(ctx context.Context, c *api.Call, in *UpdateRoleDescriptionInput) (*UpdateRoleDescriptionOutput, error) {
	r, err := changeRole(ctx, c, in.RoleName, func(r *sallyport.Role) { r.Description = in.Description })
	if err != nil {
		return nil, err
	}
	if err := show(ctx, c, r); err != nil {
		return nil, err
	}
	return &UpdateRoleDescriptionOutput{Role: wholeRole(c, r)}, nil
}

func updateAssumeRolePolicy(ctx context.Context, c *api.Call, in *UpdateAssumeRolePolicyInput) (*UpdateAssumeRolePolicyOutput, error) {
	trust, err := readTrust(ctx, c, in.PolicyDocument)
	if err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().UpdateTrust(ctx, in.RoleName, trust); err != nil {
		return nil, err
	}
	return &UpdateAssumeRolePolicyOutput{}, nil
}

func deleteRole(ctx context.Context, c *api.Call, in *DeleteRoleInput) (*DeleteRoleOutput, error) {
	if err := c.Server.Store.IAM().Delete(ctx, store.Role(in.RoleName)); err != nil {
		return nil, err
	}
	return &DeleteRoleOutput{}, nil
}
