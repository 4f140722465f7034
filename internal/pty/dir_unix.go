//go:build unix

package pty

import (
	"errors"
	"slices"
	"syscall"
)

// rootDir is a directory that every user may enter.
func rootDir() string { return "/" }

// mayBeDir reports whether err, of a start, may be about the directory to start
// in: the system does not say which of the two paths it means.
func mayBeDir(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains([]syscall.Errno{
		syscall.EACCES, syscall.EPERM, syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EIO, syscall.ESTALE,
	}, errno)
}
