//go:build linux && interop

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/sallyport/sallyport/internal/servertest"
)

// within is how long all of it may take. It is kept here, outside: what hangs
// inside may be the test itself.
const within = 30 * time.Minute

// TestMain goes where there is no network but this machine's own: AWS's programs
// are told of no other endpoint than ours, and could reach none. What is started
// there has process numbers of its own, and is killed when the test ends.
// isOurs reports whether a variable is one of the tests' own, which the programs
// would say they do not know.
func isOurs(pair string) bool { return strings.HasPrefix(pair, "SALLYPORT_") }

func TestMain(m *testing.M) {
	if os.Getenv("SALLYPORT_INTEROP") == "alone" {
		os.Exit(m.Run())
	}
	self, err := os.Executable()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		c := exec.CommandContext(ctx, "unshare", append([]string{"--net", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", `ip link set lo up && exec "$0" "$@"`, self}, os.Args[1:]...)...)
		c.Env = append(os.Environ(), "SALLYPORT_INTEROP=alone")
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		c.WaitDelay = 10 * time.Second
		err = c.Run()
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "interop: it took longer than", within)
			os.Exit(1)
		}
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop: it needs root, for a network namespace:", err)
		os.Exit(1)
	}
}

// TestInterop runs every kind of session with {our agent, amazon-ssm-agent} and
// {our client, our drop-in, session-manager-plugin}.
func TestInterop(t *testing.T) {
	w, agents, clients := everything(t)
	each := func(t *testing.T, kinds []kind, before func(*testing.T)) {
		for agent, node := range agents {
			for name, c := range clients {
				for _, kind := range kinds {
					t.Run(agent+" with "+name+"/"+kind.name, func(t *testing.T) {
						before(t)
						kind.try(t, c, node)
					})
				}
			}
		}
	}
	online := func(*testing.T) { // a network that was cut takes agents a while
		w.online(ourAgent)
		w.online(stockAgent)
	}
	each(t, kinds, online)
	t.Run("in a minute", func(t *testing.T) {
		online(t)
		each(t, lateKinds, (*testing.T).Parallel)
	})
}

// Names of agents, and of their nodes.
const (
	ourAgent   = "our-agent"
	stockAgent = "amazon-ssm-agent"
)

