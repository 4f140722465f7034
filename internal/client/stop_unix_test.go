//go:build unix

package client

import "syscall"

const stop = syscall.SIGTSTP
