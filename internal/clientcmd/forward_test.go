package clientcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/wire"
)

func TestParseForward(t *testing.T) {
	tests := []struct {
		text string
		want forward
		err  string
	}{
		{"8080:80", forward{port: "8080", to: "80"}, ""},
		{"8080:db:5432", forward{port: "8080", host: "db", to: "5432"}, ""},
		{"8080:localhost:80", forward{port: "8080", to: "80"}, ""},
		{"0:80", forward{port: "0", to: "80"}, ""},
		{"08080:080", forward{port: "8080", to: "80"}, ""},
		{"0.0.0.0:8080:80", forward{bind: "0.0.0.0", port: "8080", to: "80"}, ""},
		{"127.0.0.2:8080:db:5432", forward{bind: "127.0.0.2", port: "8080", host: "db", to: "5432"}, ""},
		{"localhost:8080:db:5432", forward{port: "8080", host: "db", to: "5432"}, ""},
		{"*:8080:db:5432", forward{bind: "*", port: "8080", host: "db", to: "5432"}, ""},
		{":8080:db:5432", forward{bind: "*", port: "8080", host: "db", to: "5432"}, ""},
		{"[::1]:8080:[2001:db8::7]:5432", forward{bind: "::1", port: "8080", host: "2001:db8::7", to: "5432"}, ""},
		{"8080:[2001:db8::7]:5432", forward{port: "8080", host: "2001:db8::7", to: "5432"}, ""},
		{"/run/db.sock:db:5432", forward{socket: "/run/db.sock", host: "db", to: "5432"}, ""},
		{"./db.sock:5432", forward{socket: "./db.sock", to: "5432"}, ""},

		{"", forward{}, "it has 1 parts"},
		{"8080", forward{}, "it has 1 parts"},
		{"/run/db.sock", forward{}, "it has 1 parts"},
		{"a:b:c:d:e", forward{}, "it has 5 parts"},
		{"http:80", forward{}, `"http" is no port`},
		{"8080:http", forward{}, `"http" is no port`},
		{"65536:80", forward{}, `"65536" is no port`},
		{"8080:0", forward{}, `"0" is no port`},
		{"8080:+80", forward{}, `"+80" is no port`},
		{"8080:db:", forward{}, `"" is no port`},
		{"8080::80", forward{}, `"" is no host`},
		{"8080:d b:80", forward{}, `"d b" is no host`},
		{"[::1:8080:80", forward{}, "a bracket is open"},
		{"[::1]8080:80", forward{}, "a bracket is open"},
		{"[here]:8080:80", forward{}, `"here" is no address`},
	}
	for _, tt := range tests {
		got, err := parseForward(tt.text)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "port:hostport") {
				t.Errorf("%q: %+v, %v", tt.text, got, err)
			}
			continue
		}
		tt.want.text = tt.text
		if err != nil || fmt.Sprint(*got) != fmt.Sprint(tt.want) {
			t.Errorf("%q: %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
}

func FuzzParseForward(f *testing.F) {
	for _, s := range []string{"8080:80", "[::1]:8080:[::2]:80", "./a:b:1", ":::", "[", "]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseForward(text)
		if err == nil && (got.to == "" || (got.socket == "") == (got.port == "")) {
			t.Fatalf("%q: %+v", text, got)
		}
	})
}

// ask connects, and returns what it is told.
func ask(t *testing.T, network, address string) string {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// began runs a command that goes on, and returns once stderr has a line with
// each text.
func began(t *testing.T, args []string, stdin io.Reader, texts ...string) (stderr *buffer, stop context.CancelFunc, done chan error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	stderr, done = new(buffer), make(chan error, 1)
	var c *cobra.Command
	for _, each := range Commands() {
		if each.Name() == args[0] {
			c = each
		}
	}
	c.SetArgs(args[1:])
	c.SetIn(stdin)
	c.SetOut(io.Discard)
	c.SetErr(stderr)
	go func() { done <- c.ExecuteContext(ctx) }()
	deadline, tick := time.After(time.Minute), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, text := range texts {
		for !strings.Contains(stderr.String(), text) {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("stderr %q has no %q", stderr, text)
			}
		}
	}
	return stderr, stop, done
}

// port is the port that stderr says leads to a place.
func port(t *testing.T, stderr *buffer, to string) string {
	t.Helper()
	for line := range strings.Lines(stderr.String()) {
		if from, ok := strings.CutSuffix(line, " to "+to+"\n"); ok {
			return strings.TrimPrefix(from, "sallyport: ")
		}
	}
	t.Fatalf("nothing leads to %s: %q", to, stderr)
	return ""
}

