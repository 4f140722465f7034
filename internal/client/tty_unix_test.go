//go:build unix

package client

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// A desk is a terminal with a program of ours on it, and a plane behind that.
type desk struct {
	*plane
	screen        *screen
	master, slave *os.File
	before        *term.State
	cmd           *exec.Cmd
	status        chan int
}

// sit runs a program on a terminal of 100 by 30.
func sit(t *testing.T, what string, before ...func(*plane)) *desk {
	t.Helper()
	d := &desk{plane: newPlane(t), screen: newScreen(), status: make(chan int, 1)}
	for _, f := range before {
		f(d.plane)
	}
	address, bundle := d.serveTLS()
	var err error
	if d.master, d.slave, err = pty.Open(); err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(d.master, &pty.Winsize{Cols: 100, Rows: 30}); err != nil {
		t.Fatal(err)
	}
	d.before = d.state()

	inv := d.invitation()
	args := []string{address, inv.SessionID, inv.StreamURL, inv.Token.Reveal()}
	if what == "plugin" || what == "aws" {
		response, _ := json.Marshal(map[string]string{"SessionId": inv.SessionID, "StreamUrl": inv.StreamURL, "TokenValue": inv.Token.Reveal()})
		args = []string{string(response), "home-1", "StartSession", "", `{"Target":"mi-0123456789abcdef0"}`, address}
	}
	d.cmd = exec.Command(os.Args[0], args...)
	d.cmd.Stdin, d.cmd.Stdout, d.cmd.Stderr = d.slave, d.slave, d.slave
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	d.cmd.Env = []string{"SALLYPORT_TEST_PROGRAM=" + what, "HOME=" + t.TempDir()}
	for k, v := range awsEnvironment(bundle) {
		if v != "" {
			d.cmd.Env = append(d.cmd.Env, k+"="+v)
		}
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := d.master.Read(buf)
			if err != nil {
				return
			}
			d.screen.Write(buf[:n])
		}
	}()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		d.status <- d.cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		d.slave.Close()
		d.master.Close()
		<-read
	})
	return d
}

func (d *desk) state() *term.State {
	d.t.Helper()
	s, err := term.GetState(int(d.slave.Fd()))
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// prompt has the node show a prompt, and checks that the terminal is raw.
func (d *desk) prompt() {
	d.t.Helper()
	d.waitSockets(1)
	d.show("node$ ")
	d.screen.wait(d.t, "node$ ")
	if reflect.DeepEqual(d.state(), d.before) {
		d.t.Error("the terminal is not raw")
	}
}

func (d *desk) press(keys string) {
	d.t.Helper()
	if _, err := d.master.WriteString(keys); err != nil {
		d.t.Fatal(err)
	}
}

// gone waits until the program has ended, and checks its status and that the
// terminal is as it was.
func (d *desk) gone(status int) {
	d.t.Helper()
	select {
	case got := <-d.status:
		if got != status {
			d.t.Errorf("exit status %d, want %d; the screen shows %q", got, status, d.screen)
		}
	case <-time.After(time.Minute):
		d.t.Fatalf("it goes on; the screen shows %q", d.screen)
	}
	if !reflect.DeepEqual(d.state(), d.before) {
		d.t.Error("the terminal is not as it was")
	}
}

// size returns the next size that comes to the node.
func (d *desk) size() (s wire.Size) {
	d.t.Helper()
	for {
		if m := d.next(); m.Kind == wire.KindSize {
			if err := json.Unmarshal(m.Payload, &s); err != nil {
				d.t.Fatal(err)
			}
			return s
		}
	}
}

func TestTerminalIsAsItWas(t *testing.T) {
	status := 7
	tests := []struct {
		name   string
		what   string
		leave  func(d *desk)
		status int
		ended  bool // by TerminateSession
	}{
		{"when the shell ends", "connect", func(d *desk) { d.end("", &status) }, 7, false},
		{"when somebody else ends it", "connect", func(d *desk) { d.end("Terminated by bob.", nil) }, 0, false},
		{"when the person leaves", "connect", func(d *desk) { d.press("~"); d.press(".") }, 100 + int(Left), true},
		{"when it is ended by SIGTERM", "connect", func(d *desk) { d.cmd.Process.Signal(syscall.SIGTERM) }, 128 + 15, true},
		{"when the window is closed", "connect", func(d *desk) { d.cmd.Process.Signal(syscall.SIGHUP) }, 128 + 1, true},
		{"when it panics", "panic", func(d *desk) { d.show("boom") }, 2, false},
		{"the plugin, when the shell ends", "plugin", func(d *desk) { d.end("", &status) }, 0, false},
		{"the plugin, when the person leaves", "plugin", func(d *desk) { d.press("~.") }, 0, true},
		{"the plugin, when it is ended by SIGTERM", "plugin", func(d *desk) { d.cmd.Process.Signal(syscall.SIGTERM) }, 128 + 15, false},
		{"the plugin under the aws CLI", "aws", func(d *desk) { d.end("", nil) }, 0, false},
		{"when the control plane is gone, and the person leaves", "connect", func(d *desk) {
			d.mu.Lock()
			d.answer = func(string) (int, string) { return 503, "" }
			d.mu.Unlock()
			d.cut()
			d.screen.wait(d.t, "reconnecting")
			d.press("~.")
		}, 100 + int(Left), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := sit(t, tt.what)
			d.prompt()
			tt.leave(d)
			d.gone(tt.status)
			if got := d.called("TerminateSession") > 0; got != tt.ended {
				t.Errorf("ended by TerminateSession: %v, want %v", got, tt.ended)
			}
		})
	}
}

