//go:build linux

package interop

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A proxy is the network between the server and everybody else.
type proxy struct {
	l net.Listener

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	down  bool
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &proxy{l: l, conns: map[net.Conn]struct{}{}}
}

func (p *proxy) serve(address string) {
	for {
		near, err := p.l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer near.Close()
			far, err := net.Dial("tcp", address)
			if err != nil {
				return
			}
			defer far.Close()
			if !p.add(near) {
				return
			}
			defer p.drop(near)
			go func() {
				io.Copy(far, near)
				far.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(near, far)
		}()
	}
}

func (p *proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.down {
		p.conns[c] = struct{}{}
	}
	return !p.down
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// cut takes every connection down, in the middle of whatever it was saying, and
// lets none up for a while.
func (p *proxy) cut(while time.Duration) {
	p.mu.Lock()
	p.down = true
	for c := range p.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	p.mu.Unlock()
	time.Sleep(while)
	p.mu.Lock()
	p.down = false
	p.mu.Unlock()
}
