package ssm

import (
	"cmp"
	"context"
	"net"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// What agents send and read. (amazon-ssm-agent, agent/ssm/service.go and the
// SDK it vendors; the reference's sections 1 and 2.)
type (
	registerInput struct {
		ActivationCode string
		ActivationId   string
		Fingerprint    string
		PublicKey      string
		PublicKeyType  string
		Region         string // ours: what the agent was told
	}
	registerOutput struct {
		InstanceId sallyport.NodeID // agents crash without it
	}

	roleTokenInput  struct{ Fingerprint string }
	roleTokenOutput struct { // agents crash without any of them
		AccessKeyId         string
		SecretAccessKey     string
		SessionToken        string
		TokenExpirationDate float64 // Unix seconds
		UpdateKeyPair       bool
	}

	updateKeyInput struct {
		NewPublicKey     string
		NewPublicKeyType string
	}

	updateInformationInput struct {
		InstanceId           string
		AgentName            string
		AgentStatus          string
		AgentVersion         string
		AvailabilityZone     string
		ComputerName         string
		IPAddress            string
		PlatformName         string
		PlatformType         string
		PlatformVersion      string
		SSMConnectionChannel string
	}

	listInstanceAssociationsInput struct {
		InstanceId string
		MaxResults int
		NextToken  string
	}
	listInstanceAssociationsOutput struct {
		Associations []struct{} // always none: association documents come later
	}

	empty struct{}
)

// maxText bounds what an agent says of itself.
const maxText = 255

func (s *Server) register(ctx context.Context, c *api.Call, in *registerInput) (*registerOutput, error) {
	if in.ActivationId == "" || in.ActivationCode == "" {
		return nil, sallyport.Errorf(sallyport.ValidationException, "ActivationId and ActivationCode are both needed to register a machine. Create an activation to have them.")
	}
	if len(in.Fingerprint) == 0 || len(in.Fingerprint) > maxText {
		return nil, sallyport.Errorf(sallyport.ValidationException, "Fingerprint must have 1 to %d characters.", maxText)
	}
	if r := s.API.Realm.Region; in.Region != "" && in.Region != r {
		return nil, sallyport.Errorf(sallyport.ValidationException, "The region here is %s, not %s. Register with --region %[1]s.", r, sallyport.Clip(in.Region, 64))
	}
	key, err := api.ParsePublicKey(in.PublicKey, in.PublicKeyType)
	if err != nil {
		return nil, err
	}
	n, err := s.db().Nodes().Register(ctx, in.ActivationId, sallyport.NewSecret(in.ActivationCode),
		sallyport.Node{ID: sallyport.NewNodeID(), PublicKey: key, Fingerprint: in.Fingerprint}, c.At)
	if err != nil {
		return nil, err
	}
	s.API.Log.InfoContext(ctx, "node registered", sallyport.LogNode, n.ID, sallyport.LogRemote, api.Remote(c.Request))
	return &registerOutput{n.ID}, nil
}

// tokenLife is how long a node's credentials are good for. Agents ask again at
// half of it.
const tokenLife = time.Hour

func (s *Server) roleToken(ctx context.Context, c *api.Call, in *roleTokenInput) (*roleTokenOutput, error) {
	n := c.Node
	if in.Fingerprint != n.Fingerprint {
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
	return &roleTokenOutput{
		AccessKeyId: t.AccessKeyID, SecretAccessKey: t.Secret.Reveal(), SessionToken: t.Token.Reveal(),
		TokenExpirationDate: float64(t.Expires.Unix()),
	}, nil
}

func (s *Server) updatePublicKey(ctx context.Context, c *api.Call, in *updateKeyInput) (*empty, error) {
	key, err := api.ParsePublicKey(in.NewPublicKey, in.NewPublicKeyType)
	if err != nil {
		return nil, err
	}
	return &empty{}, s.db().Nodes().SetKey(ctx, c.Node.ID, c.Node.PublicKey, key)
}

// updateInstanceInformation takes what an agent says of itself, even from one
// whose role does not allow it: a stock agent that is refused its first call
// sleeps for minutes to an hour. It is kept out of sessions instead, and what
// it lacks is remembered.
func (s *Server) updateInstanceInformation(ctx context.Context, c *api.Call, in *updateInformationInput) (*empty, error) {
	id, err := own(c, in.InstanceId)
	if err != nil {
		return nil, err
	}
	s.db().Ping(ctx, id, c.At)
	if err := c.Allow(ctx, api.Question{Action: c.Action(), Resources: []string{s.realm().Node(id)}}); err != nil {
		s.db().Trouble(ctx, id, sallyport.Trouble{At: c.At, Reason: cmp.Or(c.Who.Powerless, api.Lacks(c.Who.Role, c.Action()))})
		return &empty{}, nil
	}
	n, err := s.db().Nodes().Get(ctx, id)
	if err != nil {
		return nil, err
	}
	a := n.Agent // the short form leaves out what it had no time to find
	set(&a.Name, in.AgentName)
	set(&a.Version, in.AgentVersion)
	set(&a.PlatformType, in.PlatformType)
	set(&a.PlatformName, in.PlatformName)
	set(&a.PlatformVersion, in.PlatformVersion)
	set(&a.ComputerName, in.ComputerName)
	set(&a.AvailabilityZone, in.AvailabilityZone)
	set(&a.ConnectionChannel, in.SSMConnectionChannel)
	if net.ParseIP(in.IPAddress) != nil {
		a.IPAddress = in.IPAddress
	}
	if a == n.Agent {
		return &empty{}, nil
	}
	return &empty{}, s.db().Nodes().UpdateAgent(ctx, id, a)
}

func set(field *string, value string) {
	if value != "" {
		*field = sallyport.Clip(value, maxText)
	}
}

func (s *Server) listInstanceAssociationsOn(_ context.Context, c *api.Call, in *listInstanceAssociationsInput) ([]api.Question, error) {
	_, err := own(c, in.InstanceId)
	return []api.Question{{Action: c.Action()}}, err
}

func (s *Server) listInstanceAssociations(context.Context, *api.Call, *listInstanceAssociationsInput) (*listInstanceAssociationsOutput, error) {
	return &listInstanceAssociationsOutput{[]struct{}{}}, nil
}

func (s *Server) listAssociations(context.Context, *api.Call, *ssm.ListAssociationsInput) (*ssm.ListAssociationsOutput, error) {
	return &ssm.ListAssociationsOutput{Associations: []types.Association{}}, nil
}
