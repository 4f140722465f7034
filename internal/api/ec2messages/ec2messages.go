// Package ec2messages answers the older channel to agents: a long poll.
//
// Nothing is ever sent on it, because every agent that may have sessions has
// the newer one. But agents poll it until that is up, and some for ever, and an
// error here makes them noisy. (amazon-ssm-agent, agent/runcommand/mds.)
package ec2messages

import (
	"context"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// hold is how long a poll is held: less than the 20 s after which an agent's
// HTTP client gives up, and more than the 10 s before which it counts an error.
const hold = 15 * time.Second

// A Server answers the operations. Its fields are set before [Server.Service]
// is called.
type Server struct {
	API *api.Server

	// Stopping is closed when polls should be let go of. Nil is never.
	Stopping <-chan struct{}
}

// Service lists the operations.
func (s *Server) Service() *api.Service {
	return &api.Service{
		Name:  "ec2messages",
		Door:  api.JSON{Target: "EC2WindowsMessageDeliveryService"},
		Model: model,
		Ops: map[string]api.Op{
			"GetMessages": api.Read(s.getMessages, api.By(askMessages, api.Resource("")), api.Node, api.Quiet),
		},
	}
}

func askMessages(_ context.Context, c *api.Call, in *GetMessagesInput) ([]api.Question, error) {
	if in.Destination == nil || *in.Destination != c.Who.Node.String() {
		return nil, sallyport.Errorf(sallyport.AccessDeniedException, "Messages are for a managed node alone, with the node's own credentials.")
	}
	return []api.Question{{Action: c.Action()}}, nil
}

func (s *Server) getMessages(ctx context.Context, _ *api.Call, in *GetMessagesInput) (*GetMessagesOutput, error) {
	timer := time.NewTimer(hold)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.Stopping:
	}
	return &GetMessagesOutput{Destination: in.Destination, Messages: []Message{}, MessagesRequestId: in.MessagesRequestId}, nil
}
