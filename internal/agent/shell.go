package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/pty"
	"github.com/sallyport/sallyport/internal/wire"
)

// ctrlC is what an interrupt is typed as.
const ctrlC = 3

// serveShell runs a shell, or a command, on a terminal.
func (s *session) serveShell() (*int, error) {
	typing := make(chan struct{})
	shell := make(chan *pty.Terminal, 1)
	go func() {
		defer close(typing)
		s.type_(shell)
	}()
	defer func() {
		s.stream.Close() // which is what type_ waits for, unless it is in the terminal
		<-typing
	}()
	term, err := s.startShell()
	if err != nil {
		close(shell)
		return nil, cannotStart(err)
	}
	defer term.Close() // before typing is waited for: it may be stuck in a write
	shell <- term
	s.log.Debug("shell started")

	if err := s.show(term); err != nil {
		return nil, err
	}
	status := term.Wait()
	s.flush()
	return &status, nil
}

// cannotStart is why there is no shell, in the words people search for.
func cannotStart(err error) error {
	//lint:ignore ST1005 AWS's words
	return fmt.Errorf("Unable to start command: %w", err)
}

// show sends what the shell says, until it says no more.
func (s *session) show(term *pty.Terminal) error {
	go func() { // so that a read of a terminal ends when the session does
		select {
		case <-s.ctx.Done():
			term.Close()
		case <-term.Exited():
		}
	}()
	b := make([]byte, readSize)
	for {
		n, err := term.Read(b[:s.readSize()])
		if n > 0 {
			if err := s.stream.Send(s.ctx, wire.KindOutput, b[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return context.Cause(s.ctx)
		}
		if err != nil {
			return fmt.Errorf("read from shell: %w", err)
		}
	}
}

// type_ gives the shell what is typed, and its terminal the sizes that are
// asked for. Until there is a shell the first size is kept for it to start
// with, and what is typed ahead waits in the stream's buffer.
func (s *session) type_(shell <-chan *pty.Terminal) {
	var term *pty.Terminal
	var size wire.Size // the last that was asked for
	var typing sync.WaitGroup
	typed := make(chan []byte, 64)
	defer typing.Wait() // a write that is stuck ends when the terminal is closed
	defer close(typed)
	have := func(t *pty.Terminal) {
		term = t
		if size.Cols > 0 {
			term.Resize(uint16(size.Cols), uint16(size.Rows))
		}
		// What is typed has a goroutine of its own: a program that does not
		// read must not keep a resize waiting.
		typing.Go(func() { s.keyboard(term, typed) })
		s.term.Store(t)
	}
	for {
		m, err := s.next(s.ctx)
		if err != nil {
			return
		}
		if term == nil && m.Kind == wire.KindOutput {
			t, ok := <-shell
			if !ok {
				return
			}
			have(t)
		} else if term == nil {
			select {
			case t, ok := <-shell:
				if !ok {
					return
				}
				have(t)
			default:
			}
		}
		switch m.Kind {
		case wire.KindSize:
			var asked wire.Size
			if json.Unmarshal(m.Payload, &asked) != nil || asked.Cols == 0 || asked.Rows == 0 || asked.Cols > 1<<15 || asked.Rows > 1<<15 {
				continue
			}
			size = asked
			if term != nil {
				term.Resize(uint16(size.Cols), uint16(size.Rows))
				continue
			}
			select {
			case s.sizes <- size:
			default: // the shell starts with the first, and is told the last
			}
		case wire.KindOutput:
			if len(typed) > 0 && bytes.IndexByte(m.Payload, ctrlC) >= 0 {
				term.Interrupt() // past what the program does not read
			}
			s.behind.Add(1)
			select {
			case typed <- append([]byte(nil), m.Payload...):
			case <-term.Exited():
			case <-s.ctx.Done():
			}
		}
	}
}

// typeNow types what the terminal takes at once, if nothing that was typed
// before is still on its way.
func (s *session) typeNow(m datachannel.Message) int {
	term := s.term.Load()
	if term == nil || m.Kind != wire.KindOutput || s.behind.Load() > 0 {
		return 0
	}
	return term.WriteNow(m.Payload)
}

// keyboard types on a terminal. Closing the terminal ends a write; so does an
// interrupt, which also drops what was typed before it.
func (s *session) keyboard(term *pty.Terminal, typed <-chan []byte) {
	interrupted := false
	for b := range typed {
		if at := bytes.IndexByte(b, ctrlC); interrupted && at >= 0 {
			interrupted, b = false, b[at:]
		}
		if !interrupted {
			_, err := term.Write(b)
			interrupted = errors.Is(err, os.ErrDeadlineExceeded)
			if err != nil && !interrupted {
				for range typed { // drained, so that nobody waits to send
				}
				return
			}
		}
		s.behind.Add(-1)
	}
}

// startShell starts the user's login shell. An end of ours says how large its
// terminal is before all else, so the first prompt is for the right size; a
// stock one is deaf until the shell has said something.
func (s *session) startShell() (*pty.Terminal, error) {
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
	term, err := pty.Start(cmd)
	if err != nil {
		return nil, err
	}
	if s.task.DocumentContent.SessionType == interactiveSession {
		return term, nil
	}
	profile := s.task.DocumentContent.Inputs.ShellProfile
	text := profile.Linux
	if runtime.GOOS == "windows" {
		text = profile.Windows
	}
	if strings.TrimSpace(text) != "" {
		if _, err := term.Write([]byte(text + "\n")); err != nil {
			term.Close()
			return nil, err
		}
	}
	return term, nil
}

// shellCommand is what runs on the terminal, and as whom.
func (s *session) shellCommand() (pty.Command, error) {
	if s.task.DocumentContent.SessionType != interactiveSession {
		user, as, err := s.user(false)
		if err != nil {
			return pty.Command{}, err
		}
		cmd := loginShell(user, s.id)
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
