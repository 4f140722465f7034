//go:build linux

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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
	clients := map[string]func(node string) *exec.Cmd{
		"our client":             func(node string) *exec.Cmd { return w.command(w.bin, "sallyport", "connect", node) },
		"our drop-in":            func(node string) *exec.Cmd { return w.aws(w.bin, node) },
		"session-manager-plugin": func(node string) *exec.Cmd { return w.aws(stock, node) },
	}
	for agent, node := range agents {
		for client, command := range clients {
			t.Run(agent+" with "+client, func(t *testing.T) { firstSession(t, command(node)) })
		}
	}
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

// aws is the CLI with a plugin of its own first in its PATH. It is told the
// endpoint, so that any version does.
func (w *world) aws(pluginDir, node string) *exec.Cmd {
	aws, err := exec.LookPath("aws")
	if err != nil {
		w.t.Fatal(err)
	}
	c := exec.Command(aws, "ssm", "start-session", "--target", node, "--endpoint-url", w.endpoint)
	c.Env = append(w.env, "PATH="+pluginDir+":"+os.Getenv("PATH"))
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
	re := regexp.MustCompile(pattern)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for {
		if at := re.FindIndex(s.text); at != nil {
			s.text = s.text[at[1]:]
			return nil
		}
		select {
		case b, ok := <-s.more:
			if !ok {
				return fmt.Errorf("the terminal closed before %q; shown: %q", pattern, s.text)
			}
			s.text = append(s.text, b...)
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %q; shown: %q", pattern, s.text[max(0, len(s.text)-2000):])
		}
	}
}
