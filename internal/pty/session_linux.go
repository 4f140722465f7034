package pty

import (
	"bytes"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	getTermios = unix.TCGETS
	setTermios = unix.TCSETS
)

// dropInput drops what was typed and not read: what is on its way to the
// program's side, and, by setting its mode anew, what has arrived there.
func dropInput(fd int) error {
	if err := unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCOFLUSH); err != nil {
		return err
	}
	mode, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return err
	}
	return unix.IoctlSetTermios(fd, unix.TCSETSF, mode)
}

// signalSession signals every process of a session, in whichever group, and
// reports whether there was any. Processes that left the session, as daemons
// do, are not of it.
func signalSession(leader, front int, sig syscall.Signal) (any bool) {
	proc, err := os.Open("/proc")
	if err != nil {
		return signalGroups(leader, front, sig)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return signalGroups(leader, front, sig)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if sessionOf(name) == leader && unix.Kill(pid, sig) == nil {
			any = true
		}
	}
	return any
}

// sessionOf reads which session a process is of, or 0 if it is gone or a
// zombie. See proc(5): the name, in parentheses, may contain anything.
func sessionOf(pid string) int {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // state, parent, group, session
	if len(fields) < 4 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0
	}
	n, _ := strconv.Atoi(string(fields[3]))
	return n
}
