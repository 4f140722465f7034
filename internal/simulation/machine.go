package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/memnet"
	"github.com/sallyport/sallyport/internal/pty"
)

// ptyBuffer is what a terminal or a pipe holds in each direction before its
// writer waits.
const ptyBuffer = 4 << 10

// A Step is one thing that a program does.
type Step struct {
	Print  string        // written to standard output
	Errors string        // written to standard error
	Pause  time.Duration // sleeps
	Copy   bool          // copies standard input to standard output until it ends
	Do     func()        // calls back; it must not wait for the session
}

// A Program is what a command on a simulated machine does, and then what it did.
type Program struct {
	Name   string
	Steps  []Step
	Status int

	mu    sync.Mutex
	runs  int
	truth Truth
}

// A Truth is what really happened to a program.
type Truth struct {
	Started time.Time // zero if it did not
	Ended   time.Time // zero if it runs
	HungUp  bool      // it was ended from outside

	// Output is everything that came out of its terminal or its standard output,
	// in order, and Errors what came out of its standard error, if that is
	// apart. A shell's own is not among it: see Machine.Shown.
	Output, Errors []byte
	Input          []byte // what it read
}

// Truth is what has happened so far.
func (p *Program) Truth() Truth {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.truth
	t.Output, t.Errors, t.Input = bytes.Clone(t.Output), bytes.Clone(t.Errors), bytes.Clone(t.Input)
	return t
}

// pauses reports whether the program is silent for that long.
func (p *Program) pauses(long time.Duration) bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Copy || s.Pause >= long })
}

// Runs is how often the program was started.
func (p *Program) Runs() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs
}

// A Machine runs programs for an agent. Its shell, and its /bin/sh -c, know the
// commands that were added to it, and nothing else.
type Machine struct {
	log *Log
	net *memnet.Network

	mu       sync.Mutex
	programs map[string]*Program
	shown    map[string][]byte // by session ID: what a shell showed before its program ran
	ports    map[uint16]*memnet.Local
	running  map[*process]struct{}
}

// NewMachine returns a machine without programs.
func NewMachine(log *Log, n *memnet.Network) *Machine {
	return &Machine{log: log, net: n, programs: map[string]*Program{}, shown: map[string][]byte{}, ports: map[uint16]*memnet.Local{}, running: map[*process]struct{}{}}
}

// Add has a program found under /sim/ and its name.
func (m *Machine) Add(p *Program) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.programs["/sim/"+p.Name] = p
}

// Listen has a port of the machine answered by serve.
func (m *Machine) Listen(port uint16) *memnet.Local {
	l := m.net.NewLocal()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports[port] = l
	return l
}

// Shown is what a session's shell has shown before its program ran.
func (m *Machine) Shown(id sallyport.SessionID) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.shown[id.String()])
}

// Running counts the programs that run.
func (m *Machine) Running() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.running)
}

// Boot is the machine as one agent has it, until that is killed.
func (m *Machine) Boot() *Booted { return &Booted{machine: m} }

// A Booted machine is an agent.Machine.
type Booted struct {
	machine *Machine
	mu      sync.Mutex
	dead    bool
}

var _ agent.Machine = (*Booted)(nil)

// Kill is the end of the agent's process. Its programs lose their terminals, and
// are hung up; it starts no more.
func (b *Booted) Kill() {
	b.mu.Lock()
	b.dead = true
	b.mu.Unlock()
	b.machine.mu.Lock()
	var all []*process
	for p := range b.machine.running {
		if p.booted == b {
			all = append(all, p)
		}
	}
	b.machine.mu.Unlock()
	for _, p := range all {
		p.hangUp()
	}
}

func (b *Booted) find(c pty.Command) (*Program, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return nil, errors.New("the agent has been killed")
	}
	words := c.Args
	if len(words) == 3 && words[1] == "-c" {
		words = strings.Fields(words[2])
	}
	m := b.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range append([]string{c.Path}, words...) {
		if p := m.programs[name]; p != nil {
			return p, nil
		}
	}
	if c.Path == "/sim/sh" {
		return nil, nil // the shell itself
	}
	return nil, &os.PathError{Op: "start", Path: c.Path, Err: syscall.ENOENT}
}