func TestResize(t *testing.T) {
	d := sit(t, "connect")
	if m := d.next(); m.Kind != wire.KindSize || string(m.Payload) != `{"cols":100,"rows":30}` {
		t.Errorf("the first message is %v %s", m.Kind, m.Payload)
	}
	d.prompt()
	if got := d.size(); got != (wire.Size{Cols: 100, Rows: 30}) {
		t.Errorf("once the node is there, its size is %v", got)
	}
	for _, want := range []wire.Size{{Cols: 120, Rows: 40}, {Cols: 20, Rows: 5}} {
		if err := pty.Setsize(d.master, &pty.Winsize{Cols: uint16(want.Cols), Rows: uint16(want.Rows)}); err != nil {
			t.Fatal(err)
		}
		if got := d.size(); got != want {
			t.Errorf("sized %v, want %v", got, want)
		}
	}
	d.end("", nil)
	d.gone(0)
}

// On a terminal every key is the node's.
func TestKeys(t *testing.T) {
	for _, what := range []string{"connect", "aws"} {
		t.Run(what, func(t *testing.T) {
			d := sit(t, what)
			d.prompt()
			const keys = "\x03\x1a\x1c\x04\x13\x11\x16\r\t\x7fé漢\x1b[A"
			d.press(keys)
			d.typed(keys)
			d.end("", nil)
			d.gone(0)
		})
	}
}

// The aws CLI starts the plugin with these ignored; they are keys all the same.
func TestSignalsAreKeys(t *testing.T) {
	d := sit(t, "aws")
	d.prompt()
	for s, key := range map[syscall.Signal]string{syscall.SIGINT: "\x03", syscall.SIGQUIT: "\x1c", syscall.SIGTSTP: "\x1a"} {
		if err := syscall.Kill(-d.cmd.Process.Pid, s); err != nil { // to all on the terminal
			t.Fatal(err)
		}
		d.typed(key)
	}
	d.end("", nil)
	d.gone(0)
}

func TestEscapesOnTerminal(t *testing.T) {
	d := sit(t, "connect")
	d.prompt()
	d.press("~")
	d.press("?")
	d.screen.wait(t, "~~  send one tilde\r\n")
	d.press("ls ~\r")
	d.typed("ls ~\r")
	d.press("~~")
	d.typed("~")
	d.press("\r")
	d.press("~")
	d.press(".")
	d.gone(100 + int(Left))
}

