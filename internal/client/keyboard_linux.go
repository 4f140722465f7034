package client

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/sallyport/sallyport/internal/rawio"
)

// openTerminal opens a terminal once more, so that it can be read or written
// without waiting: the descriptor we were given is shared with the shell that
// started us, and stays as it is. It reports false if f is no terminal or may
// not be opened, as after su.
func openTerminal(f *os.File, flags int) (fd int, ok bool) {
	if f == nil || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	return fd, err == nil
}

// openKeyboard opens a terminal for reading without blocking a thread: a
// keystroke then wakes the goroutine that waits for it, where elsewhere it
// wakes a thread that has to find a processor for the next goroutine, which takes
// longer than all else on its way to the socket.
func openKeyboard(f *os.File) (r io.Reader, interrupt func(), ok bool) {
	fd, ok := openTerminal(f, unix.O_RDONLY)
	if !ok {
		return nil, nil, false
	}
	file := os.NewFile(uintptr(fd), f.Name())
	own, err := rawio.NewFile(file)
	if err != nil || own.SetReadDeadline(time.Time{}) != nil { // the system cannot wait for it
		file.Close()
		return nil, nil, false
	}
	return own, func() { own.Close() }, true
}

// A display is a terminal that output can be shown on without waiting. A nil
// display shows nothing.
type display struct{ *rawio.File }

func openDisplay(f *os.File) *display {
	fd, ok := openTerminal(f, unix.O_WRONLY)
	if !ok {
		return nil
	}
	file := os.NewFile(uintptr(fd), f.Name())
	own, err := rawio.NewFile(file)
	if err != nil {
		file.Close()
		return nil
	}
	return &display{own}
}

// writeNow shows as much of p as the terminal takes at once, and returns how
// much that was.
func (d *display) writeNow(p []byte) int {
	if d == nil {
		return 0
	}
	return d.WriteNow(p)
}

func (d *display) close() {
	if d != nil {
		d.Close()
	}
}

const fionread = unix.TIOCINQ
