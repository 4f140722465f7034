//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/xtaci/smux"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/mux"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/wire"
)

// A call is a person in a session that is no plain shell.
type call struct {
	m      *machine
	id     string
	person *servertest.Person
	offers []string // what the agent offered
}

// call starts a session by a document and joins it.
func (m *machine) call(document string, parameters map[string][]string) *call {
	m.t.Helper()
	out, err := m.client.StartSession(m.t.Context(), &ssm.StartSessionInput{Target: aws.String(m.node.String()), DocumentName: &document, Parameters: parameters})
	if err != nil {
		m.t.Fatal(err)
	}
	p, err := m.Join(*out.SessionId, *out.TokenValue, "client", m.creds)
	if err != nil {
		m.t.Fatal(err)
	}
	return &call{m: m, id: *out.SessionId, person: p}
}

func (c *call) next() (wire.Kind, []byte) {
	c.m.t.Helper()
	ctx, cancel := context.WithTimeout(c.m.t.Context(), 20*time.Second)
	defer cancel()
	m, err := c.person.Stream.Receive(ctx)
	if err != nil {
		c.m.t.Fatalf("receive: %v", err)
	}
	return m.Kind, bytes.Clone(m.Payload)
}

// shake answers the agent's handshake as a client of a version that takes what
// is named, and returns the properties it was told.
func (c *call) shake(version string, status wire.ActionStatus, takes ...string) json.RawMessage {
	c.m.t.Helper()
	kind, payload := c.next()
	var req wire.HandshakeRequest
	if err := json.Unmarshal(payload, &req); kind != wire.KindHandshakeRequest || err != nil || len(req.RequestedClientActions) != 1 {
		c.m.t.Fatalf("%v %s, %v", kind, payload, err)
	}
	c.offers = req.Capabilities
	var asked wire.SessionTypeRequest
	if err := json.Unmarshal(req.RequestedClientActions[0].ActionParameters, &asked); err != nil {
		c.m.t.Fatal(err)
	}
	c.tell(wire.KindHandshakeResponse, wire.HandshakeResponse{
		ClientVersion: version, Capabilities: takes,
		ProcessedClientActions: []wire.ProcessedClientAction{{ActionType: wire.ActionSessionType, ActionStatus: status, ActionResult: json.RawMessage("null"), Error: "not today"}},
	})
	if status == wire.ActionSuccess {
		if kind, payload := c.next(); kind != wire.KindHandshakeComplete {
			c.m.t.Fatalf("%v %s", kind, payload)
		}
	}
	return asked.Properties
}

func (c *call) tell(kind wire.Kind, v any) {
	c.m.t.Helper()
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	if err := c.person.Stream.SendMessage(c.m.t.Context(), kind, b); err != nil {
		c.m.t.Fatal(err)
	}
}

// until collects what comes until the exit code does.
func (c *call) until() (out, errs string, exit string) {
	c.m.t.Helper()
	for {
		switch kind, payload := c.next(); kind {
		case wire.KindOutput:
			out += string(payload)
		case wire.KindStdErr:
			errs += string(payload)
		case wire.KindExitCode:
			return out, errs, string(payload)
		}
	}
}

func (c *call) closed() wire.ChannelClosed {
	c.m.t.Helper()
	select {
	case closed := <-c.person.Closed:
		return closed
	case <-time.After(20 * time.Second):
		c.m.t.Fatal("the session does not end")
		panic("unreachable")
	}
}

const recent = "1.2.707.0"

