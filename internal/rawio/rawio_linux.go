package rawio

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// A half is one direction of a descriptor. What it is asked for is kept in it,
// rather than in a closure made for each call.
type half struct {
	raw    syscall.RawConn
	number uintptr
	try    func(fd uintptr) bool

	p   []byte
	n   int
	err error
}

func (h *half) init(raw syscall.RawConn, number uintptr) {
	h.raw, h.number = raw, number
	h.try = h.once
}

// once makes one call, and reports whether there is nothing to wait for.
func (h *half) once(fd uintptr) bool {
	h.n, h.err = call(h.number, fd, h.p)
	return h.err != syscall.EAGAIN
}

// do makes calls until one has done something.
func (h *half) do(p []byte, wait func(func(fd uintptr) bool) error) (int, error) {
	h.p, h.n, h.err = p, 0, nil
	err := wait(h.try)
	h.p = nil
	if err == nil {
		err = h.err
	}
	return h.n, err
}

func (h *half) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := h.do(p, h.raw.Read)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (h *half) write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := h.do(p[n:], h.raw.Write)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// now makes one call, and returns how many bytes it moved: 0 after an error.
func (h *half) now(p []byte) (n int) {
	if len(p) == 0 {
		return 0
	}
	h.raw.Control(func(fd uintptr) { n, _ = call(h.number, fd, p) })
	return max(n, 0)
}

// A conn is a TCP connection.
type conn struct {
	*net.TCPConn

	inMu sync.Mutex
	in   half

	outMu sync.Mutex
	out   half
}

func wrap(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	w := &conn{TCPConn: tcp}
	w.in.init(raw, syscall.SYS_READ)
	w.out.init(raw, syscall.SYS_WRITE)
	return w
}

func (c *conn) Read(p []byte) (int, error) {
	c.inMu.Lock()
	defer c.inMu.Unlock()
	n, err := c.in.read(p)
	return n, c.explain("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	n, err := c.out.write(p)
	return n, c.explain("write", err)
}

// ReadFrom and WriteTo would go past Read and Write.
func (c *conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(onlyWriter{c}, r) }
func (c *conn) WriteTo(w io.Writer) (int64, error)  { return io.Copy(w, onlyReader{c}) }

type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// explain gives an error the form net's have.
func (c *conn) explain(what string, err error) error {
	switch e := err.(type) {
	case syscall.Errno:
		err = os.NewSyscallError(what, e)
	case *net.OpError:
		if e.Op == "raw-read" || e.Op == "raw-write" {
			err = e.Err
		}
	}
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: what, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

type file struct {
	f       *os.File
	in, out half
}

func newFile(f *os.File, raw syscall.RawConn) *file {
	w := &file{f: f}
	w.in.init(raw, syscall.SYS_READ)
	w.out.init(raw, syscall.SYS_WRITE)
	return w
}

func (w *file) read(p []byte) (int, error) {
	n, err := w.in.read(p)
	return n, w.explain("read", err)
}

func (w *file) write(p []byte) (int, error) {
	n, err := w.out.write(p)
	return n, w.explain("write", err)
}

func (w *file) readNow(p []byte) int  { return w.in.now(p) }
func (w *file) writeNow(p []byte) int { return w.out.now(p) }

// explain gives an error the form os's have. What is neither the system's nor a
// deadline is the poller's word that the file is closed.
func (w *file) explain(what string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if _, ok := err.(syscall.Errno); !ok && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = os.ErrClosed
	}
	return &os.PathError{Op: what, Path: w.f.Name(), Err: err}
}