// StartTerminal starts a program, or the shell, on a terminal.
func (b *Booted) StartTerminal(c pty.Command) (agent.Terminal, error) {
	p, err := b.find(c)
	if err != nil {
		return nil, err
	}
	t := &terminal{process: b.newProcess(p)}
	for _, pair := range c.Env {
		if id, ok := strings.CutPrefix(pair, "SALLYPORT_SESSION_ID="); ok {
			t.session = id
		}
	}
	t.tty = true
	t.start()
	return t, nil
}

// StartPipes starts a program on pipes.
func (b *Booted) StartPipes(c pty.Command, input, apart bool) (agent.Pipes, error) {
	p, err := b.find(c)
	if err != nil {
		return agent.Pipes{}, err
	}
	proc := b.newProcess(p)
	proc.apart = apart
	pipes := agent.Pipes{Process: proc, Stdout: reader{proc, &proc.out}}
	if input {
		pipes.Stdin = stdin{proc}
	} else {
		proc.inEnded = true
	}
	if apart {
		pipes.Stderr = reader{proc, &proc.errs}
	}
	proc.start()
	return pipes, nil
}

// TakeUp fails: a simulated agent is not upgraded.
func (b *Booted) TakeUp(pty.Held) (agent.Terminal, error) { return nil, errors.ErrUnsupported }

// CurrentUser is the one user there is.
func (b *Booted) CurrentUser(context.Context) (pty.User, error) {
	return pty.User{Name: "sim", UID: 1000, GID: 1000, Home: "/", Shell: "/sim/sh"}, nil
}

// LookupUser finds no other.
func (b *Booted) LookupUser(context.Context, string) (pty.User, error) {
	return pty.User{}, pty.ErrNoUser
}

// EnsureUser cannot be called: CanSwitch is false.
func (b *Booted) EnsureUser(context.Context, string, bool) error { return errors.ErrUnsupported }

// CanSwitch is false: everything runs as the one user.
func (b *Booted) CanSwitch() bool { return false }

// CredentialOf cannot be called either.
func (b *Booted) CredentialOf(context.Context, pty.User) (*pty.Credential, error) {
	return nil, errors.ErrUnsupported
}

