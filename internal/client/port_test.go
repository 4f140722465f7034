package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/mux"
	"github.com/sallyport/sallyport/internal/wire"
)

// An agent is what a test's node says it is.
type agent struct {
	name    string
	version string
	offers  []string
}

var (
	stockAgent = agent{"AWS's agent", "3.3.1142.0", nil}
	ourAgent   = agent{"our agent", sallyport.WireAgentVersion, []string{wire.CapMux2, wire.CapStdin}}
	basicAgent = agent{"an agent without a mux", "3.0.196.0", nil}
	oldAgent   = agent{"an agent without flags", "2.3.722.0", nil}
)

// shake has the node shake hands for a session of a kind.
func (p *plane) shake(a agent, kind string, properties any) wire.HandshakeResponse {
	p.t.Helper()
	p.waitSockets(1)
	if a.offers != nil { // the control plane introduces ends of ours
		p.last(wire.SallyportPeer{Capabilities: datachannel.Capabilities()}.Frame(time.Now()))
		p.node.SetPeer(datachannel.Capabilities())
	}
	props, _ := json.Marshal(properties)
	action, _ := json.Marshal(wire.SessionTypeRequest{SessionType: kind, Properties: props})
	p.tell(wire.KindHandshakeRequest, wire.HandshakeRequest{
		AgentVersion:           a.version,
		RequestedClientActions: []wire.RequestedClientAction{{ActionType: wire.ActionSessionType, ActionParameters: action}},
		Capabilities:           a.offers,
	})
	m := p.next()
	for m.Kind == wire.KindSize { // a terminal's size, which a port has no use for
		m = p.next()
	}
	var resp wire.HandshakeResponse
	if err := json.Unmarshal(m.Payload, &resp); m.Kind != wire.KindHandshakeResponse || err != nil {
		p.t.Fatalf("the first message is a %v, %q: %v", m.Kind, m.Payload, err)
	}
	if got := resp.ProcessedClientActions[0]; got.ActionStatus == wire.ActionSuccess {
		p.tell(wire.KindHandshakeComplete, wire.HandshakeComplete{HandshakeTimeToComplete: time.Second})
	}
	return resp
}

func (p *plane) tell(kind wire.Kind, v any) {
	p.t.Helper()
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	if err := p.node.SendMessage(context.Background(), kind, b); err != nil {
		p.t.Error(err)
	}
}

// flagged returns once the node is sent the flag, and nothing else before it.
func (p *plane) flagged(want wire.Flag) {
	p.t.Helper()
	m := p.next()
	if f, err := wire.ReadFlag(m.Payload); m.Kind != wire.KindFlag || err != nil || f != want {
		p.t.Fatalf("the node is sent %v %q, not flag %v", m.Kind, m.Payload, want)
	}
}

// A nodeMux is the node's end of a mux, which dials target.
type nodeMux struct {
	p      *plane
	rest   []byte
	ctx    context.Context
	cancel context.CancelFunc
	flags  chan wire.Flag
}

func (n *nodeMux) Read(b []byte) (int, error) {
	for len(n.rest) == 0 {
		m, err := n.p.node.Receive(n.ctx)
		if err != nil {
			return 0, err
		}
		if f, err := wire.ReadFlag(m.Payload); m.Kind == wire.KindFlag && err == nil {
			n.flags <- f
		}
		if m.Kind == wire.KindOutput {
			n.rest = bytes.Clone(m.Payload)
		}
	}
	c := copy(b, n.rest)
	n.rest = n.rest[c:]
	return c, nil
}

func (n *nodeMux) Write(b []byte) (int, error) {
	return len(b), n.p.node.Send(n.ctx, wire.KindOutput, b)
}

func (n *nodeMux) Close() error { n.cancel(); return nil }

// forward has the node forward to target, as an agent does.
func (p *plane) forward(a agent, target string) *nodeMux {
	p.t.Helper()
	n := &nodeMux{p: p, flags: make(chan wire.Flag, 16)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	o := mux.Options{Own: slices.Contains(a.offers, wire.CapMux2)}
	session, err := mux.Server(n, o)
	if err != nil {
		p.t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			stream, err := session.AcceptStream()
			if err != nil {
				return
			}
			conn, err := net.Dial("tcp", target)
			if err != nil {
				p.tell(wire.KindFlag, wire.FlagConnectToPortError.Payload())
				all.Go(func() { mux.Refuse(stream, o) })
				continue
			}
			all.Go(func() { mux.Join(stream, conn, o) })
		}
	})
	p.t.Cleanup(func() { n.cancel(); session.Close(); all.Wait() })
	return n
}

