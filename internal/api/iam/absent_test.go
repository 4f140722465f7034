package iam_test

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
)

// What programs ask for before they delete a user or a role is not there, of those
// that are, and is said to be no user's of those that are not.
func TestWhatNoUserHas(t *testing.T) {
	d := open(t)
	ctx, root := t.Context(), d.iam(d.root)
	_, err := root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: aws.String("ann")})
	d.must(err)
	_, err = root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: aws.String("r"), AssumeRolePolicyDocument: aws.String(someTrust)})
	d.must(err)
	// Each is asked for a user, and returns how long its list is, or -1 for one that
	// is not there at all: clients look for the element of an empty list too.
	lists := map[string]func(user, marker *string) (int, error){
		"ListMFADevices": func(user, marker *string) (int, error) {
			out, err := root.ListMFADevices(ctx, &awsiam.ListMFADevicesInput{UserName: user, Marker: marker})
			return length(err, func() bool { return out.MFADevices == nil || out.IsTruncated }, func() int { return len(out.MFADevices) }), err
		},
		"ListSSHPublicKeys": func(user, marker *string) (int, error) {
			out, err := root.ListSSHPublicKeys(ctx, &awsiam.ListSSHPublicKeysInput{UserName: user, Marker: marker})
			return length(err, func() bool { return out.SSHPublicKeys == nil || out.IsTruncated }, func() int { return len(out.SSHPublicKeys) }), err
		},
		"ListSigningCertificates": func(user, marker *string) (int, error) {
			out, err := root.ListSigningCertificates(ctx, &awsiam.ListSigningCertificatesInput{UserName: user, Marker: marker})
			return length(err, func() bool { return out.Certificates == nil || out.IsTruncated }, func() int { return len(out.Certificates) }), err
		},
		"ListServiceSpecificCredentials": func(user, _ *string) (int, error) {
			out, err := root.ListServiceSpecificCredentials(ctx, &awsiam.ListServiceSpecificCredentialsInput{UserName: user})
			return length(err, func() bool { return out.ServiceSpecificCredentials == nil }, func() int { return len(out.ServiceSpecificCredentials) }), err
		},
	}
	for name, list := range lists {
		for _, user := range []*string{aws.String("ann"), nil} {
			if n, err := list(user, nil); n != 0 || err != nil {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		_, err := list(aws.String("bob"), nil)
		d.refused(err, "NoSuchEntity", "The user with name bob cannot be found.")
		if name != "ListServiceSpecificCredentials" {
			_, err = list(aws.String("ann"), aws.String("x"))
			d.refused(err, "ValidationError", "Invalid Marker")
		}
	}
	if out, err := root.ListVirtualMFADevices(ctx, &awsiam.ListVirtualMFADevicesInput{}); err != nil || out.VirtualMFADevices == nil || len(out.VirtualMFADevices) > 0 {
		t.Errorf("ListVirtualMFADevices: %+v, %v", out, err)
	}
	if out, err := root.ListInstanceProfilesForRole(ctx, &awsiam.ListInstanceProfilesForRoleInput{RoleName: aws.String("r")}); err != nil || out.InstanceProfiles == nil || len(out.InstanceProfiles) > 0 {
		t.Errorf("ListInstanceProfilesForRole: %+v, %v", out, err)
	}
	_, err = root.ListInstanceProfilesForRole(ctx, &awsiam.ListInstanceProfilesForRoleInput{RoleName: aws.String("other")})
	d.refused(err, "NoSuchEntity", "The role with name other cannot be found.")
	for name, call := range map[string]func(user *string) error{
		"GetLoginProfile": func(user *string) error {
			_, err := root.GetLoginProfile(context.Background(), &awsiam.GetLoginProfileInput{UserName: user})
			return err
		},
		"DeleteLoginProfile": func(user *string) error {
			_, err := root.DeleteLoginProfile(context.Background(), &awsiam.DeleteLoginProfileInput{UserName: user})
			return err
		},
	} {
		t.Log(name)
		d.refused(call(aws.String("ann")), "NoSuchEntity", "Login Profile for User ann cannot be found.")
		d.refused(call(aws.String("bob")), "NoSuchEntity", "The user with name bob cannot be found.")
		d.refused(call(nil), "NoSuchEntity", "Login Profile for the account cannot be found.")
	}
}

// length is how long a list is, and -1 if it is not there or the call failed.
func length(err error, absent func() bool, n func() int) int {
	if err != nil || absent() {
		return -1
	}
	return n()
}
