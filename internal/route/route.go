// Package route answers where the other end is: which server node holds the
// control channel of a managed node, and how to send something down it.
//
//	broker ──Send(node, frame)──▶ Bus ──▶ the gateway that called Attach(node)
//
// With one server node the bus is [Memory]. With several it will be NATS, and
// an Attach on one server node will be seen by a Send on another. Frames of
// sessions never cross the bus: only what starts a session, ends it, or says
// that a node came or went.
//
// The package does not know what is sent.
package route

import (
	"context"
	"errors"
	"sync"

	"github.com/sallyport/sallyport"
)

// ErrAbsent is what Send returns for a node whose control channel no gateway holds.
var ErrAbsent = errors.New("the node's control channel is not open")

// A Bus joins the server nodes.
type Bus interface {
	// Attach says that deliver reaches node, from now until detach is called.
	// A later Attach for the same node takes its place: a machine that dials
	// again is where it dialled last. Deliver must return promptly once its
	// context is done.
	Attach(node sallyport.NodeID, deliver func(ctx context.Context, frame []byte) error) (detach func())

	// Send delivers frame to node. It returns [ErrAbsent] if no gateway holds the
	// node's channel, and deliver's error otherwise.
	Send(ctx context.Context, node sallyport.NodeID, frame []byte) error

	// Online reports whether a gateway holds the node's channel.
	Online(node sallyport.NodeID) bool
}

// Memory is the bus of a lone server node. Its zero value is ready for use.
type Memory struct {
	// mu guards all below.
	mu    sync.RWMutex
	nodes map[sallyport.NodeID]*attachment
}

type attachment struct {
	deliver func(ctx context.Context, frame []byte) error
}

func (m *Memory) Attach(node sallyport.NodeID, deliver func(ctx context.Context, frame []byte) error) (detach func()) {
	a := &attachment{deliver}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nodes == nil {
		m.nodes = map[sallyport.NodeID]*attachment{}
	}
	m.nodes[node] = a
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.nodes[node] == a { // not if a later one has taken its place
			delete(m.nodes, node)
		}
	}
}

func (m *Memory) Send(ctx context.Context, node sallyport.NodeID, frame []byte) error {
	m.mu.RLock()
	a := m.nodes[node]
	m.mu.RUnlock()
	if a == nil {
		return ErrAbsent
	}
	return a.deliver(ctx, frame)
}

func (m *Memory) Online(node sallyport.NodeID) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.nodes[node] != nil
}

// Count is how many nodes are online, for metrics.
func (m *Memory) Count() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.nodes)
}
