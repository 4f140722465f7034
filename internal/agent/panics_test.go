//go:build unix

package agent_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/mux"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/pty"
	"github.com/sallyport/sallyport/internal/wire"
)

// A brittleMachine has one bug, in the next thing that is started on it.
type brittleMachine struct {
	agent.Machine
	bug atomic.Pointer[string]
}

// take reports whether what is started has the bug of one of these names.
func (m *brittleMachine) take(names ...string) string {
	for _, name := range names {
		if bug := m.bug.Load(); bug != nil && *bug == name && m.bug.CompareAndSwap(bug, nil) {
			return name
		}
	}
	return ""
}

func (m *brittleMachine) StartTerminal(c pty.Command) (agent.Terminal, error) {
	if m.take("start a terminal") != "" {
		panic("a bug")
	}
	bug := m.take("read a terminal", "write to a terminal", "resize a terminal", "wait for a terminal")
	t, err := m.Machine.StartTerminal(c)
	return &brittleTerminal{t, bug}, err
}

func (m *brittleMachine) StartPipes(c pty.Command, input, apart bool) (agent.Pipes, error) {
	if m.take("start a command") != "" {
		panic("a bug")
	}
	bug := m.take("read output", "read errors", "write input")
	p, err := m.Machine.StartPipes(c, input, apart)
	switch bug {
	case "read output":
		p.Stdout = brittleFile{}
	case "read errors":
		p.Stderr = brittleFile{}
	case "write input":
		p.Stdin = brittleFile{}
	}
	return p, err
}

func (m *brittleMachine) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	switch m.take("dial", "read a connection", "write to a connection") {
	case "dial":
		panic("a bug")
	case "read a connection":
		return brittleConn{closed: make(chan struct{}), reads: true}, nil
	case "write to a connection":
		return brittleConn{closed: make(chan struct{})}, nil
	}
	return nil, errors.New("there is nothing to dial")
}

type brittleTerminal struct {
	agent.Terminal
	bug string
}

func (t *brittleTerminal) Read(p []byte) (int, error) {
	if t.bug == "read a terminal" {
		panic("a bug")
	}
	return t.Terminal.Read(p)
}

func (t *brittleTerminal) Write(p []byte) (int, error) {
	if t.bug == "write to a terminal" {
		panic("a bug")
	}
	return t.Terminal.Write(p)
}

func (t *brittleTerminal) WriteNow(p []byte) int {
	if t.bug == "write to a terminal" {
		panic("a bug")
	}
	return t.Terminal.WriteNow(p)
}

func (t *brittleTerminal) Resize(cols, rows uint16) error {
	if t.bug == "resize a terminal" {
		panic("a bug")
	}
	return t.Terminal.Resize(cols, rows)
}

func (t *brittleTerminal) Wait() int {
	if t.bug == "wait for a terminal" {
		panic("a bug")
	}
	return t.Terminal.Wait()
}

type brittleFile struct{}

func (brittleFile) Read([]byte) (int, error)  { panic("a bug") }
func (brittleFile) Write([]byte) (int, error) { panic("a bug") }
func (brittleFile) Close() error              { return nil }

type brittleConn struct {
	net.Conn
	closed chan struct{}
	reads  bool
}

func (c brittleConn) Read([]byte) (int, error) {
	if c.reads {
		panic("a bug")
	}
	<-c.closed
	return 0, io.EOF
}
func (c brittleConn) Write([]byte) (int, error) { panic("a bug") }
func (c brittleConn) RemoteAddr() net.Addr      { return &net.TCPAddr{} }
func (c brittleConn) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return nil
}

// A panic in any goroutine of a session ends the session, with a cause. The
// agent, and the shell beside it, go on.
func TestPanicEndsOneSession(t *testing.T) {
	m := start(t)
	machine := &brittleMachine{Machine: agent.RealMachine}
	m.agent = func(a *agent.Agent) { a.Machine = machine }
	m.run()
	beside := m.shell()
	beside.type_("echo be$((0))fore\r")
	beside.expect("be0fore")

	// answer answers the handshake, and leaves its end to come or not: the session
	// may have ended by then.
	answer := func(c *call, takes ...string) {
		c.next()
		c.tell(wire.KindHandshakeResponse, wire.HandshakeResponse{
			ClientVersion: recent, Capabilities: takes,
			ProcessedClientActions: []wire.ProcessedClientAction{{ActionType: wire.ActionSessionType, ActionStatus: wire.ActionSuccess}},
		})
	}
	shell := func() *call {
		s := m.shell()
		return &call{m: m, id: s.id, person: s.person}
	}
	command := func() *call {
		c := m.call("Sallyport-Exec", map[string][]string{"command": {"cat"}})
		answer(c, wire.CapStdin)
		c.person.Stream.Send(t.Context(), wire.KindOutput, []byte("x"))
		return c
	}
	ssh := func() *call {
		c := m.call("AWS-StartSSHSession", map[string][]string{"portNumber": {"22"}})
		answer(c)
		c.person.Stream.Send(t.Context(), wire.KindOutput, []byte("x"))
		return c
	}
	port := func() *call {
		c := m.call("AWS-StartPortForwardingSession", map[string][]string{"portNumber": {"22"}})
		answer(c)
		session, err := mux.Client(&bytesOf{c: c}, mux.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { session.Close() })
		if stream, err := session.OpenStream(); err == nil {
			stream.Write([]byte("x"))
		}
		return c
	}
	tests := []struct {
		bug     string
		session func() *call
	}{
		{"start a terminal", shell},
		{"read a terminal", shell},
		{"write to a terminal", func() *call {
			c := shell()
			c.person.Stream.Send(t.Context(), wire.KindOutput, []byte("x"))
			return c
		}},
		{"resize a terminal", func() *call {
			c := shell()
			c.next() // the shell is there
			c.person.Stream.SendMessage(t.Context(), wire.KindSize, []byte(`{"cols":132,"rows":50}`))
			return c
		}},
		{"wait for a terminal", func() *call {
			c := shell()
			c.person.Stream.Send(t.Context(), wire.KindOutput, []byte("exit\r"))
			return c
		}},
		{"start a command", command},
		{"read output", command},
		{"read errors", command},
		{"write input", command},
		{"dial", ssh},
		{"read a connection", ssh},
		{"write to a connection", ssh},
		{"dial", port},
		{"read a connection", port},
		{"write to a connection", port},
	}
	for _, tt := range tests {
		t.Run(tt.bug, func(t *testing.T) {
			before := panics.Count()
			machine.bug.Store(&tt.bug)
			c := tt.session()
			if closed := c.closed(); !strings.Contains(closed.Output, "an error of its own") {
				t.Errorf("the session ended with %q", closed.Output)
			}
			if panics.Count() == before {
				t.Error("nothing panicked")
			}
			beside.type_("echo a$((0))live\r")
			beside.expect("a0live")
		})
	}
}
