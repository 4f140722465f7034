package iam

import (
	"context"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// What no user or role has here: passwords, MFA devices, keys for other
// protocols, instance profiles. Programs that delete a user or role ask for them
// first, and go on when there are none. (terraform-provider-aws,
// internal/service/iam/user.go and role.go.)

// none is an empty page of a list of what a user has.
func none[T any](ctx context.Context, c *api.Call, user, marker *string) ([]T, error) {
	name, err := self(c, val(user))
	if err != nil {
		return nil, err
	}
	if name != "" {
		if _, err := c.Server.Store.IAM().User(ctx, name); err != nil {
			return nil, err
		}
	}
	if marker != nil {
		return nil, badMarker()
	}
	return []T{}, nil
}

func listMFADevices(ctx context.Context, c *api.Call, in *ListMFADevicesInput) (*ListMFADevicesOutput, error) {
	list, err := none[MFADevice](ctx, c, in.UserName, in.Marker)
	if err != nil {
		return nil, err
	}
	return &ListMFADevicesOutput{MFADevices: list, IsTruncated: new(false)}, nil
}

func listSSHPublicKeys(ctx context.Context, c *api.Call, in *ListSSHPublicKeysInput) (*ListSSHPublicKeysOutput, error) {
	list, err := none[SSHPublicKeyMetadata](ctx, c, in.UserName, in.Marker)
	if err != nil {
		return nil, err
	}
	return &ListSSHPublicKeysOutput{SSHPublicKeys: list, IsTruncated: new(false)}, nil
}

func listSigningCertificates(ctx context.Context, c *api.Call, in *ListSigningCertificatesInput) (*ListSigningCertificatesOutput, error) {
	list, err := none[SigningCertificate](ctx, c, in.UserName, in.Marker)
	if err != nil {
		return nil, err
	}
	return &ListSigningCertificatesOutput{Certificates: list, IsTruncated: new(false)}, nil
}

func listServiceSpecificCredentials(ctx context.Context, c *api.Call, in *ListServiceSpecificCredentialsInput) (*ListServiceSpecificCredentialsOutput, error) {
	list, err := none[ServiceSpecificCredentialMetadata](ctx, c, in.UserName, in.Marker)
	if err != nil {
		return nil, err
	}
	return &ListServiceSpecificCredentialsOutput{ServiceSpecificCredentials: list}, nil
}

func listVirtualMFADevices(_ context.Context, _ *api.Call, in *ListVirtualMFADevicesInput) (*ListVirtualMFADevicesOutput, error) {
	if in.Marker != nil {
		return nil, badMarker()
	}
	return &ListVirtualMFADevicesOutput{VirtualMFADevices: []VirtualMFADevice{}, IsTruncated: new(false)}, nil
}

func listInstanceProfilesForRole(ctx context.Context, c *api.Call, in *ListInstanceProfilesForRoleInput) (*ListInstanceProfilesForRoleOutput, error) {
	if _, err := c.Server.Store.IAM().Role(ctx, in.RoleName); err != nil {
		return nil, err
	}
	if in.Marker != nil {
		return nil, badMarker()
	}
	return &ListInstanceProfilesForRoleOutput{InstanceProfiles: []InstanceProfile{}, IsTruncated: new(false)}, nil
}

// noLoginProfile is the error about a user's password.
func noLoginProfile(ctx context.Context, c *api.Call, user *string) error {
	name, err := self(c, val(user))
	if err != nil {
		return err
	}
	if name == "" {
		return sallyport.Errorf(sallyport.NoSuchEntity, "Login Profile for the account cannot be found.")
	}
	u, err := c.Server.Store.IAM().User(ctx, name)
	if err != nil {
		return err
	}
	return sallyport.Errorf(sallyport.NoSuchEntity, "Login Profile for User %s cannot be found.", u.Name)
}

func getLoginProfile(ctx context.Context, c *api.Call, in *GetLoginProfileInput) (*GetLoginProfileOutput, error) {
	return nil, noLoginProfile(ctx, c, in.UserName)
}

func deleteLoginProfile(ctx context.Context, c *api.Call, in *DeleteLoginProfileInput) (*DeleteLoginProfileOutput, error) {
	return nil, noLoginProfile(ctx, c, in.UserName)
}