// everything returns a server, the agents' nodes by the agents' names, and the
// clients. The package is built by make interop alone, and what is missing then is
// a failure.
func everything(t *testing.T) (w *world, agents map[string]string, clients map[string]client) {
	t.Helper()
	plugin, agentDir := os.Getenv("SALLYPORT_STOCK_PLUGIN"), os.Getenv("SALLYPORT_STOCK_AGENT_DIR")
	if plugin == "" || agentDir == "" {
		t.Fatal("SALLYPORT_STOCK_PLUGIN and SALLYPORT_STOCK_AGENT_DIR say where AWS's programs are; set both")
	}
	w = newWorld(t)
	version, err := exec.Command(plugin, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("session-manager-plugin %s", bytes.TrimSpace(version))

	if os.Geteuid() != 0 {
		t.Fatal("agents need root, and a mount namespace of their own")
	}
	if out, err := exec.Command("ip", "-brief", "link").Output(); err != nil || strings.Count(string(out), "\n") != 1 {
		t.Fatalf("there is more network here than loopback: %s%v", out, err)
	}
	w.sshd()
	agents = map[string]string{
		ourAgent:   w.agent(ourAgent, runOurAgent, "BIN="+w.bin, "STATE="+filepath.Join(w.dir, "a")),
		stockAgent: w.agent(stockAgent, runStockAgent, "DIR="+agentDir),
	}
	stock := filepath.Join(t.TempDir(), "stock")
	if err := os.Mkdir(stock, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(plugin, filepath.Join(stock, "session-manager-plugin")); err != nil {
		t.Fatal(err)
	}
	clients = map[string]client{
		"our client":             ours{w},
		"our drop-in":            cli{w, w.bin},
		"session-manager-plugin": cli{w, stock},
	}
	w.versions()
	w.documents()
	return w, agents, clients
}

// A client is a person's program.
type client interface {
	// shell is a shell on a terminal, by a document; "" is the preferences.
	shell(node, document string) *exec.Cmd

	// command is a command, on a terminal or without one.
	command(node, command string, terminal bool) *exec.Cmd

	// ssh is one connection to a port over standard input and output.
	ssh(node, port string) *exec.Cmd

	// forward forwards a local port, and prints which, as the group of a pattern.
	forward(node, host, port string) (c *exec.Cmd, says string)
}

type ours struct{ w *world }

func (o ours) sallyport(args ...string) *exec.Cmd { return o.w.command(o.w.bin, "sallyport", args...) }

func (o ours) shell(node, document string) *exec.Cmd {
	if document == "" {
		return o.sallyport("connect", node)
	}
	return o.sallyport("connect", "--document", document, node)
}

func (o ours) command(node, command string, terminal bool) *exec.Cmd {
	if terminal {
		return o.sallyport("connect", "--document", "AWS-StartInteractiveCommand", "--parameter", "command="+command, node)
	}
	return o.sallyport("exec", node, "--", "sh", "-c", command)
}

func (o ours) ssh(node, port string) *exec.Cmd { return o.sallyport("ssh-proxy", node, port) }

func (o ours) forward(node, host, port string) (*exec.Cmd, string) {
	if host != "" {
		port = host + ":" + port
	}
	return o.sallyport("connect", "-N", "-L", "0:"+port, node), `127\.0\.0\.1:(\d+) to `
}

// A cli is the aws CLI with a plugin of its own first in its PATH. It is told
// the endpoint, so that any version does.
type cli struct {
	w         *world
	pluginDir string
}

func (c cli) start(node string, args ...string) *exec.Cmd {
	aws, err := exec.LookPath("aws")
	if err != nil {
		c.w.t.Fatal(err)
	}
	cmd := exec.Command(aws, append([]string{"ssm", "start-session", "--target", node, "--endpoint-url", c.w.endpoint}, args...)...)
	cmd.Env = append(c.w.env, "PATH="+c.pluginDir+":"+os.Getenv("PATH"))
	return cmd
}

func (c cli) document(node, document string, parameters map[string]string) *exec.Cmd {
	lists := map[string][]string{}
	for name, value := range parameters {
		lists[name] = []string{value}
	}
	b, err := json.Marshal(lists)
	if err != nil {
		c.w.t.Fatal(err)
	}
	return c.start(node, "--document-name", document, "--parameters", string(b))
}

func (c cli) shell(node, document string) *exec.Cmd {
	if document == "" {
		return c.start(node)
	}
	return c.start(node, "--document-name", document)
}

func (c cli) command(node, command string, terminal bool) *exec.Cmd {
	if terminal {
		return c.document(node, "AWS-StartInteractiveCommand", map[string]string{"command": command})
	}
	return c.document(node, "Sallyport-Exec", map[string]string{"command": "sh -c '" + command + "'"})
}

func (c cli) ssh(node, port string) *exec.Cmd {
	return c.document(node, "AWS-StartSSHSession", map[string]string{"portNumber": port})
}

func (c cli) forward(node, host, port string) (*exec.Cmd, string) {
	const says = `Port (\d+) opened for sessionId`
	if host == "" {
		return c.document(node, "AWS-StartPortForwardingSession", map[string]string{"portNumber": port, "localPortNumber": "0"}), says
	}
	return c.document(node, "AWS-StartPortForwardingSessionToRemoteHost", map[string]string{"host": host, "portNumber": port, "localPortNumber": "0"}), says
}

// A kind is what a session can be, or what can happen to one.
type kind struct {
	name string
	try  func(t *testing.T, c client, node string)
}

var kinds = []kind{
	{"shell", func(t *testing.T, c client, node string) { firstSession(t, c.shell(node, "")) }},
	{"Run As", func(t *testing.T, c client, node string) {
		shown := open(t, c.shell(node, "Guest"))
		shown.expect(prompt)
		shown.types("echo $(whoami) in $PWD with $(id -Gn), tt-$((1+1))-y $(tty)\r")
		shown.expect(`guest in /\S+ with guest users, tt-2-y /dev/pts/\d+`)
		shown.types("exit\r")
		shown.leaves()
		shown = open(t, c.shell(node, "Nobody"))
		shown.expect(`(?i)no-such-user`) // and never as another user
	}},
	{"encrypted shell", func(t *testing.T, c client, node string) {
		shown := open(t, c.shell(node, "Encrypted"))
		if isStock(c) {
			// It asks the region's own KMS, also if it is given another endpoint.
			shown.expect(`Error calling KMS GenerateDataKey API(?s:.*)https://kms\.home-1\.amazonaws\.com`)
			return
		}
		shown.expect(`This session is encrypted using AWS KMS`)
		shown.expect(prompt)
		manyLines(shown)
		shown.types("exit\r")
		shown.leaves()
	}},
	{"command on a terminal", func(t *testing.T, c client, node string) {
		f, err := pty.Start(c.command(node, "tty; echo wo-$((1+1))-rd", true))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		shown := newScreen()
		go shown.read(f)
		if err := shown.expect(`/dev/pts/\d+(?s:.*)wo-2-rd`); err != nil {
			t.Error(err)
		}
	}},
	{"command without one", func(t *testing.T, c client, node string) {
		cmd := c.command(node, "echo out; echo err >&2; exit 7", false)
		in, err := cmd.StdinPipe() // a plugin whose input ends goes at once
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		text, err := cmd.CombinedOutput()
		if !strings.Contains(string(text), "out\n") || !strings.Contains(string(text), "err\n") {
			t.Errorf("%s, %v", text, err)
		}
		if _, ok := c.(ours); ok && cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("exit status %d", cmd.ProcessState.ExitCode())
		}
	}},
	{"OpenSSH", func(t *testing.T, c client, node string) {
		w := worldOf(c)
		proxy := c.ssh("%h", "%p")
		for _, e := range proxy.Args {
			if strings.ContainsAny(e, `'\`) {
				t.Fatalf("%q cannot be told to ssh as it is", e)
			}
		}
		far := func(args ...string) *exec.Cmd {
			cmd := exec.Command(args[0], append([]string{"-F", w.ssh, "-o", "ProxyCommand='" + strings.Join(proxy.Args, "' '") + "'"}, args[1:]...)...)
			cmd.Env = proxy.Env
			return cmd
		}
		out, err := far("ssh", node, "cat; echo err >&2; exit 7").CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 7 || !strings.Contains(string(out), "err\n") {
			t.Errorf("ssh: %s, %v", out, err)
		}
		file, back := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "back")
		want := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
		if err := os.WriteFile(file, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := far("scp", "-q", file, node+":"+back+".far").CombinedOutput(); err != nil {
			t.Fatalf("scp: %s, %v", out, err)
		}
		if out, err := far("scp", "-q", node+":"+back+".far", back).CombinedOutput(); err != nil {
			t.Fatalf("scp: %s, %v", out, err)
		}
		if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d came back, %v", len(got), len(want), err)
		}
	}},
	{"SSH's stream", func(t *testing.T, c client, node string) {
		port := listen(t, func(conn net.Conn) {
			io.WriteString(conn, "SSH-2.0-test\r\n")
			io.Copy(conn, conn)
		})
		cmd := c.ssh(node, port)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		shown := newScreen()
		go shown.read(out)
		if err := shown.expect(`SSH-2\.0-test\r\n`); err != nil {
			t.Fatal(err)
		}
		want := strings.Repeat("0123456789abcdef", 4096)
		go io.WriteString(in, want+".")
		if err := shown.expect(want + `\.`); err != nil {
			t.Error(short(err))
		}
	}},
	{"port", func(t *testing.T, c client, node string) { forwarded(t, c, node, "", 1) }},
	{"port, eight at once", func(t *testing.T, c client, node string) { forwarded(t, c, node, "", 8) }},
	{"download", downloads},
	{"port of another host", func(t *testing.T, c client, node string) { forwarded(t, c, node, "127.0.0.1", 1) }},
	{"terminate", func(t *testing.T, c client, node string) {
		shown := open(t, c.shell(node, ""))
		shown.expect(prompt)
		w := worldOf(c)
		id := regexp.MustCompile(`root-[0-9a-f]{17}`)
		list, err := w.command(w.bin, "sallyport", "sessions").Output()
		if err != nil || id.Find(list) == nil {
			t.Fatalf("%s, %v", list, err)
		}
		for _, id := range id.FindAllString(string(list), -1) {
			cmd := cli{w, w.bin}.start(node)
			cmd.Args = []string{cmd.Args[0], "ssm", "terminate-session", "--session-id", id, "--endpoint-url", w.endpoint}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s, %v", out, err)
			}
		}
		shown.expect(`Terminated by arn:aws:iam::\d+:root`)
	}},
	{"resume", func(t *testing.T, c client, node string) {
		w := worldOf(c)
		shown := open(t, c.shell(node, ""))
		shown.expect(prompt)
		shown.types("stty -echo; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line-$i-; [ $((i % 100)) = 0 ] && sleep 0.2; done; echo do$((1-1))ne\r")
		shown.expect(`line-500-`)
		w.cable.Cut(w.t.Context(), 3*time.Second)
		shown.expect(`line-2000-`)
		w.cable.Cut(w.t.Context(), 3*time.Second)
		shown.expect(`do0ne`)
		next := 1
		for _, m := range regexp.MustCompile(`line-(\d+)-`).FindAllSubmatch(shown.all, -1) {
			switch n, _ := strconv.Atoi(string(m[1])); {
			case n == next:
				next++
			case n < next && isStock(c): // it shows again what it could not acknowledge (src/datachannel/streaming.go)
				t.Logf("line %d was shown again, after %d", n, next-1)
			default:
				t.Fatalf("line %d is where line %d should be", n, next)
			}
		}
		if next != 3001 {
			t.Errorf("%d lines of 3000", next-1)
		}
		shown.types("exit\r")
		shown.leaves()
	}},
}

// lateKinds take as long as the shortest idle timeout there is.
var lateKinds = []kind{
	{"idle end", func(t *testing.T, c client, node string) {
		began := time.Now()
		shown := open(t, c.shell(node, "Idle"))
		shown.within = 100 * time.Second
		shown.expect(`The session was idle for 1m0s`)
		if took := time.Since(began); took < time.Minute {
			t.Errorf("it took %v", took)
		}
	}},
}

// A typist types at a program's terminal, and reads it.
type typist struct {
	*screen
	t *testing.T
	c *exec.Cmd
	f *os.File
}

// open starts a program on a terminal.
func open(t *testing.T, c *exec.Cmd) *typist {
	t.Helper()
	f, err := pty.StartWithSize(c, &pty.Winsize{Rows: 31, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	p := &typist{screen: newScreen(), t: t, c: c, f: f}
	go p.read(f)
	t.Cleanup(func() {
		f.Close()
		c.Process.Kill()
		c.Wait()
	})
	return p
}

func (p *typist) expect(pattern string) {
	p.t.Helper()
	if err := p.screen.expect(pattern); err != nil {
		p.t.Fatal(err)
	}
}

func (p *typist) types(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.f, text); err != nil {
		p.t.Fatal(err)
	}
}

// leaves waits for the program to end.
func (p *typist) leaves() {
	p.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- p.c.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			p.t.Errorf("the client ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		p.t.Error("the client did not end with its shell")
	}
}

func worldOf(c client) *world {
	if o, ok := c.(ours); ok {
		return o.w
	}
	return c.(cli).w
}

// isStock reports whether c is AWS's plugin.
func isStock(c client) bool {
	p, ok := c.(cli)
	return ok && p.pluginDir != p.w.bin
}

func short(err error) string {
	text := err.Error()
	return text[:min(len(text), 300)]
}

// listen has every connection handled by f, and returns the port.
func listen(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				f(conn)
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// forwarded has n connections at once carry their own bytes there and back.
func forwarded(t *testing.T, c client, node, host string, n int) {
	local := forward(t, c, node, host, listen(t, func(conn net.Conn) { io.Copy(conn, conn) }))
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			conn, err := net.Dial("tcp", "127.0.0.1:"+local)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			want := bytes.Repeat([]byte{byte('a' + i)}, 100_000)
			go conn.Write(want)
			got := make([]byte, len(want))
			if n, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("connection %d: %d bytes, %v", i, n, err)
			}
		})
	}
	all.Wait()
}

// downloads logs how fast a forwarded port is.
func downloads(t *testing.T, c client, node string) {
	const size = 8 << 20
	local := forward(t, c, node, "", listen(t, func(conn net.Conn) { conn.Write(make([]byte, size)) }))
	conn, err := net.Dial("tcp", "127.0.0.1:"+local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	began := time.Now()
	if n, err := io.Copy(io.Discard, conn); err != nil || n != size {
		t.Fatalf("%d bytes of %d, %v", n, size, err)
	}
	t.Logf("%.1f MB/s", size/1e6/time.Since(began).Seconds())
}

// forward runs a client that forwards a port of a node until the test is over,
// and returns the local port.
func forward(t *testing.T, c client, node, host, port string) (local string) {
	t.Helper()
	cmd, says := c.forward(node, host, port)
	f, err := pty.Start(cmd) // a plugin whose input ends goes at once
	if err != nil {
		t.Fatal(err)
	}
	shown := newScreen()
	go shown.read(f)
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		f.Write([]byte{3})
		cmd.Wait()
		f.Close()
	})
	if local, err = shown.find(says); err != nil {
		t.Fatal(err)
	}
	return local
}

// A world is a server, and the environment its clients use.
type world struct {
	t                             *testing.T
	bin, dir, endpoint, ca, state string
	env                           []string
	cable                         *servertest.Cable
	ssh                           string         // the file of ssh's settings
	agents                        map[string]int // processes of unshare
	server                        *exec.Cmd
}

func newWorld(t *testing.T) *world {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sp-interop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, bin: bin, dir: dir, state: filepath.Join(dir, "s"), agents: map[string]int{}}
	if w.cable, err = servertest.NewCable(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cable.Close)
	w.serve()
	var out []byte
	w.eventually("the server answers", func() bool {
		c := exec.Command(filepath.Join(bin, "sallyport"), "env", "--state", w.state)
		c.Env = append(slices.DeleteFunc(os.Environ(), isOurs), "XDG_CACHE_HOME="+dir)
		out, err = c.Output()
		return err == nil
	})
	w.env = append(slices.DeleteFunc(os.Environ(), isOurs), "XDG_CACHE_HOME="+dir, "AWS_EC2_METADATA_DISABLED=true")
	for _, m := range regexp.MustCompile(`(?m)^export ([A-Z_]+)='([^']*)'$`).FindAllStringSubmatch(string(out), -1) {
		w.env = append(w.env, m[1]+"="+m[2])
		switch m[1] {
		case "AWS_ENDPOINT_URL":
			w.endpoint = m[2]
		case "AWS_CA_BUNDLE":
			w.ca = m[2]
		}
	}
	return w
}

// serve runs the server, on a port of its own, to which the cable leads.
func (w *world) serve() {
	w.t.Helper()
	w.server = exec.Command(filepath.Join(w.bin, "sallyport"), "server", "--state", w.state,
		"--listen", "127.0.0.1:0", "--public-url", "https://"+w.cable.Addr())
	log := w.start("server", w.server)
	w.eventually("the server listens", func() bool {
		b, err := os.ReadFile(log)
		m := regexp.MustCompile(`msg="server started" addr=(\S+)`).FindSubmatch(b)
		if err == nil && m != nil {
			w.cable.Lead(string(m[1]))
		}
		return m != nil
	})
}

// restart stops the server by a signal, and after a while starts another.
func (w *world) restart(by syscall.Signal, after time.Duration) {
	w.t.Helper()
	w.server.Process.Signal(by)
	w.server.Wait()
	away := time.NewTimer(after)
	defer away.Stop()
	select {
	case <-away.C:
		w.serve()
	case <-w.t.Context().Done():
	}
}

// start runs a program until the test is over, and returns the file of its log.
func (w *world) start(name string, c *exec.Cmd) string {
	w.t.Helper()
	log, err := os.CreateTemp(w.dir, name+".*.log")
	if err != nil {
		w.t.Fatal(err)
	}
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		c.Process.Signal(os.Interrupt)
		time.AfterFunc(10*time.Second, func() { c.Process.Kill() })
		c.Wait()
		if w.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			w.t.Logf("%s: %s", name, b[max(0, len(b)-8<<10):])
		}
		log.Close()
	})
	return log.Name()
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	servertest.Eventually(w.t, what, ok)
}

