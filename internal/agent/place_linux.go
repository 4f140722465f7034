package agent

import (
	"crypto/sha256"
	"fmt"
	"os"
	"syscall"
)

// place names a state directory on this machine, as it was booted last: a copy of
// the directory is another place, and so is a copy of the machine. It is empty if
// the system does not say.
func place(dir string) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	info, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s %d %d", boot, st.Dev, st.Ino)))[:32]
}
