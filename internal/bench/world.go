package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

// A world is a server and an agent, as processes of their own, and the
// environment in which clients find them.
type world struct {
	dir     string
	main    string // bin/sallyport
	agent   string // bin/sallyport-agent
	server  *exec.Cmd
	node    string
	running *exec.Cmd // the agent
	admit   server.Admission
	client  *client.Client
	trust   endpoint.Trust
	file    string // of bulkBytes of text
	sshArgs []string
	sshds   []*exec.Cmd
}

func newWorld(ctx context.Context, dir string) (*world, error) {
	w := &world{dir: dir, file: filepath.Join(dir, "bulk")}
	var err error
	if w.main, err = program("sallyport"); err != nil {
		return nil, err
	}
	if w.agent, err = program("sallyport-agent"); err != nil {
		return nil, err
	}
	if err := writeBulk(w.file); err != nil {
		return nil, err
	}
	if err := w.startServer(ctx, "127.0.0.1:0"); err != nil {
		return nil, err
	}
	bundle := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(bundle, []byte(w.admit.CA), 0o600); err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": w.admit.Endpoint, "AWS_REGION": w.admit.Region, "AWS_CA_BUNDLE": bundle,
		"AWS_ACCESS_KEY_ID": w.admit.AccessKeyID, "AWS_SECRET_ACCESS_KEY": w.admit.SecretAccessKey, "AWS_SESSION_TOKEN": w.admit.SessionToken,
	} {
		os.Setenv(name, value)
	}
	w.trust = endpoint.Trust{PEM: []byte(w.admit.CA)}
	if w.client, err = client.Load(ctx, client.Settings{}); err != nil {
		return nil, err
	}
	line, err := exec.CommandContext(ctx, w.main, "activation", "create").Output()
	if err != nil {
		return nil, fmt.Errorf("create activation: %w", err)
	}
	args := append(strings.Fields(string(line))[2:], "--state", filepath.Join(dir, "a")) // without "sallyport agent"
	out, err := exec.CommandContext(ctx, w.agent, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	w.node = strings.TrimSpace(string(out))
	if err := w.startAgent(ctx); err != nil {
		return nil, err
	}
	return w, w.waitOnline(ctx, true)
}

// startServer starts the server, and returns when it answers. Everything here is
// one person's and on one node, which is more than a person is let have.
func (w *world) startServer(ctx context.Context, listen string) (err error) {
	state := filepath.Join(w.dir, "s")
	w.server, err = w.start("server", w.main, "server", "--state", state, "--listen", listen, "--max-sessions-per-user", "1000", "--max-sessions-per-node", "1000")
	if err != nil {
		return err
	}
	return eventually(ctx, "the server answers", func() bool {
		w.admit, err = server.Admit(ctx, state)
		return err == nil
	})
}

func (w *world) close() {
	w.stopAgent()
	for _, c := range append(w.sshds, w.server) {
		if c != nil && c.Process != nil {
			c.Process.Signal(syscall.SIGTERM)
			c.Wait()
		}
	}
}

// start starts a program that runs until it is stopped. Its log is kept, and
// dies with the directory.
func (w *world) start(name, path string, args ...string) (*exec.Cmd, error) {
	c := exec.Command(path, args...)
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.Stderr = log
	return c, c.Start()
}

func (w *world) startAgent(context.Context) (err error) {
	w.running, err = w.start("agent", w.agent, "run", "--as-self", "--state", filepath.Join(w.dir, "a"))
	return err
}

// restartAgent has the agent run with the user's home as it is, or an empty one
// in its place, which takes root and a mount namespace.
func (w *world) restartAgent(ctx context.Context, emptyHome bool) (err error) {
	if err := w.stopAgent(); err != nil {
		return err
	}
	if err := w.waitOnline(ctx, false); err != nil {
		return err
	}
	if !emptyHome {
		err = w.startAgent(ctx)
	} else {
		home, herr := os.UserHomeDir()
		if herr != nil || os.Getuid() != 0 {
			return errors.New("an empty home takes root")
		}
		w.running, err = w.start("agent", "unshare", "--mount", "sh", "-ec", `mount -t tmpfs none "$0"; exec "$@"`, home,
			w.agent, "run", "--as-self", "--state", filepath.Join(w.dir, "a"))
	}
	if err != nil {
		return err
	}
	return w.waitOnline(ctx, true)
}

func (w *world) stopAgent() error {
	if w.running == nil {
		return nil
	}
	w.running.Process.Signal(syscall.SIGTERM)
	err := w.running.Wait()
	w.running = nil
	return err
}

