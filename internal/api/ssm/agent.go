package ssm

import (
	"cmp"
	"context"
	"net"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// maxText bounds what an agent says of itself.
const maxText = 255

func (s *Server) register(ctx context.Context, c *api.Call, in *RegisterManagedInstanceInput) (*RegisterManagedInstanceOutput, error) {
	activation, code, fingerprint := deref(in.ActivationId), deref(in.ActivationCode), deref(in.Fingerprint)
	if activation == "" || code == "" {
		return nil, sallyport.Errorf(sallyport.ValidationException, "ActivationId and ActivationCode are both needed to register a machine. Create an activation to have them.")
	}
	if len(fingerprint) == 0 || len(fingerprint) > maxText {
		return nil, sallyport.Errorf(sallyport.ValidationException, "Fingerprint must have 1 to %d characters.", maxText)
	}
	if r, told := s.API.Realm.Region, deref(in.Region); told != "" && told != r {
		return nil, sallyport.Errorf(sallyport.ValidationException, "The region here is %s, not %s. Register with --region %[1]s.", r, sallyport.Clip(told, 64))
	}
	key, err := api.ParsePublicKey(deref(in.PublicKey), deref(in.PublicKeyType))
	if err != nil {
		return nil, err
	}
	n, err := s.db().Nodes().Register(ctx, activation, sallyport.NewSecret(code),
		sallyport.Node{ID: sallyport.NewNodeID(), PublicKey: key, Fingerprint: fingerprint}, c.At)
	if err != nil {
		return nil, err
	}
	s.API.Log.InfoContext(ctx, "node registered", sallyport.LogNode, n.ID, sallyport.LogRemote, api.Remote(c.Request))
	return &RegisterManagedInstanceOutput{InstanceId: some(n.ID.String())}, nil
}

// tokenLife is how long a node's credentials are good for. Agents ask again at
// half of it.
const tokenLife = time.Hour

func (s *Server) roleToken(ctx context.Context, c *api.Call, in *RequestManagedInstanceRoleTokenInput) (*RequestManagedInstanceRoleTokenOutput, error) {
	n := c.Node
	if deref(in.Fingerprint) != n.Fingerprint {
		// The state directory was copied to another machine, or this one was
		// rebuilt around it. AWS says the same.
		s.db().Trouble(ctx, n.ID, sallyport.Trouble{At: c.At, Reason: "Its hardware fingerprint is not the one it registered with. Register the machine again."})
		return nil, sallyport.Errorf(sallyport.MachineFingerprintDoesNotMatch, "The fingerprint is not the one %s registered with. Register the machine again.", n.ID)
	}
	who, err := s.API.NodePrincipal(ctx, n.ID)
	if err != nil {
		return nil, err
	}
	if who.Powerless != "" { // the credentials are good for nothing, and the node is parked
		s.db().Trouble(ctx, n.ID, sallyport.Trouble{At: c.At, Reason: who.Powerless})
	}
	t, err := s.API.Issue(api.Grant{Who: who, For: tokenLife}, c.At)
	if err != nil {
		return nil, err
	}
	s.db().Ping(ctx, n.ID, c.At)
	return &RequestManagedInstanceRoleTokenOutput{
		AccessKeyId: &t.AccessKeyID, SecretAccessKey: new(t.Secret.Reveal()), SessionToken: new(t.Token.Reveal()),
		TokenExpirationDate: new(float64(t.Expires.Unix())), UpdateKeyPair: new(false),
	}, nil
}

func (s *Server) updatePublicKey(ctx context.Context, c *api.Call, in *UpdateManagedInstancePublicKeyInput) (*UpdateManagedInstancePublicKeyOutput, error) {
	key, err := api.ParsePublicKey(deref(in.NewPublicKey), deref(in.NewPublicKeyType))
	if err != nil {
		return nil, err
	}
	return &UpdateManagedInstancePublicKeyOutput{}, s.db().Nodes().SetKey(ctx, c.Node.ID, c.Node.PublicKey, key)
}

// updateInstanceInformation takes what an agent says of itself, even from one
// whose role does not allow it: a stock agent that is refused its first call
// sleeps for minutes to an hour. It is kept out of sessions instead, and what
// it lacks is remembered.
func (s *Server) updateInstanceInformation(ctx context.Context, c *api.Call, in *UpdateInstanceInformationInput) (*UpdateInstanceInformationOutput, error) {
	id, err := own(c, deref(in.InstanceId))
	if err != nil {
		return nil, err
	}
	s.db().Ping(ctx, id, c.At)
	if err := c.Allow(ctx, api.Question{Action: c.Action(), Resources: []string{s.realm().Node(id)}}); err != nil {
		s.db().Trouble(ctx, id, sallyport.Trouble{At: c.At, Reason: cmp.Or(c.Who.Powerless, api.Lacks(c.Who.Role, c.Action()))})
		return &UpdateInstanceInformationOutput{}, nil
	}
	n, err := s.db().Nodes().Get(ctx, id)
	if err != nil {
		return nil, err
	}
	a := n.Agent // the short form leaves out what it had no time to find
	set(&a.Name, deref(in.AgentName))
	set(&a.Version, deref(in.AgentVersion))
	set(&a.PlatformType, deref(in.PlatformType))
	set(&a.PlatformName, deref(in.PlatformName))
	set(&a.PlatformVersion, deref(in.PlatformVersion))
	set(&a.ComputerName, deref(in.ComputerName))
	set(&a.AvailabilityZone, deref(in.AvailabilityZone))
	set(&a.ConnectionChannel, deref(in.SSMConnectionChannel))
	if ip := deref(in.IPAddress); net.ParseIP(ip) != nil {
		a.IPAddress = ip
	}
	if a == n.Agent {
		return &UpdateInstanceInformationOutput{}, nil
	}
	return &UpdateInstanceInformationOutput{}, s.db().Nodes().UpdateAgent(ctx, id, a)
}

func set(field *string, value string) {
	if value != "" {
		*field = sallyport.Clip(value, maxText)
	}
}

func (s *Server) askInstanceAssociations(_ context.Context, c *api.Call, in *ListInstanceAssociationsInput) ([]api.Question, error) {
	_, err := own(c, deref(in.InstanceId))
	return []api.Question{{Action: c.Action()}}, err
}

func (s *Server) listInstanceAssociations(context.Context, *api.Call, *ListInstanceAssociationsInput) (*ListInstanceAssociationsOutput, error) {
	return &ListInstanceAssociationsOutput{Associations: []InstanceAssociation{}}, nil // association documents come later
}

func (s *Server) listAssociations(context.Context, *api.Call, *ListAssociationsInput) (*ListAssociationsOutput, error) {
	return &ListAssociationsOutput{Associations: []Association{}}, nil
}
