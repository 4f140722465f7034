package need

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Namespace runs a script of the shell in user and mount namespaces of its own,
// where it may mount, and returns what it prints. $0 is the test's own program, and
// the arguments are $1 and on.
func Namespace(tb testing.TB, script string, args ...string) string {
	tb.Helper()
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		tb.Fatal(err)
	}
	child := exec.CommandContext(tb.Context(), "/bin/sh", append([]string{"-c", script, self}, args...)...)
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := child.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		Missing(tb, fmt.Sprintf("there is no user namespace: run it where the kernel allows them: %v", err))
	}
	return string(out)
}
