package kms

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/policy"
)

const (
	maxTags       = 50  // of one key (KMS Developer Guide, "Resource quotas")
	defaultWindow = 30  // days until a key that is scheduled for deletion is gone
	defaultKeys   = 100 // on a page
	defaultNames  = 50  // aliases on a page
)

func (s *Server) createKeyOn(_ context.Context, c *api.Call, in *CreateKeyInput) ([]api.Question, error) {
	tags, err := readTags(in.Tags)
	return []api.Question{{Action: c.Action(), RequestTags: tags, TagKeys: slices.Sorted(maps.Keys(tags))}}, err
}

func (s *Server) createKey(ctx context.Context, c *api.Call, in *CreateKeyInput) (*CreateKeyOutput, error) {
	unsupported := func(what string) error {
		return sallyport.Errorf(sallyport.UnsupportedOperationException, "%s. Keys here are symmetric, for sealing and opening, in one region.", what)
	}
	spec := string(in.CustomerMasterKeySpec)
	switch {
	case in.KeySpec != "" && in.KeySpec != KeySpecSymmetricDefault, spec != "" && spec != string(KeySpecSymmetricDefault):
		return nil, unsupported("KeySpec is not SYMMETRIC_DEFAULT")
	case in.KeyUsage != "" && in.KeyUsage != KeyUsageTypeEncryptDecrypt:
		return nil, unsupported("KeyUsage is not ENCRYPT_DECRYPT")
	case deref(in.MultiRegion):
		return nil, unsupported("MultiRegion is asked for")
	case in.Origin != "" && in.Origin != OriginTypeAwsKms && in.Origin != OriginTypeExternalKeyStore:
		return nil, unsupported("Origin is neither AWS_KMS nor EXTERNAL_KEY_STORE")
	}
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	k := sallyport.KMSKey{
		ID: uuid.NewString(), Description: deref(in.Description), Created: c.At.Truncate(time.Millisecond), Tags: tags,
		Policy: deref(in.Policy),
	}
	if k.Policy == "" {
		k.Policy = `{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"` +
			s.realm().Root() + `"},"Action":"kms:*","Resource":"*"}]}`
	}
	if err := s.readPolicy(ctx, c, &k, deref(in.BypassPolicyLockoutSafetyCheck)); err != nil {
		return nil, err
	}
	var material []byte
	if in.Origin == OriginTypeExternalKeyStore {
		k.Outside = sallyport.OutsideKey{Store: deref(in.CustomKeyStoreId), Name: deref(in.XksKeyId)}
		if err := s.tryOutside(ctx, k); err != nil {
			return nil, err
		}
	} else if in.CustomKeyStoreId != nil || in.XksKeyId != nil {
		return nil, sallyport.Errorf(sallyport.ValidationException, "CustomKeyStoreId and XksKeyId are for keys whose Origin is EXTERNAL_KEY_STORE.")
	} else {
		material = keyring.NewMaterial()
	}
	if err := s.db().Keys().Create(ctx, k, material); err != nil {
		return nil, err
	}
	return &CreateKeyOutput{KeyMetadata: s.metadata(&k)}, nil
}

// tryOutside has the key of an outside KMS seal and open something, so that a
// name with a slip in it is found at once.
func (s *Server) tryOutside(ctx context.Context, k sallyport.KMSKey) error {
	if k.Outside.Store == "" || k.Outside.Name == "" {
		return sallyport.Errorf(sallyport.ValidationException, "A key whose Origin is EXTERNAL_KEY_STORE needs a CustomKeyStoreId, a key store of the server's configuration, and an XksKeyId, the key's name there.")
	}
	if _, ok := s.Stores[k.Outside.Store]; !ok {
		return sallyport.Errorf(sallyport.CustomKeyStoreNotFoundException, "%q is no key store of this server's. Its operator names them with --key-store.", sallyport.Clip(k.Outside.Store, 64))
	}
	sealer, err := s.Stores.Key(k.Outside.Store, k.Outside.Name)
	if err != nil {
		return err
	}
	with := keyring.Context{}.With(contextKey, s.realm().Key(k.ID))
	sealed, err := sealer.Seal(ctx, []byte(k.ID), with)
	if err == nil {
		_, err = sealer.Open(ctx, sealed, with)
	}
	return outsideError(k, err)
}

