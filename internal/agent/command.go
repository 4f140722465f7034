package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/google/shlex"

	"github.com/sallyport/sallyport/internal/pty"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// ctrlBackslash is what SIGQUIT is typed as.
const ctrlBackslash = 0x1c

// FileServer is a command of ours, and no program on the machine: the agent's own
// binary runs under this name, as the session's user, and is an SFTP server on
// its standard input and output. So files can be had from a machine whose disk
// is full and that has no SSH. See agentcmd.ServeFiles.
const FileServer = wire.FileServer

// BesideMark is in the names of files that a copy has not written whole yet.
const BesideMark = wire.BesideMark

// command is what a session with a command runs on this system.
func (s *session) command() (what wire.PlatformCommand, err error) {
	var all wire.CommandProperties
	kind := s.task.DocumentContent.SessionType
	if err := strictjson.Unmarshal(s.task.DocumentContent.Properties, &all); err != nil {
		//lint:ignore ST1005 AWS's words, which people search for
		return what, fmt.Errorf("Invalid format in session properties: %w", err)
	}
	switch runtime.GOOS {
	case "windows":
		what = all.Windows
	case "darwin":
		what = all.MacOS
	default:
		what = all.Linux
	}
	if strings.TrimSpace(what.Commands) == "" {
		//lint:ignore ST1005 AWS's words, which people search for
		return what, fmt.Errorf("Commands cannot be empty for session type %s", kind)
	}
	return what, nil
}

// serveCommand runs a command without a terminal. Its words are split as a shell
// splits them, and no shell reads them. What it says is passed on as it says
// it, its errors apart if the document has it so, which stock agents do only
// then. (Stock: agent/session/shell/shell_unix.go.)
func (s *session) serveCommand() (*int, error) {
	what, err := s.command()
	if err != nil {
		return nil, err
	}
	c, err := s.shake(nil, wire.CapStdin)
	if err != nil {
		return nil, err
	}
	cmd, err := s.pipesCommand(what)
	if err != nil {
		return nil, cannotStart(err)
	}
	input := slices.Contains(c.takes, wire.CapStdin)
	if cmd.Path == "" {
		cmd.Path, err = find(cmd.Args[0], cmd.Env, cmd.Dir)
	}
	var p Pipes
	if err == nil {
		p, err = s.agent.machine().StartPipes(cmd, input, bool(what.SeparateOutputStream))
	}
	if err != nil {
		status := pty.StartStatus(err)
		if what.SeparateOutputStream {
			s.stream.Send(s.ctx, wire.KindStdErr, fmt.Appendf(nil, "Error occurred starting the command: %v\n", err))
			s.exitCode(status)
			return &status, nil
		}
		return &status, cannotStart(err)
	}
	defer p.Close()
	feeding := make(chan struct{})
	go func() {
		defer close(feeding)
		s.guard(func() { s.feed(p, input) })
	}()
	defer func() {
		s.deafen()
		<-feeding
	}()
	var saying sync.WaitGroup
	saying.Go(func() {
		s.guard(func() { s.pass(p.Stdout, wire.KindOutput, what.StdOutSeparatorPrefix) })
	})
	if p.Stderr != nil {
		saying.Go(func() {
			s.guard(func() { s.pass(p.Stderr, wire.KindStdErr, what.StdErrSeparatorPrefix) })
		})
	}
	select {
	case <-p.Exited():
	case <-s.ctx.Done():
		p.Close()
	}
	saying.Wait()
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	status := p.Wait()
	if what.SeparateOutputStream {
		s.exitCode(status)
	}
	return &status, nil
}

// exitCode sends a command's status as a message, which is not missed where the
// end of the session is told otherwise.
func (s *session) exitCode(status int) {
	_, said := s.stream.Progress()
	s.said = &said
	s.stream.SendMessage(s.ctx, wire.KindExitCode, fmt.Appendf(nil, "EXIT_CODE: %d", status))
}

