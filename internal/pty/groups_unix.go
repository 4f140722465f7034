//go:build unix

package pty

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// signalGroups signals the group of a session's leader and the one in front of
// its terminal, and reports whether either is there.
func signalGroups(leader, front int, sig syscall.Signal) (any bool) {
	any = unix.Kill(-leader, sig) == nil
	if front > 1 && front != leader && unix.Kill(-front, sig) == nil {
		any = true
	}
	return any
}