// A shell that stops and continues the program sets the terminal as it likes.
func TestContinue(t *testing.T) {
	d := sit(t, "connect")
	d.prompt()
	raw := d.state()
	if err := term.Restore(int(d.slave.Fd()), d.before); err != nil {
		t.Fatal(err)
	}
	d.cmd.Process.Signal(syscall.SIGCONT)
	deadline, tick := time.After(time.Minute), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !reflect.DeepEqual(d.state(), raw) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the terminal is not raw again")
		}
	}
	d.end("", nil)
	d.gone(0)
}

// What is typed when the session is over is left to the next reader of the terminal.
func TestKeysAreLeft(t *testing.T) {
	d := sit(t, "connect")
	d.prompt()
	d.end("", nil)
	d.gone(0)
	d.press("next\n")
	buf := make([]byte, 10)
	if n, err := d.slave.Read(buf); string(buf[:n]) != "next\n" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

// The words of the plugin are where programs look for them.
func TestPluginOnTerminal(t *testing.T) {
	tests := []struct {
		name, output, want string
	}{
		{"the shell ended", "", "\r\nStarting session with SessionId: " + testSession + "\r\nnode$ \r\n\r\nExiting session with sessionId: " + testSession + ".\r\n\r\n"},
		{"for a reason", "Idle.", "\r\nStarting session with SessionId: " + testSession + "\r\nnode$ \r\n\r\nSessionId: " + testSession + " : Idle.\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := sit(t, "plugin")
			d.prompt()
			d.end(tt.output, nil)
			d.gone(0)
			d.screen.wait(t, tt.want)
			if got := d.screen.String(); !strings.HasPrefix(got, tt.want) || len(got) != len(tt.want) {
				t.Errorf("shown %q", got)
			}
		})
	}
}

// Ctrl-C ends a forwarding, and the node with it, in the words of the plugin.
func TestInterruptEndsForwarding(t *testing.T) {
	tests := []struct {
		name string
		what string
		agent
		calls int // of TerminateSession
	}{
		{"under the aws CLI", "aws", stockAgent, 0},
		{"alone", "plugin", ourAgent, 0},
		{"with an agent that has to be told by the control plane", "aws", oldAgent, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := sit(t, tt.what)
			d.shake(tt.agent, "Port", toPort)
			d.screen.wait(t, " opened for sessionId ")
			d.press("\x03")
			if tt.calls == 0 {
				d.flagged(wire.FlagTerminateSession)
				d.end("", nil)
			}
			d.gone(0)
			d.screen.wait(t, "Terminate signal received, exiting.\r\n\r\n\r\nExiting session with sessionId: "+testSession+".\r\n\r\n")
			if n := d.called("TerminateSession"); n != tt.calls {
				t.Errorf("%d calls of TerminateSession", n)
			}
		})
	}
}

// restored waits until the terminal is as it was, which it is once the plugin has
// ended, though what started it ended before.
func (d *desk) restored() {
	d.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !reflect.DeepEqual(d.state(), d.before); <-tick.C {
		if time.Now().After(deadline) {
			d.t.Fatalf("the plugin goes on; the screen shows %q", d.screen)
		}
	}
}

