// Package rawio answers how a descriptor that never waits is read and written
// fastest.
//
// A system call tells Go's scheduler first, in case it blocks; and the first one
// after the process was at rest wakes the runtime's monitor, a thread that then
// looks on for a while. On a machine at rest that costs more than the call, once
// for every process that a keystroke passes. A call on a descriptor in
// non-blocking mode is over at once, and the scheduler is not told. [Wrap] and [File]
// read and write so, and leave the waiting to the runtime's poller as ever:
// deadlines, Close and concurrency are those of the net.Conn or os.File inside.
//
// Only Linux is known to gain. Elsewhere they are what they were made of.
package rawio

import (
	"net"
	"os"
)

// Wrap returns c, read and written without the scheduler's knowledge if it is a
// TCP connection and the system is Linux.
func Wrap(c net.Conn) net.Conn { return wrap(c) }

// Listen wraps what l accepts.
func Listen(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Wrap(c), nil
}

// A File is an os.File whose descriptor the poller knows and is in non-blocking
// mode: a terminal's, opened so. One goroutine at a time may Read, one may
// Write.
type File struct {
	*os.File
	*file
}

// NewFile wraps f.
func NewFile(f *os.File) (*File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &File{f, newFile(f, raw)}, nil
}

// Read reads as os.File does.
func (f *File) Read(p []byte) (int, error) { return f.read(p) }

// Write writes as os.File does.
func (f *File) Write(p []byte) (int, error) { return f.write(p) }

// ReadNow reads what is there already, and returns how much that was. It does
// not say why there is no more: the next Read meets that again.
func (f *File) ReadNow(p []byte) int { return f.readNow(p) }

// WriteNow writes what is taken at once, and returns how much that was, without
// saying why it was no more.
func (f *File) WriteNow(p []byte) int { return f.writeNow(p) }
