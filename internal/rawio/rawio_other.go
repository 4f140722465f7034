//go:build !linux

package rawio

import (
	"net"
	"os"
	"syscall"
)

func wrap(c net.Conn) net.Conn { return c }

type file struct {
	f   *os.File
	raw syscall.RawConn
}

func newFile(f *os.File, raw syscall.RawConn) *file { return &file{f, raw} }

func (w *file) read(p []byte) (int, error)  { return w.f.Read(p) }
func (w *file) write(p []byte) (int, error) { return w.f.Write(p) }

func (w *file) readNow(p []byte) (n int) {
	w.raw.Control(func(fd uintptr) { n, _ = syscall.Read(handle(fd), p) })
	return max(n, 0)
}

func (w *file) writeNow(p []byte) (n int) {
	w.raw.Control(func(fd uintptr) { n, _ = syscall.Write(handle(fd), p) })
	return max(n, 0)
}
