//go:build unix

package agentcmd

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// CloseOnExec keeps what this process was started with open from the programs that
// it starts: an agent's shells are other users'. It is called before anything is
// opened. Standard input, output and errors are not touched; a program that is
// given any other descriptor is given it by name.
func CloseOnExec() {
	for fd := range descriptors() {
		if fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// mostDescriptors is how many numbers are tried where the system does not list
// those that are open.
const mostDescriptors = 1 << 16

// descriptors calls yield with each number that may be an open descriptor.
func descriptors() func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for _, dir := range []string{"/proc/self/fd", "/dev/fd"} {
			open, err := os.ReadDir(dir)
			if err != nil {
				continue
			}
			for _, e := range open {
				if fd, err := strconv.Atoi(e.Name()); err == nil && !yield(fd) {
					return
				}
			}
			return
		}
		for fd := range mostDescriptors {
			if !yield(fd) {
				return
			}
		}
	}
}
