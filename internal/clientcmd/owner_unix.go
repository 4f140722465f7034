//go:build unix

package clientcmd

import (
	"io/fs"
	"syscall"

	"github.com/pkg/sftp"
)

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
