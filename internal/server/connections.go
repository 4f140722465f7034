package server

import (
	"net"
	"net/netip"
	"sync"
)

// How many connections the port takes at once. The rest of the descriptors are for
// the database, session logs and other files that the server opens.
const (
	reservedDescriptors = 200
	leastConnections    = 100
)

// bounded is l with a bound on its connections: all that there are descriptors
// for, less a reserve, and from one address, or one IPv6 network of 64 bits, half
// of that. One too many is closed at once.
func bounded(l net.Listener, descriptors int) net.Listener {
	most := max(descriptors-reservedDescriptors, leastConnections)
	return &boundedListener{Listener: l, most: most, each: max(most/2, 1), from: map[string]int{}}
}

type boundedListener struct {
	net.Listener
	most, each int

	// mu guards all below.
	mu   sync.Mutex
	all  int
	from map[string]int // by address; those that are not 0
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := network(c.RemoteAddr())
		l.mu.Lock()
		ok := l.all < l.most && l.from[from] < l.each
		if ok {
			l.all++
			l.from[from]++
		}
		l.mu.Unlock()
		if ok {
			return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		c.Close()
	}
}

func (l *boundedListener) leave(from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.from[from]--; l.from[from] == 0 {
		delete(l.from, from)
	}
}

// network is what an address is counted by.
func network(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.Network()
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

type boundedConn struct {
	net.Conn
	leave func()
}

// NetConn is the connection that the system knows.
func (c *boundedConn) NetConn() net.Conn { return c.Conn }

func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
