package pty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/charmbracelet/x/conpty"
	"golang.org/x/sys/windows"
)

// Three goroutines keep a pseudo-console. Before Windows 11 24H2, closing one
// waits until everything it has to say has been read, so its output must be
// read by a goroutine that never stops: pump. It hands on to Read through pipe, and
// discards output once that is closed. A program's end is no end of output either:
// watch waits for it, and then closes the console, which is.
// (microsoft/terminal issues 1810 and 17489.)
type terminal struct {
	console *conpty.ConPty
	process windows.Handle
	job     windows.Handle // the program and its descendants; ends with its handle
	output  *os.File       // our own handle to the console's output, good after the console is closed
	pipeOut *io.PipeReader
	pipeIn  *io.PipeWriter

	mu     sync.Mutex // guards console against use after shut
	shut   bool
	hangup sync.Once

	exited  chan struct{}
	status  int // once exited
	pumped  chan struct{}
	watched chan struct{}
	closing sync.Once
}

func (t *terminal) start(c Command) (err error) {
	if c.As != nil {
		return errors.New("start program: running as another user is not possible on Windows yet")
	}
	cols, rows := c.size()
	if t.console, err = conpty.New(int(cols), int(rows), 0); err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	var output windows.Handle
	self := windows.CurrentProcess()
	err = windows.DuplicateHandle(self, windows.Handle(t.console.OutPipeReadFd()), self, &output, 0, false, windows.DUPLICATE_SAME_ACCESS)
	if err != nil {
		t.console.Close()
		return fmt.Errorf("open terminal: %w", err)
	}
	t.output = os.NewFile(uintptr(output), "console")
	if t.job, err = newJob(); err != nil {
		t.output.Close()
		t.console.Close()
		return err
	}
	env := append([]string{}, c.Env...) // a nil one would be ours
	_, handle, err := t.console.Spawn(c.Path, c.Args, &syscall.ProcAttr{Dir: c.Dir, Env: env})
	if err != nil && c.Dir != rootDir() && mayBeDir(err) {
		_, handle, err = t.console.Spawn(c.Path, c.Args, &syscall.ProcAttr{Dir: rootDir(), Env: env})
	}
	if err != nil {
		windows.CloseHandle(t.job)
		go io.Copy(io.Discard, t.output) // until the console is closed
		t.console.Close()
		return startError(c, err)
	}
	t.process = windows.Handle(handle)
	windows.AssignProcessToJobObject(t.job, t.process) // without it, descendants may stay

	t.exited, t.pumped, t.watched = make(chan struct{}), make(chan struct{}), make(chan struct{})
	t.pipeOut, t.pipeIn = io.Pipe()
	go t.pump()
	go t.watch()
	return nil
}

func newJob() (windows.Handle, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return 0, fmt.Errorf("create job: %w", err)
	}
	var limits windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	limits.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits)))
	if err != nil {
		windows.CloseHandle(job)
		return 0, fmt.Errorf("limit job: %w", err)
	}
	return job, nil
}

func (t *terminal) pump() {
	defer close(t.pumped)
	buf := make([]byte, 32<<10)
	for {
		n, err := t.output.Read(buf)
		t.pipeIn.Write(buf[:n]) // fails once Read is not called any more; then pump only has to read on
		if err != nil {
			t.pipeIn.Close()
			t.output.Close()
			return
		}
	}
}

func (t *terminal) watch() {
	defer close(t.watched)
	windows.WaitForSingleObject(t.process, windows.INFINITE)
	var code uint32
	windows.GetExitCodeProcess(t.process, &code)
	t.status = int(code)
	close(t.exited)
	t.shutConsole()
}

// shutConsole closes the console, which ends the programs on it. It returns when
// pump has read what was left.
func (t *terminal) shutConsole() {
	t.hangup.Do(func() {
		t.mu.Lock()
		t.shut = true
		t.mu.Unlock()
		t.console.Close()
	})
}

func (t *terminal) read(p []byte) (int, error) {
	n, err := t.pipeOut.Read(p)
	if errors.Is(err, io.ErrClosedPipe) {
		err = io.EOF
	}
	return n, err
}

func (t *terminal) write(p []byte) (n int, err error) {
	for n < len(p) {
		t.mu.Lock()
		shut := t.shut
		t.mu.Unlock()
		if shut {
			return n, os.ErrClosed
		}
		m, err := t.console.Write(p[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (t *terminal) writeNow([]byte) int { return 0 }

func (t *terminal) interrupt() bool { return false }

func (t *terminal) hold() {}

func (t *terminal) release() {}

func (t *terminal) describe() (Held, error) { return Held{}, errors.ErrUnsupported }

func (t *terminal) takeUp(Held) error { return errors.ErrUnsupported }

func (t *terminal) resize(cols, rows uint16) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		return os.ErrClosed
	}
	return t.console.Resize(int(cols), int(rows))
}

func (t *terminal) close() {
	t.pipeOut.Close() // pump reads on, and discards
	go t.shutConsole()
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-t.exited:
	case <-late.C:
		windows.TerminateJobObject(t.job, 1)
		windows.TerminateProcess(t.process, 1)
	}
	late.Reset(stuck)
	for _, gone := range []chan struct{}{t.watched, t.pumped} {
		select {
		case <-gone:
		case <-late.C:
			return // they hold on to the handles
		}
	}
	windows.CloseHandle(t.process)
	windows.CloseHandle(t.job) // and what is left in it
}
