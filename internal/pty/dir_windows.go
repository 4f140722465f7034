package pty

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/windows"
)

// rootDir is a directory that every user may enter.
func rootDir() string {
	if root := os.Getenv("SystemRoot"); root != "" {
		return filepath.VolumeName(root) + `\`
	}
	return `C:\`
}

// mayBeDir reports whether err, of a start, may be about the directory to start
// in.
func mayBeDir(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains([]syscall.Errno{
		windows.ERROR_DIRECTORY, windows.ERROR_ACCESS_DENIED, windows.ERROR_PATH_NOT_FOUND, windows.ERROR_FILE_NOT_FOUND,
	}, errno)
}