func (w *world) command(dir, name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(dir, name), args...)
	c.Env = append(w.env, "PATH="+dir+":"+os.Getenv("PATH"))
	return c
}

// activation returns the flags that register a machine.
func (w *world) activation(name string) map[string]string {
	w.t.Helper()
	out, err := w.command(w.bin, "sallyport", "activation", "create", "--name", name).Output()
	if err != nil {
		w.t.Fatal(err)
	}
	flags := map[string]string{}
	fields := strings.Fields(string(out))
	for i, f := range fields {
		if strings.HasPrefix(f, "--") {
			flags[f] = fields[i+1]
		}
	}
	return flags
}

// inNamespace makes a mount namespace for one agent, with a user of its own.
const inNamespace = `set -e
mount -t tmpfs tmpfs /mnt
for d in /etc /usr/bin /var "$HOME"; do
	u=/mnt/$(echo "$d" | tr / _); mkdir "$u" "$u.work"
	mount -t overlay overlay -o "lowerdir=$d,upperdir=$u,workdir=$u.work" "$d"
done
mount -t tmpfs tmpfs /home
useradd --create-home --groups users --shell /bin/bash guest
`

// again runs an agent, and runs it again when it has ended. SIGUSR1 has it sent
// SIGTERM, as by a service manager.
const again = `
trap 'kill -TERM $agent' USR1
while :; do
	run & agent=$!
	while kill -0 $agent 2>/dev/null; do wait $agent || :; done
done`

