// Package statedir makes a directory fit to keep secrets in, and keeps it for
// one process. [Prepare] makes it, for its owner alone; [Lock] takes it;
// [ListenUnix] makes a socket that is its owner's alone, there or elsewhere.
//
// A second agent on one directory would take the node over from the first, and a
// second server would write into the first one's database, both without a word.
// The lock is the system's, on a file of the directory: it ends with the process,
// however that ends.
package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// ErrLocked is that another process has the directory.
var ErrLocked = errors.New("in use by another process")

// Prepare makes a directory that is not there, for its owner alone, and checks
// that files can be made in it. One that is there, and that others may enter, is
// closed to them if it is this process's user's; another user's is refused.
func Prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("state directory %s is a file", dir)
	}
	if err := own(dir, info); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".try-*")
	if err != nil {
		return fmt.Errorf("nothing can be written in state directory %s: %w", dir, errors.Unwrap(err))
	}
	_, err = f.WriteString("x")
	if serr := f.Sync(); err == nil {
		err = serr
	}
	f.Close()
	os.Remove(f.Name())
	if err != nil {
		return fmt.Errorf("nothing can be written in state directory %s: %w", dir, errors.Unwrap(err))
	}
	return nil
}

// ListenUnix listens on a socket that none but its owner can connect to, from the
// moment it has a name. It does not take the place of anything that is there.
func ListenUnix(path string) (net.Listener, error) { return listenUnix(path) }

// Lock takes the directory for this process until unlock is called or the process
// ends. what names the program, for the error of the next one: that is
// [ErrLocked], and says which process has it.
func Lock(dir, what string) (unlock func(), err error) {
	return LockFile(filepath.Join(dir, "lock"), what)
}

// LockFile is [Lock] with the path of the lock's file.
func LockFile(path, what string) (unlock func(), err error) {
	l := flock.New(path, flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !ok {
		by := ""
		if b, err := os.ReadFile(path + ".pid"); err == nil && len(b) < 100 {
			by = ": " + strings.TrimSpace(string(b))
		}
		return nil, fmt.Errorf("%s is %w%s", filepath.Dir(path), ErrLocked, by)
	}
	if err := os.WriteFile(path+".pid", fmt.Appendf(nil, "%s, process %d\n", what, os.Getpid()), 0o600); err != nil && !errors.Is(err, fs.ErrPermission) {
		l.Unlock()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() {
		os.Remove(path + ".pid")
		l.Unlock()
	}, nil
}
