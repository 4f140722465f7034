package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/pty"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

// ctrlC is what an interrupt is typed as.
const ctrlC = 3

// Why a session ends, other than that its shell did.
var errClosed = errors.New("the control plane closed the session")

// How patient a session is.
const (
	peerWithin    = 20 * time.Millisecond // for the other end to be known for one of ours
	sizeWithin    = 40 * time.Millisecond // for an end of ours to say how large its terminal is
	flushWithin   = 2 * time.Second       // for the last output, as the stock agent
	openRetryLast = 5 * time.Second       // between tries to open the data channel
	readSize      = 32 << 10              // of the terminal's output; a pty gives 4 KiB at most at once, and often less
)

// A session is one shell and the stream to the person at it.
//
// Three goroutines serve it: carry moves the stream over one socket after
// another, type_ feeds the shell what is received, and run, which owns the
// session, sends what the shell says and sees to the end.
type session struct {
	agent  *Agent
	id     sallyport.SessionID
	task   wire.AgentTaskPayload
	log    *slog.Logger
	ctx    context.Context
	end    context.CancelCauseFunc
	stream *datachannel.Stream

	peer     chan struct{} // closed when the other end is known to be ours
	peerOnce sync.Once
	opened   chan struct{} // closed when the first data channel is open
	openOnce sync.Once

	sizes chan wire.Size // the first size, for the terminal to start with

	term   atomic.Pointer[pty.Terminal] // once there is one that takes what is typed
	behind atomic.Int64                 // how many pieces of what was typed are on their way to it
}

func newSession(a *Agent, id sallyport.SessionID, task wire.AgentTaskPayload, alive context.Context) *session {
	s := &session{
		agent: a, id: id, task: task, log: a.Log.With(sallyport.LogSession, id.String()),
		peer: make(chan struct{}), opened: make(chan struct{}), sizes: make(chan wire.Size, 1),
	}
	s.ctx, s.end = context.WithCancelCause(alive)
	s.stream = &datachannel.Stream{Sends: wire.TypeOutputStreamData, Control: s.hear, Direct: s.typeNow}
	return s
}

// hear is told what is not the stream's own.
func (s *session) hear(f wire.Frame) {
	switch f.Type {
	case wire.TypeChannelClosed:
		s.end(errClosed)
	case wire.TypeSallyportPeer:
		var peer wire.SallyportPeer
		if f.Unmarshal(&peer) == nil && len(peer.Capabilities) > 0 {
			s.peerOnce.Do(func() { close(s.peer) })
		}
	}
}

// run is the session's life.
func (s *session) run() {
	defer s.end(nil)
	s.log.Info("session started", sallyport.LogWho, s.task.SessionOwner)
	done := wire.AgentTaskComplete{
		SchemaVersion: 1, TaskId: s.id.String(), Topic: string(wire.TypeAgentTaskComplete),
		FinalTaskStatus: "Success", InstanceId: s.agent.reg.Node.String(),
	}
	status, err := s.serve()
	switch {
	case err == nil:
		done.ExitStatus = &status
	case context.Cause(s.ctx) != nil: // somebody ended it, which is a success
	default:
		done.FinalTaskStatus, done.Output = "Failed", err.Error()
	}
	s.log.Info("session ended", "status", done.FinalTaskStatus, sallyport.LogCause, cause(err, s.ctx))

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if errors.Is(context.Cause(s.ctx), errStopping) {
		ctx, cancel = context.WithTimeout(ctx, stopWithin)
		defer cancel()
	}
	s.agent.complete(ctx, done)
}

func cause(err error, ctx context.Context) string {
	if c := context.Cause(ctx); c != nil {
		return c.Error()
	}
	if err != nil {
		return err.Error()
	}
	return "its shell ended"
}

// serve runs the shell and returns its exit status. An error is for the person
// if the session's context goes on, and of no matter otherwise.
func (s *session) serve() (status int, err error) {
	if err := s.supported(); err != nil {
		return 0, err
	}
	var carrying sync.WaitGroup
	carrying.Go(s.carry)
	defer func() {
		s.stream.Close()
		carrying.Wait()
	}()
	select {
	case <-s.opened:
	case <-s.ctx.Done():
		return 0, context.Cause(s.ctx)
	}

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
		//lint:ignore ST1005 AWS's words, which people search for
		return 0, fmt.Errorf("Unable to start command: %w", err)
	}
	defer term.Close() // before typing is waited for: it may be stuck in a write
	shell <- term
	s.log.Debug("shell started")

	if err := s.show(term); err != nil {
		return 0, err
	}
	status = term.Wait()
	flush, cancel := context.WithTimeout(s.ctx, flushWithin)
	defer cancel()
	s.stream.Flush(flush)
	return status, nil
}