func (w *world) waitOnline(ctx context.Context, want bool) error {
	return eventually(ctx, "the node comes or goes", func() bool {
		nodes, err := w.client.Nodes(ctx)
		return err == nil && len(nodes) == 1 && (nodes[0].PingStatus == "Online") == want
	})
}

func eventually(ctx context.Context, what string, ok func() bool) error {
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			return fmt.Errorf("it never happened: %s", what)
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// pause returns after a time, or with an error when ctx ends.
func pause(ctx context.Context, long time.Duration) error {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// writeBulk writes lines of text, as a log has them.
func writeBulk(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b := bufio.NewWriterSize(f, 1<<20)
	line := bytes.Repeat([]byte("0123456789abcdef"), 8)
	line[len(line)-1] = '\n'
	for range bulkBytes / len(line) {
		b.Write(line)
	}
	return b.Flush()
}

// connect is the command of our own client.
func (w *world) connect() []string { return []string{w.main, "connect", w.node} }

// firstByte measures one StartSession to the first byte of output, on a
// terminal.
func (w *world) firstByte(ctx context.Context) (time.Duration, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return 0, err
	}
	defer master.Close()
	defer slave.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
		return 0, err
	}
	began := time.Now()
	inv, err := w.client.StartSession(ctx, client.StartSession{Target: w.node})
	if err != nil {
		return 0, err
	}
	s := &client.Session{Client: w.client, Invitation: inv, Stdin: slave, Stdout: slave, Stderr: io.Discard}
	ended := make(chan error, 1)
	go func() {
		_, err := s.Run(ctx)
		ended <- err
	}()
	if _, err := master.Read(make([]byte, 1)); err != nil {
		return 0, err
	}
	took := time.Since(began)
	go io.Copy(io.Discard, master)
	if _, err := io.WriteString(master, "exit\r"); err != nil {
		return 0, err
	}
	return took, <-ended
}

// bareShell measures the same login shell on a terminal, with nothing between.
func (w *world) bareShell(ctx context.Context) (time.Duration, error) {
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	var took []time.Duration
	for range 10 {
		c := exec.CommandContext(ctx, shell, "-l")
		began := time.Now()
		f, err := pty.Start(c)
		if err != nil {
			return 0, err
		}
		if _, err := f.Read(make([]byte, 1)); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
		c.Process.Kill()
		f.Close()
		c.Wait()
	}
	return percentile(took, 50), nil
}

// on runs a client on a terminal, waits until the far shell answers, and hands
// the terminal to do.
func (w *world) on(ctx context.Context, command []string, do func(f *os.File) error) error {
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	f, err := pty.StartWithSize(c, &pty.Winsize{Rows: 40, Cols: 120})
	if err != nil {
		return err
	}
	defer func() {
		c.Process.Signal(syscall.SIGTERM) // which ends the session too
		io.Copy(io.Discard, f)
		f.Close()
		c.Wait()
	}()
	// The line is typed again until the shell is there to read it: ssh throws
	// away what is typed before.
	ready := make(chan error, 1)
	go func() { ready <- until(f, "READY-42") }()
	for {
		if _, err := io.WriteString(f, "PS1=; stty raw -echo; echo READY-$((6*7))\r"); err != nil {
			return err
		}
		select {
		case err := <-ready:
			if err != nil {
				return err
			}
			return do(f)
		case <-time.After(2 * time.Second):
		}
	}
}

// until reads until text has come.
func until(r io.Reader, text string) error {
	var tail []byte
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		tail = append(tail, b[:n]...)
		if bytes.Contains(tail, []byte(text)) {
			return nil
		}
		tail = tail[max(0, len(tail)-len(text)):]
		if err != nil {
			return fmt.Errorf("waiting for %q: %w", text, err)
		}
	}
}

// keystrokes measures single bytes, there and back through cat, by several
// clients in turn: what disturbs the machine for a moment disturbs them alike.
func (w *world) keystrokes(ctx context.Context, commands ...[]string) ([][]time.Duration, error) {
	took := make([][]time.Duration, len(commands))
	var begin func(opened []*os.File) error
	begin = func(opened []*os.File) error {
		if i := len(opened); i < len(commands) {
			return w.on(ctx, commands[i], func(f *os.File) error {
				if _, err := io.WriteString(f, "echo CAT-$((6*7)); exec cat\n"); err != nil {
					return err
				}
				if err := until(f, "CAT-42"); err != nil {
					return err
				}
				return begin(append(opened, f))
			})
		}
		for round := range 21 {
			for i, f := range opened {
				some, err := typeInto(ctx, f, 50)
				if err != nil {
					return err
				}
				if round > 0 { // warm by then, and nothing is left of the lines
					took[i] = append(took[i], some...)
				}
			}
		}
		return nil
	}
	return took, begin(nil)
}

