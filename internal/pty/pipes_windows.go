package pty

import (
	"os"
	"os/exec"
)

const interrupt, quit = 0, 0

func setGroup(*exec.Cmd, *Credential) {}

func statusOf(s *os.ProcessState) int { return s.ExitCode() }

func (p *Process) signal(int) { p.cmd.Process.Kill() }

func (p *Process) end() {
	p.cmd.Process.Kill()
	<-p.exited
}
