//go:build unix

package pty

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/internal/rawio"
)

func (t *terminal) hold() {
	t.reaping.Lock()
	defer t.reaping.Unlock()
	if t.closed {
		return
	}
	t.held.Store(true)
	t.master.SetDeadline(time.Unix(1, 0)) // a goroutine in Read or Write returns
}

func (t *terminal) release() {
	t.reaping.Lock()
	defer t.reaping.Unlock()
	if !t.held.Load() {
		return
	}
	t.master.SetDeadline(time.Time{})
	t.held.Store(false)
	token(t.let) // the program may have ended meanwhile
}

func (t *terminal) describe() (h Held, err error) {
	if !t.held.Load() {
		return h, errors.New("describe terminal: it is not held")
	}
	h.Leader = t.leader
	if h.Exited = t.over(); h.Exited {
		h.Status = t.status
	}
	err = control(t.master.File, func(fd int) error {
		h.FD = fd
		return nil
	})
	if err != nil {
		return h, fmt.Errorf("describe terminal: %w", err)
	}
	return h, nil
}

func (t *terminal) takeUp(h Held) (err error) {
	if h.FD <= 2 || h.Leader <= 1 {
		return fmt.Errorf("take up terminal: %d is no terminal, or %d no program", h.FD, h.Leader)
	}
	defer func() {
		if err != nil {
			abandon(h)
		}
	}()
	unix.CloseOnExec(h.FD)
	master := os.NewFile(uintptr(h.FD), "/dev/ptmx")
	if err := control(master, isTerminal); err != nil {
		master.Close()
		return fmt.Errorf("take up terminal: %w", err)
	}
	if t.master, err = rawio.NewFile(master); err != nil {
		master.Close()
		return fmt.Errorf("take up terminal: %w", err)
	}
	t.leader = h.Leader
	if h.Exited {
		t.exited, t.status = make(chan struct{}), h.Status
		close(t.exited)
		return nil
	}
	t.watch()
	return nil
}

// abandon kills a program that has no terminal any more, if it is a child.
func abandon(h Held) {
	if pid, err := unix.Wait4(h.Leader, nil, unix.WNOHANG, nil); pid == 0 && err == nil {
		unix.Kill(-h.Leader, unix.SIGKILL)
		go unix.Wait4(h.Leader, nil, 0, nil)
	}
}

// isTerminal reports what is wrong with a descriptor that is no terminal.
func isTerminal(fd int) error {
	_, err := unix.IoctlGetTermios(fd, getTermios)
	return err
}
