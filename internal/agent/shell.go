package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/pty"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// ctrlC is what an interrupt is typed as.
const ctrlC = 3

// serveShell runs a shell, or a command, on a terminal.
func (s *session) serveShell() (status *int, err error) {
	if s.encrypted() && s.dataKey == nil {
		if _, err := s.shake(nil); err != nil {
			return nil, err
		}
	}
	if s.shell == nil && s.untyped == nil {
		s.untyped = s.profile()
	}
	if len(s.untyped) > 0 {
		s.behind.Store(1)
	}
	shell, typed := make(chan Terminal, 1), make(chan []byte, 64)
	untaken, untyped := make(chan []byte, 1), make(chan []byte, 1)
	go func() {
		var rest []byte
		s.guard(func() { rest = s.type_(shell, typed) })
		untaken <- rest
	}()

	if s.shell == nil {
		if s.shell, err = s.startShell(); err != nil {
			close(shell)
			s.left = s.isHeld()
			s.deafen()
			s.untyped = append(s.untyped, <-untaken...)
			return nil, cannotStart(err)
		}
		s.log.Debug("shell started")
	}
	shell <- s.shell
	// What is typed has a goroutine of its own: a program that does not read
	// must not keep a resize waiting.
	term, first := s.shell, s.untyped // which are the session's own goroutine's
	go func() {
		var rest []byte
		s.guard(func() { rest = s.keyboard(term, first, typed) })
		untyped <- rest
	}()

	status, err = s.attend()
	if s.left = err != nil && s.isHeld(); s.left {
		s.shell.Hold()
	} else {
		s.shell.Close()
	}
	s.deafen()
	rest := <-untaken
	s.untyped = append(<-untyped, rest...)
	if !s.left {
		s.shell = nil
	}
	return status, err
}

// attend shows what the shell says, until it has ended and everything is shown.
func (s *session) attend() (*int, error) {
	var watching sync.WaitGroup // it must not hold a terminal that has been taken up again
	attended := make(chan struct{})
	defer watching.Wait()
	defer close(attended)
	term := s.shell
	watching.Go(func() {
		s.guard(func() { // so that a read of a terminal ends when the session does
			select {
			case <-s.ctx.Done():
				if s.isHeld() {
					term.Hold()
				} else {
					term.Close()
				}
			case <-term.Exited():
			case <-attended:
			}
		})
	})
	if err := s.show(s.shell); err != nil {
		return nil, err
	}
	select {
	case <-s.shell.Exited():
	case <-s.ctx.Done(): // it is being closed, or held
		if s.isHeld() {
			return nil, errHeld
		}
	}
	status := s.shell.Wait()
	return &status, nil
}

// cannotStart is why there is no shell, in the words people search for.
func cannotStart(err error) error {
	//lint:ignore ST1005 AWS's words
	return fmt.Errorf("Unable to start command: %w", err)
}

// show sends what the shell says, until it says no more.
func (s *session) show(term Terminal) error {
	if err := s.output(s.unsent); err != nil {
		return err
	}
	b := make([]byte, readSize)
	for {
		n, err := term.Read(b[:s.readSize()])
		if err := s.output(b[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return context.Cause(s.ctx)
		}
		if err != nil {
			return fmt.Errorf("read from shell: %w", err)
		}
	}
}

// output sends what the shell has said, and keeps what it could not send.
func (s *session) output(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), s.stream.Chunk())
		if err := s.stream.SendMessage(s.ctx, wire.KindOutput, b[:n]); err != nil {
			s.unsent = bytes.Clone(b)
			return err
		}
		b = b[n:]
	}
	s.unsent = nil
	return nil
}

// type_ gives the shell what is typed, and its terminal the sizes that are
// asked for. Until there is a shell the first size is kept for it to start
// with, and what is typed ahead waits in the stream's buffer. What it has taken
// from there and the shell cannot have, it returns.
func (s *session) type_(shell <-chan Terminal, typed chan<- []byte) (untaken []byte) {
	var term Terminal
	defer close(typed)
	have := func(t Terminal) {
		term = t
		if s.size.Cols > 0 {
			term.Resize(uint16(s.size.Cols), uint16(s.size.Rows))
		}
		s.term.Store(&t)
	}
	for s.hearing.Err() == nil {
		m, err := s.next(s.hearing)
		if err != nil {
			return nil
		}
		if term == nil && m.Kind == wire.KindOutput {
			t, ok := <-shell
			if !ok {
				return bytes.Clone(m.Payload)
			}
			have(t)
		} else if term == nil {
			select {
			case t, ok := <-shell:
				if ok {
					have(t)
				}
			default:
			}
		}
		switch m.Kind {
		case wire.KindSize:
			var asked wire.Size
			if strictjson.Unmarshal(m.Payload, &asked) != nil || asked.Cols == 0 || asked.Rows == 0 || asked.Cols > 1<<15 || asked.Rows > 1<<15 {
				continue
			}
			s.size = asked
			if term != nil {
				term.Resize(uint16(asked.Cols), uint16(asked.Rows))
				continue
			}
			select {
			case s.sizes <- asked:
			default: // the shell starts with the first, and is told the last
			}
		case wire.KindOutput:
			if len(typed) > 0 && bytes.IndexByte(m.Payload, ctrlC) >= 0 {
				term.Interrupt() // past what the program does not read
			}
			s.behind.Add(1)
			b := bytes.Clone(m.Payload)
			select {
			case typed <- b:
			case <-term.Exited():
			case <-s.ctx.Done():
				return b
			}
		}
	}
	return nil
}

