//go:build unix

package pty

import (
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	interrupt = syscall.SIGINT
	quit      = syscall.SIGQUIT
)

func setGroup(cmd *exec.Cmd, as *Credential) {
	unignore()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if as != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: as.UID, Gid: as.GID, Groups: as.Groups}
	}
}

func statusOf(s *os.ProcessState) int {
	if ws := s.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}

func (p *Process) signal(sig syscall.Signal) {
	select {
	case <-p.exited:
	default:
		unix.Kill(-p.cmd.Process.Pid, sig)
	}
}

// end hangs up, and after a moment kills.
func (p *Process) end() {
	pid := p.cmd.Process.Pid
	all := func(sig syscall.Signal) bool { return unix.Kill(-pid, sig) == nil }
	select {
	case <-p.exited:
		// It left what it meant to leave.
		return
	default:
	}
	all(syscall.SIGHUP)
	all(syscall.SIGTERM)
	all(syscall.SIGCONT)
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-p.exited:
	case <-late.C:
	}
	all(syscall.SIGKILL)
	late.Reset(stuck)
	select {
	case <-p.exited:
	case <-late.C:
	}
}
