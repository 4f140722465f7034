//go:build unix

package clientcmd

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// setTimes sets the times of an open file.
func setTimes(f *os.File, to time.Time) error {
	at := unix.NsecToTimeval(to.UnixNano())
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) { err = unix.Futimes(int(fd), []unix.Timeval{at, at}) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("futimes", err)
}

// owner is whose a file is, here or on a node.
func owner(info fs.FileInfo) (uid, gid int) {
	switch st := info.Sys().(type) {
	case *syscall.Stat_t:
		return int(st.Uid), int(st.Gid)
	case *sftp.FileStat:
		return int(st.UID), int(st.GID)
	}
	return 0, 0
}
