//go:build unix

package statedir

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// listenAside listens in a directory of the owner's alone, and moves the socket to
// its place once it has its mode: for systems where a socket without a name has
// none.
func listenAside(path string) (net.Listener, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, &net.OpError{Op: "listen", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".") // 0700; a long name is one that a socket has no room for
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	aside := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: aside, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the name is the one it is moved to
	if err = os.Chmod(aside, 0o600); err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		l.Close()
		os.Remove(aside)
		return nil, err
	}
	return movedListener{l, path}, nil
}

// A movedListener is one whose socket was moved to path after it was made.
type movedListener struct {
	*net.UnixListener
	path string
}

// Close removes the socket, and ends the listening.
func (l movedListener) Close() error {
	os.Remove(l.path)
	return l.UnixListener.Close()
}
