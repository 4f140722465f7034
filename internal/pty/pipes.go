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

// A Process is a program on pipes, with no terminal. Whoever started it must
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
// Stderr is nil. Size is not used.
func StartPipes(c Command, input, apart bool) (p *Process, err error) {
	p = &Process{exited: make(chan struct{})}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			p.closeFiles()
		}
	}()
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err != nil {
			err = fmt.Errorf("open pipe: %w", err)
		}
		return r, w, err
	}
	p.cmd = &exec.Cmd{Path: c.Path, Args: c.Args, Env: append([]string{}, c.Env...), Dir: c.Dir}
	if input {
		r, w, err := pipe()
		if err != nil {
			return nil, err
		}
		p.Stdin, p.cmd.Stdin = w, r
		theirs, p.ours = append(theirs, r), append(p.ours, w)
	}
	r, w, err := pipe()
	if err != nil {
		return nil, err
	}
	p.Stdout, p.cmd.Stdout, p.cmd.Stderr = reader{r}, w, w
	theirs, p.ours = append(theirs, w), append(p.ours, r)
	if apart {
		r, w, err := pipe()
		if err != nil {
			return nil, err
		}
		p.Stderr, p.cmd.Stderr = reader{r}, w
		theirs, p.ours = append(theirs, w), append(p.ours, r)
	}
	setGroup(p.cmd, c.As)
	if err := startAs(p.cmd, c.As); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	go p.reap()
	return p, nil
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
		p.Stdin.SetWriteDeadline(time.Unix(1, 0)) // nobody reads it any more
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
