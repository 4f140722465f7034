//go:build linux

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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestMain goes where there is no network but this machine's own: AWS's programs
// are told of no other endpoint than ours, and could reach none.
func TestMain(m *testing.M) {
	if os.Getenv("SALLYPORT_INTEROP") != "1" {
		os.Exit(m.Run())
	}
	self, err := os.Executable()
	if err == nil {
		c := exec.Command("unshare", append([]string{"--net", "--mount", "--propagation", "private", "sh", "-c", `ip link set lo up && exec "$0" "$@"`, self}, os.Args[1:]...)...)
		c.Env = append(os.Environ(), "SALLYPORT_INTEROP=alone")
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		err = c.Run()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop: it needs root, for a network namespace:", err)
		os.Exit(1)
	}
}

// TestInterop runs the first session with {our agent, amazon-ssm-agent} and
// {our client, our drop-in, session-manager-plugin}. Without SALLYPORT_INTEROP
// it only says so: make interop sets it, and then whatever is missing is a
// failure.
func TestInterop(t *testing.T) {
	if os.Getenv("SALLYPORT_INTEROP") == "" {
		t.Log("not run: make interop runs it, where AWS's programs are installed")
		return
	}
	plugin, agentDir := os.Getenv("SALLYPORT_STOCK_PLUGIN"), os.Getenv("SALLYPORT_STOCK_AGENT_DIR")
	if plugin == "" || agentDir == "" {
		t.Fatal("SALLYPORT_STOCK_PLUGIN and SALLYPORT_STOCK_AGENT_DIR say where AWS's programs are; set both")
	}
	w := newWorld(t)
	version, err := exec.Command(plugin, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("session-manager-plugin %s", bytes.TrimSpace(version))

	if out, err := exec.Command("ip", "-brief", "link").Output(); err != nil || strings.Count(string(out), "\n") != 1 {
		t.Fatalf("there is more network here than loopback: %s%v", out, err)
	}
	agents := map[string]string{"our agent": w.ourAgent(), "amazon-ssm-agent": w.stockAgent(agentDir)}
	stock := filepath.Join(t.TempDir(), "stock")
	if err := os.Mkdir(stock, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(plugin, filepath.Join(stock, "session-manager-plugin")); err != nil {
		t.Fatal(err)
	}
	clients := map[string]client{
		"our client":             ours{w},
		"our drop-in":            cli{w, w.bin},
		"session-manager-plugin": cli{w, stock},
	}
	for agent, node := range agents {
		for name, c := range clients {
			for _, kind := range kinds {
				t.Run(agent+" with "+name+"/"+kind.name, func(t *testing.T) { kind.try(t, c, node) })
			}
		}
	}
}

// A client is a person's program.
type client interface {
	// shell is a shell on a terminal.
	shell(node string) *exec.Cmd

	// command is a command, on a terminal or without one.
	command(node, command string, terminal bool) *exec.Cmd

	// ssh is one connection to a port over standard input and output.
	ssh(node, port string) *exec.Cmd

	// forward forwards a local port, and prints which, as the group of a pattern.
	forward(node, host, port string) (c *exec.Cmd, says string)
}

type ours struct{ w *world }

func (o ours) sallyport(args ...string) *exec.Cmd { return o.w.command(o.w.bin, "sallyport", args...) }

func (o ours) shell(node string) *exec.Cmd { return o.sallyport("connect", node) }

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

func (c cli) shell(node string) *exec.Cmd { return c.start(node) }

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

// kinds are what a session can be.
var kinds = []struct {
	name string
	try  func(t *testing.T, c client, node string)
}{
	{"shell", func(t *testing.T, c client, node string) { firstSession(t, c.shell(node)) }},
	{"command on a terminal", func(t *testing.T, c client, node string) {
		f, err := pty.Start(c.command(node, "tty; echo wo-$((1+1))-rd", true))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		shown := &screen{more: make(chan []byte, 64)}
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
	{"ssh", func(t *testing.T, c client, node string) {
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
		shown := &screen{more: make(chan []byte, 64)}
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
	{"port of another host", func(t *testing.T, c client, node string) { forwarded(t, c, node, "127.0.0.1", 1) }},
	{"terminate", func(t *testing.T, c client, node string) {
		f, err := pty.Start(c.shell(node))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		shown := &screen{more: make(chan []byte, 64)}
		go shown.read(f)
		if err := shown.expect(`[$#] $`); err != nil {
			t.Fatal(err)
		}
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
		if err := shown.expect(`Terminated by arn:aws:iam::\d+:root`); err != nil {
			t.Error(err)
		}
	}},
}

func worldOf(c client) *world {
	if o, ok := c.(ours); ok {
		return o.w
	}
	return c.(cli).w
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
	port := listen(t, func(conn net.Conn) { io.Copy(conn, conn) })
	cmd, says := c.forward(node, host, port)
	f, err := pty.Start(cmd) // a plugin whose input ends goes at once
	if err != nil {
		t.Fatal(err)
	}
	shown := &screen{more: make(chan []byte, 64)}
	go shown.read(f)
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		f.Write([]byte{3})
		cmd.Wait()
		f.Close()
	}()
	local, err := shown.find(says)
	if err != nil {
		t.Fatal(err)
	}
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

// A world is a server, and the environment its clients use.
type world struct {
	t                             *testing.T
	bin, dir, endpoint, ca, state string
	env                           []string
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
	w := &world{t: t, bin: bin, dir: dir, state: filepath.Join(dir, "s")}
	w.start("server", exec.Command(filepath.Join(bin, "sallyport"), "server", "--state", w.state, "--listen", "127.0.0.1:0"))
	var out []byte
	w.eventually("the server answers", func() bool {
		c := exec.Command(filepath.Join(bin, "sallyport"), "env", "--state", w.state)
		c.Env = append(os.Environ(), "XDG_CACHE_HOME="+dir)
		out, err = c.Output()
		return err == nil
	})
	w.env = append(os.Environ(), "XDG_CACHE_HOME="+dir, "AWS_EC2_METADATA_DISABLED=true")
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

// start runs a program until the test is over.
func (w *world) start(name string, c *exec.Cmd) {
	w.t.Helper()
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
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
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("it never happened: %s", what)
		}
		time.Sleep(100 * time.Millisecond)
	}
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

func (w *world) ourAgent() (node string) {
	w.t.Helper()
	a := w.activation("ours")
	state := filepath.Join(w.dir, "a")
	if out, err := w.command(w.bin, "sallyport-agent", "register", "--state", state, "--endpoint", w.endpoint, "--region", a["--region"],
		"--id", a["--id"], "--code", a["--code"], "--ca-pin", a["--ca-pin"]).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v", out, err)
	}
	w.start("agent", w.command(w.bin, "sallyport-agent", "run", "--as-self", "--state", state))
	return w.online("ours")
}

// inNamespace makes a place for the stock agent that is nobody else's.
const inNamespace = `set -e
mount -t tmpfs tmpfs /mnt
for d in /etc /usr/bin /var "$HOME"; do
	u=/mnt/$(echo "$d" | tr / _); mkdir "$u" "$u.work"
	mount -t overlay overlay -o "lowerdir=$d,upperdir=$u,workdir=$u.work" "$d"
done
mount -t tmpfs tmpfs /home
mkdir -p /etc/amazon/ssm
install -m 755 "$DIR"/amazon-ssm-agent "$DIR"/ssm-*-worker /usr/bin/
printf '{"Ssm":{"Endpoint":"%s"},"Mds":{"Endpoint":"%s"},"Mgs":{"Endpoint":"%s","Region":"%s"},"Kms":{"Endpoint":"%s"},"Agent":{"Region":"%s"}}' \
	"$URL" "$URL" "$URL" "$REGION" "$URL" "$REGION" >/etc/amazon/ssm/amazon-ssm-agent.json
amazon-ssm-agent -register -code "$CODE" -id "$ID" -region "$REGION" -y
exec amazon-ssm-agent`

func (w *world) stockAgent(dir string) (node string) {
	w.t.Helper()
	if os.Geteuid() != 0 {
		w.t.Fatal("the stock agent needs root, and a mount namespace of its own")
	}
	a := w.activation("stock")
	c := exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private", "sh", "-c", inNamespace)
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "SSL_CERT_FILE=" + w.ca,
		"DIR=" + dir, "URL=" + w.endpoint, "REGION=" + a["--region"], "CODE=" + a["--code"], "ID=" + a["--id"]}
	w.start("amazon-ssm-agent", c)
	return w.online("stock")
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
				w.t.Logf("%s is %s, agent %s", node, name, n.AgentVersion)
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
	f, err := pty.StartWithSize(c, &pty.Winsize{Rows: 31, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	shown := &screen{more: make(chan []byte, 64)}
	go shown.read(f)
	expect := func(pattern string) {
		t.Helper()
		if err := shown.expect(pattern); err != nil {
			t.Fatal(err)
		}
	}
	typed := func(text string) {
		t.Helper()
		if _, err := io.WriteString(f, text); err != nil {
			t.Fatal(err)
		}
	}
	expect(`[$#] $`) // the prompt
	// A stock client looks at its terminal's size twice a second.
	typed("until [ \"$(stty size)\" = '31 101' ]; do sleep 0.1; done; echo size-$((1+0))\r")
	expect(`size-1`)
	typed("printf 'caf\\303\\251 \\346\\227\\245\\n'\r")
	expect(`café 日\r`)
	typed("sh -c 'echo sl$((1))ping; exec sleep 1000'\r")
	expect(`sl1ping`)
	typed("\x03")
	expect(`[$#] $`) // what is typed before would go with the interrupt
	typed("echo st-$?\r")
	expect(`st-130`)
	if err := pty.Setsize(f, &pty.Winsize{Rows: 22, Cols: 77}); err != nil {
		t.Fatal(err)
	}
	typed("until [ \"$(stty size)\" = '22 77' ]; do sleep 0.1; done; echo resized-$((1+0))\r")
	expect(`resized-1`)
	typed("stty -echo; seq 1 20000; echo se$((0))q\r")
	expect(`19999\r+\n20000\r+\n(?s:.*)se0q`) // a stock client leaves its terminal to add a CR of its own
	typed("exit\r")
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the client ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the client did not end with its shell")
		c.Process.Kill()
	}
}

// A screen is what a terminal has shown and nobody has looked at.
type screen struct {
	more chan []byte
	text []byte
}

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
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
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
			s.text = append(s.text, b...)
		case <-ctx.Done():
			return "", fmt.Errorf("waited in vain for %q; shown: %q", pattern, s.text[max(0, len(s.text)-2000):])
		}
	}
}