// typeInto types n bytes, one after another's echo, and returns how long each
// took.
func typeInto(ctx context.Context, f *os.File, n int) (took []time.Duration, err error) {
	b := make([]byte, 4096)
	for i := range n {
		key := 'a' + byte(i%26)
		began := time.Now()
		if _, err := f.Write([]byte{key}); err != nil {
			return nil, err
		}
		for {
			n, err := f.Read(b)
			if err != nil {
				return nil, err
			}
			if bytes.IndexByte(b[:n], key) >= 0 {
				break
			}
		}
		took = append(took, time.Since(began))
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// cat measures the whole file, from the first byte to the last.
func (w *world) cat(ctx context.Context, command []string) (took time.Duration, err error) {
	err = w.on(ctx, command, func(f *os.File) error {
		began := time.Now()
		if _, err := io.WriteString(f, "cat "+w.file+"; echo DONE-$((6*7))\n"); err != nil {
			return err
		}
		if err := until(f, "DONE-42"); err != nil {
			return err
		}
		took = time.Since(began)
		return nil
	})
	return took, err
}

// ssh is the command of an OpenSSH client through a jump host, both hosts being
// sshds of ours on this machine.
func (w *world) ssh(ctx context.Context) ([]string, error) {
	if w.sshArgs != nil {
		return w.sshArgs, nil
	}
	daemon, err := sshd()
	if err != nil {
		return nil, err
	}
	os.MkdirAll("/run/sshd", 0o755) // where sshd insists on it
	key := filepath.Join(w.dir, "id")
	if err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).Run(); err != nil {
		return nil, errNoSSH
	}
	var ports []string
	for i := range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		l.Close()
		config := filepath.Join(w.dir, "sshd"+port)
		text := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s.pub\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile none\nPrintMotd no\nMaxStartups 100\n", port, key, key)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		c, err := w.start(fmt.Sprint("sshd", i), daemon, "-D", "-e", "-f", config)
		if err != nil {
			return nil, err
		}
		w.sshds = append(w.sshds, c)
		ports = append(ports, port)
		if err := eventually(ctx, "sshd answers", func() bool {
			c, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err == nil {
				c.Close()
			}
			return err == nil
		}); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(w.dir, "ssh_config")
	text := fmt.Sprintf("Host *\n HostName 127.0.0.1\n IdentityFile %s\n IdentitiesOnly yes\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\nHost jump\n Port %s\nHost far\n Port %s\n ProxyJump jump\n", key, ports[0], ports[1])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	w.sshArgs = []string{"ssh", "-F", config, "-tt", "far"}
	return w.sshArgs, nil
}

// certificate makes one of this machine's own address, for an hour.
func certificate() (der []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return der, key, err
}

// writeCertificate writes one, and its key, as PEM.
func writeCertificate(name string) error {
	der, key, err := certificate()
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return os.WriteFile(name, append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), 0o600)
}

