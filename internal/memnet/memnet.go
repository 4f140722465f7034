// Package memnet is a network in memory, by the rules of TCP, for tests in a
// bubble of testing/synctest. Its links are as slow, and fail, as a test says.
//
//	n := memnet.New(1, nil)
//	l := n.Listen()
//	conn, err := n.NewHost("laptop", 20*time.Millisecond, 0).Dial(ctx, "", "")
//
// It has buffers, which net.Pipe has not: two ends that close at once each write
// a last word, and with pipes each waits for the other to read it.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// sendBuffer is how many bytes a connection takes that have not arrived, and
// receiveBuffer how many may have arrived and not been read: about what a
// system keeps for one that has not grown.
const (
	sendBuffer    = 64 << 10
	receiveBuffer = 64 << 10
)

// A Network carries connections between hosts and the one listener there is, by
// the rules of TCP: bytes arrive in order or not at all. What goes wrong is a
// host's link, or a connection: see [Host].
//
// Everything in it waits on sync.Cond, channels and timers alone, so that in a
// testing/synctest bubble time passes when all wait.
type Network struct {
	note func(who, format string, args ...any)

	// mu guards the network, its hosts, connections and listeners.
	mu       sync.Mutex
	listener *Listener // nil while no server listens
	random   *rand.Rand
	hosts    []*Host
	ends     map[*Conn]struct{} // that are not closed
	conns    map[*Conn]struct{} // the ends that dialled, of connections that still carry something
	next     int
}

// New returns a network without hosts. Its delays are of seed. Note is told what
// is done to it, and to which host; it may be nil.
func New(seed uint64, note func(who, format string, args ...any)) *Network {
	if note == nil {
		note = func(string, string, ...any) {}
	}
	return &Network{note: note, random: rand.New(rand.NewPCG(seed, 1)), ends: map[*Conn]struct{}{}, conns: map[*Conn]struct{}{}}
}

// Open counts the ends of connections that have not been closed.
func (n *Network) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.ends)
}

// A Host dials. Its link to the server has a latency; it may be stalled, so
// that nothing moves in either direction and nothing is lost; and it may refuse
// new connections.
type Host struct {
	name string
	net  *Network
	addr net.Addr

	// Guarded by the network's mu.
	latency time.Duration
	jitter  time.Duration // added to the latency of each piece, at random
	stalled bool
	refuses bool
	gone    bool
	changed *sync.Cond // stalled, refuses or gone
}

// NewHost adds a host. Nothing takes longer from it to the server than latency
// and jitter.
func (n *Network) NewHost(name string, latency, jitter time.Duration) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Host{
		name: name, net: n, latency: latency, jitter: jitter, changed: sync.NewCond(&n.mu),
		addr: &net.TCPAddr{IP: net.IPv4(10, 0, byte(len(n.hosts)>>8), byte(len(n.hosts)+1)), Port: 40000},
	}
	n.hosts = append(n.hosts, h)
	return h
}

// Name is the host's, as NewHost had it.
func (h *Host) Name() string { return h.name }

// Stall stops or starts everything on the host's link.
func (h *Host) Stall(on bool) {
	h.net.note(h.name, "link stalled: %v", on)
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.stalled = on
	h.changed.Broadcast()
	h.each(time.Time{}, func(c *Conn) { c.in.arrive(); c.out.arrive() })
}

// Refuse has new connections refused, or not.
func (h *Host) Refuse(on bool) {
	h.net.note(h.name, "dials refused: %v", on)
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.refuses = on
	h.changed.Broadcast()
}

// Slow changes the link's latency.
func (h *Host) Slow(latency time.Duration) {
	h.net.note(h.name, "latency %v", latency)
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.latency = latency
}

// Cut resets the host's connections that were opened before a time, or all of
// them if that is zero. Both ends are told at once; what was under way is lost.
// It returns how many there were.
func (h *Host) Cut(before time.Time) int {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	cut := h.each(before, func(c *Conn) { c.reset(); c.peer.reset() })
	h.net.note(h.name, "%d connections cut", cut)
	return cut
}