func TestCommand(t *testing.T) {
	m := start(t)
	m.run()
	run := func(command string) *call {
		return m.call("Sallyport-Exec", map[string][]string{"command": {command}})
	}
	t.Run("output, errors and exit code apart", func(t *testing.T) {
		c := run(`sh -c 'echo out; echo "an error" >&2; exit 7'`)
		c.shake(recent, wire.ActionSuccess)
		if !slices.Contains(c.offers, wire.CapStdin) {
			t.Errorf("offered %v", c.offers)
		}
		if out, errs, exit := c.until(); out != "out\n" || errs != "an error\n" || exit != "EXIT_CODE: 7" {
			t.Errorf("%q, %q, %q", out, errs, exit)
		}
		c.closed()
	})
	t.Run("words are split, and no shell reads them", func(t *testing.T) {
		c := run(`printf '%s|' 'a b' "c$HOME" d\ e '#' ';' ''`)
		c.shake(recent, wire.ActionSuccess)
		if out, _, _ := c.until(); out != `a b|c$HOME|d e|#|;||` {
			t.Errorf("%q", out)
		}
	})
	t.Run("input between ends of ours", func(t *testing.T) {
		c := run("cat")
		c.shake(recent, wire.ActionSuccess, wire.CapStdin)
		want := strings.Repeat("a\x03b\x1c\n", 100_000)
		go func() {
			c.person.Stream.Send(t.Context(), wire.KindOutput, []byte(want))
			c.person.Stream.SendMessage(t.Context(), wire.KindFlag, wire.FlagEndOfInput.Payload())
		}()
		if out, _, exit := c.until(); out != want || exit != "EXIT_CODE: 0" {
			t.Errorf("%d bytes of %d, %q", len(out), len(want), exit)
		}
	})
	t.Run("a stock client's Ctrl-C", func(t *testing.T) {
		c := run(`sh -c 'trap "echo caught; exit 3" INT; echo ready; while :; do sleep 0.05; done'`)
		c.shake(recent, wire.ActionSuccess)
		if _, got := c.next(); string(got) != "ready\n" {
			t.Fatalf("%q", got)
		}
		c.tell(wire.KindOutput, []byte("\x03"))
		if out, _, exit := c.until(); out != "caught\n" || exit != "EXIT_CODE: 3" {
			t.Errorf("%q, %q", out, exit)
		}
	})
	t.Run("our client's signals", func(t *testing.T) {
		c := run(`sh -c 'trap "echo int" INT; trap "echo quit; exit 4" QUIT; echo ready; while :; do sleep 0.05; done'`)
		c.shake(recent, wire.ActionSuccess, wire.CapStdin)
		c.next()
		c.tell(wire.KindFlag, wire.FlagInterrupt.Payload())
		if _, got := c.next(); string(got) != "int\n" {
			t.Fatalf("%q", got)
		}
		c.tell(wire.KindFlag, wire.FlagQuit.Payload())
		if out, _, exit := c.until(); out != "quit\n" || exit != "EXIT_CODE: 4" {
			t.Errorf("%q, %q", out, exit)
		}
	})
	for _, tt := range []struct{ name, command, errs, exit string }{
		{"a program that is not there", "no-such-program", `there is no program "no-such-program"`, "127"},
		{"a path that is not there", "/no/such/program", "start /no/such/program: no such file or directory", "127"},
		{"a directory", "/tmp", "start /tmp: is a directory", "126"},
		{"a file that is no program", "/etc/passwd", "start /etc/passwd: permission denied", "126"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := run(tt.command)
			c.shake(recent, wire.ActionSuccess)
			want := "Error occurred starting the command: " + tt.errs + "\n"
			if _, errs, exit := c.until(); errs != want || exit != "EXIT_CODE: "+tt.exit {
				t.Errorf("%q, %q", errs, exit)
			}
			c.closed()

			// A document whose errors are not apart has no place for them but the
			// end's cause.
			c = m.call("AWS-StartNonInteractiveCommand", map[string][]string{"command": {tt.command}})
			c.shake(recent, wire.ActionSuccess)
			if closed, want := c.closed(), "Unable to start command: "+tt.errs; closed.Output != want {
				t.Errorf("the session ended with %q, want %q", closed.Output, want)
			}
		})
	}
	t.Run("a program whose name is long", func(t *testing.T) {
		c := m.call("AWS-StartNonInteractiveCommand", map[string][]string{"command": {"/" + strings.Repeat("<", 60_000)}})
		c.shake(recent, wire.ActionSuccess)
		if closed := c.closed(); !strings.HasPrefix(closed.Output, "Unable to start command: start /<<<") {
			t.Errorf("the session ended with %q", sallyport.Clip(closed.Output, 100))
		}
	})
	t.Run("something left in the background does not hold up the end", func(t *testing.T) {
		c := run(`sh -c 'sleep 60 & echo done'`)
		c.shake(recent, wire.ActionSuccess)
		begun := time.Now()
		if out, _, exit := c.until(); out != "done\n" || exit != "EXIT_CODE: 0" || time.Since(begun) > 10*time.Second {
			t.Errorf("%q, %q after %v", out, exit, time.Since(begun))
		}
	})
	t.Run("it ends with its session", func(t *testing.T) {
		c := run(`sh -c 'echo $$; exec sleep 600'`)
		c.shake(recent, wire.ActionSuccess)
		_, text := c.next()
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.client.TerminateSession(t.Context(), &ssm.TerminateSessionInput{SessionId: &c.id}); err != nil {
			t.Fatal(err)
		}
		m.eventually("the command is gone", func() bool { return !running(pid) })
	})
	t.Run("a client that cannot", func(t *testing.T) {
		c := run("true")
		c.shake(recent, wire.ActionUnsupported)
		if closed := c.closed(); !strings.Contains(closed.Output, "SessionType failed on client with status 3 error: not today") {
			t.Errorf("%q", closed.Output)
		}
	})
	t.Run("output as it comes, where the document keeps nothing apart", func(t *testing.T) {
		c := m.call("AWS-StartNonInteractiveCommand", map[string][]string{"command": {`sh -c 'echo one; echo two >&2; exit 5'`}})
		c.shake(recent, wire.ActionSuccess)
		var out string
		for strings.Count(out, "\n") < 2 {
			_, b := c.next()
			out += string(b)
		}
		if closed := c.closed(); out != "one\ntwo\n" || closed.ExitStatus != nil && *closed.ExitStatus != 5 {
			t.Errorf("%q, %+v", out, closed)
		}
	})
}

