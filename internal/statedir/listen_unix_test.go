//go:build unix

package statedir

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A socket is its owner's alone from the moment it has a name, with every umask.
func TestListenUnix(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	for name, listen := range map[string]func(string) (net.Listener, error){"as here": ListenUnix, "aside": listenAside} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "s")
			l, err := listen(path)
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if _, err := listen(path); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("again: %v", err)
			}
			l.Close()
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
