package pty

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
)

// dropInput drops what was typed and not read, by setting the mode anew.
func dropInput(fd int) error {
	mode, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return err
	}
	return unix.IoctlSetTermios(fd, unix.TIOCSETAF, mode)
}

// signalSession signals the leader's group and the one in front. Others lose
// the terminal with the leader.
func signalSession(leader, front int, sig syscall.Signal) (any bool) {
	return signalGroups(leader, front, sig)
}