const runOurAgent = inNamespace + `
"$BIN"/sallyport-agent register --state "$STATE" --endpoint "$URL" --region "$REGION" --id "$ID" --code "$CODE" --ca-pin "$PIN"
run() { exec "$BIN"/sallyport-agent run --state "$STATE"; }` + again

const runStockAgent = inNamespace + `
mkdir -p /etc/amazon/ssm
install -m 755 "$DIR"/amazon-ssm-agent "$DIR"/ssm-*-worker /usr/bin/
printf '{"Ssm":{"Endpoint":"%s"},"Mds":{"Endpoint":"%s"},"Mgs":{"Endpoint":"%s","Region":"%s"},"Kms":{"Endpoint":"%s"},"Agent":{"Region":"%s"}}' \
	"$URL" "$URL" "$URL" "$REGION" "$URL" "$REGION" >/etc/amazon/ssm/amazon-ssm-agent.json
amazon-ssm-agent -register -code "$CODE" -id "$ID" -region "$REGION" -y
run() { exec amazon-ssm-agent; }` + again

// agent runs an agent where a script has made a place for it.
func (w *world) agent(name, script string, env ...string) (node string) {
	w.t.Helper()
	a := w.activation(name)
	c := exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private", "sh", "-c", script)
	c.Env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "SSL_CERT_FILE="+w.ca,
		"URL="+w.endpoint, "REGION="+a["--region"], "CODE="+a["--code"], "ID="+a["--id"], "PIN="+a["--ca-pin"])
	w.start(name, c)
	w.agents[name] = c.Process.Pid
	return w.online(name)
}

