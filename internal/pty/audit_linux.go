package pty

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
)

// startAs starts cmd as a user, with the user's number as its audit login uid where
// the kernel keeps one: what is done in the session is the user's in the audit log,
// though they use sudo. It is a thread's, and children inherit it, so the thread
// that has it ends with the start. Where it cannot be set, as in a container
// whose own is set already, the session is none the worse.
func startAs(cmd *exec.Cmd, as *Credential) error {
	if as == nil {
		return cmd.Start()
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good
		if f, err := os.OpenFile("/proc/thread-self/loginuid", os.O_WRONLY, 0); err == nil {
			f.WriteString(strconv.FormatUint(uint64(as.UID), 10))
			f.Close()
		}
		started <- cmd.Start()
	}()
	return <-started
}