// Resolve knows no names.
func (b *Booted) Resolve(_ context.Context, host string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Dial connects to a port of this machine.
func (b *Booted) Dial(_ context.Context, to netip.AddrPort) (net.Conn, error) {
	b.machine.mu.Lock()
	l := b.machine.ports[to.Port()]
	b.machine.mu.Unlock()
	if l == nil || !to.Addr().Is4() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	return l.Dial()
}

// Addresses, AddressTo, Hostname and Platform never change.
func (b *Booted) Addresses() string { return "10.0.0.1/8" }

// AddressTo is the one address there is.
func (b *Booted) AddressTo(string, string) string { return "10.0.0.1" }

// Hostname is made up.
func (b *Booted) Place(string) string { return "the machine" } // whose state is copied for each process

func (b *Booted) Hostname() string { return "simulated" }

// Platform is made up.
func (b *Booted) Platform() (name, version string) { return "Simulation", "1" }

// NamelessFile is of the real machine: it is not written to without an upgrade.
func (b *Booted) NamelessFile(dir string) (*os.File, error) { return os.CreateTemp(dir, ".nameless-*") }

// FreeMemory does nothing: collecting takes real time.
func (b *Booted) FreeMemory() {}

// A process is a program that runs.
type process struct {
	booted  *Booted
	program *Program // the shell's is the one that it was told to run, once it was
	tty     bool     // what is written to it is echoed, and out and errs are one
	apart   bool
	session string // its ID

	mu      sync.Mutex
	changed *sync.Cond
	out     []byte // written by the program, and not read
	errs    []byte
	in      []byte // written to the program, and not read
	inEnded bool
	hung    bool // it is to end
	closed  bool // the other end is closed
	done    bool
	status  int
	exited  chan struct{}
}

func (b *Booted) newProcess(p *Program) *process {
	proc := &process{booted: b, program: p, exited: make(chan struct{})}
	proc.changed = sync.NewCond(&proc.mu)
	return proc
}

var errHungUp = errors.New("hung up")

func (p *process) start() {
	m := p.booted.machine
	m.mu.Lock()
	m.running[p] = struct{}{}
	m.mu.Unlock()
	go func() {
		status := p.main()
		m.mu.Lock()
		delete(m.running, p)
		m.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.done, p.status = true, status
		p.changed.Broadcast()
		close(p.exited)
	}()
}

// main is what the process does, and returns its status.
func (p *process) main() int {
	if p.program == nil {
		if p.shell() != nil {
			return 129
		}
		if p.program == nil {
			return 0
		}
	}
	prog := p.program
	prog.mu.Lock()
	prog.runs++
	prog.truth.Started = time.Now()
	prog.mu.Unlock()
	p.booted.machine.log.Add("program", "%s started", prog.Name)
	err := p.run(prog.Steps)
	prog.mu.Lock()
	prog.truth.Ended = time.Now()
	prog.truth.HungUp = err != nil
	prog.mu.Unlock()
	if err != nil {
		p.booted.machine.log.Add("program", "%s hung up", prog.Name)
		return 129
	}
	p.booted.machine.log.Add("program", "%s ended with %d", prog.Name, prog.Status)
	return prog.Status
}

// shell prompts, reads a line and runs the program it names, in this process, or
// ends at the end of its input.
func (p *process) shell() error {
	m := p.booted.machine
	show := func(b []byte) error {
		m.mu.Lock()
		m.shown[p.session] = append(m.shown[p.session], b...)
		m.mu.Unlock()
		return p.put(&p.out, b, nil)
	}
	if err := show([]byte("$ ")); err != nil {
		return err
	}
	var line []byte
	for {
		b, err := p.take(1)
		if err != nil {
			return err
		}
		switch {
		case len(b) == 0 || b[0] == 4 && len(line) == 0:
			return nil
		case b[0] != '\r' && b[0] != '\n':
			line = append(line, b[0])
			if err := show(b); err != nil {
				return err
			}
			continue
		}
		if err := show([]byte("\r\n")); err != nil {
			return err
		}
		m.mu.Lock()
		prog := m.programs["/sim/"+strings.TrimSpace(string(line))]
		m.mu.Unlock()
		if prog == nil {
			if err := show([]byte(fmt.Sprintf("%s: not found\r\n$ ", line))); err != nil {
				return err
			}
			line = nil
			continue
		}
		p.program = prog
		return nil
	}
}

func (p *process) run(steps []Step) error {
	for _, s := range steps {
		if s.Do != nil {
			s.Do()
		}
		if s.Pause > 0 && !p.sleep(s.Pause) {
			return errHungUp
		}
		if err := p.put(&p.out, []byte(s.Print), &p.program.truth.Output); err != nil {
			return err
		}
		if s.Errors != "" {
			to, truth := &p.out, &p.program.truth.Output
			if p.apart {
				to, truth = &p.errs, &p.program.truth.Errors
			}
			if err := p.put(to, []byte(s.Errors), truth); err != nil {
				return err
			}
		}
		for s.Copy {
			b, err := p.take(512)
			if err != nil {
				return err
			}
			if len(b) == 0 {
				break
			}
			p.program.mu.Lock()
			p.program.truth.Input = append(p.program.truth.Input, b...)
			p.program.mu.Unlock()
			if err := p.put(&p.out, b, &p.program.truth.Output); err != nil {
				return err
			}
		}
	}
	return nil
}

// sleep reports false if the process was hung up.
func (p *process) sleep(d time.Duration) bool {
	over := false
	stop := time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		over = true
		p.changed.Broadcast()
	})
	defer stop.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !over && !p.hung {
		p.changed.Wait()
	}
	return !p.hung
}