// serveTCP has every connection to the address it returns handled by f.
func serveTCP(t testing.TB, f func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				f(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
}

func echo(c *net.TCPConn) { io.Copy(c, c) }

func dial(t testing.TB, network, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// live puts a plane on a port, and returns a client of it: real sockets stop a
// bubble's clock.
func live(t *testing.T) (*plane, *Client) {
	t.Helper()
	p := newPlane(t)
	address, bundle := p.serveTLS()
	setAWS(t, bundle)
	c, err := Load(t.Context(), Settings{Endpoint: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.api.HTTP.CloseIdleConnections)
	return p, c
}

// forwarded runs a port session whose connections come to listeners of ours.
func forwarded(t *testing.T, p *plane, c *Client) (j *joined, address string, cancel context.CancelFunc) {
	t.Helper()
	listeners, err := Listen("", "0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	j = &joined{plane: p, errOut: newScreen(), done: make(chan struct{})}
	s := &Session{Client: c, Invitation: p.invitation(), Stderr: j.errOut, Forward: listeners}
	go func() {
		defer close(j.done)
		j.ending, j.err = s.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-j.done })
	return j, listeners[0].Addr().String(), cancel
}

// A person who reads that the port is open may press Ctrl-C in the same moment: the
// node is told all the same.
func TestForwardEndsAsItOpens(t *testing.T) {
	p, c := live(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	told, done := make(chan struct{}), make(chan error, 1)
	s := &Session{Client: c, Invitation: p.invitation(), Stderr: io.Discard, Stock: true, Apart: true, Stdout: writer(func(b []byte) {
		if bytes.Contains(b, []byte(" opened for ")) {
			leave()
			select {
			case <-told:
			case <-time.After(10 * time.Second):
			}
		}
	})}
	go func() {
		end, err := s.Run(ctx)
		if err == nil && end.How != Left {
			err = fmt.Errorf("ended %+v", end)
		}
		done <- err
	}()
	p.shake(stockAgent, "Port", toPort)
	p.flagged(wire.FlagTerminateSession)
	close(told)
	p.end("", nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type writer func(b []byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

var toPort = wire.PortProperties{PortNumber: "80", LocalPortNumber: "0", Type: wire.LocalPortForwarding}

// Many connections at once arrive whole, with our agent and with stock ones, also if
// the network is lost.
func TestForward(t *testing.T) {
	for _, a := range []agent{stockAgent, ourAgent} {
		for _, cuts := range []int{0, 3} {
			t.Run(fmt.Sprintf("%s, %d cuts", a.name, cuts), func(t *testing.T) {
				p, c := live(t)
				j, address, cancel := forwarded(t, p, c)
				resp := p.shake(a, "Port", toPort)
				if want := slices.DeleteFunc(slices.Clone(a.offers), func(s string) bool { return s != wire.CapMux2 }); !slices.Equal(resp.Capabilities, want) {
					t.Errorf("took %q, want %q", resp.Capabilities, want)
				}
				node := p.forward(a, serveTCP(t, echo))
				var all sync.WaitGroup
				for i := range 8 {
					conn := dial(t, "tcp", address)
					all.Go(func() {
						rng := rand.NewChaCha8([32]byte{byte(i)})
						want := make([]byte, 1<<20)
						rng.Read(want)
						go conn.Write(want)
						got := make([]byte, len(want))
						if _, err := io.ReadFull(conn, got); err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
							t.Errorf("connection %d: %v", i, err)
						}
						conn.Close()
					})
				}
				for n := range cuts {
					p.cut()
					p.waitSockets(n + 2)
				}
				all.Wait()
				// The listener is still there.
				conn := dial(t, "tcp", address)
				conn.Write([]byte("again"))
				if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
					t.Error(err)
				}
				conn.Close()

				cancel()
				if f := <-node.flags; f != wire.FlagTerminateSession {
					t.Errorf("the node is told %v", f)
				}
				if cuts == 0 { // with three, the control plane is slow to say so
					p.end("", nil)
				}
				j.want(Left)
				if p.called("TerminateSession") != 0 || j.errOut.String() != "" {
					t.Errorf("%d terminations, stderr %q", p.called("TerminateSession"), j.errOut)
				}
				if _, err := net.Dial("tcp", address); err == nil {
					t.Error("the listener is still there when the session is over")
				}
			})
		}
	}
}

// Between ends of ours a connection ends one direction at a time.
func TestForwardHalfClosed(t *testing.T) {
	p, c := live(t)
	_, address, _ := forwarded(t, p, c)
	p.shake(ourAgent, "Port", toPort)
	p.forward(ourAgent, serveTCP(t, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintf(c, "got %d", n)
	}))
	conn := dial(t, "tcp", address)
	conn.Write([]byte("hello"))
	conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "got 5" {
		t.Errorf("answer %q, %v", got, err)
	}
}

func TestForwardEnds(t *testing.T) {
	t.Run("when the control plane says so, though nobody reads", func(t *testing.T) {
		for _, a := range []agent{stockAgent, ourAgent} {
			p, c := live(t)
			j, address, _ := forwarded(t, p, c)
			p.shake(a, "Port", toPort)
			p.forward(a, serveTCP(t, func(c *net.TCPConn) { c.Write(make([]byte, 32<<20)) }))
			dial(t, "tcp", address) // and does not read
			first := dial(t, "tcp", address)
			first.Read(make([]byte, 1))
			p.mu.Lock()
			p.over = true
			last := p.last
			p.mu.Unlock()
			last(wire.ChannelClosed{SessionId: testSession, Output: "Enough."}.Frame(time.Now()))
			if end := j.want(Closed); end.Output != "Enough." {
				t.Errorf("ended %+v", end)
			}
		}
	})
	t.Run("before it is a session, by TerminateSession", func(t *testing.T) {
		p, c := live(t)
		j, _, cancel := forwarded(t, p, c)
		p.waitSockets(1)
		cancel()
		j.want(Left)
		if p.called("TerminateSession") != 1 {
			t.Error("it was left on")
		}
	})
	t.Run("when the node's end talks nonsense", func(t *testing.T) {
		p, c := live(t)
		j, _, _ := forwarded(t, p, c)
		p.shake(stockAgent, "Port", toPort)
		p.show("HTTP/1.1 400 Bad Request\r\n\r\n")
		p.flagged(wire.FlagTerminateSession)
		if _, err := j.wait(); err == nil || !strings.Contains(err.Error(), "the node's end of the forwarding failed") {
			t.Errorf("Run: %v", err)
		}
	})
	t.Run("when it is another kind of session", func(t *testing.T) {
		for _, kind := range []string{"Standard_Stream", "NonInteractiveCommands", "Port"} {
			p, c := live(t)
			j, _, _ := forwarded(t, p, c)
			if resp := p.shake(stockAgent, kind, wire.PortProperties{PortNumber: "22"}); resp.ProcessedClientActions[0].ActionStatus != wire.ActionFailed {
				t.Errorf("%s: answered %+v", kind, resp)
			}
			if _, err := j.wait(); err == nil {
				t.Errorf("%s: ended well", kind)
			}
		}
		p, c := live(t)
		j, _, _ := forwarded(t, p, c)
		p.waitSockets(1)
		p.show("$ ")
		if _, err := j.wait(); !errors.Is(err, errNoPort) {
			t.Errorf("Run: %v", err)
		}
	})
}

// What is not there is said, and the session goes on.
func TestForwardRefused(t *testing.T) {
	p, c := live(t)
	j, address, _ := forwarded(t, p, c)
	p.shake(ourAgent, "Port", wire.PortProperties{PortNumber: "5432", Host: "db", Type: wire.LocalPortForwarding})
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	p.forward(ourAgent, nobody.Addr().String())
	for range 2 {
		conn := dial(t, "tcp", address)
		if b, err := io.ReadAll(conn); len(b) > 0 || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	}
	j.errOut.wait(t, "sallyport: the node could not connect to db:5432\n")
}

// plug runs the plugin on a plane, for a session with a document.
func plug(t *testing.T, stdin io.Reader, document string) (p *plane, stdout *screen, done chan int) {
	t.Helper()
	p = newPlane(t)
	address, bundle := p.serveTLS()
	setAWS(t, bundle)
	inv := p.invitation()
	response, _ := json.Marshal(map[string]string{"SessionId": inv.SessionID, "StreamUrl": inv.StreamURL, "TokenValue": inv.Token.Reveal()})
	request, _ := json.Marshal(StartSession{Target: "mi-0123456789abcdef0", DocumentName: document})
	stdout, done = newScreen(), make(chan int, 1)
	go func() {
		stderr := newScreen()
		status := PluginMain([]string{"session-manager-plugin", string(response), "home-1", "StartSession", "", string(request), address}, nil, stdin, stdout, stderr)
		if stderr.String() != "" {
			t.Errorf("stderr %q", stderr)
		}
		done <- status
	}()
	return p, stdout, done
}

const starting = "\nStarting session with SessionId: " + testSession + "\n"
const exiting = "\n\nExiting session with sessionId: " + testSession + ".\n\n"

// The drop-in's words are those that programs look for.
func TestPluginForward(t *testing.T) {
	tests := []struct {
		name string
		agent
		document string
	}{
		{"AWS's agent", stockAgent, "AWS-StartPortForwardingSession"},
		{"AWS's agent, and a document of one's own", stockAgent, "Mine"},
		{"our agent", ourAgent, "AWS-StartPortForwardingSessionToRemoteHost"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, stdout, done := plug(t, strings.NewReader("nobody reads this"), tt.document)
			p.shake(tt.agent, "Port", toPort)
			p.forward(tt.agent, serveTCP(t, echo))
			stdout.wait(t, "Waiting for connections...\n")
			var port int
			if _, err := fmt.Sscanf(stdout.String(), starting+"Port %d opened", &port); err != nil {
				t.Fatalf("%q: %v", stdout, err)
			}
			for range 2 {
				conn := dial(t, "tcp", fmt.Sprint("localhost:", port))
				conn.Write([]byte("hello"))
				if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
					t.Error(err)
				}
				conn.Close()
			}
			p.tell(wire.KindFlag, wire.FlagConnectToPortError.Payload())
			stdout.wait(t, "SSM Agent logs.\n")
			p.end("", nil)
			if status := <-done; status != 0 {
				t.Errorf("exit status %d", status)
			}
			want := fmt.Sprintf(starting+"Port %d opened for sessionId %s.\nWaiting for connections...\n\nConnection accepted for session [%[2]s]\n"+
				"\nConnection to destination port failed, check SSM Agent logs.\n"+exiting, port, testSession)
			if stdout.String() != want {
				t.Errorf("stdout\n%q\nwant\n%q", stdout, want)
			}
		})
	}
}

func TestPluginForwardFromSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	p, stdout, done := plug(t, strings.NewReader(""), "AWS-StartPortForwardingSessionToSocket")
	p.shake(stockAgent, "Port", wire.PortProperties{PortNumber: "80", LocalConnectionType: "unix", LocalUnixSocket: path, Type: wire.LocalPortForwarding})
	p.forward(stockAgent, serveTCP(t, echo))
	stdout.wait(t, "Unix socket "+path+" opened for sessionId "+testSession+".\nWaiting for connections...\n")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
	conn := dial(t, "unix", path)
	conn.Write([]byte("hello"))
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	p.end("", nil)
	<-done
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

func TestPluginForwardTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p, stdout, done := plug(t, strings.NewReader(""), "AWS-StartPortForwardingSession")
	p.shake(stockAgent, "Port", wire.PortProperties{PortNumber: "80", LocalPortNumber: port, Type: wire.LocalPortForwarding})
	p.flagged(wire.FlagTerminateSession)
	<-done
	if want := starting + "Cannot perform start session: 127.0.0.1:" + port + " is taken by another program; end that, or choose another\n"; stdout.String() != want {
		t.Errorf("stdout %q", stdout)
	}
}

// With an agent that knows one connection at a time, each is another of the
// node's, and none gets what was for the last.
func TestPluginForwardBasic(t *testing.T) {
	for _, a := range []agent{basicAgent, {"a version of three numbers", "3.0.196", nil}} {
		t.Run(a.name, func(t *testing.T) {
			p, stdout, done := plug(t, strings.NewReader(""), "AWS-StartPortForwardingSession")
			p.shake(a, "Port", toPort)
			p.show("welcome\n") // before a program connects
			stdout.wait(t, "opened for")
			var port int
			if _, err := fmt.Sscanf(stdout.String(), starting+"Port %d opened", &port); err != nil {
				t.Fatal(err)
			}
			first := dial(t, "tcp", fmt.Sprint("localhost:", port))
			got := make([]byte, 8)
			if _, err := io.ReadFull(first, got); string(got) != "welcome\n" {
				t.Errorf("read %q, %v", got, err)
			}
			first.Write([]byte("\n"))
			if m := p.next(); string(m.Payload) != "\n" { // and no carriage return
				t.Errorf("the node has %q", m.Payload)
			}
			first.Close()
			p.flagged(wire.FlagDisconnectToPort)
			p.show("too late")
			p.node.Flush(t.Context())

			second := dial(t, "tcp", fmt.Sprint("localhost:", port))
			second.Write([]byte("\x00\xff"))
			if m := p.next(); string(m.Payload) != "\x00\xff" {
				t.Errorf("the node has %q", m.Payload)
			}
			p.show("second\n")
			if _, err := io.ReadFull(second, got[:7]); string(got[:7]) != "second\n" {
				t.Errorf("read %q, %v", got[:7], err)
			}
			p.end("Idle.", nil)
			<-done
			want := fmt.Sprintf(starting+"Port %d opened for sessionId %s.\nConnection accepted for session %[2]s.\n\n\nSessionId: %[2]s : Idle.\n\n", port, testSession)
			if stdout.String() != want {
				t.Errorf("stdout %q, want %q", stdout, want)
			}
		})
	}
}

// The agents' versions are switches.
func TestAgentAfter(t *testing.T) {
	tests := []struct {
		version, than string
		want          bool
	}{
		{"3.0.196.1", "3.0.196.0", true},
		{"3.0.196.0", "3.0.196.0", false},
		{"3.0.196", "3.0.196.0", false},
		{"3.0.9.0", "3.0.196.0", false},
		{"3.1.0.0", "3.0.196.0", true},
		{"3.3", "3.0.196.0", true},
		{"2.3.722.0", "2.3.722.0", false},
		{"10.0.0.0", "3.0.196.0", true},
		{"devel", "3.0.196.0", true},
		{"", "3.0.196.0", true},
	}
	for _, tt := range tests {
		if got := (&port{agent: tt.version}).agentAfter(tt.than); got != tt.want {
			t.Errorf("an agent of %q is after %q: %v", tt.version, tt.than, got)
		}
	}
}

// Every byte of a stream passes as it is, before and after the person's end of
// it is closed.
func TestStream(t *testing.T) {
	everything := make([]byte, 100<<10)
	rand.NewChaCha8([32]byte{7}).Read(everything)
	everything = append([]byte("\n\x03\x1c~.\r\n"), everything...)
	for _, a := range []agent{stockAgent, ourAgent} {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), func(s *Session) { s.Pipes = true })
			go j.keyboard.Write([]byte("SSH-2.0-early\r\n"))
			time.Sleep(10 * time.Second) // an agent that is slow to begin, and would lose it
			if resp := p.shake(a, "Port", wire.PortProperties{PortNumber: "22"}); resp.Capabilities != nil {
				t.Errorf("took %q", resp.Capabilities)
			}
			p.typed("SSH-2.0-early\r\n")
			go func() {
				for b := range slices.Chunk(everything, 999) {
					j.keyboard.Write(b)
				}
				j.keyboard.Close()
			}()
			p.typed(string(everything))
			time.Sleep(time.Hour) // a long answer
			p.show(string(everything))
			p.end("", nil)
			j.want(Closed)
			if j.out.String() != string(everything) || j.errOut.String() != "" {
				t.Errorf("%d bytes came of %d; stderr %q", len(j.out.String()), len(everything), j.errOut)
			}
		})
	}
}