// Lose has the network forget the host's connections that were opened before a
// time, or all of them: nothing arrives any more, and neither end is told.
func (h *Host) Lose(before time.Time) int {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	lost := h.each(before, func(c *Conn) { c.out.lose(); c.in.lose() })
	h.net.note(h.name, "%d connections lost silently", lost)
	return lost
}

// Die is the end of the host's process: its connections are reset, and it dials
// no more.
func (h *Host) Die() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.gone = true
	h.changed.Broadcast()
	h.each(time.Time{}, func(c *Conn) { c.reset(); c.peer.reset() })
	h.net.note(h.name, "process killed")
}

// each calls f with the host's own end of each of its connections. The caller
// holds mu.
func (h *Host) each(before time.Time, f func(c *Conn)) (n int) {
	var all []*Conn
	for c := range h.net.conns {
		if c.host == h && (before.IsZero() || c.opened.Before(before)) {
			all = append(all, c)
		}
	}
	for _, c := range all {
		f(c)
	}
	return len(all)
}

// Dial connects to the listener. It takes a round trip, or as long as the link
// is stalled, and no longer than ctx.
func (h *Host) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n := h.net
	n.mu.Lock()
	trip := 2*h.latency + h.delay()
	n.mu.Unlock()
	timer := time.NewTimer(trip)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, dialError(ctx.Err())
	}
	stop := context.AfterFunc(ctx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		h.changed.Broadcast()
	})
	defer stop()

	n.mu.Lock()
	defer n.mu.Unlock()
	for h.stalled && !h.gone && ctx.Err() == nil {
		h.changed.Wait()
	}
	l := n.listener
	switch {
	case ctx.Err() != nil:
		return nil, dialError(ctx.Err())
	case h.gone, h.refuses, l == nil || l.closed || len(l.queue) == cap(l.queue):
		return nil, dialError(syscall.ECONNREFUSED)
	}
	near, far := n.pair(h)
	l.take(far)
	return near, nil
}

func dialError(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

// delay is how long one piece of the link's is late. The caller holds mu.
func (h *Host) delay() time.Duration {
	if h.jitter <= 0 {
		return 0
	}
	return time.Duration(h.net.random.Int64N(int64(h.jitter)))
}

// A Listener is where the network's hosts connect to, until it is closed or
// killed.
type Listener struct {
	net    *Network
	addr   net.Addr
	queue  chan *Conn
	closed bool
	done   chan struct{}
	ends   map[*Conn]struct{} // that were accepted, and are not closed
}

// Listen returns a listener in the place of the one before, which is closed or
// killed.
func (n *Network) Listen() *Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listener = n.newListener()
	return n.listener
}

func (n *Network) newListener() *Listener {
	return &Listener{
		net: n, addr: &net.TCPAddr{IP: net.IPv4(10, 255, 0, 1), Port: 443},
		queue: make(chan *Conn, 4096), done: make(chan struct{}), ends: map[*Conn]struct{}{},
	}
}

// take queues a connection. The caller holds mu, and there is room.
func (l *Listener) take(c *Conn) {
	c.listener = l
	l.ends[c] = struct{}{}
	l.queue <- c
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close stops listening. What was not accepted is reset.
func (l *Listener) Close() error {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.close()
	return nil
}

func (l *Listener) close() {
	if l.closed {
		return
	}
	l.closed = true
	close(l.done)
	for {
		select {
		case c := <-l.queue:
			c.reset()
			c.peer.reset()
			c.forget()
		default:
			return
		}
	}
}

// Kill is the end of the server's process: its connections are reset.
func (l *Listener) Kill() {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.close()
	for c := range l.ends {
		c.reset()
		c.peer.reset()
	}
}

// Addr is where the listener is said to be.
func (l *Listener) Addr() net.Addr { return l.addr }

// A Local is a listener inside one machine: connections to it take no time, and
// nothing goes wrong with them.
type Local struct {
	*Listener
	host *Host
}

// NewLocal returns a listener inside the machine of a host.
func (n *Network) NewLocal() *Local {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &Local{n.newListener(), &Host{name: "local", net: n, changed: sync.NewCond(&n.mu), addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}}}
}

