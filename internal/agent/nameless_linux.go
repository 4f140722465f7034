package agent

import (
	"os"

	"golang.org/x/sys/unix"
)

// namelessFile makes a file that is nowhere on a disk: what goes into it may be
// secret.
func namelessFile(string) (*os.File, error) {
	fd, err := unix.MemfdCreate("sallyport-handover", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "sallyport-handover"), nil
}