// A command on a terminal has no handshake.
func TestInteractiveCommand(t *testing.T) {
	m := start(t)
	m.run()
	c := m.call("AWS-StartInteractiveCommand", map[string][]string{"command": {"test -t 0 && echo on-a-terminal; read x; echo got-$x"}})
	var out string
	for !strings.Contains(out, "on-a-terminal") {
		_, b := c.next()
		out += string(b)
	}
	c.tell(wire.KindOutput, []byte("word\r"))
	for !strings.Contains(out, "got-word") {
		_, b := c.next()
		out += string(b)
	}
	if closed := c.closed(); closed.Output != "" {
		t.Errorf("%+v", closed)
	}
}

// listen has every connection handled by f, and returns the port.
func listen(t *testing.T, f func(net.Conn)) string {
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
				f(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func echo(c net.Conn) { io.Copy(c, c) }

// bytesOf is the person's stream as smux wants it.
type bytesOf struct {
	c    *call
	rest []byte
	mu   sync.Mutex
	flag []wire.Flag
}

func (b *bytesOf) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		m, err := b.c.person.Stream.Receive(b.c.m.t.Context())
		if err != nil {
			return 0, err
		}
		if m.Kind == wire.KindFlag {
			f, _ := wire.ReadFlag(m.Payload)
			b.mu.Lock()
			b.flag = append(b.flag, f)
			b.mu.Unlock()
			continue
		}
		b.rest = bytes.Clone(m.Payload)
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *bytesOf) Write(p []byte) (int, error) {
	return len(p), b.c.person.Stream.Send(b.c.m.t.Context(), wire.KindOutput, p)
}

func (b *bytesOf) Close() error { return nil }

// forward begins a port session that is multiplexed.
func (m *machine) forward(port, version string, o mux.Options) (*call, *smux.Session, *bytesOf) {
	m.t.Helper()
	c := m.call("AWS-StartPortForwardingSession", map[string][]string{"portNumber": {port}})
	var takes []string
	if o.Own {
		takes = []string{wire.CapMux2}
	}
	properties := c.shake(version, wire.ActionSuccess, takes...)
	var p wire.PortProperties
	if err := json.Unmarshal(properties, &p); err != nil || p.PortNumber != port || p.Type != wire.LocalPortForwarding || !slices.Contains(c.offers, wire.CapMux2) {
		m.t.Errorf("told %s, offered %v; %v", properties, c.offers, err)
	}
	b := &bytesOf{c: c}
	session, err := mux.Client(b, o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		c.person.Stream.SendMessage(context.Background(), wire.KindFlag, wire.FlagTerminateSession.Payload())
		c.closed()
		session.Close()
	})
	return c, session, b
}

func TestForward(t *testing.T) {
	m := start(t)
	m.run()
	for _, tt := range []struct {
		name, version string
		o             mux.Options
	}{
		{"a stock client", recent, mux.Options{}},
		{"a stock client that keeps it alive", "1.2.331.0", mux.Options{KeepAlive: true}},
		{"our client", recent, mux.Options{Own: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, session, _ := m.forward(listen(t, echo), tt.version, tt.o)
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() {
					stream, err := session.OpenStream()
					if err != nil {
						t.Error(err)
						return
					}
					want := bytes.Repeat([]byte{byte('a' + i)}, 300_000)
					go stream.Write(want)
					got := make([]byte, len(want))
					if _, err := io.ReadFull(stream, got); err != nil || !bytes.Equal(got, want) {
						t.Errorf("connection %d: %v", i, err)
					}
					stream.Close()
				})
			}
			all.Wait()
		})
	}
	t.Run("a port nobody listens on", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		_, session, b := m.forward(port, recent, mux.Options{})
		stream, err := session.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := stream.Read(make([]byte, 1)); err == nil {
			t.Errorf("read %d bytes", n)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if !slices.Equal(b.flag, []wire.Flag{wire.FlagConnectToPortError}) {
			t.Errorf("flags %v", b.flag)
		}
	})
}

