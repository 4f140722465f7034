package servertest

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// A Cable is a network between true programs that can be cut: a program that dials
// it reaches the address it leads to. It is on loopback.
type Cable struct {
	l net.Listener

	// mu guards all below.
	mu    sync.Mutex
	to    string
	conns map[*net.TCPConn]struct{}
	down  bool
}

// NewCable returns a cable that leads nowhere yet.
func NewCable() (*Cable, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &Cable{l: l, conns: map[*net.TCPConn]struct{}{}}
	go c.serve()
	return c, nil
}

// Addr is what to dial.
func (c *Cable) Addr() string { return c.l.Addr().String() }

// Lead has it lead to an address from now on.
func (c *Cable) Lead(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = to
}

func (c *Cable) serve() {
	for {
		near, err := c.l.Accept()
		if err != nil {
			return
		}
		go c.carry(near.(*net.TCPConn))
	}
}

func (c *Cable) carry(near *net.TCPConn) {
	defer near.Close()
	c.mu.Lock()
	to, down := c.to, c.down
	if !down {
		c.conns[near] = struct{}{}
	}
	c.mu.Unlock()
	if down {
		return
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.conns, near)
	}()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		io.Copy(far, near)
		far.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(near, far)
}

// Cut takes every connection down, also in the middle of a message, and lets none up
// until a while has passed or ctx is done, which is when it returns.
func (c *Cable) Cut(ctx context.Context, while time.Duration) {
	c.mu.Lock()
	c.down = true
	for conn := range c.conns {
		conn.SetLinger(0)
		conn.Close()
	}
	c.mu.Unlock()
	up := time.NewTimer(while)
	defer up.Stop()
	select {
	case <-up.C:
	case <-ctx.Done():
	}
	c.mu.Lock()
	c.down = false
	c.mu.Unlock()
}

// Close ends it.
func (c *Cable) Close() { c.l.Close() }
