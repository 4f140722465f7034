// Package kms answers the key service. It seals the data keys of sessions, and other
// data that callers send to Encrypt.
//
//	preferences: kmsKeyId ──▶ handshake ──▶ person   GenerateDataKey ──┐
//	                                          │ sealed data key        ├──▶ key
//	                                          ▼                        │
//	                                        node     Decrypt ──────────┘
//
// A key is made of 32 bytes in the database, sealed by keyring, or it is in an
// outside KMS that the server's configuration names: then it is AWS's "external
// key store", and a request names the store and the key there. Keys are
// symmetric, for sealing and opening; there are no grants.
//
// What was sealed says by which key:
//
//	offset  size  field
//	     0     1  format: 1
//	     1    16  the key's ID
//	    17     n  what the key made of it
//
// The account's root may do everything with a key, also against the key's policy, so
// that a key cannot be locked away for good.
package kms

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/schemas"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

// A Server answers KMS's operations. Its fields are set before
// [Server.Service] is called.
type Server struct {
	API    *api.Server
	Stores keyring.Stores // outside KMSes; may be nil
}

// Service lists the operations.
func (s *Server) Service() *api.Service {
	return &api.Service{
		Name:   "kms",
		Target: "TrentService",
		Ops: map[string]api.Op{
			"CreateKey":            api.SDK(schemas.CreateKeyRequest, s.createKeyOn, s.createKey),
			"DescribeKey":          api.SDK(schemas.DescribeKeyRequest, on(s, func(in *kms.DescribeKeyInput) *string { return in.KeyId }), s.describeKey),
			"ListKeys":             api.SDK(schemas.ListKeysRequest, api.OnAnything, s.listKeys),
			"EnableKey":            api.SDK(schemas.EnableKeyRequest, on(s, func(in *kms.EnableKeyInput) *string { return in.KeyId }), s.enableKey),
			"DisableKey":           api.SDK(schemas.DisableKeyRequest, on(s, func(in *kms.DisableKeyInput) *string { return in.KeyId }), s.disableKey),
			"ScheduleKeyDeletion":  api.SDK(schemas.ScheduleKeyDeletionRequest, on(s, func(in *kms.ScheduleKeyDeletionInput) *string { return in.KeyId }), s.scheduleKeyDeletion),
			"CancelKeyDeletion":    api.SDK(schemas.CancelKeyDeletionRequest, on(s, func(in *kms.CancelKeyDeletionInput) *string { return in.KeyId }), s.cancelKeyDeletion),
			"UpdateKeyDescription": api.SDK(schemas.UpdateKeyDescriptionRequest, on(s, func(in *kms.UpdateKeyDescriptionInput) *string { return in.KeyId }), s.updateKeyDescription),

			"GetKeyPolicy":    api.SDK(schemas.GetKeyPolicyRequest, on(s, func(in *kms.GetKeyPolicyInput) *string { return in.KeyId }), s.getKeyPolicy),
			"PutKeyPolicy":    api.SDK(schemas.PutKeyPolicyRequest, on(s, func(in *kms.PutKeyPolicyInput) *string { return in.KeyId }), s.putKeyPolicy),
			"ListKeyPolicies": api.SDK(schemas.ListKeyPoliciesRequest, on(s, func(in *kms.ListKeyPoliciesInput) *string { return in.KeyId }), s.listKeyPolicies),

			"TagResource":      api.SDK(schemas.TagResourceRequest, s.tagOn, s.tag),
			"UntagResource":    api.SDK(schemas.UntagResourceRequest, s.untagOn, s.untag),
			"ListResourceTags": api.SDK(schemas.ListResourceTagsRequest, on(s, func(in *kms.ListResourceTagsInput) *string { return in.KeyId }), s.listTags),

			"CreateAlias": api.SDK(schemas.CreateAliasRequest, s.createAliasOn, s.createAlias),
			"UpdateAlias": api.SDK(schemas.UpdateAliasRequest, s.updateAliasOn, s.updateAlias),
			"DeleteAlias": api.SDK(schemas.DeleteAliasRequest, s.deleteAliasOn, s.deleteAlias),
			"ListAliases": api.SDK(schemas.ListAliasesRequest, api.OnAnything, s.listAliases),

			"Encrypt":                         api.SDK(schemas.EncryptRequest, s.encryptOn, s.encrypt),
			"Decrypt":                         api.SDK(schemas.DecryptRequest, s.decryptOn, s.decrypt),
			"GenerateDataKey":                 api.SDK(schemas.GenerateDataKeyRequest, s.generateDataKeyOn, s.generateDataKey),
			"GenerateDataKeyWithoutPlaintext": api.SDK(schemas.GenerateDataKeyWithoutPlaintextRequest, s.generateSealedOn, s.generateSealed),
		},
	}
}

func (s *Server) realm() sallyport.Realm { return s.API.Realm }
func (s *Server) db() *store.DB          { return s.API.Store }

// on asks about the key that an input names.
func on[In any](s *Server, key func(*In) *string) func(context.Context, *api.Call, *In) ([]api.Question, error) {
	return func(ctx context.Context, c *api.Call, in *In) ([]api.Question, error) {
		return s.onKey(ctx, c, *key(in), nil)
	}
}

// onKey asks whether the call's action may be taken on a key, with an
// encryption context.
func (s *Server) onKey(ctx context.Context, c *api.Call, name string, with map[string]string) ([]api.Question, error) {
	if a, b := sallyport.SameButCase(maps.Keys(with)); a != "" {
		return nil, sallyport.Errorf(sallyport.ValidationException,
			"The keys %s and %s of EncryptionContext differ by case alone, and policies do not tell them apart. Leave one out, or give it another name.", sallyport.Clip(a, 128), sallyport.Clip(b, 128))
	}
	ref, err := s.API.FindKey(ctx, name)
	if err != nil {
		return nil, err
	}
	q, err := s.API.KeyQuestion(ref, c.Action(), with)
	return []api.Question{q}, err
}

// key returns the key that is named, or NotFoundException.
func (s *Server) key(ctx context.Context, name *string) (api.KeyRef, error) {
	ref, err := s.API.FindKey(ctx, *name)
	if err == nil {
		err = ref.Found()
	}
	return ref, err
}

// ownKey is key for those operations that take no alias.
func (s *Server) ownKey(ctx context.Context, name *string) (api.KeyRef, error) {
	if strings.HasPrefix(*name, "alias/") || strings.Contains(*name, ":alias/") {
		return api.KeyRef{}, sallyport.Errorf(sallyport.InvalidArnException, "%s is an alias, and this operation takes the ID of a key, or its ARN.", sallyport.Clip(*name, 256))
	}
	return s.key(ctx, name)
}

// page makes a store's page of what a request says.
func page(marker *string, limit *int32, otherwise int) store.Page {
	p := store.Page{Limit: otherwise}
	if marker != nil {
		p.After = store.Cursor(*marker)
	}
	if limit != nil {
		p.Limit = int(*limit)
	}
	return p
}

// marked says of a bad page token what KMS says.
func marked(err error) error {
	if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Code == sallyport.InvalidNextToken {
		return sallyport.Errorf(sallyport.InvalidMarkerException, "%s", e.Message)
	}
	return err
}

// next is the marker of the next page; nil if there is none.
func next(c store.Cursor) *string {
	if c == "" {
		return nil
	}
	return new(string(c))
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
