package statedir

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenUnix gives the socket its mode before it has a name: bind takes the mode
// over (net/unix/af_unix.c).
func listenUnix(path string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	return config.Listen(context.Background(), "unix", path)
}
