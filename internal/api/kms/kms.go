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
	// The condition keys of a key, and those of sealing and opening with it.
	keyKeys := []string{"kms:CallerAccount", "kms:RequestAlias"}
	sealing := append(keyKeys, "kms:EncryptionContext:")
	onKey := api.On(func(ctx context.Context, c *api.Call) ([]api.Question, error) {
		return s.onKey(ctx, c, c.Text("KeyId"), nil)
	}, api.Resource("key", keyKeys...))
	return &api.Service{
		Name:  "kms",
		Door:  api.JSON{Target: "TrentService"},
		Model: model,
		Ops: map[string]api.Op{
			"CreateKey":            api.Write(s.createKey, api.By(s.createKeyOn, api.Resource("", "kms:CallerAccount"))),
			"DescribeKey":          api.Read(s.describeKey, onKey),
			"ListKeys":             api.List(s.listKeys, api.Anything),
			"EnableKey":            api.Write(s.enableKey, onKey),
			"DisableKey":           api.Write(s.disableKey, onKey),
			"ScheduleKeyDeletion":  api.Write(s.scheduleKeyDeletion, onKey),
			"CancelKeyDeletion":    api.Write(s.cancelKeyDeletion, onKey),
			"UpdateKeyDescription": api.Write(s.updateKeyDescription, onKey),

			"GetKeyPolicy":    api.Read(s.getKeyPolicy, onKey),
			"PutKeyPolicy":    api.Permissions(s.putKeyPolicy, onKey),
			"ListKeyPolicies": api.List(s.listKeyPolicies, onKey),

			"TagResource":      api.Tagging(s.tag, api.By(s.tagOn, api.Resource("key", keyKeys...))),
			"UntagResource":    api.Tagging(s.untag, api.By(s.untagOn, api.Resource("key", keyKeys...))),
			"ListResourceTags": api.List(s.listTags, onKey),

			"CreateAlias": api.Write(s.createAlias, api.By(s.createAliasOn, api.Resource("alias, key", keyKeys...))),
			"UpdateAlias": api.Write(s.updateAlias, api.By(s.updateAliasOn, api.Resource("alias, key", keyKeys...))),
			"DeleteAlias": api.Write(s.deleteAlias, api.By(s.deleteAliasOn, api.Resource("alias, key", keyKeys...))),
			"ListAliases": api.List(s.listAliases, api.Anything),

			"Encrypt":                         api.Write(s.encrypt, api.By(s.encryptOn, api.Resource("key", sealing...))),
			"Decrypt":                         api.Write(s.decrypt, api.By(s.decryptOn, api.Resource("key", sealing...))),
			"GenerateDataKey":                 api.Write(s.generateDataKey, api.By(s.generateDataKeyOn, api.Resource("key", sealing...))),
			"GenerateDataKeyWithoutPlaintext": api.Write(s.generateSealed, api.By(s.generateSealedOn, api.Resource("key", sealing...))),
		},
	}
}

func (s *Server) realm() sallyport.Realm { return s.API.Realm }
func (s *Server) db() *store.DB          { return s.API.Store }

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
	if isAlias(*name) {
		return api.KeyRef{}, sallyport.Errorf(sallyport.InvalidArnException, "%s is an alias, and this operation takes the ID of a key, or its ARN.", sallyport.Clip(*name, 256))
	}
	return s.key(ctx, name)
}

// isAlias reports whether a key is named by an alias.
func isAlias(name string) bool {
	return strings.HasPrefix(name, "alias/") || strings.Contains(name, ":alias/")
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
