package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/policy"
)

// A KeyRef is a KMS key as a request names it: by ID, by ARN, by "alias/…" or
// by an alias's ARN.
type KeyRef struct {
	Key   *sallyport.KMSKey // nil if there is none
	Alias string            // "alias/…", if it was named so
	Name  string            // its ARN, or what the name would be the ARN of

	// Foreign is set for the ARN of another account's or region's key, which
	// this server knows nothing of.
	Foreign bool
}

// FindKey looks a key up. One that is not there is no error, so that those who
// may not know whether it is can be refused first: see [KeyRef.Found].
func (s *Server) FindKey(ctx context.Context, name string) (KeyRef, error) {
	ref := KeyRef{Name: name}
	id := name
	if strings.HasPrefix(name, "arn:") {
		switch resource, ok := strings.CutPrefix(name, s.Realm.Alias("")); {
		case !ok:
			ref.Foreign = true
			return ref, nil
		case strings.HasPrefix(resource, "key/"):
			id = strings.TrimPrefix(resource, "key/")
		default:
			id = resource
		}
	}
	if strings.HasPrefix(id, "alias/") {
		ref.Alias, ref.Name = id, s.Realm.Alias(id)
		a, err := s.Store.Keys().Alias(ctx, id)
		if sallyport.CodeOf(err) == sallyport.NotFoundException {
			return ref, nil
		}
		if err != nil {
			return ref, err
		}
		id = a.Key
	}
	key, err := s.Store.Keys().Get(ctx, id)
	switch {
	case err == nil:
		ref.Key, ref.Name = key, s.Realm.Key(key.ID)
	case sallyport.CodeOf(err) != sallyport.NotFoundException:
		return ref, err
	case ref.Alias == "":
		ref.Name = s.Realm.Key(sallyport.Clip(id, 256))
	}
	return ref, nil
}

// Found is nil if the key is there, and otherwise NotFoundException.
func (r KeyRef) Found() error {
	switch {
	case r.Key != nil:
		return nil
	case r.Alias != "":
		return sallyport.Errorf(sallyport.NotFoundException, "Alias %s is not found.", r.Name)
	case r.Foreign:
		return sallyport.Errorf(sallyport.NotFoundException, "Key '%s' is of another account or region, of which nothing is known here.", sallyport.Clip(r.Name, 256))
	}
	return sallyport.Errorf(sallyport.NotFoundException, "Key '%s' does not exist.", r.Name)
}

// Usable is nil if something can be sealed or opened with the key, which is
// there.
func (r KeyRef) Usable() error {
	switch {
	case !r.Key.DeleteAt.IsZero():
		return sallyport.Errorf(sallyport.KMSInvalidStateException, "%s is pending deletion.", r.Name)
	case r.Key.Disabled:
		return sallyport.Errorf(sallyport.DisabledException, "%s is disabled.", r.Name)
	}
	return nil
}

// KeyQuestion asks whether an action may be taken on the key, for which its own
// policy has to be asked as well.
func (s *Server) KeyQuestion(ref KeyRef, action string, with map[string]string) (Question, error) {
	q := Question{
		Action: action, Resources: []string{ref.Name},
		Keys: map[string]string{"kms:CallerAccount": s.Realm.Account},
	}
	if ref.Alias != "" {
		q.Keys["kms:RequestAlias"] = ref.Alias
	}
	for k, v := range with {
		q.Keys["kms:EncryptionContext:"+k] = v
		q.ContextKeys = append(q.ContextKeys, k)
	}
	if ref.Key == nil {
		return q, nil
	}
	q.Tags = ref.Key.Tags
	doc, err := policy.ParseKey(ref.Key.Policy)
	if err != nil { // it was taken once, by rules that were less strict
		q.Unread = fmt.Errorf("policy of key %s: %w", ref.Key.ID, err)
		return q, nil
	}
	q.Policy = policy.Named{Name: "default of " + ref.Name, Document: doc}
	return q, nil
}