// stopAgent has an agent stop, as by its service manager, and be started again.
func (w *world) stopAgent(name string) {
	w.t.Helper()
	unshare := strconv.Itoa(w.agents[name])
	b, err := os.ReadFile("/proc/" + unshare + "/task/" + unshare + "/children")
	if err != nil {
		w.t.Fatal(err)
	}
	shell, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := syscall.Kill(shell, syscall.SIGUSR1); err != nil {
		w.t.Fatal(err)
	}
}

// versions logs which agents there are.
func (w *world) versions() {
	w.t.Logf("%s", w.aws("ssm", "describe-instance-information", "--query", "InstanceInformationList[].[InstanceId,Name,AgentVersion]", "--output", "text"))
}

// documents makes what sessions of some kinds are started by.
func (w *world) documents() {
	w.t.Helper()
	key := regexp.MustCompile(`"KeyId": "([0-9a-f-]+)"`).FindSubmatch(w.aws("kms", "create-key"))
	if key == nil {
		w.t.Fatal("there is no key")
	}
	w.aws("iam", "put-role-policy", "--role-name", "SallyportManagedNode", "--policy-name", "decrypt", "--policy-document",
		`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}}`)
	for name, inputs := range map[string]string{
		"Guest":     `"runAsEnabled":true,"runAsDefaultUser":"guest"`,
		"Nobody":    `"runAsEnabled":true,"runAsDefaultUser":"no-such-user"`,
		"Encrypted": `"kmsKeyId":"` + string(key[1]) + `"`,
		"Idle":      `"idleSessionTimeout":"1"`,
	} {
		w.aws("ssm", "create-document", "--name", name, "--document-type", "Session", "--content",
			`{"schemaVersion":"1.0","sessionType":"Standard_Stream","inputs":{`+inputs+`}}`)
	}
}

