//go:build race

package rawio

import "syscall"

// call is made the usual way where races are looked for: the detector learns
// there that what was written before a write is seen after the read.
func call(number uintptr, fd uintptr, p []byte) (n int, err error) {
	for {
		if number == syscall.SYS_READ {
			n, err = syscall.Read(int(fd), p)
		} else {
			n, err = syscall.Write(int(fd), p)
		}
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
