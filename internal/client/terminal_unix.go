//go:build unix

package client

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func makeRaw(in, _ *os.File) (undo func(), err error) {
	if in == nil {
		return func() {}, nil // and signals are still signals
	}
	fd := int(in.Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { term.Restore(fd, old) }, nil
}

// signals are those a session acts on. They are named one by one, because the
// aws CLI has the plugin start with SIGINT, SIGQUIT and SIGTSTP ignored
// (awscli/compat.py, ignore_user_entered_signals), and only a signal that is
// asked for by name is heard again.
//
// SIGPIPE is among them so that a reader of our output that goes away is an
// error of a write, and not the end of us with the terminal still raw.
func signals() []os.Signal {
	all := []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTERM, unix.SIGWINCH, unix.SIGCONT, unix.SIGPIPE}
	if !signal.Ignored(unix.SIGHUP) { // nohup means it
		all = append(all, unix.SIGHUP)
	}
	return all
}

// typed is the key that a signal stands for.
func typed(s os.Signal) (key byte, ok bool) {
	switch s {
	case unix.SIGINT:
		return 0x03, true
	case unix.SIGQUIT:
		return 0x1c, true
	case unix.SIGTSTP:
		return 0x1a, true
	}
	return 0, false
}

// suspends reports whether s has a program stopped, to be continued later.
func suspends(s os.Signal) bool { return s == unix.SIGTSTP }

// suspend does what the signal does to a program that does not handle it.
func suspend() { unix.Kill(unix.Getpid(), unix.SIGSTOP) }

func fatal(s os.Signal) bool     { return s == unix.SIGTERM || s == unix.SIGHUP }
func continued(s os.Signal) bool { return s == unix.SIGCONT }
func resized(s os.Signal) bool   { return s == unix.SIGWINCH || s == unix.SIGCONT }

// exitStatus is what a shell says of a program that a signal ended.
func exitStatus(s os.Signal) int {
	if n, ok := s.(unix.Signal); ok {
		return 128 + int(n)
	}
	return 255
}

// pollSize is for systems that do not say when a terminal changes its size.
func pollSize(context.Context, func()) {}

// unread reports whether there is something to read in v, without reading it.
func unread(v io.Reader) bool {
	f, ok := v.(*os.File)
	if !ok {
		n, _ := v.Read(make([]byte, 1))
		return n > 0
	}
	n, err := unix.IoctlGetInt(int(f.Fd()), fionread)
	return err == nil && n > 0
}

// taken and nobodyThere read the error of listening and of connecting.
func taken(err error) bool       { return errors.Is(err, unix.EADDRINUSE) }
func nobodyThere(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

// A keyboard reads a file until it is told to stop. Reading and waiting are
// apart, so that a key that is typed after the session is left to the process that
// reads the terminal next.
type keyboard struct {
	f           *os.File
	wake, waker *os.File // a pipe: closing waker ends the wait
	once        sync.Once
}

// newKeyboard returns in, read so that interrupt ends it. If that cannot be
// done interrupt is nil, and a Read ends when in gives something.
func newKeyboard(in io.Reader) (r io.Reader, interrupt func()) {
	f, ok := in.(*os.File)
	if !ok {
		return in, nil
	}
	if r, interrupt, ok := openKeyboard(f); ok {
		return r, interrupt
	}
	if f.Fd() >= unix.FD_SETSIZE {
		return in, nil
	}
	wake, waker, err := os.Pipe()
	if err != nil || wake.Fd() >= unix.FD_SETSIZE {
		return in, nil
	}
	k := &keyboard{f: f, wake: wake, waker: waker}
	return k, func() { k.once.Do(func() { k.waker.Close() }) }
}

// Read waits with select, because poll on a Mac does not know terminals. Another
// process that reads the same terminal may take what select reported: then Read
// waits a millisecond, or until Close, before it asks again.
func (k *keyboard) Read(p []byte) (int, error) {
	fd, wake := int(k.f.Fd()), int(k.wake.Fd())
	for {
		var set unix.FdSet
		set.Set(fd)
		set.Set(wake)
		if _, err := unix.Select(max(fd, wake)+1, &set, nil, nil, nil); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return 0, err
		}
		if set.IsSet(wake) {
			k.wake.Close()
			return 0, os.ErrClosed
		}
		n, err := unix.Read(fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			var closed unix.FdSet
			closed.Set(wake)
			pause := unix.NsecToTimeval(time.Millisecond.Nanoseconds())
			if _, err := unix.Select(wake+1, &closed, nil, nil, &pause); err != nil && !errors.Is(err, unix.EINTR) {
				return 0, err
			}
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
