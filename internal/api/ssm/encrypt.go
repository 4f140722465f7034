package ssm

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/document"
	"github.com/sallyport/sallyport/internal/wire"
)

// encrypts checks what an encrypted session will need, which AWS finds out in
// the session, from an agent's words about a handshake: that the key is there,
// that the caller may have a data key, and that the node may open it. What
// policy has to say of the latter two depends on the session's ID, so the check
// is for when it has one; nil if the session is not encrypted.
//
// Of a key of another account or region, AWS's own above all, nothing is known
// here: the two ends ask the KMS that holds it.
func (s *Server) encrypts(ctx context.Context, c *api.Call, node sallyport.NodeID, d wire.SessionDocument) (admit func(sallyport.SessionID) error, err error) {
	if d.Inputs.KmsKeyId == "" || d.SessionType == document.Port {
		return nil, nil
	}
	ref, err := s.API.FindKey(ctx, d.Inputs.KmsKeyId)
	if err != nil || ref.Foreign {
		return nil, err
	}
	if err = ref.Found(); err == nil {
		err = ref.Usable()
	}
	if err != nil {
		return nil, sallyport.Errorf(sallyport.InvalidDocument, "Sessions are to be encrypted with the key that kmsKeyId names, and cannot be: %s", sallyport.Public(err).Message)
	}
	agent, err := s.API.NodePrincipal(ctx, node)
	if err != nil {
		return nil, err
	}
	return func(id sallyport.SessionID) error {
		with := map[string]string{"aws:ssm:SessionId": id.String(), "aws:ssm:TargetId": node.String()}
		generate, err := s.API.KeyQuestion(ref, "kms:GenerateDataKey", with)
		if err != nil {
			return err
		}
		if err := c.Allow(ctx, generate); err != nil {
			return err
		}
		decrypt := generate
		decrypt.Action = "kms:Decrypt"
		may, err := s.API.Decide(ctx, agent, nil, decrypt)
		if err != nil {
			return fmt.Errorf("ask policy about %s: %w", node, err)
		}
		if !may.Allowed {
			return sallyport.Errorf(sallyport.AccessDeniedException,
				"Sessions are encrypted with %s, and %s may not open what is sealed with it: neither its role %s nor the key's policy allows it kms:Decrypt.", ref.Name, node, agent.Role)
		}
		return nil
	}, nil
}
