package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/xtaci/smux"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/mux"
	"github.com/sallyport/sallyport/internal/statedir"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// A port session is one of three, by what its handshake says:
//
//	stream   Stdin and Stdout are one connection: ssh's ProxyCommand
//	mux      many connections to a listener here, over one smux session
//	basic    one at a time, with agents up to 3.0.196
//
// The agent chooses for itself, by our version, and neither tells the other.
// (session-manager-plugin portsession; amazon-ssm-agent plugins/port.)
type port struct {
	asked wire.PortProperties
	agent string // its version
	own   bool   // the agent is ours: each direction of a connection ends by itself

	mux   *io.PipeWriter // what the node sends, for smux; nil if basic
	basic *basic         // nil if mux
}

// actPort reads the properties of a port session.
func (r *run) actPort(properties json.RawMessage) (wire.ActionStatus, error) {
	p := new(port)
	if err := strictjson.Unmarshal(properties, &p.asked); err != nil {
		return wire.ActionFailed, fmt.Errorf("read the session's port: %w", err)
	}
	r.port = p
	switch {
	case p.asked.Type == wire.LocalPortForwarding:
		r.reach(farForward)
	case r.Forward != nil:
		return wire.ActionFailed, errors.New("this session's document is for one connection, and not for a local port")
	default:
		r.reach(farStream)
	}
	return wire.ActionSuccess, nil
}

// openPort begins to take connections.
func (r *run) openPort(ctx context.Context) error {
	p := r.port
	listeners, said := r.Forward, ""
	if listeners == nil {
		var err error
		if listeners, said, err = p.listen(); err != nil {
			return err
		}
	}
	closeAll := func() {
		for _, l := range listeners {
			l.Close()
		}
	}
	if !r.start(func() { <-ctx.Done(); closeAll() }) {
		closeAll()
		return context.Cause(ctx)
	}
	if p.agentAfter("3.0.196.0") {
		return r.openMux(ctx, listeners, said)
	}
	r.openBasic(ctx, listeners, said)
	return nil
}

// listen opens the listener that the session's document asks for, and says
// which that is.
func (p *port) listen() (listeners []net.Listener, said string, err error) {
	if p.asked.LocalConnectionType == "unix" {
		l, err := ListenUnix(p.asked.LocalUnixSocket)
		if err != nil {
			return nil, "", err
		}
		return []net.Listener{l}, "Unix socket " + p.asked.LocalUnixSocket, nil
	}
	number := p.asked.LocalPortNumber
	if number == "" {
		number = "0"
	}
	listeners, err = Listen("", number)
	if err != nil {
		return nil, "", err
	}
	return listeners, fmt.Sprint("Port ", listeners[0].Addr().(*net.TCPAddr).Port), nil
}

// sayOpened says that connections may come, in the words of AWS's plugin.
func (r *run) sayOpened(said, after string) {
	switch {
	case said == "": // the caller listens, and has said so
	case r.Stock:
		fmt.Fprintf(r.Stdout, "%s opened for sessionId %s.\n%s", said, r.Invitation.SessionID, after)
	default:
		r.notice(strings.ToLower(said[:1]) + said[1:] + " is open; Ctrl-C ends the session")
	}
}

// refused is for when the node could not connect.
func (r *run) refused() {
	if r.Stock {
		fmt.Fprint(r.Stdout, "\nConnection to destination port failed, check SSM Agent logs.\n")
		return
	}
	to := "its port " + r.port.asked.PortNumber
	if host := r.port.asked.Host; host != "" {
		to = net.JoinHostPort(host, r.port.asked.PortNumber)
	}
	r.notice("the node could not connect to " + sallyport.Clip(to, 300))
}

// interrupted is for Ctrl-C, which ends the session.
func (r *run) interrupted(ctx context.Context) {
	r.parting.Do(func() {
		if r.Stock {
			fmt.Fprintln(r.Stdout, "Terminate signal received, exiting.")
		}
		r.start(func() { r.leave(ctx, over{Ending{How: Left}}) })
	})
}

// take passes on what the node has sent. It waits while the connection takes nothing.
func (p *port) take(ctx context.Context, b []byte) {
	switch {
	case p.mux != nil:
		p.mux.Write(b) // an error is of a session that is ending
	case p.basic != nil:
		p.basic.take(ctx, b)
	}
}

// A carrier is what smux believes to be a connection: the session's stream.
type carrier struct {
	run *run
	ctx context.Context
	*bufio.Reader
	end *io.PipeReader
}

func (c *carrier) Write(b []byte) (int, error) {
	if err := c.run.stream.Send(c.ctx, wire.KindOutput, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *carrier) Close() error { return c.end.Close() }

func (r *run) openMux(ctx context.Context, listeners []net.Listener, said string) error {
	p := r.port
	// AWS's programs keep their end alive if the other is old. We are not.
	o := mux.Options{Own: p.own, KeepAlive: !p.own && !p.agentAfter("3.1.1511.0")}
	near, far := io.Pipe()
	session, err := mux.Client(&carrier{run: r, ctx: ctx, Reader: bufio.NewReaderSize(near, 64<<10), end: near}, o)
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	p.mux = far
	if !r.start(func() { <-ctx.Done(); session.Close() }) {
		session.Close()
		return context.Cause(ctx)
	}
	r.start(func() {
		for { // the node opens none: this is to hear that the session is over
			stream, err := session.AcceptStream()
			if err != nil {
				if ctx.Err() == nil {
					r.leave(ctx, fmt.Errorf("the node's end of the forwarding failed: %w", err))
				}
				return
			}
			stream.Close()
		}
	})
	r.sayOpened(said, "Waiting for connections...\n")
	var first sync.Once
	for _, l := range listeners {
		r.start(func() {
			r.accept(ctx, l, func(conn net.Conn) {
				first.Do(func() {
					if r.Stock {
						fmt.Fprintf(r.Stdout, "\nConnection accepted for session [%s]\n", r.Invitation.SessionID)
					}
				})
				if !r.start(func() { r.carryConn(ctx, session, conn, o) }) {
					conn.Close()
				}
			})
		})
	}
	return nil
}

// carryConn owns one connection. It waits with it through a lost network, if
// that is not longer than what is sent finds room.
func (r *run) carryConn(ctx context.Context, session *smux.Session, conn net.Conn, o mux.Options) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	stream, err := session.OpenStream()
	if err != nil {
		conn.Close() // why is AcceptStream's to say
		return
	}
	if err := mux.Join(stream, conn, o); err != nil {
		r.finish(err)
	}
}

