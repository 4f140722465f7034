package simulation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	_ "modernc.org/sqlite" // to lock the server's database

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/memnet"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/store"
)

// Endpoint is where the simulated server says it is.
const Endpoint = "https://sallyport.test"

// A Template is the state that every world begins with: a furnished server, a
// user, and a registered agent. It has the keys, which take long to make.
type Template struct {
	dir    string
	node   sallyport.NodeID
	keyID  string
	secret string
}

const policy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`

// NewTemplate makes one in a directory. It must be called in a bubble, because
// certificates are of the bubble's time.
func NewTemplate(tb testing.TB, dir string) *Template {
	t := &Template{dir: dir}
	w := &World{TB: tb, Log: NewLog(), Idle: -1, dir: dir, template: t}
	w.Net = memnet.New(0, w.Log.Add)
	w.Disk = NewDisk(w.Log, 0)
	if err := w.startServer(filepath.Join(dir, "server")); err != nil {
		tb.Fatal(err)
	}
	defer w.StopServer()
	ctx, now := tb.Context(), time.Now()
	db := w.Store()
	user := sallyport.User{Name: "ann", Path: "/", ID: sallyport.EntityID("AIDA"), Created: now}
	key := sallyport.AccessKey{ID: sallyport.EntityID("AKIA"), User: user.Name, Active: true, Created: now}
	secret, code := sallyport.GenerateSecret(), sallyport.GenerateSecret()
	role, err := w.lastServer().running.API.NodeRole(ctx, "service-role/"+server.NodeRole)
	if err != nil {
		tb.Fatal(err)
	}
	a := sallyport.Activation{ID: "12345678-1234-1234-1234-123456789012", Code: code.Hash(), Role: role.PathAndName(), RoleID: role.ID, Limit: 1, Created: now, Expires: now.Add(time.Hour)}
	if err := errors.Join(
		db.IAM().CreateUser(ctx, user),
		db.IAM().PutInlinePolicy(ctx, store.User(user.Name), "all", policy),
		db.IAM().CreateAccessKey(ctx, key, secret),
		db.Activations().Create(ctx, a),
	); err != nil {
		tb.Fatal(err)
	}
	t.keyID, t.secret = key.ID, secret.Reveal()
	web := w.web(w.Net.NewHost("register", 0, 0))
	defer web.CloseIdleConnections()
	reg, err := agent.Register(ctx, agent.Registering{
		State: filepath.Join(dir, "agent"), Endpoint: Endpoint, Region: server.DefaultRegion, Activation: a.ID, Code: code, HTTP: web,
	})
	if err != nil {
		tb.Fatal(err)
	}
	t.node = reg.Node
	return t
}

// A World is a server, an agent and any number of clients, all real, on a
// network, a machine and a disk that are not. It lives in a bubble of
// testing/synctest.
type World struct {
	TB      testing.TB
	Log     *Log
	Net     *memnet.Network
	Disk    *Disk
	Machine *Machine
	Idle    time.Duration // of the server's sessions

	template *Template
	random   *rand.Rand
	dir      string

	all sync.WaitGroup // of every process that was started

	// mu guards all below.
	mu       sync.Mutex
	server   *serverRun // that runs, or ran last
	agent    *agentRun  // likewise
	states   int        // state directories made
	clients  []*Process
	sessions []*Session
	facts    []fact
	troubles []trouble
	history  []client.SessionInfo // as it was when sessions are checked
}

// NewWorld starts a server and an agent, and returns when the agent is
// connected.
func NewWorld(tb testing.TB, t *Template, dir string, seed uint64, idle time.Duration) *World {
	w := &World{TB: tb, Log: NewLog(), Idle: idle, template: t, dir: dir, random: rand.New(rand.NewPCG(seed, 3))}
	w.Net = memnet.New(seed, w.Log.Add)
	w.Disk = NewDisk(w.Log, seed)
	w.Machine = NewMachine(w.Log, w.Net)
	time.Sleep(time.Minute) // the certificates' time has come
	state := w.newState("server")
	err := w.copyServer(filepath.Join(t.dir, "server"), state)
	if err == nil {
		err = w.startServer(state)
	}
	if err != nil {
		tb.Fatalf("%v\n%s", err, w.Log)
	}
	w.StartAgent()
	w.WaitConnected()
	return w
}

func (w *World) lastServer() *serverRun {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.server
}

func (w *World) lastAgent() *agentRun {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.agent
}

// newState names a state directory that is not there.
func (w *World) newState(whose string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.states++
	return filepath.Join(w.dir, fmt.Sprintf("%s-%d", whose, w.states))
}

// Node is the agent's.
func (w *World) Node() sallyport.NodeID { return w.template.node }

// fail has the test fail, and go on.
func (w *World) fail(what string, err error) {
	w.Log.Add("world", "%s: %v", what, err)
	w.TB.Errorf("%s: %v", what, err)
}

func (w *World) newHost(name string) *memnet.Host {
	return w.Net.NewHost(name, time.Duration(1+w.pick(40))*time.Millisecond, time.Duration(w.pick(20))*time.Millisecond)
}

func (w *World) pick(n int) int {
	if w.random == nil {
		return 0
	}
	return w.random.IntN(n)
}

// web is an HTTP client on a host.
func (w *World) web(h *memnet.Host) *http.Client {
	pem, err := os.ReadFile(filepath.Join(w.template.dir, "ca.pem"))
	if err != nil {
		w.TB.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{
		DialContext: h.Dial, TLSClientConfig: &tls.Config{RootCAs: roots}, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second, MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second, // as internal/endpoint has them
	}}
}

// A serverRun is one process of the server.
type serverRun struct {
	state    string
	listener *memnet.Listener
	admin    *memnet.Local
	mount    *Mount
	running  server.Running
	stop     context.CancelFunc
	done     chan struct{}
	err      error
	killed   bool
}

// startServer starts a server, and returns when it answers.
func (w *World) startServer(state string) error {
	w.Log.Add("server", "starts")
	s := &serverRun{state: state, listener: w.Net.Listen(), admin: w.Net.NewLocal(), mount: w.Disk.Mount(), done: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	ready := make(chan server.Running, 1)
	config := server.Config{PublicURL: Endpoint, State: state, Listener: s.listener, Admin: s.admin.Listener, Disk: s.mount, Idle: w.Idle}
	w.all.Go(func() {
		defer close(s.done)
		s.err = server.Run(ctx, config, w.Log.Logger("server"), func(r server.Running) { ready <- r })
		w.Log.Add("server", "stopped: %v", s.err)
	})
	select {
	case s.running = <-ready:
	case <-s.done:
		stop()
		return fmt.Errorf("the server did not start: %w", s.err)
	}
	w.mu.Lock()
	w.server = s
	w.mu.Unlock()
	if _, err := os.Stat(filepath.Join(w.template.dir, "ca.pem")); errors.Is(err, fs.ErrNotExist) {
		return os.WriteFile(filepath.Join(w.template.dir, "ca.pem"), s.running.CA, 0o600)
	}
	return nil
}

// StopServer stops the server as a signal does, and waits for it.
func (w *World) StopServer() {
	w.Log.Add("server", "is asked to stop")
	s := w.lastServer()
	s.stop()
	<-s.done
	if s.err != nil && !s.killed {
		w.fail("stop server", s.err)
	}
}

// RestartServer stops the server, and starts another after a pause.
func (w *World) RestartServer(pause time.Duration) {
	w.StopServer()
	time.Sleep(pause)
	w.supervise(w.lastServer().state)
}

// supervise starts the server, again and again if it refuses, as a service manager
// does.
func (w *World) supervise(state string) {
	var err error
	for range 10 {
		if err = w.startServer(state); err == nil {
			return
		}
		w.Log.Add("server", "%v", err)
		time.Sleep(2 * time.Second)
	}
	w.fail("start server", err)
}

// KillServer is what kill -9 does to the server, or a power cut to its machine:
// nothing that it does from now on has an effect. It returns the state directory
// that the next server starts with.
func (w *World) KillServer(powerCut bool) (state string) {
	s := w.lastServer()
	if name, since := w.Disk.Unsynced(".log"); powerCut && !since.IsZero() && time.Since(since) > record.SyncLate {
		w.fail("cut the power", fmt.Errorf("%s has bytes that are not synced after %v", name, time.Since(since)))
	}
	s.killed = true
	s.listener.Kill()
	state = w.newState("server")
	var err error
	w.Disk.Crash(powerCut, func() { err = w.copyServer(s.state, state) })
	if err != nil {
		w.fail("copy the server's state", err)
	}
	w.Log.Add("server", "killed, by a power cut: %v", powerCut)
	if powerCut {
		w.fact(lostPower, nil)
	}
	s.stop()
	return state
}

// CrashServer kills the server, and starts another after a pause.
func (w *World) CrashServer(powerCut bool, pause time.Duration) {
	state := w.KillServer(powerCut)
	time.Sleep(pause)
	w.supervise(state)
}

// LockDatabase keeps the server's database from being written, until unlock is
// called.
func (w *World) LockDatabase() (unlock func()) {
	path := filepath.ToSlash(filepath.Join(w.lastServer().state, "sallyport.db"))
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: "/" + strings.TrimPrefix(path, "/"), RawQuery: "_txlock=immediate&_pragma=busy_timeout(5000)"}).String())
	if err != nil {
		w.fail("lock database", err)
		return func() {}
	}
	tx, err := db.Begin()
	w.Log.Add("database", "locked: %v", err)
	return func() {
		w.Log.Add("database", "unlocked")
		if err == nil {
			tx.Rollback()
		}
		db.Close()
	}
}

// copyServer copies a server's state directory and its database as it is after
// the last commit. Session logs are on the disk.
func (w *World) copyServer(from, to string) error {
	if err := copyDir(from, to, func(name string) bool { return !strings.HasPrefix(name, "sallyport.db") && name != "sessions" }); err != nil {
		return err
	}
	if b, err := os.ReadFile(from + ".key"); err != nil {
		return err
	} else if err := os.WriteFile(to+".key", b, 0o600); err != nil {
		return err
	}
	return store.CopySQLite(context.Background(), filepath.Join(from, "sallyport.db"), filepath.Join(to, "sallyport.db"))
}

func copyDir(from, to string, want func(name string) bool) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		switch {
		case !want(e.Name()), strings.HasPrefix(e.Name(), "lock"), strings.HasPrefix(e.Name(), ".try-"), strings.HasPrefix(e.Name(), ".tmp-"): // what is a process's own
		case e.IsDir():
			err = copyDir(src, dst, want)
		case e.Type().IsRegular():
			var b []byte
			if b, err = os.ReadFile(src); err == nil {
				err = os.WriteFile(dst, b, 0o600)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Store is the running server's.
func (w *World) Store() *store.DB { return w.lastServer().running.Store }

// An agentRun is one process of the agent.
type agentRun struct {
	state     string // directory
	host      *memnet.Host
	machine   *Booted
	connected chan struct{}
	stop      context.CancelFunc
	done      chan struct{}
	err       error
	killed    atomic.Bool
}

// StartAgent starts the agent, with the state directory that the one before left.
func (w *World) StartAgent() {
	w.TB.Helper()
	state, from := w.newState("agent"), filepath.Join(w.template.dir, "agent")
	if last := w.lastAgent(); last != nil {
		from = last.state
	}
	if err := copyDir(from, state, func(string) bool { return true }); err != nil {
		w.TB.Fatal(err)
	}
	w.Log.Add("agent", "starts")
	a := &agentRun{state: state, host: w.newHost("agent"), machine: w.Machine.Boot(), connected: make(chan struct{}, 1), done: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	run := &agent.Agent{State: state, Log: w.Log.Logger("agent"), HTTP: w.web(a.host), Machine: a.machine, Connected: func() {
		select {
		case a.connected <- struct{}{}:
		default:
		}
	}}
	w.all.Go(func() {
		defer close(a.done)
		a.err = run.Run(ctx)
		w.Log.Add("agent", "stopped: %v", a.err)
		if a.err != nil && !a.killed.Load() {
			w.fail("run agent", a.err)
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agent = a
}

// WaitConnected waits until the agent's control channel is open and it may be
// asked for sessions.
func (w *World) WaitConnected() {
	w.TB.Helper()
	a := w.lastAgent()
	select {
	case <-a.connected:
	case <-a.done:
		w.TB.Fatalf("the agent stopped: %v\n%s", a.err, w.Log)
	case <-time.After(2 * time.Minute):
		w.TB.Fatalf("the agent did not connect\n%s", w.Log)
	}
	time.Sleep(500 * time.Millisecond) // the server looks at its rights first
}

// AgentHost is the link of the agent that runs.
func (w *World) AgentHost() *memnet.Host { return w.lastAgent().host }

// stopsWithin is how long an agent takes to stop, answered or not: it gives
// the reports of ended sessions 3 s, and programs a moment before that.
const stopsWithin = 4500 * time.Millisecond

// StopAgent stops the agent as a signal does, and waits for it.
func (w *World) StopAgent() {
	w.Log.Add("agent", "is asked to stop")
	w.fact(agentGone, nil)
	a, began := w.lastAgent(), time.Now()
	a.stop()
	<-a.done
	if took := time.Since(began); took > stopsWithin && !a.killed.Load() {
		w.fail("stop agent", fmt.Errorf("it took %v, and may take %v", took.Round(time.Millisecond), stopsWithin))
	}
}

// KillAgent is what kill -9 does to the agent. What it writes from now on is not
// there for the next one.
func (w *World) KillAgent() {
	w.fact(agentGone, nil)
	a := w.lastAgent()
	a.killed.Store(true)
	left := w.newState("agent")
	if err := copyDir(a.state, left, func(string) bool { return true }); err != nil {
		w.fail("copy the agent's state", err)
	}
	a.state = left
	a.host.Die()
	a.machine.Kill()
	a.stop()
}

// A Process is a client's: it calls the server from a host of its own.
type Process struct {
	*client.Client
	Host *memnet.Host
	web  *http.Client
}

// NewClient returns a client of the world's user.
func (w *World) NewClient() *Process {
	w.TB.Helper()
	w.mu.Lock()
	name := fmt.Sprintf("client-%d", len(w.clients)+1)
	w.mu.Unlock()
	p := &Process{Host: w.newHost(name)}
	p.web = w.web(p.Host)
	cfg := aws.Config{Region: server.DefaultRegion, Credentials: credentials.NewStaticCredentialsProvider(w.template.keyID, w.template.secret, "")}
	var err error
	p.Client, err = client.Load(context.Background(), client.Settings{Endpoint: Endpoint, AWS: &cfg, HTTP: p.web})
	if err != nil {
		w.TB.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients = append(w.clients, p)
	return p
}

// Close closes the client's idle connections.
func (p *Process) Close() { p.web.CloseIdleConnections() }

// Stop stops the agent and the server, waits for all that was started, and says
// what is left.
func (w *World) Stop() (all []Problem) {
	bad := func(format string, args ...any) { all = append(all, Problem{Empty, fmt.Sprintf(format, args...)}) }
	w.StopAgent()
	w.StopServer()
	w.all.Wait()
	for _, p := range w.clients {
		p.Close()
	}
	synctest.Wait()
	if n := w.Net.Open(); n > 0 {
		bad("%d ends of connections are open", n)
	}
	if n := w.Machine.Running(); n > 0 {
		bad("%d programs run", n)
	}
	if n := w.lastServer().mount.Open(); n > 0 {
		bad("%d files are open", n)
	}
	if left, _ := filepath.Glob(filepath.Join(w.lastAgent().state, "ends", ".tmp-*")); len(left) > 0 {
		bad("the agent left %v", left)
	}
	for _, g := range goroutines() {
		bad("a goroutine is left: %s", g)
	}
	return all
}

// goroutines returns the stacks of those of this bubble, but for the caller's.
func goroutines() (all []string) {
	b := make([]byte, 4<<20)
	stacks := strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n")
	_, bubble, ok := strings.Cut(strings.SplitN(stacks[0], "\n", 2)[0], "synctest bubble ")
	for _, stack := range stacks[1:] {
		head, _, _ := strings.Cut(stack, "\n")
		if ok && strings.HasSuffix(head, "synctest bubble "+bubble) && !strings.Contains(stack, "testing/synctest.Test") { // whose own wait for us
			all = append(all, stack)
		}
	}
	return all
}
