//go:build unix

package record

import "golang.org/x/sys/unix"

// Free is how many bytes a user who is not root may write in dir.
func (realDisk) Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
