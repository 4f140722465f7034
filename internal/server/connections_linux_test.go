package server

import (
	"net"
	"testing"
	"time"
)

// The port takes as many connections as there are descriptors for, and from one
// address half of them; one that ends makes room.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := bounded(inner, reservedDescriptors+leastConnections)
	defer l.Close()
	accepted := make(chan net.Conn, 2*leastConnections)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func(from byte) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
		c, err := d.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	refused := func(c net.Conn) bool {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := c.Read(make([]byte, 1))
		ne, ok := err.(net.Error)
		return !(ok && ne.Timeout())
	}
	var held []net.Conn
	for range leastConnections / 2 {
		dial(2)
		held = append(held, <-accepted)
	}
	if !refused(dial(2)) {
		t.Error("one address has more than half")
	}
	for range leastConnections / 2 {
		dial(3)
		held = append(held, <-accepted)
	}
	if !refused(dial(4)) {
		t.Error("there are more connections than may be")
	}
	held[0].Close()
	dial(4)
	(<-accepted).Close()
}
