//go:build unix

package pty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/internal/rawio"
)

const (
	portion = 4 << 10                // what the system gives out at most at a time
	moment  = 500 * time.Microsecond // how long to wait for another

	unknownStatus = 255 // of a program whose status was lost
)

type terminal struct {
	master *rawio.File
	leader int // of the terminal's session, and of a process group: all three have its number

	exited  chan struct{}
	status  int // once exited
	closing sync.Once
	after   int // bytes read since exited

	held atomic.Bool   // by hold: no goroutine reads, writes or reaps
	let  chan struct{} // the terminal was let go again: holds one token

	reaping sync.Mutex // held while held changes, and while the leader may be reaped
	closed  bool
}

func (t *terminal) start(c Command) error {
	master, slave, err := open()
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	defer slave.Close() // the program has its own by then
	if err := t.prepare(c, master, slave); err != nil {
		master.Close()
		return err
	}
	if t.master, err = rawio.NewFile(master); err != nil {
		master.Close()
		return fmt.Errorf("open terminal: %w", err)
	}
	unignore()
	leader, err := start(c, func() *exec.Cmd {
		cmd := c.cmd()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if c.As != nil {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.As.UID, Gid: c.As.GID, Groups: c.As.Groups}
		}
		return cmd
	})
	if err != nil {
		master.Close()
		return err
	}
	t.leader = leader.Process.Pid
	leader.Process.Release() // reap waits for it
	t.watch()
	return nil
}

// watch has the program's end noticed, which Close sees to.
func (t *terminal) watch() {
	t.exited, t.let = make(chan struct{}), make(chan struct{}, 1)
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGCHLD) // before reap looks
	go t.reap(ends)
}

// unignore has what we start find every signal as it is by default. One that we
// ignore, as under nohup, would be ignored by the shell and all it starts, and
// a hang-up would end nothing. A signal that is caught is not inherited, so ours
// are caught, and dropped.
var unignore = sync.OnceFunc(func() {
	dropped := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT, syscall.SIGUSR1, syscall.SIGUSR2} {
		if signal.Ignored(s) {
			signal.Notify(dropped, s)
		}
	}
})

// open opens a terminal whose master can be waited for with a deadline, and is
// released by Close. The library leaves it blocking.
func open() (master, slave *os.File, err error) {
	blocking, slave, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		if err = unix.SetNonblock(fd, true); err == nil {
			return os.NewFile(uintptr(fd), blocking.Name()), slave, nil
		}
		unix.Close(fd)
	}
	slave.Close()
	return nil, nil, err
}

func resize(master *os.File, cols, rows uint16) error {
	return control(master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: cols, Row: rows})
	})
}

func (t *terminal) prepare(c Command, master, slave *os.File) error {
	cols, rows := c.size()
	if err := resize(master, cols, rows); err != nil {
		return fmt.Errorf("size terminal: %w", err)
	}
	err := control(slave, func(fd int) error {
		mode, err := unix.IoctlGetTermios(fd, getTermios)
		if err != nil {
			return err
		}
		mode.Iflag |= unix.IUTF8 // so that erasing a character erases all of it
		return unix.IoctlSetTermios(fd, setTermios, mode)
	})
	if err != nil {
		return fmt.Errorf("set up terminal: %w", err)
	}
	if c.As != nil {
		if err := slave.Chown(int(c.As.UID), -1); err != nil {
			return fmt.Errorf("give terminal to user %d: %w", c.As.UID, err)
		}
	}
	return nil
}

// control calls f with the descriptor of a file that stays as it is: asking
// for it with Fd would make reads block beyond Close.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// reap waits for the program to end. A wait in the system could not be called
// off, and would take the exit status with it if this process became another
// while it waited; so reap looks when a child has ended, and never while held.
func (t *terminal) reap(ends chan os.Signal) {
	defer signal.Stop(ends)
	for !t.collect() {
		select {
		case <-ends:
		case <-t.let:
		}
	}
	// A Read that is waiting finds out, though something in the background
	// keeps the terminal open.
	t.master.SetReadDeadline(time.Now().Add(quiet))
}

// collect notes how the program ended, if it has.
func (t *terminal) collect() bool {
	t.reaping.Lock()
	defer t.reaping.Unlock()
	if t.held.Load() {
		return false
	}
	var s syscall.WaitStatus
	pid, err := syscall.Wait4(t.leader, &s, syscall.WNOHANG, nil)
	switch {
	case err != nil: // another part of this process has waited for it
		t.status = unknownStatus
	case pid == 0:
		return false
	case s.Signaled():
		t.status = 128 + int(s.Signal())
	default:
		t.status = s.ExitStatus()
	}
	close(t.exited)
	return true
}

