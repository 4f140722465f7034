// Package ssmmessages answers the two calls that come before a node's sockets:
// CreateControlChannel and CreateDataChannel. Each gives a token for one socket.
//
// Requests are JSON, answers XML with status 201. There is no public model; the
// shapes are read off amazon-ssm-agent (agent/session/service).
package ssmmessages

import (
	"context"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
)

// A Server answers the operations. Its fields are set before [Server.Service]
// is called.
type Server struct {
	API    *api.Server
	Broker *broker.Broker
}

// Service lists the operations.
func (s *Server) Service() *api.Service {
	return &api.Service{
		Name:  "ssmmessages",
		Door:  api.Paths{Find: path},
		Model: model,
		Ops: map[string]api.Op{
			"CreateControlChannel": api.Write(s.createControlChannel, onOwnChannel, api.Node, api.Quiet, api.Answers(sallyport.InvalidInstanceID)),
			"CreateDataChannel":    api.Write(s.createDataChannel, api.Anything, api.Node, api.Quiet, api.Answers(sallyport.DoesNotExistException)),
		},
	}
}

func path(method, path string) (operation, subject string) {
	if method != "POST" {
		return "", ""
	}
	if id, ok := strings.CutPrefix(path, "/v1/control-channel/"); ok {
		return "CreateControlChannel", id
	}
	if id, ok := strings.CutPrefix(path, "/v1/data-channel/"); ok {
		return "CreateDataChannel", id
	}
	return "", ""
}

// onOwnChannel asks nothing of policy: a node that lacks the right gets its channel
// and is parked on it, because a stock agent that is refused sleeps for minutes.
// The gateway asks before it lets sessions through.
var onOwnChannel = func() api.Asks {
	a := api.On(func(_ context.Context, c *api.Call) ([]api.Question, error) {
		if c.Subject != c.Who.Node.String() {
			return nil, sallyport.Errorf(sallyport.AccessDeniedException, "A control channel is its node's alone, with the node's own credentials.")
		}
		return nil, nil
	})
	a.Why = "the gateway parks a node that lacks the right"
	return a
}()

func (s *Server) createControlChannel(_ context.Context, c *api.Call, _ *CreateControlChannelInput) (*CreateControlChannelOutput, error) {
	return &CreateControlChannelOutput{MessageSchemaVersion: new("1.0"), TokenValue: new(s.Broker.ControlToken(c.Who.Node).Reveal())}, nil
}

func (s *Server) createDataChannel(ctx context.Context, c *api.Call, _ *CreateDataChannelInput) (*CreateDataChannelOutput, error) {
	id, err := sallyport.ParseSessionID(c.Subject)
	if err != nil {
		return nil, err
	}
	token, err := s.Broker.NodeToken(ctx, c.Who.Node, id)
	if err != nil {
		return nil, err
	}
	return &CreateDataChannelOutput{MessageSchemaVersion: new("1.0"), TokenValue: new(token.Reveal()), Capabilities: broker.Capabilities()}, nil
}
