// Package ssmmessages answers the two calls that come before a node's sockets:
// CreateControlChannel and CreateDataChannel. Each gives a token for one socket.
//
// Requests are JSON, answers XML with status 201. There is no public model; the
// shapes are read off amazon-ssm-agent (agent/session/service).
package ssmmessages

import (
	"context"
	"encoding/xml"
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
		Name: "ssmmessages",
		Path: path,
		Ops: map[string]api.Op{
			"CreateControlChannel": api.Node(api.XML(s.createControlChannelOn, s.createControlChannel)),
			"CreateDataChannel":    api.Node(api.XML(api.OnAnything, s.createDataChannel)),
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

type input struct {
	MessageSchemaVersion string
	RequestId            string
	ClientId             string // stock agents leave it empty
}

type controlOutput struct {
	XMLName              xml.Name `xml:"CreateControlChannelResponse"`
	MessageSchemaVersion string
	TokenValue           string // agents crash, or are deaf until they restart, without it
}

type dataOutput struct {
	XMLName              xml.Name `xml:"CreateDataChannelResponse"`
	MessageSchemaVersion string
	TokenValue           string
	Capabilities         []string `xml:"Capabilities>member"` // ours; agents of AWS's do not look at it
}

// createControlChannelOn asks nothing of policy: a node that lacks the right
// gets its channel and is parked on it, because a stock agent that is refused
// sleeps for minutes. The gateway asks before it lets sessions through.
func (s *Server) createControlChannelOn(_ context.Context, c *api.Call, _ *input) ([]api.Question, error) {
	if c.Subject != c.Who.Node.String() {
		return nil, sallyport.Errorf(sallyport.AccessDeniedException, "A control channel is its node's alone, with the node's own credentials.")
	}
	return nil, nil
}

func (s *Server) createControlChannel(_ context.Context, c *api.Call, _ *input) (*controlOutput, error) {
	return &controlOutput{MessageSchemaVersion: "1.0", TokenValue: s.Broker.ControlToken(c.Who.Node).Reveal()}, nil
}

func (s *Server) createDataChannel(ctx context.Context, c *api.Call, _ *input) (*dataOutput, error) {
	id, err := sallyport.ParseSessionID(c.Subject)
	if err != nil {
		return nil, err
	}
	token, err := s.Broker.NodeToken(ctx, c.Who.Node, id)
	if err != nil {
		return nil, err
	}
	return &dataOutput{MessageSchemaVersion: "1.0", TokenValue: token.Reveal(), Capabilities: broker.Capabilities()}, nil
}