// typeNow types what the terminal takes at once, if nothing that was typed
// before is still on its way.
func (s *session) typeNow(m datachannel.Message) int {
	term := s.term.Load()
	if term == nil || m.Kind != wire.KindOutput || s.behind.Load() > 0 {
		return 0
	}
	return (*term).WriteNow(m.Payload)
}

// keyboard types on a terminal, first what was left to type, and returns what is
// left when the terminal is held. Closing the terminal ends a write; so does an
// interrupt, which also drops what was typed before it.
func (s *session) keyboard(term Terminal, first []byte, typed <-chan []byte) (left []byte) {
	var err error // of the last write
	for b := range pieces(first, typed) {
		switch at := bytes.IndexByte(b, ctrlC); {
		case err == nil:
		case errors.Is(err, pty.ErrHeld):
			left = append(left, b...)
			continue
		case !errors.Is(err, os.ErrDeadlineExceeded):
			continue // drained, so that no sender waits for room
		case at < 0:
			s.behind.Add(-1)
			continue // it was typed before the interrupt
		default:
			b = b[at:]
		}
		var n int
		switch n, err = term.Write(b); {
		case errors.Is(err, pty.ErrHeld):
			left = append(left, b[n:]...)
		case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
			s.behind.Add(-1)
		}
	}
	return left
}

// pieces are what was left to type, and what is typed.
func pieces(first []byte, typed <-chan []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if len(first) > 0 && !yield(first) {
			return
		}
		for b := range typed {
			if !yield(b) {
				return
			}
		}
	}
}

// startShell starts the user's login shell. An end of ours says how large its
// terminal is before all else, so the first prompt is for the right size; a
// stock one is deaf until the shell has said something.
func (s *session) startShell() (Terminal, error) {
	cmd, err := s.shellCommand()
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(peerWithin)
	defer timer.Stop()
	select {
	case <-s.peer:
		timer.Reset(sizeWithin)
		select {
		case size := <-s.sizes:
			cmd.Cols, cmd.Rows = uint16(size.Cols), uint16(size.Rows)
		case <-timer.C:
		case <-s.ctx.Done():
		}
	case size := <-s.sizes:
		cmd.Cols, cmd.Rows = uint16(size.Cols), uint16(size.Rows)
	case <-timer.C:
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
	return s.agent.machine().StartTerminal(cmd)
}

// profile is what is typed into a shell before the person types.
func (s *session) profile() []byte {
	if s.task.DocumentContent.SessionType == interactiveSession {
		return nil
	}
	profile := s.task.DocumentContent.Inputs.ShellProfile
	text, enter := profile.Linux, "\n"
	if runtime.GOOS == "windows" { // where a key is a carriage return (stock: agent/session/shell/shell_windows.go)
		text, enter = profile.Windows, "\r"
	}
	if strings.TrimSpace(text) == "" {
		return nil
	}
	return []byte(strings.ReplaceAll(text, "\n", enter) + enter)
}

// shellCommand is what runs on the terminal, and as whom.
func (s *session) shellCommand() (pty.Command, error) {
	if s.task.DocumentContent.SessionType != interactiveSession {
		user, as, err := s.user(false)
		if err != nil {
			return pty.Command{}, err
		}
		if s.agent.Shell != "" {
			user.Shell = s.agent.Shell
		}
		cmd := loginShell(user, s.id)
		if s.agent.Shell != "" && runtime.GOOS != "windows" {
			cmd.Args = []string{filepath.Base(s.agent.Shell)}
		}
		cmd.As = as
		return cmd, nil
	}
	what, err := s.command()
	if err != nil {
		return pty.Command{}, err
	}
	user, as, err := s.user(bool(what.RunAsElevated))
	if err != nil {
		return pty.Command{}, err
	}
	cmd := loginShell(user, s.id)
	cmd.As = as
	if runtime.GOOS == "windows" {
		cmd.Args = append(cmd.Args, "-Command", what.Commands)
	} else {
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", what.Commands}
	}
	return cmd, nil
}

// loginShell is the command that is the user's shell, as sshd would start it.
// Its environment is made from a list, never taken from ours: it may hold what
// a session should not see.
func loginShell(u pty.User, id sallyport.SessionID) pty.Command {
	if runtime.GOOS == "windows" {
		root := os.Getenv("SystemRoot")
		env := []string{"TERM=xterm-256color", "SALLYPORT_SESSION_ID=" + id.String()}
		for _, name := range []string{"SystemRoot", "SystemDrive", "windir", "PATH", "PATHEXT", "ComSpec", "TEMP", "TMP", "USERPROFILE", "USERNAME", "APPDATA", "LOCALAPPDATA", "ProgramData", "ProgramFiles", "ProgramFiles(x86)", "PSModulePath", "COMPUTERNAME", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE"} {
			if v := os.Getenv(name); v != "" {
				env = append(env, name+"="+v)
			}
		}
		shell := filepath.Join(root, "System32", "WindowsPowerShell", "v1.0", "powershell.exe")
		return pty.Command{Path: shell, Args: []string{"powershell.exe", "-NoLogo"}, Env: env, Dir: u.Home}
	}
	path := "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
	if u.UID == 0 {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	lang := os.Getenv("LANG")
	if lang == "" {
		lang = "C.UTF-8"
	}
	env := []string{
		"HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name, "SHELL=" + u.Shell, "PATH=" + path,
		"TERM=xterm-256color", "LANG=" + lang, "SALLYPORT_SESSION_ID=" + id.String(),
	}
	if tz := os.Getenv("TZ"); tz != "" {
		env = append(env, "TZ="+tz)
	}
	dir := u.Home
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		dir = "/"
	}
	return pty.Command{Path: u.Shell, Args: []string{"-" + filepath.Base(u.Shell)}, Env: env, Dir: dir}
}
