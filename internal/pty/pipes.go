package pty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// leftOpen is how long after a program's end its pipes are read on, if something
// it left behind keeps them open.
const leftOpen = 250 * time.Millisecond

// A Process is a program on pipes, with no terminal. The caller of StartPipes must
// Close it.
type Process struct {
	Stdin          *os.File // nil if it has none
	Stdout, Stderr io.Reader

	cmd     *exec.Cmd
	ours    []*os.File
	exited  chan struct{}
	status  int // once exited
	closing sync.Once
}

// StartPipes starts a program in a process group of its own. Without input its
// standard input is empty; unless apart, its errors are among its output, and
// Stderr is nil. Size is not used. An error leaves nothing open.
func StartPipes(c Command, input, apart bool) (*Process, error) {
	p := &Process{exited: make(chan struct{})}
	theirs, err := p.open(input, apart)
	if err == nil {
		p.cmd, err = start(c, func() *exec.Cmd {
			cmd := c.cmd()
			if input {
				cmd.Stdin = theirs.stdin
			}
			cmd.Stdout, cmd.Stderr = theirs.stdout, theirs.stderr
			setGroup(cmd, c.As)
			return cmd
		})
	}
	theirs.close()
	if err != nil {
		p.closeFiles()
		return nil, err
	}
	go p.reap()
	return p, nil
}

// programEnds are the ends of pipes that a program is started with. Those that
// it does not get are nil; stdout and stderr may be the same.
type programEnds struct{ stdin, stdout, stderr *os.File }

func (e programEnds) close() {
	for _, f := range []*os.File{e.stdin, e.stdout, e.stderr} {
		f.Close() // nil, or closed already, is an error and no more
	}
}

// open opens the pipes. Its results are what there is to close, if it fails too.
func (p *Process) open(input, apart bool) (theirs programEnds, err error) {
	if input {
		if theirs.stdin, p.Stdin, err = os.Pipe(); err != nil {
			return theirs, fmt.Errorf("open pipe: %w", bare(err))
		}
		p.ours = append(p.ours, p.Stdin)
	}
	output := func() (w *os.File, r io.Reader, err error) {
		ours, w, err := os.Pipe()
		if err != nil {
			return nil, nil, fmt.Errorf("open pipe: %w", bare(err))
		}
		p.ours = append(p.ours, ours)
		return w, reader{ours}, nil
	}
	if theirs.stdout, p.Stdout, err = output(); err != nil {
		return theirs, err
	}
	theirs.stderr = theirs.stdout
	if apart {
		theirs.stderr, p.Stderr, err = output()
	}
	return theirs, err
}

// A reader ends when the pipe does, or has been given up.
type reader struct{ *os.File }

func (r reader) Read(b []byte) (int, error) {
	n, err := r.File.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

func (p *Process) reap() {
	p.cmd.Wait() // the state says how it went
	p.status = statusOf(p.cmd.ProcessState)
	for _, f := range p.ours {
		if f != p.Stdin {
			f.SetReadDeadline(time.Now().Add(leftOpen))
		}
	}
	if p.Stdin != nil {
		p.Stdin.SetWriteDeadline(time.Unix(1, 0)) // the program does not read it any more
	}
	close(p.exited)
}

// Exited is closed when the program has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits for the program to end and returns its exit status, as
// [Terminal.Wait] does.
func (p *Process) Wait() int {
	<-p.exited
	return p.status
}

// Interrupt and Quit do to the program's group what Ctrl-C and Ctrl-\ at a
// terminal would. On Windows both end it.
func (p *Process) Interrupt() { p.signal(interrupt) }
func (p *Process) Quit()      { p.signal(quit) }

// Close ends the program and what it started, if they have not ended, and lets
// go of the pipes. It may be called more than once.
func (p *Process) Close() {
	p.closing.Do(func() {
		p.end()
		p.closeFiles()
	})
}

func (p *Process) closeFiles() {
	for _, f := range p.ours {
		f.Close()
	}
}