// Dial connects to the listener.
func (l *Local) Dial() (net.Conn, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.closed {
		return nil, dialError(syscall.ECONNREFUSED)
	}
	near, far := l.net.pair(l.host)
	l.take(far)
	return near, nil
}

// A Conn is one end of a connection.
type Conn struct {
	net     *Network
	id      int
	host    *Host // that dialled
	dialled bool  // this is the end of the host that dialled
	opened  time.Time
	peer    *Conn
	in, out *direction

	listener *Listener // that took it; nil at the end that dialled

	// Guarded by the network's mu.
	ready         *sync.Cond
	closed        bool
	err           error // the connection was reset
	readDeadline  deadline
	writeDeadline deadline
}

// A direction is what one end sends and the other reads. The network's mu
// guards it.
type direction struct {
	from, to *Conn
	wire     []piece // sent, and not arrived
	size     int     // of all that is on the wire
	last     time.Time
	buf      []byte // arrived, and not read
	ended    bool   // an end of file was sent
	eof      bool   // and has arrived
	lost     bool   // nothing arrives any more
	timer    *time.Timer
}

// A piece is what was written at once, an end of file, or a reset.
type piece struct {
	at  time.Time
	b   []byte
	end bool
	rst bool
}

// pair makes the two ends of a connection. The caller holds mu.
func (n *Network) pair(h *Host) (near, far *Conn) {
	n.next++
	make := func(dialled bool) *Conn {
		c := &Conn{net: n, id: n.next, host: h, dialled: dialled, opened: time.Now(), ready: sync.NewCond(&n.mu)}
		n.ends[c] = struct{}{}
		return c
	}
	near, far = make(true), make(false)
	near.peer, far.peer = far, near
	near.out = &direction{from: near, to: far}
	far.out = &direction{from: far, to: near}
	near.in, far.in = far.out, near.out
	n.conns[near] = struct{}{}
	return near, far
}

// send puts a piece on the wire. The caller holds mu.
func (d *direction) send(p piece) {
	h := d.from.host
	p.at = time.Now().Add(h.latency + h.delay())
	if p.at.Before(d.last) {
		p.at = d.last // in order
	}
	d.last = p.at
	d.wire = append(d.wire, p)
	d.size += len(p.b)
	d.arrive()
}

// arrive moves what is due from the wire to the reader. The caller holds mu.
func (d *direction) arrive() {
	now := time.Now()
	for len(d.wire) > 0 && !d.from.host.stalled && !d.lost && len(d.buf) < receiveBuffer {
		p := d.wire[0]
		if wait := p.at.Sub(now); wait > 0 {
			d.later(wait)
			return
		}
		d.wire[0] = piece{}
		d.wire = d.wire[1:]
		d.size -= len(p.b)
		switch {
		case p.rst:
			d.to.reset()
		case p.end:
			d.eof = true
		case d.to.closed: // as systems do: the sender hears that its peer has gone
			d.to.out.clear()
			d.to.out.send(piece{rst: true})
		default:
			d.buf = append(d.buf, p.b...)
		}
		d.to.ready.Broadcast()
		d.from.ready.Broadcast()
	}
	d.settle()
}

// later has arrive called again.
func (d *direction) later(wait time.Duration) {
	if d.timer != nil {
		d.timer.Reset(wait)
		return
	}
	d.timer = time.AfterFunc(wait, func() {
		d.from.net.mu.Lock()
		defer d.from.net.mu.Unlock()
		d.arrive()
	})
}

// clear drops what is on the wire.
func (d *direction) clear() {
	d.wire, d.size = nil, 0
	d.settle()
}

// settle forgets a connection that is closed at both ends and carries nothing.
func (d *direction) settle() {
	c := d.from
	if !c.dialled {
		c = c.peer
	}
	if c.closed && c.peer.closed && len(c.out.wire) == 0 && len(c.in.wire) == 0 {
		delete(c.net.conns, c)
	}
}

// lose has nothing arrive any more.
func (d *direction) lose() { d.lost = true }

