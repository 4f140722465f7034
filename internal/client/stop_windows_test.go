package client

import "syscall"

const stop = syscall.SIGTERM // Windows has no other