// outsideError says that an outside KMS did not do what it was asked.
func outsideError(k sallyport.KMSKey, err error) error {
	if err == nil || errors.Is(err, keyring.ErrWrongKey) {
		return err
	}
	return sallyport.Errorf(sallyport.KMSInternalException, "The key %s of key store %s cannot be used: %s", k.Outside.Name, k.Outside.Store, sallyport.Clip(err.Error(), 500))
}

// readPolicy checks the policy that a key is to have, makes it what is kept, and
// checks, unless it is told not to, that the caller may change it again.
func (s *Server) readPolicy(ctx context.Context, c *api.Call, k *sallyport.KMSKey, bypass bool) error {
	_, err := policy.ParseKey(k.Policy)
	if err == nil {
		k.Policy, err = s.API.BindPrincipals(ctx, k.Policy)
	}
	if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Code == sallyport.MalformedPolicyDocument {
		return sallyport.Errorf(sallyport.MalformedPolicyDocumentException, "%s", e.Message)
	} else if ok {
		return sallyport.Errorf(sallyport.LimitExceededException, "%s", e.Message)
	}
	if err != nil || bypass {
		return err
	}
	q, err := s.API.KeyQuestion(api.KeyRef{Key: k, Name: s.realm().Key(k.ID)}, "kms:PutKeyPolicy", nil)
	if err != nil {
		return err
	}
	if d, err := c.Decide(ctx, q); err != nil || d.Allowed {
		return err
	}
	return sallyport.Errorf(sallyport.MalformedPolicyDocumentException, "The new key policy will not allow you to update the key policy in the future.")
}

// metadata describes a key.
func (s *Server) metadata(k *sallyport.KMSKey) *KeyMetadata {
	m := &KeyMetadata{
		KeyId: new(k.ID), Arn: new(s.realm().Key(k.ID)), AWSAccountId: new(s.realm().Account),
		CreationDate: &k.Created, Description: &k.Description, Enabled: new(k.Usable()),
		KeyManager: KeyManagerTypeCustomer, KeySpec: KeySpecSymmetricDefault, KeyUsage: KeyUsageTypeEncryptDecrypt,
		CustomerMasterKeySpec: CustomerMasterKeySpecSymmetricDefault,
		EncryptionAlgorithms:  []EncryptionAlgorithmSpec{EncryptionAlgorithmSpecSymmetricDefault},
		KeyState:              KeyStateEnabled, Origin: OriginTypeAwsKms, MultiRegion: new(false),
	}
	if k.Disabled {
		m.KeyState = KeyStateDisabled
	}
	if !k.DeleteAt.IsZero() {
		m.KeyState, m.DeletionDate = KeyStatePendingDeletion, &k.DeleteAt
	}
	if k.Outside != (sallyport.OutsideKey{}) {
		m.Origin, m.CustomKeyStoreId = OriginTypeExternalKeyStore, &k.Outside.Store
		m.XksKeyConfiguration = &XksKeyConfigurationType{Id: &k.Outside.Name}
	}
	return m
}

func (s *Server) describeKey(ctx context.Context, _ *api.Call, in *DescribeKeyInput) (*DescribeKeyOutput, error) {
	ref, err := s.key(ctx, &in.KeyId)
	if err != nil {
		return nil, err
	}
	return &DescribeKeyOutput{KeyMetadata: s.metadata(ref.Key)}, nil
}

func (s *Server) listKeys(ctx context.Context, _ *api.Call, in *ListKeysInput) (*ListKeysOutput, error) {
	keys, more, err := s.db().Keys().List(ctx, page(in.Marker, in.Limit, defaultKeys))
	if err != nil {
		return nil, marked(err)
	}
	out := &ListKeysOutput{Keys: []KeyListEntry{}, NextMarker: next(more), Truncated: new(more != "")}
	for _, k := range keys {
		out.Keys = append(out.Keys, KeyListEntry{KeyId: &k.ID, KeyArn: new(s.realm().Key(k.ID))})
	}
	return out, nil
}

// change has change alter a key that is named by its ID or ARN. Unless it is
// for keys that are pending deletion too, those are refused.
func (s *Server) change(ctx context.Context, name *string, pending bool, change func(k *sallyport.KMSKey) error) (api.KeyRef, error) {
	ref, err := s.ownKey(ctx, name)
	if err != nil {
		return ref, err
	}
	return ref, s.db().Keys().Change(ctx, ref.Key.ID, func(k *sallyport.KMSKey) error {
		ref.Key = k
		if !pending && !k.DeleteAt.IsZero() {
			return ref.Usable()
		}
		return change(k)
	})
}