// accept hands over the connections that come to l, which ctx closes.
func (r *run) accept(ctx context.Context, l net.Listener, serve func(net.Conn)) {
	wait := backoff()
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			wait.Reset()
			serve(conn)
		case ctx.Err() != nil:
			return
		case errors.Is(err, net.ErrClosed):
			r.leave(ctx, fmt.Errorf("listen: %w", err))
			return
		default: // too many files are open, for one
			r.notice("accept a connection: " + err.Error())
			if wait.Wait(ctx) != nil {
				return
			}
		}
	}
}

// A basic is the one connection there is at a time, with an agent that knows
// no more.
type basic struct {
	came chan struct{} // closed when there was one

	mu   sync.Mutex
	conn net.Conn // nil between two
}

// take gives b to the connection. The node has connected before a program has
// connected here, and may be the first to send: that waits. What comes between two
// connections was for the last.
func (b *basic) take(ctx context.Context, p []byte) {
	select {
	case <-b.came:
	case <-ctx.Done():
		return
	}
	b.mu.Lock()
	conn := b.conn
	b.mu.Unlock()
	if conn == nil {
		return
	}
	if _, err := conn.Write(p); err != nil {
		conn.Close() // the goroutine that reads it returns the error
	}
}

func (b *basic) set(conn net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn = conn
}

func (r *run) openBasic(ctx context.Context, listeners []net.Listener, said string) {
	b := &basic{came: make(chan struct{})}
	r.port.basic = b
	r.sayOpened(said, "")
	conns := make(chan net.Conn)
	for _, l := range listeners {
		r.start(func() {
			r.accept(ctx, l, func(conn net.Conn) {
				select {
				case conns <- conn:
				case <-ctx.Done():
					conn.Close()
				}
			})
		})
	}
	r.start(func() {
		for first := true; ; first = false {
			var conn net.Conn
			select {
			case conn = <-conns:
			case <-ctx.Done():
				return
			}
			if !first && r.stream.Settle(ctx) != nil {
				conn.Close()
				return
			}
			b.set(conn)
			if first {
				if r.Stock {
					fmt.Fprintf(r.Stdout, "Connection accepted for session %s.\n", r.Invitation.SessionID)
				}
				close(b.came)
			}
			if r.carryBasic(ctx, conn, b) != nil {
				return
			}
		}
	})
}

// carryBasic sends what comes from conn. When that has ended the node closes
// its connection too, and what it had still sent has come by the time that it
// has acknowledged so, or nearly: the next connection, which waits until that
// has been thrown away, gets none of it.
func (r *run) carryBasic(ctx context.Context, conn net.Conn, b *basic) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, readSize)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if err := r.stream.Send(ctx, wire.KindOutput, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			break
		}
	}
	b.set(nil)
	conn.Close()
	if err := r.stream.SendMessage(ctx, wire.KindFlag, wire.FlagDisconnectToPort.Payload()); err != nil {
		return err
	}
	return r.stream.Flush(ctx)
}

// Listen listens where a program of this machine's own connects to: on port of
// its loopback addresses, if bind is "", of both IP versions if it has both, and
// otherwise on bind. Port 0 is any that is free.
func Listen(bind, port string) ([]net.Listener, error) {
	if bind != "" {
		if bind == "*" {
			bind = ""
		}
		l, err := listen("tcp", net.JoinHostPort(bind, port))
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	four, err := listen("tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	n := strconv.Itoa(four.Addr().(*net.TCPAddr).Port)
	six, err := listen("tcp6", net.JoinHostPort("::1", n))
	switch {
	case err == nil:
		return []net.Listener{four, six}, nil
	case taken(err) && port == n:
		four.Close() // a browser that is told localhost would meet the other program
		return nil, err
	}
	return []net.Listener{four}, nil
}

func listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if taken(err) {
		return nil, &takenError{address, err}
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

// A takenError is a port or a socket that another program listens on.
type takenError struct {
	address string
	err     error
}

func (e *takenError) Error() string {
	return fmt.Sprintf("%s is taken by another program; end that, or choose another", e.address)
}
func (e *takenError) Unwrap() error { return e.err }

// ListenUnix listens on a socket that only the user may connect to. One that a
// program left behind is replaced.
func ListenUnix(path string) (net.Listener, error) {
	l, err := statedir.ListenUnix(path)
	if taken(err) && abandoned(path) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
		l, err = statedir.ListenUnix(path)
	}
	if taken(err) {
		return nil, &takenError{path, err}
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// abandoned reports whether path is a socket that no process listens on.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return false
	}
	return nobodyThere(err)
}

// agentAfter reports whether the node's agent is later than a version. One that says
// no version is not so old that it matters.
func (p *port) agentAfter(version string) bool {
	return !sallyport.IsVersion(p.agent) || sallyport.CompareVersions(p.agent, version) > 0
}
