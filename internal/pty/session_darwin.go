package pty

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
)

// signalSession signals the leader's group and the one in front. Others lose
// the terminal with the leader.
func signalSession(leader, front int, sig syscall.Signal) (any bool) {
	return signalGroups(leader, front, sig)
}