func (s *Server) enableKey(ctx context.Context, _ *api.Call, in *EnableKeyInput) (*EnableKeyOutput, error) {
	_, err := s.change(ctx, &in.KeyId, false, func(k *sallyport.KMSKey) error { k.Disabled = false; return nil })
	return &EnableKeyOutput{}, err
}

func (s *Server) disableKey(ctx context.Context, _ *api.Call, in *DisableKeyInput) (*DisableKeyOutput, error) {
	_, err := s.change(ctx, &in.KeyId, false, func(k *sallyport.KMSKey) error { k.Disabled = true; return nil })
	return &DisableKeyOutput{}, err
}

func (s *Server) scheduleKeyDeletion(ctx context.Context, c *api.Call, in *ScheduleKeyDeletionInput) (*ScheduleKeyDeletionOutput, error) {
	days := int32(defaultWindow)
	if in.PendingWindowInDays != nil {
		days = *in.PendingWindowInDays
	}
	if days < 7 || days > 30 {
		return nil, sallyport.Errorf(sallyport.ValidationException, "PendingWindowInDays is %d, and must be from 7 to 30.", days)
	}
	at := c.At.Add(time.Duration(days) * 24 * time.Hour).Truncate(time.Millisecond)
	ref, err := s.change(ctx, &in.KeyId, false, func(k *sallyport.KMSKey) error { k.DeleteAt = at; return nil })
	if err != nil {
		return nil, err
	}
	return &ScheduleKeyDeletionOutput{KeyId: &ref.Name, DeletionDate: &at, KeyState: KeyStatePendingDeletion, PendingWindowInDays: &days}, nil
}

