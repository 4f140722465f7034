package simulation

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/memnet"
)

// A Kind is a kind of session.
type Kind uint8

const (
	Shell   Kind = iota // a login shell, which is told to run the program
	Command             // the program on a terminal
	Exec                // the program on pipes, with its errors apart
	Forward             // a port
)

func (k Kind) String() string { return [...]string{"shell", "command", "exec", "forward"}[k] }

// A Screen is what a person was shown.
type Screen struct {
	mu      sync.Mutex
	b       []byte
	stopped chan struct{} // closed when the screen shows something again; nil while it does
}

// Write shows b, once the screen shows anything.
func (s *Screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	for s.stopped != nil {
		stopped := s.stopped
		s.mu.Unlock()
		<-stopped
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	s.b = append(s.b, b...)
	return len(b), nil
}

// Stop stops the screen or has it go on, as Ctrl-S and Ctrl-Q do.
func (s *Screen) Stop(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil {
		close(s.stopped)
		s.stopped = nil
	}
	if on {
		s.stopped = make(chan struct{})
	}
}

// Shown is everything until now.
func (s *Screen) Shown() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b)
}

// A Session is a real client's, of a kind, and what becomes of it.
type Session struct {
	Kind    Kind
	Process *Process
	Program *Program // nil for a port
	Port    uint16   // of a port

	w          *World
	invitation client.Invitation
	ID         sallyport.SessionID
	Out, Err   Screen
	Began      time.Time

	stdin *io.PipeWriter
	sent  Screen        // to stdin, for the program
	asked chan struct{} // closed when a shell was told which program to run
	local *memnet.Local // what the client forwards from
	ended time.Time     // as the store has it, once the session is checked
	due   time.Time     // when that happened which is to end the session; zero if a test does not say
	stop  context.CancelFunc
	done  chan struct{}

	// Once done is closed.
	Ending  client.Ending
	Failure error // Run's error
	Over    time.Time

	mu      sync.Mutex
	notices []string
	gone    bool // the client was killed
}

// Ask calls StartSession.
func (w *World) Ask(ctx context.Context, p *Process, kind Kind, program *Program, port uint16) (*Session, error) {
	s := &Session{Kind: kind, Process: p, Program: program, Port: port, w: w, done: make(chan struct{})}
	in := client.StartSession{Target: w.Node().String()}
	switch kind {
	case Command:
		in.DocumentName = "AWS-StartInteractiveCommand"
	case Exec:
		in.DocumentName = client.DocumentExec
	case Forward:
		in.DocumentName = client.DocumentPort
		in.Parameters = map[string][]string{"portNumber": {fmt.Sprint(port)}}
	}
	if program != nil {
		w.Machine.Add(program)
		if kind != Shell {
			in.Parameters = map[string][]string{"command": {"/sim/" + program.Name}}
		}
	}
	var err error
	if s.invitation, err = p.StartSession(ctx, in); err != nil {
		return nil, err
	}
	if s.ID, err = sallyport.ParseSessionID(s.invitation.SessionID); err != nil {
		return nil, err
	}
	s.Began = time.Now()
	w.mu.Lock()
	w.sessions = append(w.sessions, s)
	w.mu.Unlock()
	w.Log.Add(s.name(), "started as %s", s.ID)
	return s, nil
}

func (s *Session) name() string {
	if s.Program != nil {
		return s.Kind.String() + "/" + s.Program.Name
	}
	return fmt.Sprintf("%s/%d", s.Kind, s.Port)
}

// Join runs the client, until the session has ended.
func (s *Session) Join() {
	in, out := io.Pipe()
	s.stdin = out
	run := &client.Session{
		Client: s.Process.Client, Invitation: s.invitation, Stdin: in, Stdout: &s.Out, Stderr: &s.Err,
		Pipes: s.Kind == Exec || s.Kind == Forward, Notice: s.notice,
	}
	if s.Kind == Forward {
		s.local = s.w.Net.NewLocal()
		run.Forward = []net.Listener{s.local}
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.w.all.Go(func() {
		defer close(s.done)
		defer s.Process.Close()
		defer in.Close()
		defer stop()
		s.Ending, s.Failure = run.Run(ctx)
		s.Over = time.Now()
		status := "none"
		if s.Ending.ExitStatus != nil {
			status = fmt.Sprint(*s.Ending.ExitStatus)
		}
		s.w.Log.Add(s.name(), "client ended: how %d, status %s, %q, %v", s.Ending.How, status, s.Ending.Output, s.Failure)
	})
	s.asked = make(chan struct{})
	s.w.all.Go(func() {
		defer close(s.asked)
		if s.Kind == Shell {
			io.WriteString(out, s.Program.Name+"\r")
		}
	})
}

func (s *Session) notice(text string) {
	s.w.Log.Add(s.name(), "client says: %s", text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notices = append(s.notices, text)
}

// Said reports whether the client has told its person something with text in
// it.
func (s *Session) Said(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(strings.Join(s.notices, "\n"), text)
}

// Type writes to the client's standard input, for the program. It returns when
// that was read, or the session is over.
func (s *Session) Type(text string) {
	<-s.asked
	n, _ := io.WriteString(s.stdin, text)
	s.sent.Write([]byte(text[:n]))
}

// EndInput closes the client's standard input.
func (s *Session) EndInput() { s.stdin.Close() }

// Connect makes a connection through a port session.
func (s *Session) Connect() (net.Conn, error) { return s.local.Dial() }

// Leave is a person's Ctrl-C to a port session.
func (s *Session) Leave() {
	s.w.fact(left, s)
	s.stop()
}

// Kill is what kill -9 does to the client.
func (s *Session) Kill() {
	s.w.fact(left, s)
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	s.Process.Host.Die()
	s.stop()
}

// Wait waits for the client to end, no longer than a time.
func (s *Session) Wait(limit time.Duration) bool {
	select {
	case <-s.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// Terminate is what an administrator does. It is tried again until it was
// answered.
func (w *World) Terminate(p *Process, s *Session) {
	w.fact(terminated, s)
	for range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := p.TerminateSession(ctx, s.ID.String())
		cancel()
		w.Log.Add(s.name(), "terminated by an administrator: %v", err)
		if err == nil {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}
