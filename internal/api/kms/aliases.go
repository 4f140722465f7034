package kms

import (
	"context"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// onAlias asks whether the call's action may be taken on an alias, and on each
// of the keys that it is or is to be the name of. (KMS Developer Guide,
// "Controlling access to aliases".)
func (s *Server) onAlias(ctx context.Context, c *api.Call, alias string, keys ...string) ([]api.Question, error) {
	all := []api.Question{{Action: c.Action(), Resources: []string{s.realm().Alias(alias)}}}
	for _, key := range keys {
		qs, err := s.onKey(ctx, c, key, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, qs...)
	}
	return all, nil
}

func (s *Server) createAliasOn(ctx context.Context, c *api.Call, in *CreateAliasInput) ([]api.Question, error) {
	return s.onAlias(ctx, c, in.AliasName, in.TargetKeyId)
}

func checkAlias(name string) error {
	switch {
	case !strings.HasPrefix(name, "alias/") || name == "alias/":
		return sallyport.Errorf(sallyport.InvalidAliasNameException, "%q is not an alias's name. They begin with alias/, as in alias/sessions.", sallyport.Clip(name, 128))
	case strings.HasPrefix(name, "alias/aws/"):
		return sallyport.Errorf(sallyport.InvalidAliasNameException, "Names that begin with alias/aws/ are for keys of AWS's own.")
	}
	return nil
}

func (s *Server) createAlias(ctx context.Context, c *api.Call, in *CreateAliasInput) (*CreateAliasOutput, error) {
	ref, err := s.aliasable(ctx, &in.AliasName, &in.TargetKeyId)
	if err != nil {
		return nil, err
	}
	if strings.Contains(in.AliasName, ":") { // which the model's pattern has, and AWS refuses
		return nil, sallyport.Errorf(sallyport.InvalidAliasNameException, "%q is not an alias's name. They have letters, digits, and / _ -.", sallyport.Clip(in.AliasName, 128))
	}
	return &CreateAliasOutput{}, s.db().Keys().CreateAlias(ctx, sallyport.KMSAlias{Name: in.AliasName, Key: ref.Key.ID, Created: c.At})
}

// aliasable checks that a name may be given to a key, and returns the key.
func (s *Server) aliasable(ctx context.Context, alias, key *string) (api.KeyRef, error) {
	if err := checkAlias(*alias); err != nil {
		return api.KeyRef{}, err
	}
	if isAlias(*key) { // in AWS's words
		return api.KeyRef{}, sallyport.Errorf(sallyport.ValidationException, "Aliases must refer to keys. Not aliases")
	}
	ref, err := s.ownKey(ctx, key)
	if err == nil && !ref.Key.DeleteAt.IsZero() {
		err = ref.Usable()
	}
	return ref, err
}

func (s *Server) updateAliasOn(ctx context.Context, c *api.Call, in *UpdateAliasInput) ([]api.Question, error) {
	return s.onAlias(ctx, c, in.AliasName, in.AliasName, in.TargetKeyId)
}

func (s *Server) updateAlias(ctx context.Context, c *api.Call, in *UpdateAliasInput) (*UpdateAliasOutput, error) {
	ref, err := s.aliasable(ctx, &in.AliasName, &in.TargetKeyId)
	if err != nil {
		return nil, err
	}
	return &UpdateAliasOutput{}, s.db().Keys().UpdateAlias(ctx, in.AliasName, ref.Key.ID, c.At)
}

func (s *Server) deleteAliasOn(ctx context.Context, c *api.Call, in *DeleteAliasInput) ([]api.Question, error) {
	return s.onAlias(ctx, c, in.AliasName, in.AliasName)
}

func (s *Server) deleteAlias(ctx context.Context, _ *api.Call, in *DeleteAliasInput) (*DeleteAliasOutput, error) {
	if err := checkAlias(in.AliasName); err != nil {
		return nil, err
	}
	return &DeleteAliasOutput{}, s.db().Keys().DeleteAlias(ctx, in.AliasName)
}

func (s *Server) listAliases(ctx context.Context, _ *api.Call, in *ListAliasesInput) (*ListAliasesOutput, error) {
	key := ""
	if in.KeyId != nil {
		ref, err := s.ownKey(ctx, in.KeyId)
		if err != nil {
			return nil, err
		}
		key = ref.Key.ID
	}
	list, more, err := s.db().Keys().Aliases(ctx, key, page(in.Marker, in.Limit, defaultNames))
	if err != nil {
		return nil, marked(err)
	}
	out := &ListAliasesOutput{Aliases: []AliasListEntry{}, NextMarker: next(more), Truncated: new(more != "")}
	for _, a := range list {
		out.Aliases = append(out.Aliases, AliasListEntry{
			AliasName: &a.Name, AliasArn: new(s.realm().Alias(a.Name)), TargetKeyId: &a.Key, CreationDate: &a.Created, LastUpdatedDate: &a.Updated,
		})
	}
	return out, nil
}