// supported refuses what this version cannot do, rather than do something else.
func (s *session) supported() error {
	doc := s.task.DocumentContent
	switch {
	case doc.SessionType != "Standard_Stream" && doc.SessionType != "":
		//lint:ignore ST1005 AWS's words, which people search for
		return fmt.Errorf("Plugin with name %s is not supported by this version of ssm agent, please update to latest version. Step name: %s", doc.SessionType, doc.SessionType)
	case doc.Inputs.KmsKeyId != "":
		return errors.New("this version of the agent cannot encrypt sessions with a KMS key; update the agent, or take kmsKeyId out of the preferences")
	case bool(doc.Inputs.RunAsEnabled):
		return errors.New("this version of the agent cannot run sessions as another user; update the agent, or switch Run As off in the preferences")
	}
	return nil
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
		chunk := s.stream.Chunk()
		n, err := term.Read(b[:readSize/chunk*chunk]) // so that messages are full
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
		m, err := s.stream.Receive(s.ctx)
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

// keyboard types on a terminal. Closing the terminal ends a write.
func (s *session) keyboard(term *pty.Terminal, typed <-chan []byte) {
	for b := range typed {
		if _, err := term.Write(b); err != nil {
			for range typed { // drained, so that nobody waits to send
			}
			return
		}
		s.behind.Add(-1)
	}
}

// startShell starts the user's login shell. An end of ours says how large its
// terminal is before all else, so the first prompt is for the right size; a
// stock one is deaf until the shell has said something.
func (s *session) startShell() (*pty.Terminal, error) {
	user, err := pty.CurrentUser(s.ctx)
	if err != nil {
		return nil, err
	}
	cmd := loginShell(user, s.id)
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

// carry moves the stream over one data channel after another, until the stream
// is closed or the control plane says that the session is over. The shell runs
// on meanwhile.
func (s *session) carry() {
	wait := backoff{}
	for {
		conn, err := s.open()
		if err == nil {
			wait = backoff{}
			s.openOnce.Do(func() { close(s.opened) })
			err = s.ride(conn)
			conn.Drop()
			if err == nil {
				return // the stream is closed
			}
		}
		if s.ctx.Err() != nil {
			return
		}
		if over(err) {
			s.end(errClosed)
			return
		}
		s.log.Warn("data channel lost", sallyport.LogErr, err)
		if !pause(s.ctx, min(wait.next(), openRetryLast)) {
			return
		}
	}
}

// over reports whether the control plane says that there is no such session any
// more.
func over(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Session is already terminated")
}

// ride carries the stream over one socket.
func (s *session) ride(conn *socket.Conn) error {
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	alive := make(chan struct{})
	go func() {
		defer close(alive)
		if err := conn.KeepAlive(ctx, pingEvery, pongWithin); err != nil {
			cancel(err)
		}
	}()
	err := s.stream.Run(ctx, conn)
	if err != nil {
		if c := context.Cause(ctx); c != nil {
			err = c
		}
	} else if b, ferr := (wire.AgentSessionState{SchemaVersion: 1, SessionState: "Terminating", SessionId: s.id.String()}).Frame(time.Now()).AppendBinary(nil); ferr == nil {
		conn.WriteFrame(ctx, b) // the stream was closed: the shell has ended
	}
	cancel(err)
	<-alive
	return err
}

// open opens a data channel: CreateDataChannel, the socket, and our first words.
func (s *session) open() (*socket.Conn, error) {
	path := "/v1/data-channel/" + s.id.String()
	token, err := s.agent.client.Token(s.ctx, path, createChannel{MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), ClientId: uuid.NewString()})
	if err != nil {
		return nil, fmt.Errorf("create data channel: %w", err)
	}
	conn, err := s.agent.client.Socket(s.ctx, path+"?role=publish_subscribe", "ssmmessages")
	if err != nil {
		return nil, fmt.Errorf("open data channel: %w", err)
	}
	b, err := json.Marshal(wire.OpenDataChannel{
		MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), TokenValue: wire.NewToken(token),
		ClientInstanceId: s.agent.reg.Node.String(), Capabilities: append(datachannel.Capabilities(), wire.CapExitStatus),
	})
	if err == nil {
		err = conn.WriteText(s.ctx, b)
	}
	if err == nil {
		b, err = wire.AgentSessionState{SchemaVersion: 1, SessionState: "Connected", SessionId: s.id.String()}.Frame(time.Now()).AppendBinary(nil)
	}
	if err == nil {
		err = conn.WriteFrame(s.ctx, b)
	}
	if err != nil {
		conn.Drop()
		return nil, fmt.Errorf("open data channel: %w", err)
	}
	return conn, nil
}
