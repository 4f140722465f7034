package agent

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/pty"
)

// A Machine is what the agent needs of the machine it runs on: programs, users,
// the network behind it, and how it describes itself. An agent that is given
// none runs on the real one.
//
// Its methods may be called from many goroutines.
type Machine interface {
	// StartTerminal starts a program on a terminal, as [pty.Start] does.
	StartTerminal(c pty.Command) (Terminal, error)

	// TakeUp makes a terminal of one that an earlier program held, as
	// [pty.TakeUp] does.
	TakeUp(h pty.Held) (Terminal, error)

	// StartPipes starts a program on pipes, as [pty.StartPipes] does.
	StartPipes(c pty.Command, input, apart bool) (Pipes, error)

	// CurrentUser is the user the agent runs as, and LookupUser the one with a
	// name: [pty.ErrNoUser] if there is none. EnsureUser makes a user that is not
	// there. CanSwitch reports whether programs can be started as a user that is
	// not the agent's own, whose numbers CredentialOf returns.
	CurrentUser(ctx context.Context) (pty.User, error)
	LookupUser(ctx context.Context, name string) (pty.User, error)
	EnsureUser(ctx context.Context, name string, sudo bool) error
	CanSwitch() bool
	CredentialOf(ctx context.Context, u pty.User) (*pty.Credential, error)

	// Resolve returns the addresses of a host, and Dial connects to one by TCP.
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)

	// Addresses describes the addresses of the machine's interfaces: it changes
	// when they do. AddressTo is the one that host and port are reached from, or
	// empty.
	Addresses() string
	AddressTo(host, port string) string

	// Hostname is the machine's name, and Platform its system's name and version.
	Hostname() string
	Platform() (name, version string)

	// Place names a state directory on the machine as it was booted last: that of a
	// copy of the directory, or of the machine, is another. It is empty if the
	// system does not say.
	Place(dir string) string

	// NamelessFile makes a file that no directory lists, for what may be secret.
	// dir is the agent's alone.
	NamelessFile(dir string) (*os.File, error)

	// FreeMemory returns memory that is not used to the system.
	FreeMemory()
}

// A Terminal is a program on a terminal. Its methods are those of
// [pty.Terminal].
type Terminal interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	WriteNow(p []byte) int
	Interrupt() bool
	Resize(cols, rows uint16) error
	Exited() <-chan struct{}
	Wait() int
	Hold()
	Release()
	Held() (pty.Held, error)
	Close()
}

// A Process is a program without a terminal. Its methods are those of
// [pty.Process].
type Process interface {
	Exited() <-chan struct{}
	Wait() int
	Interrupt()
	Quit()
	Close()
}

// Pipes are a program without a terminal and its pipes.
type Pipes struct {
	Process
	Stdin          io.WriteCloser // nil if it has none
	Stdout, Stderr io.Reader      // Stderr is nil unless errors are apart
}

// machine is where the agent runs.
func (a *Agent) machine() Machine {
	if a.Machine == nil {
		return realMachine{}
	}
	return a.Machine
}

// realMachine is the machine that this process runs on.
type realMachine struct{}

func (realMachine) StartTerminal(c pty.Command) (Terminal, error) {
	t, err := pty.Start(c)
	if err != nil {
		return nil, err // and not a Terminal that holds nil
	}
	return t, nil
}

func (realMachine) TakeUp(h pty.Held) (Terminal, error) {
	t, err := pty.TakeUp(h)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (realMachine) StartPipes(c pty.Command, input, apart bool) (Pipes, error) {
	p, err := pty.StartPipes(c, input, apart)
	if err != nil {
		return Pipes{}, err
	}
	pipes := Pipes{Process: p, Stdout: p.Stdout, Stderr: p.Stderr}
	if p.Stdin != nil {
		pipes.Stdin = p.Stdin
	}
	return pipes, nil
}

func (realMachine) CurrentUser(ctx context.Context) (pty.User, error) { return pty.CurrentUser(ctx) }

func (realMachine) LookupUser(ctx context.Context, name string) (pty.User, error) {
	return pty.LookupUser(ctx, name)
}

func (realMachine) EnsureUser(ctx context.Context, name string, sudo bool) error {
	return pty.EnsureUser(ctx, name, sudo)
}

func (realMachine) CanSwitch() bool { return pty.CanSwitch() }

func (realMachine) CredentialOf(ctx context.Context, u pty.User) (*pty.Credential, error) {
	return pty.CredentialOf(ctx, u)
}

func (realMachine) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func (realMachine) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: dialWithin}
	return d.DialContext(ctx, "tcp", to.String())
}

func (realMachine) Addresses() string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var b strings.Builder
	for _, addr := range all {
		b.WriteString(addr.String())
		b.WriteByte(' ')
	}
	return b.String()
}

// AddressTo sends nothing: connecting a UDP socket only chooses a route.
func (realMachine) AddressTo(host, port string) string {
	c, err := net.DialTimeout("udp", net.JoinHostPort(host, port), time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	local, _, _ := net.SplitHostPort(c.LocalAddr().String())
	return local
}

func (realMachine) Hostname() string {
	name, _ := os.Hostname()
	return name
}

func (realMachine) Platform() (name, version string) {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS, ""
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if text, err := strconv.Unquote(value); err == nil {
			value = text
		}
		switch key {
		case "NAME":
			name = value
		case "VERSION_ID":
			version = value
		}
	}
	return name, version
}

func (realMachine) Place(dir string) string { return place(dir) }

func (realMachine) NamelessFile(dir string) (*os.File, error) { return namelessFile(dir) }

// FreeMemory collects twice: what was pooled outlives one collection.
func (realMachine) FreeMemory() {
	runtime.GC()
	debug.FreeOSMemory()
}