// pipesCommand is what runs, and as whom. Its path is empty if it is to be found
// first.
func (s *session) pipesCommand(what wire.PlatformCommand) (pty.Command, error) {
	user, as, err := s.user(bool(what.RunAsElevated))
	if err != nil {
		return pty.Command{}, err
	}
	cmd := loginShell(user, s.id)
	cmd.As = as
	if strings.TrimSpace(what.Commands) == FileServer {
		cmd.Args = []string{FileServer}
		cmd.Path, err = os.Executable()
		return cmd, err
	}
	if runtime.GOOS == "windows" {
		cmd.Args = append(cmd.Args, "-NonInteractive", "-Command", what.Commands)
		return cmd, nil
	}
	if cmd.Args, err = shlex.Split(what.Commands); err != nil {
		return pty.Command{}, fmt.Errorf("the command cannot be split into words: %w", err)
	}
	if len(cmd.Args) == 0 {
		return pty.Command{}, errors.New("the command is empty")
	}
	cmd.Path = ""
	return cmd, nil
}

// find looks for a program where the user's own PATH says. An error wraps
// fs.ErrNotExist, or what keeps a file of that name from being started.
func find(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	var why error = missingProgram(name)
	for _, pair := range env {
		path, ok := strings.CutPrefix(pair, "PATH=")
		if !ok {
			continue
		}
		for _, d := range filepath.SplitList(path) {
			full := filepath.Join(d, name)
			_, err := exec.LookPath(full)
			if err == nil {
				return full, nil
			}
			if errors.Is(err, fs.ErrPermission) {
				why = fmt.Errorf("start %s: %w", full, fs.ErrPermission)
			}
		}
	}
	return "", why
}

// A missingProgram is the name of a program that is not in the user's PATH.
type missingProgram string

func (p missingProgram) Error() string { return fmt.Sprintf("there is no program %q", string(p)) }

func (missingProgram) Is(target error) bool { return target == fs.ErrNotExist }

// pass sends what the command says. Where there is a prefix, what begins a line
// gets it.
func (s *session) pass(r io.Reader, kind wire.Kind, prefix string) {
	b := make([]byte, len(prefix)+readSize)
	copy(b, prefix)
	fresh := true // at the beginning of a line
	for {
		n, err := r.Read(b[len(prefix):][:s.readSize()-len(prefix)])
		if n > 0 {
			said := b[:len(prefix)+n]
			if !fresh {
				said = said[len(prefix):]
			}
			fresh = said[len(said)-1] == '\n'
			if s.stream.Send(s.ctx, kind, said) != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// feed gives the command what the client sends: its standard input and signals,
// between ends of ours; of a stock client's bytes only those that stand for
// signals mean anything.
func (s *session) feed(p Pipes, input bool) {
	var writing sync.WaitGroup
	in := make(chan []byte, 64)
	defer writing.Wait() // a write that is stuck ends with the process
	ended := false
	end := func() {
		if !ended {
			ended = true
			close(in)
		}
	}
	defer end()
	writing.Go(func() {
		s.guard(func() {
			for b := range in {
				p.Stdin.Write(b) // an error means that the program reads no more, which its status shows
			}
			if p.Stdin != nil {
				p.Stdin.Close()
			}
		})
	})
	for {
		m, err := s.next(s.hearing)
		if err != nil {
			return
		}
		switch m.Kind {
		case wire.KindOutput:
			if !input {
				if bytes.IndexByte(m.Payload, ctrlC) >= 0 {
					p.Interrupt()
				}
				if bytes.IndexByte(m.Payload, ctrlBackslash) >= 0 {
					p.Quit()
				}
				continue
			}
			if ended {
				continue
			}
			select {
			case in <- bytes.Clone(m.Payload):
			case <-p.Exited():
			case <-s.ctx.Done():
			}
		case wire.KindFlag:
			switch f, _ := wire.ReadFlag(m.Payload); f {
			case wire.FlagEndOfInput:
				end()
			case wire.FlagInterrupt:
				p.Interrupt()
			case wire.FlagQuit:
				p.Quit()
			case wire.FlagTerminateSession:
				p.Close()
			}
		}
	}
}