func TestStreamDrains(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		j := join(p, p.serve(nil), func(s *Session) { s.Pipes, s.Silence = true, 30*time.Second })
		p.shake(stockAgent, "Port", wire.PortProperties{PortNumber: "22"})
		j.keyboard.Write([]byte("bye\n"))
		j.keyboard.Close()
		p.typed("bye\n")
		time.Sleep(20 * time.Second)
		p.show("and ")
		time.Sleep(20 * time.Second)
		p.show("good bye")
		start := time.Now()
		j.want(Drained)
		if took := time.Since(start); took > 31*time.Second || j.out.String() != "and good bye" || p.called("TerminateSession") != 1 {
			t.Errorf("after %v: %q, %d terminations", took, j.out, p.called("TerminateSession"))
		}
	})
}

// Ansible and OpenSSH have the first line where it was, and a connection's
// bytes, and no other words of ours before the end.
func TestPluginStream(t *testing.T) {
	in, keyboard := io.Pipe()
	p, stdout, done := plug(t, in, "AWS-StartSSHSession")
	p.shake(stockAgent, "Port", wire.PortProperties{PortNumber: "22"})
	p.show("SSH-2.0-there\r\n")
	keyboard.Write([]byte("\n"))
	p.typed("\n") // and no carriage return
	keyboard.Close()
	p.show("the rest")
	p.end("", nil)
	if status := <-done; status != 0 || stdout.String() != starting+"SSH-2.0-there\r\nthe rest"+exiting {
		t.Errorf("status %d, stdout %q", status, stdout)
	}
}

