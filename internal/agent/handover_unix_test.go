//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/internal/agent"
)

// A left is what an agent leaves to the next, as it is written.
type left struct {
	Version  int
	Sessions []struct {
		ID       string
		Terminal *struct {
			FD, Leader, Status int
			Exited             bool
		}
		State json.RawMessage
	}
	Over []string
}

// upgradable runs the machine's agent, and returns what has another take over
// from it, in this process, after a change to what it left. The first stays
// held until the test is over.
func (m *machine) upgradable(change func(*left)) (upgrade func()) {
	m.t.Helper()
	inherited, asked, over := make(chan *os.File), make(chan os.Signal), make(chan struct{})
	web, closeAll := m.ownConnections()
	m.agent = func(a *agent.Agent) {
		a.HTTP = web
		a.Upgrade = agent.Upgrade{
			Asked: asked,
			Ready: func(context.Context) error { return nil },
			Exec: func(state *os.File, _ []int) error {
				closeAll() // as exec does
				inherited <- m.change(state, change)
				<-over
				return errors.New("the test is over")
			},
		}
	}
	m.run()
	m.t.Cleanup(func() { close(over) })
	return func() {
		m.t.Helper()
		asked <- syscall.SIGHUP
		file := <-inherited
		m.agent = func(a *agent.Agent) { a.Inherited = file }
		m.run()
	}
}

// ownConnections returns a client for one agent alone, and what closes all of its
// connections and lets it make no more.
func (m *machine) ownConnections() (web *http.Client, closeAll func()) {
	transport := m.HTTP.Transport.(*http.Transport).Clone()
	dial := transport.DialContext
	var mu sync.Mutex
	var conns []net.Conn
	gone := false
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		mu.Lock()
		defer mu.Unlock()
		if err == nil && gone {
			c.Close()
			return nil, errors.New("the agent's process is gone")
		}
		conns = append(conns, c)
		return c, err
	}
	return &http.Client{Transport: transport}, func() {
		mu.Lock()
		defer mu.Unlock()
		gone = true
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}
}

// change returns a changed copy of what an agent left, with descriptors of its
// own.
func (m *machine) change(state *os.File, change func(*left)) *os.File {
	var doc left
	if err := json.NewDecoder(state).Decode(&doc); err != nil {
		m.t.Error(err)
	}
	for _, s := range doc.Sessions {
		if s.Terminal == nil {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(s.Terminal.FD), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			m.t.Error(err)
		}
		s.Terminal.FD = fd
	}
	change(&doc)
	f, err := os.CreateTemp(m.t.TempDir(), "")
	if err == nil {
		err = json.NewEncoder(f).Encode(doc)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		m.t.Error(err)
	}
	return f
}

// A session that the next version cannot go on with ends, says why, and leaves
// no shell behind.
func TestSessionsThatCannotBeTakenOver(t *testing.T) {
	tests := []struct {
		name   string
		change func(*left)
		want   string
	}{
		{"another version's", func(l *left) { l.Version = 99 }, "hands over in way 99"},
		{"a state that is none", func(l *left) { l.Sessions[0].State = json.RawMessage(`"no"`) }, "cannot unmarshal"},
		{"another end's stream", func(l *left) {
			l.Sessions[0].State = bytes.ReplaceAll(l.Sessions[0].State, []byte("output_stream_data"), []byte("input_stream_data"))
		}, "restore stream"},
		{"a terminal that is none", func(l *left) {
			unix.Close(l.Sessions[0].Terminal.FD)
			l.Sessions[0].Terminal.FD, _ = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
		}, "take up terminal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := start(t)
			upgrade := m.upgradable(tt.change)
			s := m.shell()
			s.type_("trap '' HUP; stty -echo; echo pid $$\r")
			pid, _ := strconv.Atoi(s.expect(`pid (\d+)\r\n`)[1])
			upgrade()
			if c := s.closed(); !strings.Contains(c.Output, "could not go on with this session: ") || !strings.Contains(c.Output, tt.want) {
				t.Errorf("told %q, want %q in it", c.Output, tt.want)
			}
			m.eventually("the shell is gone", func() bool { return !running(pid) })
		})
	}
}

// What was typed and not read, and said and not acknowledged, is handed over
// with the terminal.
func TestTakenOver(t *testing.T) {
	m := start(t)
	upgrade := m.upgradable(func(*left) {})
	s := m.shell()
	read := filepath.Join(t.TempDir(), "read")
	s.type_("stty -echo; echo rea'dy'; until [ -e " + read + " ]; do sleep 0.02; done; wc -l\r")
	s.expect("ready\r\n")
	s.type_(strings.Repeat("more than a terminal holds\r", 3000))
	s.type_("\x04echo $((6*7))\r")
	upgrade()
	if err := os.WriteFile(read, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.expect("(?m)^3000\r\n")
	s.expect("42\r\n")
	s.type_("exit 3\r")
	if c := s.closed(); c.Output != "" {
		t.Errorf("told %q", c.Output)
	}
}

// A session may be handed over before the agent has heard of it, or while it
// starts its shell.
func TestTakenOverAtItsBeginning(t *testing.T) {
	m := start(t)
	upgrade := m.upgradable(func(*left) {})
	shells := []*shell{m.shell(), m.shell(), m.shell()}
	for _, s := range shells {
		s.type_("echo $((6*7))\r")
	}
	upgrade()
	for _, s := range shells {
		s.expect("42\r\n")
		s.type_("exit\r")
		if c := s.closed(); c.Output != "" {
			t.Errorf("told %q", c.Output)
		}
	}
}
