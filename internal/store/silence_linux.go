package store

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// giveUpOnSilence has a connection end when the other end has acknowledged
// nothing for 20 seconds of what was sent.
func giveUpOnSilence(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	return c.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 20_000) // best effort: keep-alive finds it too, later
	})
}
