// Package iam answers IAM's API: who is there, what have they been given, and
// who may change that?
//
//	who                  what hangs on them
//	user ─── in ──▶ group
//	 │  └─ keys       │       inline policies, their own
//	 └────────────────┼─────▶ managed policies, by ARN ◀── versions
//	role ─────────────┘       a boundary (not on groups), tags
//	  └─ trust: who may assume it
//
// Every operation is one row of [Service]: who is asked about, then what is
// done. Policy is asked about the ARN a thing has, path and tags looked up; a
// thing that does not exist is asked about as if its path were "/", and is said
// not to exist only to those who may ask. Refusals call things by the name the
// caller used, as AWS's do, because their ARNs would tell.
//
// Errors have IAM's codes, and its sentences where clients are known to read
// them. Answers hold what IAM's hold: lists of users and roles leave out tags
// and boundaries, documents are percent-encoded, secrets are shown once.
//
// What differs from AWS, because it has to or because it is safer, is said
// where it is done.
package iam

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// Service returns IAM's operations.
func Service() *api.Service {
	return &api.Service{
		Name:   "iam",
		Door:   api.Query{Version: "2010-05-08", Namespace: "https://iam.amazonaws.com/doc/2010-05-08/"},
		Model:  model,
		Global: true,

		SecondFactor: true,
		Ops: map[string]api.Op{
			"CreateUser":        api.Write(createUser, onNewUser),
			"GetUser":           api.Read(getUser, onSelf),
			"ListUsers":         api.List(listUsers, api.Anything),
			"UpdateUser":        api.Write(updateUser, onMovedUser),
			"DeleteUser":        api.Write(deleteUser, onUser),
			"ListGroupsForUser": api.List(listGroupsForUser, onUser),

			"CreateAccessKey": api.Write(createAccessKey, onSelf),
			"ListAccessKeys":  api.List(listAccessKeys, onSelf),
			"UpdateAccessKey": api.Write(updateAccessKey, onSelf),
			"DeleteAccessKey": api.Write(deleteAccessKey, onSelf),
			"GetAccessKeyLastUsed": api.Read(getAccessKeyLastUsed, onKeyOwner,
				api.Answers(sallyport.NoSuchEntity)), // which botocore's model had until 2019

			"GetLoginProfile":                api.List(getLoginProfile, onSelf),
			"DeleteLoginProfile":             api.Write(deleteLoginProfile, onSelf),
			"ListMFADevices":                 api.List(listMFADevices, onSelf),
			"ListVirtualMFADevices":          api.List(listVirtualMFADevices, api.Anything),
			"ListSSHPublicKeys":              api.List(listSSHPublicKeys, onSelf),
			"ListSigningCertificates":        api.List(listSigningCertificates, onSelf),
			"ListServiceSpecificCredentials": api.List(listServiceSpecificCredentials, onSelf),
			"ListInstanceProfilesForRole":    api.List(listInstanceProfilesForRole, onRole),

			"CreateGroup":         api.Write(createGroup, onNewGroup),
			"GetGroup":            api.Read(getGroup, onGroup),
			"ListGroups":          api.List(listGroups, api.Anything),
			"UpdateGroup":         api.Write(updateGroup, onMovedGroup),
			"DeleteGroup":         api.Write(deleteGroup, onGroup),
			"AddUserToGroup":      api.Write(addUserToGroup, onGroup),
			"RemoveUserFromGroup": api.Write(removeUserFromGroup, onGroup),

			"CreateRole":             api.Write(createRole, onNewRole),
			"GetRole":                api.Read(getRole, onRole),
			"ListRoles":              api.List(listRoles, api.Anything),
			"UpdateRole":             api.Write(updateRole, onRole),
			"UpdateRoleDescription":  api.Write(updateRoleDescription, onRole),
			"UpdateAssumeRolePolicy": api.Permissions(updateAssumeRolePolicy, onRole),
			"DeleteRole":             api.Write(deleteRole, onRole),

			"PutUserPolicy":     api.Permissions(putUserPolicy, onBoundedUser),
			"GetUserPolicy":     api.Read(getUserPolicy, onUser),
			"ListUserPolicies":  api.List(listUserPolicies, onUser),
			"DeleteUserPolicy":  api.Permissions(deleteUserPolicy, onBoundedUser),
			"PutGroupPolicy":    api.Permissions(putGroupPolicy, onGroup),
			"GetGroupPolicy":    api.Read(getGroupPolicy, onGroup),
			"ListGroupPolicies": api.List(listGroupPolicies, onGroup),
			"DeleteGroupPolicy": api.Permissions(deleteGroupPolicy, onGroup),
			"PutRolePolicy":     api.Permissions(putRolePolicy, onBoundedRole),
			"GetRolePolicy":     api.Read(getRolePolicy, onRole),
			"ListRolePolicies":  api.List(listRolePolicies, onRole),
			"DeleteRolePolicy":  api.Permissions(deleteRolePolicy, onBoundedRole),

			"CreatePolicy":            api.Permissions(createPolicy, onNewPolicy),
			"GetPolicy":               api.Read(getPolicy, onPolicy),
			"ListPolicies":            api.List(listPolicies, api.Anything),
			"DeletePolicy":            api.Permissions(deletePolicy, onPolicy),
			"CreatePolicyVersion":     api.Permissions(createPolicyVersion, onPolicy),
			"GetPolicyVersion":        api.Read(getPolicyVersion, onPolicy),
			"ListPolicyVersions":      api.List(listPolicyVersions, onPolicy),
			"SetDefaultPolicyVersion": api.Permissions(setDefaultPolicyVersion, onPolicy),
			"DeletePolicyVersion":     api.Permissions(deletePolicyVersion, onPolicy),
			"ListEntitiesForPolicy":   api.List(listEntitiesForPolicy, onPolicy),

			"AttachUserPolicy":          api.Permissions(attachUserPolicy, onAttachUser),
			"DetachUserPolicy":          api.Permissions(detachUserPolicy, onAttachUser),
			"ListAttachedUserPolicies":  api.List(listAttachedUserPolicies, onUser),
			"AttachGroupPolicy":         api.Permissions(attachGroupPolicy, onAttachGroup),
			"DetachGroupPolicy":         api.Permissions(detachGroupPolicy, onAttachGroup),
			"ListAttachedGroupPolicies": api.List(listAttachedGroupPolicies, onGroup),
			"AttachRolePolicy":          api.Permissions(attachRolePolicy, onAttachRole),
			"DetachRolePolicy":          api.Permissions(detachRolePolicy, onAttachRole),
			"ListAttachedRolePolicies":  api.List(listAttachedRolePolicies, onRole),

			"PutUserPermissionsBoundary":    api.Permissions(putUserPermissionsBoundary, onUserLimits),
			"DeleteUserPermissionsBoundary": api.Permissions(deleteUserPermissionsBoundary, onBoundedUser),
			"PutRolePermissionsBoundary":    api.Permissions(putRolePermissionsBoundary, onRoleLimits),
			"DeleteRolePermissionsBoundary": api.Permissions(deleteRolePermissionsBoundary, onBoundedRole),

			"TagUser":        api.Tagging(tagUser, onUser),
			"UntagUser":      api.Tagging(untagUser, onUser),
			"ListUserTags":   api.List(listUserTags, onUser),
			"TagRole":        api.Tagging(tagRole, onRole),
			"UntagRole":      api.Tagging(untagRole, onRole),
			"ListRoleTags":   api.List(listRoleTags, onRole),
			"TagPolicy":      api.Tagging(tagPolicy, onPolicy),
			"UntagPolicy":    api.Tagging(untagPolicy, onPolicy),
			"ListPolicyTags": api.List(listPolicyTags, onPolicy),

			"SimulatePrincipalPolicy": api.Read(simulatePrincipalPolicy, api.By(askSimulated, api.Resource("user, role", resourceTag))),
		},
	}
}