// put writes b where it is read from, and waits for room. What was written is
// added to truth, which the program's mu guards.
func (p *process) put(to *[]byte, b []byte, truth *[]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for len(*to) >= ptyBuffer && !p.hung {
			p.changed.Wait()
		}
		if p.hung {
			return errHungUp
		}
		n := min(len(b), ptyBuffer-len(*to))
		*to = append(*to, b[:n]...)
		if truth != nil {
			p.program.mu.Lock()
			*truth = append(*truth, b[:n]...)
			p.program.mu.Unlock()
		}
		b = b[n:]
		p.changed.Broadcast()
	}
	return nil
}

// take reads up to n bytes of input; none is its end. On a terminal that is an
// end-of-transmission character.
func (p *process) take(n int) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.in) == 0 && !p.inEnded && !p.hung {
		p.changed.Wait()
	}
	if p.hung {
		return nil, errHungUp
	}
	n = min(n, len(p.in))
	if p.tty {
		if at := bytes.IndexByte(p.in[:n], 4); at == 0 {
			p.in = p.in[1:]
			return nil, nil
		} else if at > 0 {
			n = at
		}
	}
	b := bytes.Clone(p.in[:n])
	p.in = p.in[n:]
	p.changed.Broadcast()
	return b, nil
}

// give writes input, and waits for room. now returns instead of waiting.
func (p *process) give(b []byte, now bool) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for len(p.in) >= ptyBuffer && !p.closed && !p.done && !now {
			p.changed.Wait()
		}
		if p.closed || p.done {
			return n, syscall.EIO
		}
		k := min(len(b), ptyBuffer-len(p.in))
		if k <= 0 {
			return n, nil
		}
		p.in = append(p.in, b[:k]...)
		n, b = n+k, b[k:]
		p.changed.Broadcast()
	}
	return n, nil
}

// hear reads what the program has written; io.EOF once it has ended and all is
// read.
func (p *process) hear(from *[]byte, b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(*from) == 0 && !p.done && !p.closed {
		p.changed.Wait()
	}
	if p.closed || len(*from) == 0 {
		return 0, io.EOF
	}
	n := copy(b, *from)
	*from = (*from)[n:]
	p.changed.Broadcast()
	return n, nil
}

func (p *process) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung = true
	p.changed.Broadcast()
}

func (p *process) Exited() <-chan struct{} { return p.exited }

func (p *process) Wait() int {
	<-p.exited
	return p.status
}

func (p *process) Interrupt() { p.hangUp() }
func (p *process) Quit()      { p.hangUp() }

func (p *process) Close() {
	p.hangUp()
	<-p.exited
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
}

// A reader is one of a process's outputs.
type reader struct {
	p    *process
	from *[]byte
}

func (r reader) Read(b []byte) (int, error) { return r.p.hear(r.from, b) }

// stdin is a process's input.
type stdin struct{ p *process }

func (s stdin) Write(b []byte) (int, error) { return s.p.give(b, false) }

func (s stdin) Close() error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.inEnded = true
	s.p.changed.Broadcast()
	return nil
}

// A terminal is a process on one.
type terminal struct {
	*process
}

func (t *terminal) Read(b []byte) (int, error)     { return t.hear(&t.out, b) }
func (t *terminal) Write(b []byte) (int, error)    { return t.give(b, false) }
func (t *terminal) Resize(cols, rows uint16) error { return nil }
func (t *terminal) Hold()                          {}
func (t *terminal) Release()                       {}
func (t *terminal) Held() (pty.Held, error)        { return pty.Held{}, errors.ErrUnsupported }
func (t *terminal) Interrupt() bool                { t.hangUp(); return true }

func (t *terminal) WriteNow(b []byte) int {
	n, _ := t.give(b, true)
	return n
}