// relay copies bulkBytes through a bare relay: TLS in, TLS out, and nothing
// read of what passes.
func relay(ctx context.Context) (time.Duration, error) {
	der, key, err := certificate()
	if err != nil {
		return 0, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, InsecureSkipVerify: true}
	listen := func(serve func(net.Conn)) (string, error) {
		l, err := tls.Listen("tcp", "127.0.0.1:0", config)
		if err != nil {
			return "", err
		}
		go func() {
			defer l.Close()
			if c, err := l.Accept(); err == nil {
				serve(c)
			}
		}()
		return l.Addr().String(), nil
	}
	source, err := listen(func(c net.Conn) {
		defer c.Close()
		b := make([]byte, 32<<10)
		for sent := 0; sent < bulkBytes; sent += len(b) {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	if err != nil {
		return 0, err
	}
	middle, err := listen(func(c net.Conn) {
		defer c.Close()
		up, err := tls.Dial("tcp", source, config)
		if err != nil {
			return
		}
		defer up.Close()
		io.Copy(c, up)
	})
	if err != nil {
		return 0, err
	}
	c, err := tls.Dial("tcp", middle, config)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	began := time.Now()
	n, err := io.Copy(io.Discard, c)
	if err != nil || n < bulkBytes {
		return 0, fmt.Errorf("%d bytes came: %w", n, err)
	}
	return time.Since(began), ctx.Err()
}

// agents is how many idle agents the server holds for its memory to be known.
const agents = 1000

// memory measures what an idle agent and a server with many of them hold.
func memory(ctx context.Context, w *world) ([]figure, error) {
	if err := pause(ctx, 5*time.Second); err != nil { // since the last session
		return nil, err
	}
	agentKB, err := resident(w.running.Process.Pid)
	if err != nil {
		return nil, err
	}
	before, err := w.settled(ctx)
	if err != nil {
		return nil, err
	}
	stop, err := w.crowd(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	after, err := w.settled(ctx)
	if err != nil {
		return nil, err
	}
	return []figure{
		{"idle sallyport-agent, resident", fmt.Sprintf("%.1f MB", float64(agentKB)/1024), "-", "-", "< 15 MB"},
		{fmt.Sprintf("server, each of %d idle agents", agents), fmt.Sprintf("%.1f KB", float64(after-before)/agents), "-", "-", "< 40 KB"},
	}, nil
}

// settled is the server's memory once it has given back what it does not need:
// a heap profile runs its collector.
func (w *world) settled(ctx context.Context) (kb int, err error) {
	for range 2 {
		out, err := exec.Command("curl", "-s", "--unix-socket", server.SocketPath(filepath.Join(w.dir, "s")), "http://admin/debug/pprof/heap?gc=1").Output()
		if err != nil || len(out) == 0 {
			return 0, errors.New("curl is needed to ask the server's admin socket")
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return 0, err
		}
	}
	return resident(w.server.Process.Pid)
}

func resident(pid int) (kb int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.Atoi(strings.Fields(text)[0])
		}
	}
	return 0, errors.New("the system does not say how much memory is resident")
}

// perAddress is how many nodes register from one address of this machine:
// registrations from one are slowed down after fifty.
const perAddress = 40

// crowd opens the control channels of many agents, which then say nothing.
func (w *world) crowd(ctx context.Context) (stop func(), err error) {
	base, err := url.Parse(w.admit.Endpoint)
	if err != nil {
		return nil, err
	}
	line, err := exec.CommandContext(ctx, w.main, "activation", "create", "--limit", strconv.Itoa(agents)).Output()
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(line))
	value := func(flag string) string {
		for i, f := range fields {
			if f == flag {
				return fields[i+1]
			}
		}
		return ""
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	stop = func() { cancel(); all.Wait() }
	var failed atomic.Pointer[error]
	for i := range agents {
		web, err := w.trust.HTTP()
		if err != nil {
			stop()
			return nil, err
		}
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/perAddress))}}
		web.Transport.(*http.Transport).DialContext = from.DialContext
		fingerprint := fmt.Sprint("bench-", i)
		anonymous := &endpoint.Client{Base: base, HTTP: web, Region: w.admit.Region}
		var out struct{ InstanceId sallyport.NodeID }
		err = anonymous.Call(ctx, "ssm", "AmazonSSM.RegisterManagedInstance", map[string]string{
			"ActivationId": value("--id"), "ActivationCode": value("--code"), "Fingerprint": fingerprint,
			"PublicKey": base64.StdEncoding.EncodeToString(public), "PublicKeyType": "Rsa",
		}, &out)
		if err != nil {
			stop()
			return nil, err
		}
		var keys struct{ AccessKeyId, SecretAccessKey, SessionToken string }
		if err := anonymous.CallRSA(ctx, out.InstanceId, key, "AmazonSSM.RequestManagedInstanceRoleToken", map[string]string{"Fingerprint": fingerprint}, &keys); err != nil {
			stop()
			return nil, err
		}
		c := &endpoint.Client{Base: base, HTTP: web, Region: w.admit.Region, Credentials: func(context.Context) (endpoint.Credentials, error) {
			return endpoint.Credentials{AccessKeyID: keys.AccessKeyId, Secret: sallyport.NewSecret(keys.SecretAccessKey), Token: sallyport.NewSecret(keys.SessionToken)}, nil
		}}
		conn, err := control(ctx, c, out.InstanceId)
		if err != nil {
			stop()
			return nil, err
		}
		all.Go(func() {
			defer conn.Drop()
			if _, err := conn.ReadFrame(ctx); err != nil && ctx.Err() == nil {
				failed.Store(&err)
			}
		})
		web.CloseIdleConnections()
	}
	if err := failed.Load(); err != nil {
		stop()
		return nil, *err
	}
	return stop, nil
}

// control opens one control channel, as an agent does.
func control(ctx context.Context, c *endpoint.Client, node sallyport.NodeID) (*socket.Conn, error) {
	path := "/v1/control-channel/" + node.String()
	channel, err := c.CreateChannel(ctx, path, map[string]string{"MessageSchemaVersion": "1.0", "RequestId": uuid.NewString()})
	if err != nil {
		return nil, err
	}
	conn, err := c.Socket(ctx, path+"?role=subscribe&stream=input", "ssmmessages")
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(wire.OpenControlChannel{MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), TokenValue: wire.NewToken(channel.Token), AgentVersion: sallyport.WireAgentVersion, PlatformType: "linux"})
	if err != nil {
		return nil, err
	}
	return conn, conn.WriteText(ctx, b)
}