func TestForwardBesideAShell(t *testing.T) {
	p := start(t)
	p.shown, p.closed.ExitStatus = "$ ", new(int)
	web, db := answering(t, "web"), answering(t, "db")
	props := wire.PortProperties{PortNumber: "80", Type: wire.LocalPortForwarding}
	p.plays[client.DocumentPort] = func(e *end) { e.shake("Port", props, ours); e.forward(web, ours) }
	p.plays[client.DocumentPortRemote] = func(e *end) { e.shake("Port", props, nil); e.forward(db, nil) }
	in, keyboard := io.Pipe()
	defer in.Close()
	sock := filepath.Join(t.TempDir(), "s")
	stderr, _, done := began(t, []string{"connect", "-L", "0:80", "-L", "0:db:5432", "-L", sock + ":db:5432", "mi-0123456789abcdef0"}, in, sock+" to db:5432\n")
	if got := ask(t, "tcp", port(t, stderr, "port 80 of the node")); got != "web" {
		t.Errorf("the node's port says %q", got)
	}
	if got := ask(t, "tcp", port(t, stderr, "db:5432")); got != "db" {
		t.Errorf("the other host's says %q", got)
	}
	if got := ask(t, "unix", sock); got != "db" {
		t.Errorf("and by a socket %q", got)
	}
	keyboard.Write([]byte("exit\n"))
	keyboard.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if p.count["StartSession"] != 4 || p.count["TerminateSession"] != 0 || strings.Count(stderr.String(), "\n") != 4 {
		t.Errorf("calls %v, stderr %q", p.count, stderr)
	}
	if _, err := os.Stat(sock); err == nil {
		t.Error("the socket is left behind")
	}
}