// aws is the CLI, asked as root.
func (w *world) aws(args ...string) []byte {
	w.t.Helper()
	c := exec.Command("aws", append(args, "--endpoint-url", w.endpoint)...)
	c.Env = w.env
	out, err := c.Output()
	if err != nil {
		w.t.Fatalf("aws %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// sshd runs OpenSSH's server, to which ports of nodes are forwarded, and writes
// settings for its client.
func (w *world) sshd() {
	w.t.Helper()
	daemon := "/usr/sbin/sshd"
	if _, err := os.Stat(daemon); err != nil {
		w.t.Fatalf("OpenSSH's server is not here: %v", err)
	}
	os.MkdirAll("/run/sshd", 0o755) // where sshd insists on it
	key := filepath.Join(w.dir, "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		w.t.Fatalf("ssh-keygen: %s, %v", out, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	write := func(name, text string) string {
		name = filepath.Join(w.dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
		return name
	}
	w.start("sshd", exec.Command(daemon, "-D", "-e", "-f", write("sshd_config", "Port "+port+"\nListenAddress 127.0.0.1\nHostKey "+key+
		"\nAuthorizedKeysFile "+key+".pub\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile none\nPrintMotd no\nSubsystem sftp internal-sftp\n")))
	w.ssh = write("ssh_config", "Host *\n User root\n Port "+port+"\n IdentityFile "+key+"\n IdentitiesOnly yes\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n")
}

// online waits until the node with a name is, and returns its ID.
func (w *world) online(name string) (node string) {
	w.t.Helper()
	w.eventually(name+" is online", func() bool {
		out, err := w.command(w.bin, "sallyport", "nodes", "--json").Output()
		var nodes []struct{ InstanceId, Name, PingStatus, AgentVersion string }
		if err != nil || json.Unmarshal(out, &nodes) != nil {
			return false
		}
		for _, n := range nodes {
			if n.Name == name && n.PingStatus == "Online" {
				node = n.InstanceId
				return true
			}
		}
		return false
	})
	return node
}

// firstSession types what a newcomer would: a shell that says who and how large
// it is, is interrupted, resized, and left.
func firstSession(t *testing.T, c *exec.Cmd) {
	shown := open(t, c)
	shown.expect(prompt)
	// A stock client looks at its terminal's size twice a second.
	shown.types("until [ \"$(stty size)\" = '31 101' ]; do sleep 0.1; done; echo size-$((1+0))\r")
	shown.expect(`size-1`)
	shown.types("printf 'caf\\303\\251 \\346\\227\\245\\n'\r")
	shown.expect(`café 日\r`)
	shown.types("sh -c 'echo sl$((1))ping; exec sleep 1000'\r")
	shown.expect(`sl1ping`)
	shown.types("\x03")
	shown.expect(prompt) // what is typed before would go with the interrupt
	shown.types("echo st-$?\r")
	shown.expect(`st-130`)
	if err := pty.Setsize(shown.f, &pty.Winsize{Rows: 22, Cols: 77}); err != nil {
		t.Fatal(err)
	}
	shown.types("until [ \"$(stty size)\" = '22 77' ]; do sleep 0.1; done; echo resized-$((1+0))\r")
	shown.expect(`resized-1`)
	manyLines(shown)
	shown.types("exit\r")
	shown.leaves()
}

// manyLines has a shell say more than fits anywhere on the way.
func manyLines(shown *typist) {
	shown.types("stty -echo; seq 1 20000; echo se$((0))q\r")
	shown.expect(`19999\r+\n20000\r+\n(?s:.*)se0q`) // a stock client leaves its terminal to add a CR of its own
}

const prompt = `[$#] $`

// A screen is what a terminal has shown.
type screen struct {
	more   chan []byte
	text   []byte // that expect has not matched yet
	all    []byte
	within time.Duration
}

func newScreen() *screen { return &screen{more: make(chan []byte, 64), within: time.Minute} }

func (s *screen) read(r io.Reader) {
	defer close(s.more)
	for {
		b := make([]byte, 32<<10)
		n, err := r.Read(b)
		if n > 0 {
			s.more <- b[:n]
		}
		if err != nil {
			return
		}
	}
}

func (s *screen) expect(pattern string) error {
	_, err := s.find(pattern)
	return err
}

// find waits for a pattern, and returns what its group matches.
func (s *screen) find(pattern string) (group string, err error) {
	re := regexp.MustCompile(pattern)
	ctx, cancel := context.WithTimeout(context.Background(), s.within)
	defer cancel()
	for {
		if at := re.FindSubmatchIndex(s.text); at != nil {
			if len(at) > 2 {
				group = string(s.text[at[2]:at[3]])
			}
			s.text = s.text[at[1]:]
			return group, nil
		}
		select {
		case b, ok := <-s.more:
			if !ok {
				return "", fmt.Errorf("the terminal closed before %q; shown: %q", pattern, s.text)
			}
			s.text, s.all = append(s.text, b...), append(s.all, b...)
		case <-ctx.Done():
			return "", fmt.Errorf("waited in vain for %q; shown: %q", pattern, s.text[max(0, len(s.text)-2000):])
		}
	}
}