// The plugin ends a port session, and frees the port, when a signal ends it and when
// the aws CLI that started it has gone; a shell's it leaves on.
func TestEndOfPlugin(t *testing.T) {
	for name, tt := range map[string]struct {
		what string
		end  func(d *desk)
		gone int // status of what was started
	}{
		"SIGTERM":                {"plugin", func(d *desk) { d.cmd.Process.Signal(syscall.SIGTERM) }, 128 + 15},
		"SIGHUP":                 {"plugin", func(d *desk) { d.cmd.Process.Signal(syscall.SIGHUP) }, 128 + 1},
		"kill -9 of the aws CLI": {"aws", func(d *desk) { d.cmd.Process.Kill() }, -1},
	} {
		t.Run("a port, "+name, func(t *testing.T) {
			d := sit(t, tt.what)
			d.shake(ourAgent, "Port", toPort)
			d.screen.wait(t, " opened for sessionId ")
			port := regexp.MustCompile(`Port (\d+) opened`).FindStringSubmatch(d.screen.String())
			tt.end(d)
			d.flagged(wire.FlagTerminateSession)
			d.end("", nil)
			d.restored()
			d.gone(tt.gone)
			for deadline := time.Now().Add(time.Minute); ; {
				c, err := net.Dial("tcp", "127.0.0.1:"+port[1])
				if err != nil {
					break
				}
				c.Close()
				if time.Now().After(deadline) {
					t.Fatal("the port is still taken")
				}
			}
		})
		t.Run("a shell, "+name, func(t *testing.T) {
			d := sit(t, tt.what)
			d.prompt()
			tt.end(d)
			d.restored()
			d.gone(tt.gone)
			if n := d.called("TerminateSession"); n > 0 {
				t.Error("the session was ended")
			}
		})
	}
}

// A parent process that has the plugin ignore a signal wants its connection to go on.
func TestInterruptOfStream(t *testing.T) {
	for what, status := range map[string]int{"aws": 0, "plugin": 128 + int(syscall.SIGINT)} {
		t.Run(what, func(t *testing.T) {
			d := sit(t, what)
			d.shake(stockAgent, "Port", wire.PortProperties{PortNumber: "22"})
			d.show("SSH-2.0-there\r\n")
			d.screen.wait(t, "SSH-2.0-there")
			d.press("\x03")
			if what == "aws" {
				d.press("go on\n")
				d.typed("go on\n")
				d.end("", nil)
			}
			d.gone(status)
		})
	}
}

// A command without a terminal at its end has a person's line, signals, and end
// of input.
func TestCommandOnTerminal(t *testing.T) {
	tests := []struct {
		agent
		interrupt, quit, end func(d *desk)
	}{
		{ourAgent,
			func(d *desk) { d.flagged(wire.FlagInterrupt) },
			func(d *desk) { d.flagged(wire.FlagQuit) },
			func(d *desk) { d.flagged(wire.FlagEndOfInput) }},
		{stockAgent,
			func(d *desk) { d.typed("\x03") },
			func(d *desk) { d.typed("\x1c") },
			func(d *desk) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := sit(t, "exec")
			d.shake(tt.agent, "NonInteractiveCommands", nil)
			d.show("out ")
			d.tell(wire.KindStdErr, []byte("err "))
			d.screen.wait(t, "out err ")
			if !reflect.DeepEqual(d.state(), d.before) {
				t.Error("the terminal is raw")
			}
			if tt.offers != nil {
				d.press("~.\n") // is no escape
				d.typed("~.\n")
			}
			d.press("\x03")
			tt.interrupt(d)
			d.press("\x1c")
			tt.quit(d)
			d.press("\x04")
			tt.end(d)
			d.tell(wire.KindExitCode, []byte("EXIT_CODE: 3"))
			d.end("", nil)
			d.gone(3)
		})
	}
}

// A deaf is a node's end of a connection that reads nothing while it is stalled.
type deaf struct {
	datachannel.Conn
	heard *sync.RWMutex // locked while it is stalled
}

func (d deaf) ReadFrame(ctx context.Context) ([]byte, error) {
	b, err := d.Conn.ReadFrame(ctx)
	d.heard.RLock()
	defer d.heard.RUnlock()
	return b, err
}