// val is what p points to, or nothing.
func val[T any](p *T) T {
	if p == nil {
		var nothing T
		return nothing
	}
	return *p
}

// or is what p points to, or otherwise.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// some is s as a member of an answer, where an empty one is left out.
func some(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// each is a list for an answer. It is never nil: clients look for the element
// of an empty list too.
func each[T, U any](list []T, as func(T) U) []U {
	out := make([]U, len(list))
	for i, e := range list {
		out[i] = as(e)
	}
	return out
}

// document is a policy document as IAM's answers have it: percent-encoded
// (RFC 3986), which clients undo.
func document(text string) *string {
	return new(strings.ReplaceAll(url.QueryEscape(text), "+", "%20"))
}

const defaultMaxItems = 100

// page is the part of a list that a request asks for.
func page(marker *string, maxItems *int32) store.Page {
	return store.Page{After: store.Cursor(val(marker)), Limit: int(or(maxItems, defaultMaxItems))}
}

func badMarker() error {
	return sallyport.Errorf(sallyport.ValidationException, "Invalid Marker. Leave it out to begin at the beginning.")
}

// marked calls the store's cursor by the name that IAM's callers know it by.
func marked(err error) error {
	if sallyport.CodeOf(err) == sallyport.InvalidNextToken {
		return badMarker()
	}
	return err
}

// window is a page of a list that is short and at hand. The marker is made of
// the last element's key, however long that is.
func window[T any](list []T, key func(T) string, marker *string, maxItems *int32) ([]T, string, error) {
	mark := func(e T) string {
		sum := sha256.Sum256([]byte(key(e)))
		return hex.EncodeToString(sum[:16])
	}
	if marker != nil {
		i := slices.IndexFunc(list, func(e T) bool { return mark(e) == *marker })
		if i < 0 {
			return nil, "", badMarker()
		}
		list = list[i+1:]
	}
	if most := int(or(maxItems, defaultMaxItems)); len(list) > most {
		return list[:most], mark(list[most-1]), nil
	}
	return list, "", nil
}