func TestForwardAlone(t *testing.T) {
	p := start(t)
	web := answering(t, "web")
	p.plays[client.DocumentPortRemote] = func(e *end) {
		e.shake("Port", wire.PortProperties{PortNumber: "80", Type: wire.LocalPortForwarding}, nil)
		e.forward(web, nil)
	}
	stderr, stop, done := began(t, []string{"connect", "-N", "--reason", "why", "-L", "127.0.0.1:0:web:80", "mi-0123456789abcdef0"}, strings.NewReader(""), "to web:80\n")
	if got := ask(t, "tcp", port(t, stderr, "web:80")); got != "web" {
		t.Errorf("it says %q", got)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_, local, _ := net.SplitHostPort(port(t, stderr, "web:80"))
	var asked client.StartSession
	json.Unmarshal([]byte(p.body("StartSession")), &asked)
	if asked.Reason != "why" || fmt.Sprint(asked.Parameters) != "map[host:[web] localPortNumber:["+local+"] portNumber:[80]]" || p.count["StartSession"] != 1 {
		t.Errorf("asked %+v, %d times", asked, p.count["StartSession"])
	}
}

// A session that cannot be ended is said, once, and is the exit status.
func TestSessionThatCannotBeEnded(t *testing.T) {
	var shaken chan struct{}
	port80 := func(e *end) {
		e.version = "2.3.700.0" // which has to be told by the control plane
		e.shake("Port", wire.PortProperties{PortNumber: "80", Type: wire.LocalPortForwarding}, nil)
		close(shaken)
		io.Copy(io.Discard, e)
	}
	said := ": the session could not be ended, and may still be on: The server is stopping.\n"
	refused := `{"__type":"ServiceUnavailableException","Message":"The server is stopping."}`
	t.Run("alone", func(t *testing.T) {
		p := start(t)
		p.plays[client.DocumentPort], shaken = port80, make(chan struct{})
		p.answers["TerminateSession"] = refused
		stderr, stop, done := began(t, []string{"connect", "-N", "-L", "0:80", "mi-0123456789abcdef0"}, strings.NewReader(""), "port 80 of the node\n")
		<-shaken
		stop()
		if err := <-done; err != Exit(255) || strings.Count(stderr.String(), said) != 1 || !strings.HasSuffix(stderr.String(), said) {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
		if p.count["TerminateSession"] < 3 {
			t.Errorf("tried %d times", p.count["TerminateSession"])
		}
	})
	t.Run("beside a shell that ends well", func(t *testing.T) {
		p := start(t)
		p.shown, p.closed.ExitStatus = "$ ", new(int)
		p.plays[client.DocumentPort], shaken = port80, make(chan struct{})
		p.answers["TerminateSession"] = refused
		in, keyboard := io.Pipe()
		defer in.Close()
		stderr, _, done := began(t, []string{"connect", "-L", "0:80", "mi-0123456789abcdef0"}, in, "port 80 of the node\n")
		<-shaken
		keyboard.Write([]byte("exit\n"))
		keyboard.Close()
		if err := <-done; err != Exit(255) || strings.Count(stderr.String(), said) != 1 {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("refused for good", func(t *testing.T) {
		p := start(t)
		p.plays[client.DocumentPort], shaken = port80, make(chan struct{})
		p.answers["TerminateSession"] = `{"__type":"AccessDeniedException","Message":"You may not."}`
		stderr, stop, done := began(t, []string{"connect", "-N", "-L", "0:80", "mi-0123456789abcdef0"}, strings.NewReader(""), "port 80 of the node\n")
		<-shaken
		stop()
		if err := <-done; err != Exit(255) || !strings.HasSuffix(stderr.String(), "may still be on: You may not.\n") || p.count["TerminateSession"] != 1 {
			t.Errorf("err %v, stderr %q, tried %d times", err, stderr, p.count["TerminateSession"])
		}
	})
}

func TestForwardGoesWrong(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, taken, _ := net.SplitHostPort(l.Addr().String())

	t.Run("a port that is taken, before there is any session", func(t *testing.T) {
		p := start(t)
		_, stderr, err := run(t, "", "connect", "-L", "0:80", "-L", taken+":80", "mi-0123456789abcdef0")
		want := "sallyport: -L " + taken + ":80: 127.0.0.1:" + taken + " is taken by another program; end that, or choose another\n"
		if err != Exit(255) || stderr != want || len(p.count) != 0 {
			t.Errorf("err %v, stderr %q, calls %v", err, stderr, p.count)
		}
	})
	t.Run("refused, beside a shell", func(t *testing.T) {
		p := start(t)
		p.shown, p.closed.ExitStatus = "$ ", new(int)
		p.plays[""] = nil
		p.plays[client.DocumentPort] = func(e *end) {
			e.shake("Standard_Stream", nil, nil)
		}
		in, keyboard := io.Pipe()
		defer in.Close()
		stderr, _, done := began(t, []string{"connect", "-L", "0:80", "mi-0123456789abcdef0"}, in, "sallyport: -L 0:80: this session does not forward a port\n")
		keyboard.Write([]byte("exit\n"))
		keyboard.Close()
		if err := <-done; err != nil {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("refused, alone", func(t *testing.T) {
		p := start(t)
		p.answers["StartSession"] = `{"__type":"AccessDeniedException","Message":"You may not."}`
		_, stderr, err := run(t, "", "connect", "-N", "-L", "0:80", "mi-0123456789abcdef0")
		if err != Exit(255) || !strings.HasSuffix(stderr, "sallyport: -L 0:80: You may not.\n") {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("ended by somebody else", func(t *testing.T) {
		p := start(t)
		p.plays[client.DocumentPort] = func(e *end) {
			e.shake("Port", wire.PortProperties{PortNumber: "80", Type: wire.LocalPortForwarding}, nil)
			e.close(wire.ChannelClosed{Output: "Idle."})
		}
		_, stderr, err := run(t, "", "connect", "-N", "-L", "0:80", "mi-0123456789abcdef0")
		if err != Exit(255) || !strings.HasSuffix(stderr, "sallyport: -L 0:80: session "+session+" ended: Idle.\n") {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("mistyped", func(t *testing.T) {
		for _, args := range [][]string{
			{"connect", "-L", "80", "mi-0123456789abcdef0"},
			{"connect", "-N", "mi-0123456789abcdef0"},
			{"connect", "--parameter", "x", "mi-0123456789abcdef0"},
		} {
			p := start(t)
			if _, _, err := run(t, "", args...); err == nil || len(p.count) != 0 {
				t.Errorf("%q: %v, calls %v", args, err, p.count)
			}
		}
	})
}

func TestParameters(t *testing.T) {
	p := start(t)
	p.shown, p.closed.ExitStatus = "$ ", new(int)
	if _, stderr, err := run(t, "", "connect", "--document", "D", "--parameter", "command=top -d=1", "--parameter", "x=1", "--parameter", "x=2", "mi-0123456789abcdef0"); err != nil {
		t.Fatal(err, stderr)
	}
	if got := p.body("StartSession"); got != `{"Target":"mi-0123456789abcdef0","DocumentName":"D","Parameters":{"command":["top -d=1"],"x":["1","2"]}}` {
		t.Errorf("asked %s", got)
	}
}