func TestListen(t *testing.T) {
	ls, err := Listen("", "0")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range ls {
		defer l.Close()
		if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
			t.Errorf("listens on %v", l.Addr())
		}
	}
	_, port, _ := net.SplitHostPort(ls[0].Addr().String())
	for _, bind := range []string{"", "127.0.0.1"} {
		if more, err := Listen(bind, port); err == nil || err.Error() != "127.0.0.1:"+port+" is taken by another program; end that, or choose another" {
			t.Errorf("again, on %q: %v, %v", bind, more, err)
		}
	}
	if _, err := Listen("192.0.2.1", "0"); err == nil || !strings.HasPrefix(err.Error(), "listen on 192.0.2.1:0: ") {
		t.Errorf("on another's address: %v", err)
	}
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatalf("a socket that was left behind: %v", err)
	}
	if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "is taken by another program") {
		t.Errorf("again: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path); err == nil {
		t.Error("a file was replaced")
	}
}

// A command's input is all bytes that are piped in, and their end.
func TestCommandInput(t *testing.T) {
	everything := make([]byte, 100<<10)
	rand.NewChaCha8([32]byte{9}).Read(everything)
	everything = append([]byte("\n\x03\x1c\x04~."), everything...)
	t.Run("goes to an agent of ours", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), func(s *Session) { s.Pipes = true })
			if resp := p.shake(ourAgent, "NonInteractiveCommands", nil); !slices.Equal(resp.Capabilities, []string{wire.CapStdin}) {
				t.Errorf("took %q", resp.Capabilities)
			}
			go func() {
				j.keyboard.Write(everything)
				j.keyboard.Close()
			}()
			p.typed(string(everything))
			p.flagged(wire.FlagEndOfInput)
			time.Sleep(24 * time.Hour) // a long job
			p.show("out")
			p.tell(wire.KindStdErr, []byte("err"))
			p.tell(wire.KindExitCode, []byte("EXIT_CODE: 9"))
			p.end("", nil)
			if end := j.want(Closed); end.ExitStatus == nil || *end.ExitStatus != 9 || j.out.String() != "out" || j.errOut.String() != "err" {
				t.Errorf("ended %+v, shown %q and %q", end, j.out, j.errOut)
			}
		})
	})
	for input, note := range map[string]bool{"": false, "x": true} {
		t.Run(fmt.Sprintf("%q does not go to an agent of AWS's", input), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPlane(t)
				j := join(p, p.serve(nil), func(s *Session) { s.Pipes = true })
				p.shake(stockAgent, "NonInteractiveCommands", nil)
				go func() {
					j.keyboard.Write([]byte(input))
					j.keyboard.Close()
				}()
				time.Sleep(time.Minute)
				p.tell(wire.KindExitCode, []byte("EXIT_CODE: 0"))
				p.end("", nil)
				if end := j.want(Closed); end.ExitStatus == nil || *end.ExitStatus != 0 || strings.Contains(j.errOut.String(), "not read") != note {
					t.Errorf("ended %+v, said %q", end, j.errOut)
				}
			})
		})
	}
}

// Nothing is waited for that is not needed: a command that ends at once takes
// no time but the network's.
func TestCommandWaitsForNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		start := time.Now()
		j := join(p, p.serve(nil), func(s *Session) { s.Pipes, s.Stdin = true, strings.NewReader("") })
		p.shake(ourAgent, "NonInteractiveCommands", nil)
		p.tell(wire.KindExitCode, []byte("EXIT_CODE: 0"))
		p.end("", nil)
		j.want(Closed)
		if took := time.Since(start); took > 10*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}
