package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/need"
)

// The same as TestFullDisk on a file system that is really full: a small one in
// memory, which only a child process of this one sees.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	script := `mount -t tmpfs -o size=2m tmpfs "$1" && head -c 512k /dev/zero >"$1/ballast" && exec "$0" fill-disk "$1"`
	self, err := filepath.Abs(os.Args[0])
	must(t, err)
	child := exec.Command("/bin/sh", "-c", script, self, dir)
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := child.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		need.Missing(t, fmt.Sprintf("there is no user namespace: run it where the kernel allows them: %v", err))
	}
	if string(out) != "ok\n" {
		t.Errorf("child: %v: %s", err, out)
	}
}
