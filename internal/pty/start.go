package pty

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// What a shell exits with for a program that it cannot start. (POSIX, Shell
// Command Language, 2.8.2.)
const (
	notStarted = 126
	notFound   = 127
)

// StartStatus is the exit status that stands for err, an error of [Start] or
// [StartPipes]: 127 if the program is not there, and 126 if it is there and
// cannot be started.
func StartStatus(err error) int {
	if errors.Is(err, fs.ErrNotExist) {
		return notFound
	}
	return notStarted
}

// cmd is the command as package exec has it, without its files.
func (c *Command) cmd() *exec.Cmd {
	// A nil Env would be ours.
	return &exec.Cmd{Path: c.Path, Args: c.Args, Env: append([]string{}, c.Env...), Dir: c.Dir}
}

// start starts what prepare returns, in the root directory if the command's own
// cannot be entered. Only the new process finds out: the directory is entered as
// the user who the program runs as. An exec.Cmd is good for one start.
func start(c Command, prepare func() *exec.Cmd) (*exec.Cmd, error) {
	cmd := prepare()
	err := startAs(cmd, c.As)
	if err != nil && c.Dir != rootDir() && mayBeDir(err) {
		cmd = prepare()
		cmd.Dir = rootDir()
		err = startAs(cmd, c.As) // an error is about the program
	}
	if err != nil {
		return nil, startError(c, err)
	}
	return cmd, nil
}

// startError says what is in the way of a program, without package exec's words.
func startError(c Command, err error) error {
	err = bare(err)
	if info, serr := os.Stat(c.Path); serr == nil && info.IsDir() {
		err = syscall.EISDIR
	}
	return fmt.Errorf("start %s: %w", c.Path, err)
}

// bare is the system's own error within err.
func bare(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}