// Clients before 1.1.70 have one connection at a time, made anew for the next.
func TestForwardOneAtATime(t *testing.T) {
	m := start(t)
	m.run()
	var mu sync.Mutex
	accepted := 0
	port := listen(t, func(c net.Conn) {
		mu.Lock()
		accepted++
		n := accepted
		mu.Unlock()
		fmt.Fprintf(c, "hello %d\n", n)
		b := make([]byte, 4)
		io.ReadFull(c, b)
		c.Write(b)
		if n == 2 { // and hangs up by itself
			return
		}
		io.Copy(io.Discard, c)
	})
	c := m.call("AWS-StartPortForwardingSession", map[string][]string{"portNumber": {port}})
	c.shake("1.1.69.0", wire.ActionSuccess)
	hear := func(want string) {
		t.Helper()
		var got string
		for len(got) < len(want) {
			_, b := c.next()
			got += string(b)
		}
		if got != want {
			t.Fatalf("heard %q, want %q", got, want)
		}
	}
	hear("hello 1\n") // before anything is sent: some servers speak first
	c.tell(wire.KindOutput, []byte("ping"))
	hear("ping")
	c.tell(wire.KindFlag, wire.FlagDisconnectToPort.Payload())
	c.tell(wire.KindOutput, []byte("pong"))
	hear("hello 2\npong")
	m.eventually("a third connection", func() bool {
		c.tell(wire.KindOutput, []byte("peng"))
		mu.Lock()
		defer mu.Unlock()
		return accepted == 3
	})
	hear("hello 3\npeng")
	c.tell(wire.KindFlag, wire.FlagTerminateSession.Payload())
	if closed := c.closed(); closed.Output != "" {
		t.Errorf("%q", closed.Output)
	}
}

// SSH's session ends when the server hangs up, and the client has all it said.
func TestSSHSession(t *testing.T) {
	m := start(t)
	m.run()
	last := bytes.Repeat([]byte("last words "), 50_000)
	port := listen(t, func(c net.Conn) {
		io.WriteString(c, "SSH-2.0-test\r\n")
		io.ReadFull(c, make([]byte, 4))
		c.Write(last)
	})
	c := m.call("AWS-StartSSHSession", map[string][]string{"portNumber": {port}})
	if c.shake(recent, wire.ActionSuccess); len(c.offers) != 0 {
		t.Errorf("offered %v", c.offers)
	}
	if _, b := c.next(); string(b) != "SSH-2.0-test\r\n" {
		t.Fatalf("%q", b)
	}
	c.tell(wire.KindOutput, []byte("bye\n"))
	var got []byte
	for len(got) < len(last) {
		_, b := c.next()
		got = append(got, b...)
	}
	if closed := c.closed(); !bytes.Equal(got, last) || closed.Output != "" {
		t.Errorf("%d bytes of %d, %q", len(got), len(last), closed.Output)
	}
}

func TestForbiddenDestinations(t *testing.T) {
	m := start(t)
	m.run()
	for _, host := range []string{"169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.16689662", "::ffff:169.254.169.254", "fe80::1%lo", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "100.100.100.200"} {
		t.Run(host, func(t *testing.T) {
			c := m.call("AWS-StartPortForwardingSessionToRemoteHost", map[string][]string{"host": {host}, "portNumber": {"80"}})
			if closed := c.closed(); closed.Output != "Forwarding to IP address "+host+" is forbidden." {
				t.Errorf("%q", closed.Output)
			}
		})
	}
	m.eventually("none of them is left", func() bool {
		list, err := m.client.DescribeSessions(t.Context(), &ssm.DescribeSessionsInput{State: types.SessionStateActive})
		return err == nil && len(list.Sessions) == 0
	})
}

// A session may have half of the connections that there may be, and what is one
// too many is refused; when one ends there is room again.
func TestConnectionLimits(t *testing.T) {
	m := start(t)
	m.agent = func(a *agent.Agent) { a.MaxConnections = 8 }
	m.run()
	port := listen(t, echo)
	_, first, b := m.forward(port, recent, mux.Options{})
	works := func(session *smux.Session) *smux.Stream {
		t.Helper()
		stream, err := session.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		stream.SetDeadline(time.Now().Add(30 * time.Second))
		got := make([]byte, 1)
		if _, err := stream.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, got); err != nil {
			return nil
		}
		return stream
	}
	var streams []*smux.Stream
	for i := range 4 {
		stream := works(first)
		if stream == nil {
			t.Fatalf("connection %d was refused", i+1)
		}
		streams = append(streams, stream)
	}
	if works(first) != nil {
		t.Error("a session has more than half of all connections")
	}
	if !slices.Equal(b.flag, []wire.Flag{wire.FlagConnectToPortError}) {
		t.Errorf("told %v", b.flag)
	}
	_, second, _ := m.forward(port, recent, mux.Options{})
	if works(second) == nil {
		t.Error("another session has none")
	}
	streams[0].Close()
	m.eventually("there is room again", func() bool { return works(first) != nil })
}
