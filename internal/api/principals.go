package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
)

// The policy of a role or key names users and roles by ARN, and is kept with
// their IDs in place of the ARNs: what is trusted is the user there was, also after
// it is renamed, and not another that is made by that name after the user was
// deleted. Callers are known to such a policy by ID alone. (IAM User Guide, "AWS
// JSON policy elements: Principal".)

// BindPrincipals returns a trust or key policy as it is kept. A user or role of
// this account that is not there is MalformedPolicyDocument.
func (s *Server) BindPrincipals(ctx context.Context, doc string) (string, error) {
	return policy.RewritePrincipals(doc, func(name string) (string, error) {
		id, err := s.principalID(ctx, name)
		if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
			return "", sallyport.Errorf(sallyport.MalformedPolicyDocument,
				"Invalid principal in policy: \"AWS\":%q. There is no such user or role here; create it first, or remove it from the policy.", sallyport.Clip(name, 256))
		}
		return id, err
	})
}

// ShowPrincipals makes policies that [Server.BindPrincipals] made what they are
// shown as: with the ARNs that the users and roles have now. What was deleted is
// shown by its ID.
func (s *Server) ShowPrincipals(ctx context.Context, docs ...*string) error {
	seen := map[string]string{} // many roles may trust the same few users
	for _, doc := range docs {
		shown, err := policy.RewritePrincipals(*doc, func(name string) (string, error) {
			if arn, ok := seen[name]; ok {
				return arn, nil
			}
			arn, err := s.principalARN(ctx, name)
			if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
				arn, err = name, nil
			}
			seen[name] = arn
			return arn, err
		})
		if err != nil {
			return fmt.Errorf("show principals of a policy: %w", err)
		}
		*doc = shown
	}
	return nil
}

// principalID returns what a principal of a policy is kept as: the ID of a user
// or role, an ID and a role session's name, or the name as it is. NoSuchEntity if
// it is of this account and names nothing.
func (s *Server) principalID(ctx context.Context, name string) (string, error) {
	none := sallyport.Errorf(sallyport.NoSuchEntity, "There is no such user or role.")
	if isID(name) {
		_, err := s.principalARN(ctx, name)
		return name, err
	}
	arn := strings.SplitN(name, ":", 6)
	if len(arn) != 6 || arn[4] != s.Realm.Account || arn[5] == "root" {
		return name, nil // everyone, an account, or of another account
	}
	kind, rest, _ := strings.Cut(arn[5], "/")
	short := rest[strings.LastIndexByte(rest, '/')+1:]
	switch {
	case arn[2] == "iam" && kind == "user":
		u, err := s.Store.IAM().User(ctx, short)
		if err != nil {
			return "", err
		}
		if s.Realm.User(u.Path, u.Name) != name {
			return "", none
		}
		return u.ID, nil
	case arn[2] == "iam" && kind == "role":
		r, err := s.Store.IAM().Role(ctx, short)
		if err != nil {
			return "", err
		}
		if s.Realm.Role(r.Path, r.Name) != name {
			return "", none
		}
		return r.ID, nil
	case arn[2] == "sts" && kind == "assumed-role" && short != "":
		role, _, _ := strings.Cut(rest, "/")
		r, err := s.Store.IAM().Role(ctx, role)
		if err != nil {
			return "", err
		}
		if s.Realm.AssumedRole(r.Name, short) != name {
			return "", none
		}
		return r.ID + ":" + short, nil
	}
	return "", none // a federated user, for one
}

// isID reports whether a principal of a policy is the ID of a user or role, or of
// a role's session.
func isID(name string) bool {
	return !strings.HasPrefix(name, "arn:") && (strings.HasPrefix(name, "AIDA") || strings.HasPrefix(name, "AROA"))
}

// principalARN is the opposite of principalID. NoSuchEntity if a user or role was
// deleted.
func (s *Server) principalARN(ctx context.Context, name string) (string, error) {
	if !isID(name) {
		return name, nil
	}
	id, session, isSession := strings.Cut(name, ":")
	if strings.HasPrefix(id, "AIDA") && !isSession {
		u, err := s.Store.IAM().UserByID(ctx, id, id)
		if err != nil {
			return "", err
		}
		return s.Realm.User(u.Path, u.Name), nil
	}
	r, err := s.Store.IAM().RoleByID(ctx, id, id)
	switch {
	case err != nil:
		return "", err
	case isSession:
		return s.Realm.AssumedRole(r.Name, session), nil
	}
	return s.Realm.Role(r.Path, r.Name), nil
}

// boundPrincipals is the step of [store.Meta.Done] that BindStored is.
const boundPrincipals = "policies name principals by ID"

// BindStored binds the policies that a database has from before they were kept
// bound, once. What such a policy names by an ARN that is no user's or role's now
// stays as it is, and is trusted no more.
func (s *Server) BindStored(ctx context.Context) error {
	if done, err := s.Store.Meta().Done(ctx, boundPrincipals); done || err != nil {
		return err
	}
	bind := func(doc string) (string, error) {
		return policy.RewritePrincipals(doc, func(name string) (string, error) {
			id, err := s.principalID(ctx, name)
			if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
				return name, nil
			}
			return id, err
		})
	}
	for page := (store.Page{}); ; {
		roles, next, err := s.Store.IAM().Roles(ctx, "", page)
		if err != nil {
			return err
		}
		for _, r := range roles {
			bound, err := bind(r.Trust)
			if err == nil && bound != r.Trust {
				err = s.Store.IAM().UpdateTrust(ctx, r.Name, bound)
			}
			if err != nil {
				return fmt.Errorf("bind trust policy of role %s: %w", r.Name, err)
			}
		}
		if page.After = next; next == "" {
			break
		}
	}
	for page := (store.Page{}); ; {
		keys, next, err := s.Store.Keys().List(ctx, page)
		if err != nil {
			return err
		}
		for _, k := range keys {
			bound, err := bind(k.Policy)
			if err == nil && bound != k.Policy {
				err = s.Store.Keys().Change(ctx, k.ID, func(k *sallyport.KMSKey) error { k.Policy = bound; return nil })
			}
			if err != nil {
				return fmt.Errorf("bind policy of key %s: %w", k.ID, err)
			}
		}
		if page.After = next; next == "" {
			break
		}
	}
	return s.Store.Meta().SetDone(ctx, boundPrincipals)
}
