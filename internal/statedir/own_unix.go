//go:build unix

package statedir

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// own checks that the directory is this user's, and closes it to others.
func own(dir string, info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("state directory %s belongs to another user (%d); give --state one of your own", dir, st.Uid)
	} else if ok && st.Uid != 0 && os.Geteuid() == 0 && info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("state directory %s belongs to another user (%d) and others may write in it; give --state one of root's", dir, st.Uid)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, info.Mode().Perm()&0o700|0o700); err != nil {
		return fmt.Errorf("state directory %s is open to others, and cannot be closed to them: %w", dir, err)
	}
	return nil
}