// token leaves a token in a channel that holds one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (t *terminal) over() bool {
	select {
	case <-t.exited:
		return true
	default:
		return false
	}
}

func (t *terminal) read(p []byte) (n int, err error) {
	for {
		if t.held.Load() {
			return 0, ErrHeld
		}
		over := t.over()
		if over {
			if t.after > leftover {
				return 0, io.EOF
			}
			t.master.SetReadDeadline(time.Now().Add(quiet))
		}
		n, err = t.master.Read(p)
		if over {
			t.after += n
		}
		switch {
		case n > 0:
			return t.gather(p, n), nil
		case t.held.Load():
			return 0, ErrHeld
		case errors.Is(err, os.ErrDeadlineExceeded) && !over:
			continue // reap's, and it may have come while p was elsewhere
		case errors.Is(err, syscall.EIO), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return 0, io.EOF // EIO is how Linux says that no program has it open
		default:
			return 0, err
		}
	}
}

// gather adds to n bytes of p what is there already. The system gives out no
// more than a portion at a time. A full portion means that the program writes much:
// then it costs less to wait a moment and to send more at once.
func (t *terminal) gather(p []byte, n int) int {
	n += t.more(p[n:])
	if n < portion || len(p)-n < portion || t.over() {
		return n
	}
	t.master.SetReadDeadline(time.Now().Add(moment))
	for len(p)-n >= portion {
		m, err := t.master.Read(p[n:])
		if n += m; err != nil {
			break // the next read meets it again
		}
		n += t.more(p[n:])
	}
	t.master.SetReadDeadline(time.Time{})
	if t.over() { // reap's deadline may have been the one undone
		t.master.SetReadDeadline(time.Now().Add(quiet))
	}
	return n
}

// more reads what is there already.
func (t *terminal) more(p []byte) (n int) {
	for n < len(p) {
		m := t.master.ReadNow(p[n:])
		if m == 0 {
			break // the next Read returns this error again
		}
		n += m
	}
	return n
}

func (t *terminal) write(p []byte) (int, error) {
	t.master.SetWriteDeadline(time.Time{}) // interrupt's is over
	if t.held.Load() {
		return 0, ErrHeld // hold's deadline may have been the one undone
	}
	n, err := t.master.Write(p)
	if err != nil && t.held.Load() {
		err = ErrHeld
	}
	return n, err
}

func (t *terminal) writeNow(p []byte) int { return t.master.WriteNow(p) }

func (t *terminal) interrupt() bool {
	front, done := 0, false
	control(t.master.File, func(fd int) error {
		mode, err := unix.IoctlGetTermios(fd, getTermios)
		if err != nil || mode.Lflag&unix.ISIG == 0 || mode.Cc[unix.VINTR] != 0x03 {
			return err
		}
		if front, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil || front <= 1 {
			return err
		}
		done = true
		return nil
	})
	if !done {
		return false
	}
	t.master.SetWriteDeadline(time.Unix(1, 0))
	control(t.master.File, dropInput)
	unix.Kill(-front, syscall.SIGINT)
	return true
}

func (t *terminal) resize(cols, rows uint16) error {
	if err := resize(t.master.File, cols, rows); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

func (t *terminal) close() {
	t.reaping.Lock()
	t.closed = true
	t.reaping.Unlock()
	t.release()
	pid := t.leader
	signal := func(sig syscall.Signal) (any bool) { return unix.Kill(-pid, sig) == nil }
	if !t.over() {
		front := 0
		control(t.master.File, func(fd int) (err error) {
			front, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
			return err
		})
		signal = func(sig syscall.Signal) (any bool) { return signalSession(pid, front, sig) }
	}
	signal(syscall.SIGHUP)
	signal(syscall.SIGCONT) // what is stopped cannot act on it
	t.master.Close()        // and who waits for the terminal need not any longer

	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	late := time.NewTimer(grace)
	defer late.Stop()
	for !t.over() || signal(0) {
		select {
		case <-poll.C:
			continue
		case <-late.C:
			signal(syscall.SIGKILL)
		}
		break
	}
	late.Reset(stuck)
	select {
	case <-t.exited:
	case <-late.C:
	}
}
