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
		Name:    "iam",
		Version: "2010-05-08",
		XMLNS:   "https://iam.amazonaws.com/doc/2010-05-08/",
		Global:  true,

		SecondFactor: true,
		Ops: map[string]api.Op{
			"CreateUser":        api.Query(onNewUser, createUser),
			"GetUser":           api.Query(onSelf, getUser),
			"ListUsers":         api.Query(api.OnAnything, listUsers),
			"UpdateUser":        api.Query(onMovedUser, updateUser),
			"DeleteUser":        api.Query(onUser, deleteUser),
			"ListGroupsForUser": api.Query(onUser, listGroupsForUser),

			"CreateAccessKey":      api.Query(onSelf, createAccessKey),
			"ListAccessKeys":       api.Query(onSelf, listAccessKeys),
			"UpdateAccessKey":      api.Query(onSelf, updateAccessKey),
			"DeleteAccessKey":      api.Query(onSelf, deleteAccessKey),
			"GetAccessKeyLastUsed": api.Query(onKeyOwner, getAccessKeyLastUsed),

			"CreateGroup":         api.Query(onNewGroup, createGroup),
			"GetGroup":            api.Query(onGroup, getGroup),
			"ListGroups":          api.Query(api.OnAnything, listGroups),
			"UpdateGroup":         api.Query(onMovedGroup, updateGroup),
			"DeleteGroup":         api.Query(onGroup, deleteGroup),
			"AddUserToGroup":      api.Query(onGroup, addUserToGroup),
			"RemoveUserFromGroup": api.Query(onGroup, removeUserFromGroup),

			"CreateRole":             api.Query(onNewRole, createRole),
			"GetRole":                api.Query(onRole, getRole),
			"ListRoles":              api.Query(api.OnAnything, listRoles),
			"UpdateRole":             api.Query(onRole, updateRole),
			"UpdateRoleDescription":  api.Query(onRole, updateRoleDescription),
			"UpdateAssumeRolePolicy": api.Query(onRole, updateAssumeRolePolicy),
			"DeleteRole":             api.Query(onRole, deleteRole),

			"PutUserPolicy":     api.Query(onBoundedUser, putUserPolicy),
			"GetUserPolicy":     api.Query(onUser, getUserPolicy),
			"ListUserPolicies":  api.Query(onUser, listUserPolicies),
			"DeleteUserPolicy":  api.Query(onBoundedUser, deleteUserPolicy),
			"PutGroupPolicy":    api.Query(onGroup, putGroupPolicy),
			"GetGroupPolicy":    api.Query(onGroup, getGroupPolicy),
			"ListGroupPolicies": api.Query(onGroup, listGroupPolicies),
			"DeleteGroupPolicy": api.Query(onGroup, deleteGroupPolicy),
			"PutRolePolicy":     api.Query(onBoundedRole, putRolePolicy),
			"GetRolePolicy":     api.Query(onRole, getRolePolicy),
			"ListRolePolicies":  api.Query(onRole, listRolePolicies),
			"DeleteRolePolicy":  api.Query(onBoundedRole, deleteRolePolicy),

			"CreatePolicy":            api.Query(onNewPolicy, createPolicy),
			"GetPolicy":               api.Query(onPolicy, getPolicy),
			"ListPolicies":            api.Query(api.OnAnything, listPolicies),
			"DeletePolicy":            api.Query(onPolicy, deletePolicy),
			"CreatePolicyVersion":     api.Query(onPolicy, createPolicyVersion),
			"GetPolicyVersion":        api.Query(onPolicy, getPolicyVersion),
			"ListPolicyVersions":      api.Query(onPolicy, listPolicyVersions),
			"SetDefaultPolicyVersion": api.Query(onPolicy, setDefaultPolicyVersion),
			"DeletePolicyVersion":     api.Query(onPolicy, deletePolicyVersion),
			"ListEntitiesForPolicy":   api.Query(onPolicy, listEntitiesForPolicy),

			"AttachUserPolicy":          api.Query(onBoundedUser, attachUserPolicy),
			"DetachUserPolicy":          api.Query(onBoundedUser, detachUserPolicy),
			"ListAttachedUserPolicies":  api.Query(onUser, listAttachedUserPolicies),
			"AttachGroupPolicy":         api.Query(onGroup, attachGroupPolicy),
			"DetachGroupPolicy":         api.Query(onGroup, detachGroupPolicy),
			"ListAttachedGroupPolicies": api.Query(onGroup, listAttachedGroupPolicies),
			"AttachRolePolicy":          api.Query(onBoundedRole, attachRolePolicy),
			"DetachRolePolicy":          api.Query(onBoundedRole, detachRolePolicy),
			"ListAttachedRolePolicies":  api.Query(onRole, listAttachedRolePolicies),

			"PutUserPermissionsBoundary":    api.Query(onUser, putUserPermissionsBoundary),
			"DeleteUserPermissionsBoundary": api.Query(onBoundedUser, deleteUserPermissionsBoundary),
			"PutRolePermissionsBoundary":    api.Query(onRole, putRolePermissionsBoundary),
			"DeleteRolePermissionsBoundary": api.Query(onBoundedRole, deleteRolePermissionsBoundary),

			"TagUser":        api.Query(onUser, tagUser),
			"UntagUser":      api.Query(onUser, untagUser),
			"ListUserTags":   api.Query(onUser, listUserTags),
			"TagRole":        api.Query(onRole, tagRole),
			"UntagRole":      api.Query(onRole, untagRole),
			"ListRoleTags":   api.Query(onRole, listRoleTags),
			"TagPolicy":      api.Query(onPolicy, tagPolicy),
			"UntagPolicy":    api.Query(onPolicy, untagPolicy),
			"ListPolicyTags": api.Query(onPolicy, listPolicyTags),

			"SimulatePrincipalPolicy": api.Query(onSimulated, simulatePrincipalPolicy),
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