// cancelKeyDeletion leaves the key disabled, as AWS does.
func (s *Server) cancelKeyDeletion(ctx context.Context, _ *api.Call, in *CancelKeyDeletionInput) (*CancelKeyDeletionOutput, error) {
	ref, err := s.change(ctx, &in.KeyId, true, func(k *sallyport.KMSKey) error {
		if k.DeleteAt.IsZero() {
			return sallyport.Errorf(sallyport.KMSInvalidStateException, "%s is not pending deletion.", s.realm().Key(k.ID))
		}
		k.DeleteAt, k.Disabled = time.Time{}, true
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &CancelKeyDeletionOutput{KeyId: &ref.Name}, nil
}

func (s *Server) updateKeyDescription(ctx context.Context, _ *api.Call, in *UpdateKeyDescriptionInput) (*UpdateKeyDescriptionOutput, error) {
	_, err := s.change(ctx, &in.KeyId, false, func(k *sallyport.KMSKey) error { k.Description = in.Description; return nil })
	return &UpdateKeyDescriptionOutput{}, err
}

// A key has one policy, and it is called so.
const policyName = "default"

func checkPolicyName(name *string) error {
	if name != nil && *name != policyName {
		return sallyport.Errorf(sallyport.NotFoundException, "No such policy exists: the policy of a key is called %s.", policyName)
	}
	return nil
}

func (s *Server) getKeyPolicy(ctx context.Context, _ *api.Call, in *GetKeyPolicyInput) (*GetKeyPolicyOutput, error) {
	if err := checkPolicyName(in.PolicyName); err != nil {
		return nil, err
	}
	ref, err := s.ownKey(ctx, &in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := s.API.ShowPrincipals(ctx, &ref.Key.Policy); err != nil {
		return nil, err
	}
	return &GetKeyPolicyOutput{Policy: &ref.Key.Policy, PolicyName: new(policyName)}, nil
}

func (s *Server) putKeyPolicy(ctx context.Context, c *api.Call, in *PutKeyPolicyInput) (*PutKeyPolicyOutput, error) {
	if err := checkPolicyName(in.PolicyName); err != nil {
		return nil, err
	}
	ref, err := s.ownKey(ctx, &in.KeyId)
	if err != nil {
		return nil, err
	}
	after := *ref.Key
	after.Policy = in.Policy
	if err := s.readPolicy(ctx, c, &after, deref(in.BypassPolicyLockoutSafetyCheck)); err != nil {
		return nil, err
	}
	_, err = s.change(ctx, &in.KeyId, false, func(k *sallyport.KMSKey) error { k.Policy = after.Policy; return nil })
	return &PutKeyPolicyOutput{}, err
}

func (s *Server) listKeyPolicies(ctx context.Context, _ *api.Call, in *ListKeyPoliciesInput) (*ListKeyPoliciesOutput, error) {
	if _, err := s.ownKey(ctx, &in.KeyId); err != nil {
		return nil, err
	}
	return &ListKeyPoliciesOutput{PolicyNames: []string{policyName}}, nil
}

// readTags is of a list of the request's, which was held to AWS's model.
func readTags(list []Tag) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	tags := map[string]string{}
	for _, t := range list {
		key, value := t.TagKey, t.TagValue
		if _, twice := tags[key]; twice || strings.HasPrefix(strings.ToLower(key), "aws:") {
			return nil, sallyport.Errorf(sallyport.TagException, "The tag %q is given twice, or begins with aws:, which is AWS's own.", sallyport.Clip(key, 128))
		}
		tags[key] = value
	}
	return tags, tagError(sallyport.CheckTags(nil, tags))
}

// tagError is an error of [sallyport.CheckTags] under KMS's own code.
func tagError(err error) error {
	if err == nil {
		return nil
	}
	return sallyport.Errorf(sallyport.TagException, "%s", sallyport.Public(err).Message)
}

func (s *Server) tagOn(ctx context.Context, c *api.Call, in *TagResourceInput) ([]api.Question, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	qs, err := s.onKey(ctx, c, in.KeyId, nil)
	for i := range qs {
		qs[i].RequestTags, qs[i].TagKeys = tags, slices.Sorted(maps.Keys(tags))
	}
	return qs, err
}

func (s *Server) tag(ctx context.Context, _ *api.Call, in *TagResourceInput) (*TagResourceOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	_, err = s.change(ctx, &in.KeyId, false, func(k *sallyport.KMSKey) error {
		if err := tagError(sallyport.CheckTags(k.Tags, tags)); err != nil {
			return err
		}
		if k.Tags == nil {
			k.Tags = map[string]string{}
		}
		maps.Copy(k.Tags, tags)
		if len(k.Tags) > maxTags {
			return sallyport.Errorf(sallyport.LimitExceededException, "The key would have %d tags, and may have %d.", len(k.Tags), maxTags)
		}
		return nil
	})
	return &TagResourceOutput{}, err
}

func (s *Server) untagOn(ctx context.Context, c *api.Call, in *UntagResourceInput) ([]api.Question, error) {
	qs, err := s.onKey(ctx, c, in.KeyId, nil)
	for i := range qs {
		qs[i].TagKeys = in.TagKeys
	}
	return qs, err
}

func (s *Server) untag(ctx context.Context, _ *api.Call, in *UntagResourceInput) (*UntagResourceOutput, error) {
	_, err := s.change(ctx, &in.KeyId, false, func(k *sallyport.KMSKey) error {
		for _, key := range in.TagKeys {
			delete(k.Tags, key)
		}
		return nil
	})
	return &UntagResourceOutput{}, err
}

// defaultTags is how many tags a page has, unless a request says. (API reference,
// ListResourceTags.)
const defaultTags = 50

func (s *Server) listTags(ctx context.Context, _ *api.Call, in *ListResourceTagsInput) (*ListResourceTagsOutput, error) {
	ref, err := s.ownKey(ctx, &in.KeyId)
	if err != nil {
		return nil, err
	}
	limit := defaultTags
	if in.Limit != nil {
		limit = int(*in.Limit)
	}
	keys := slices.Sorted(maps.Keys(ref.Key.Tags))
	if in.Marker != nil { // the last key of the page before
		i, found := slices.BinarySearch(keys, *in.Marker)
		if !found {
			return nil, sallyport.Errorf(sallyport.InvalidMarkerException, "The marker is not one that this list gave. Leave it out to begin at the beginning.")
		}
		keys = keys[i+1:]
	}
	out := &ListResourceTagsOutput{Tags: []Tag{}, Truncated: new(len(keys) > limit)}
	if len(keys) > limit {
		keys = keys[:limit]
		out.NextMarker = &keys[limit-1]
	}
	for _, key := range keys {
		out.Tags = append(out.Tags, Tag{TagKey: key, TagValue: ref.Key.Tags[key]})
	}
	return out, nil
}