// reset is the end of a connection at this end. What has arrived can still be
// read. The caller holds mu.
func (c *Conn) reset() {
	if c.err == nil {
		c.err = syscall.ECONNRESET
	}
	c.out.clear()
	c.ready.Broadcast()
}

func (c *Conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Read reads what has arrived.
func (c *Conn) Read(b []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for {
		switch d := c.in; {
		case c.closed:
			return 0, c.wrap("read", net.ErrClosed)
		case c.readDeadline.passed:
			return 0, c.wrap("read", os.ErrDeadlineExceeded)
		case len(d.buf) > 0:
			n := copy(b, d.buf)
			d.buf = d.buf[n:]
			if len(d.buf) == 0 {
				d.buf = nil
			}
			d.arrive()
			return n, nil
		case d.eof:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.wrap("read", c.err)
		case len(b) == 0:
			return 0, nil
		}
		c.ready.Wait()
	}
}

// Write sends b. It waits while too much is on its way.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	for {
		switch d := c.out; {
		case c.closed:
			return n, c.wrap("write", net.ErrClosed)
		case c.writeDeadline.passed:
			return n, c.wrap("write", os.ErrDeadlineExceeded)
		case c.err != nil:
			return n, c.wrap("write", c.err)
		case d.ended:
			return n, c.wrap("write", syscall.EPIPE)
		case len(b) == 0:
			return n, nil
		case d.size+len(d.buf) < sendBuffer+receiveBuffer && d.size < sendBuffer:
			part := b[:min(len(b), sendBuffer-d.size)]
			d.send(piece{b: append([]byte(nil), part...)})
			n += len(part)
			b = b[len(part):]
			continue
		}
		c.ready.Wait()
	}
}

// CloseWrite sends an end of file.
func (c *Conn) CloseWrite() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return c.wrap("close", net.ErrClosed)
	}
	c.end()
	return nil
}

func (c *Conn) end() {
	if !c.out.ended && c.err == nil {
		c.out.ended = true
		c.out.send(piece{end: true})
	}
}

// Close closes this end. As systems do it, what was sent before still arrives,
// unless there is something to be read here: then the connection is reset, and
// what was sent and is still on its way is lost.
func (c *Conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return c.wrap("close", net.ErrClosed)
	}
	c.closed = true
	if len(c.in.buf) > 0 && c.err == nil {
		c.out.clear()
		c.out.ended = true
		c.out.send(piece{rst: true})
	} else {
		c.end()
	}
	c.in.buf = nil
	c.readDeadline.stop()
	c.writeDeadline.stop()
	c.forget()
	c.ready.Broadcast()
	c.in.arrive() // what waited for room is refused
	return nil
}

// forget takes the end off what is counted. The caller holds mu.
func (c *Conn) forget() {
	delete(c.net.ends, c)
	if c.listener != nil {
		delete(c.listener.ends, c)
	}
}

// LocalAddr and RemoteAddr are made up; each host has one of its own.
func (c *Conn) LocalAddr() net.Addr { return c.address(c.dialled) }

// RemoteAddr is where the other end is.
func (c *Conn) RemoteAddr() net.Addr { return c.address(!c.dialled) }

func (c *Conn) address(host bool) net.Addr {
	if host {
		return c.host.addr
	}
	return &net.TCPAddr{IP: net.IPv4(10, 255, 0, 1), Port: 443}
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline has reads fail from then on.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readDeadline, t) }

// SetWriteDeadline has writes fail from then on.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeDeadline, t) }

// A deadline is guarded by the network's mu.
type deadline struct {
	passed bool
	timer  *time.Timer
	turn   int
}

func (d *deadline) stop() {
	d.turn++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return c.wrap("set", net.ErrClosed)
	}
	d.stop()
	d.passed = false
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		c.ready.Broadcast()
		return nil
	}
	turn := d.turn
	d.timer = time.AfterFunc(wait, func() {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		if d.turn == turn {
			d.passed = true
			c.ready.Broadcast()
		}
	})
	return nil
}

// String names a connection in the event log.
func (c *Conn) String() string { return fmt.Sprintf("%s#%d", c.host.name, c.id) }