// Over a stalled connection the person hears that an interrupt waits. If it arrives
// after all the command has it, and the next one too; if the person interrupts
// again before, the session is ended, and the client.
func TestInterruptWaits(t *testing.T) {
	for _, what := range []string{"arrives", "does not"} {
		t.Run(what, func(t *testing.T) {
			var stalled sync.RWMutex
			d := sit(t, "exec", func(p *plane) {
				p.wrap = func(_ int, c datachannel.Conn) datachannel.Conn { return deaf{c, &stalled} }
			})
			d.shake(ourAgent, "NonInteractiveCommands", nil)
			d.show("out ")
			d.screen.wait(t, "out ")
			d.press("\x03")
			d.flagged(wire.FlagInterrupt)
			stalled.Lock()
			d.press("\x03")
			d.screen.wait(t, "nothing answers")
			if what == "arrives" {
				stalled.Unlock()
				d.screen.wait(t, "the interrupt has arrived")
				d.flagged(wire.FlagInterrupt)
				d.press("\x03")
				d.flagged(wire.FlagInterrupt)
				d.tell(wire.KindExitCode, []byte("EXIT_CODE: 3"))
				d.end("", nil)
				d.gone(3)
				return
			}
			d.press("\x03")
			d.gone(100 + int(Abandoned))
			stalled.Unlock()
			if d.called("TerminateSession") == 0 {
				t.Error("the session was not ended")
			}
		})
	}
}

// What a stock agent has no use for is left to the next reader of Stdin.
func TestCommandLeavesInput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.WriteString("for somebody else")
	w.Close()
	p, c := live(t)
	j := join(p, c, func(s *Session) { s.Pipes, s.Stdin = true, r })
	p.shake(stockAgent, "NonInteractiveCommands", nil)
	j.errOut.wait(t, "sallyport: this node's agent gives a command no standard input; what is piped in is not read\n")
	p.end("", nil)
	j.want(Closed)
	if b, _ := io.ReadAll(r); string(b) != "for somebody else" {
		t.Errorf("%q is left", b)
	}
}

// ssh goes without a word, and the aws CLI makes a noise about a plugin that a
// signal ended.
func TestPluginOutlivesItsReader(t *testing.T) {
	tests := []struct {
		name string
		then func(p *plane)
		over int // calls of TerminateSession
	}{
		{"in the middle", func(p *plane) { p.show("more"); p.wait("the end", func() bool { return p.over }) }, 1},
		{"at the end", func(p *plane) { p.end("", nil) }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlane(t)
			address, bundle := p.serveTLS()
			inv := p.invitation()
			response, _ := json.Marshal(map[string]string{"SessionId": inv.SessionID, "StreamUrl": inv.StreamURL, "TokenValue": inv.Token.Reveal()})
			cmd := exec.Command(os.Args[0], string(response), "home-1", "StartSession", "", `{"Target":"mi-0123456789abcdef0","DocumentName":"AWS-StartSSHSession"}`, address)
			cmd.Env = []string{"SALLYPORT_TEST_PROGRAM=plugin", "HOME=" + t.TempDir()}
			for k, v := range awsEnvironment(bundle) {
				if v != "" {
					cmd.Env = append(cmd.Env, k+"="+v)
				}
			}
			keyboard, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			p.shake(stockAgent, "Port", wire.PortProperties{PortNumber: "22"})
			p.show("SSH-2.0-there\r\n")
			if _, err := io.ReadFull(stdout, make([]byte, len(starting)+15)); err != nil {
				t.Fatal(err)
			}
			stdout.Close()
			keyboard.Close()
			tt.then(p)
			if err := cmd.Wait(); err != nil || p.called("TerminateSession") != tt.over {
				t.Errorf("%v, %d calls of TerminateSession", err, p.called("TerminateSession"))
			}
		})
	}
}

// ssh ends its ProxyCommand with SIGHUP.
func TestStreamIsKilled(t *testing.T) {
	d := sit(t, "exec")
	d.shake(stockAgent, "Port", wire.PortProperties{PortNumber: "22"})
	d.show("SSH-2.0-there\r\n")
	d.screen.wait(t, "SSH-2.0-there")
	d.cmd.Process.Signal(syscall.SIGHUP)
	d.flagged(wire.FlagTerminateSession)
	d.end("", nil)
	d.gone(128 + int(syscall.SIGHUP))
	if d.called("TerminateSession") != 0 {
		t.Error("it is ended twice")
	}
}
