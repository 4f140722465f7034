package record

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A Disk is the file system that a shelf is on. Its methods are those of package
// os, with the same errors, and may be called from many goroutines.
type Disk interface {
	MkdirAll(dir string, perm fs.FileMode) error
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	CreateTemp(dir, pattern string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	ReadDir(dir string) ([]fs.DirEntry, error)

	// SyncDir makes the names in a directory last through a power cut.
	SyncDir(dir string) error
}

// A File is a file on a [Disk]. Its methods are those of [os.File].
type File interface {
	io.Reader
	io.Writer
	io.Seeker
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// realDisk is the machine's own file system.
type realDisk struct{}

func (realDisk) MkdirAll(dir string, perm fs.FileMode) error { return os.MkdirAll(dir, perm) }
func (realDisk) Rename(from, to string) error                { return os.Rename(from, to) }
func (realDisk) Remove(name string) error                    { return os.Remove(name) }
func (realDisk) ReadDir(dir string) ([]fs.DirEntry, error)   { return os.ReadDir(dir) }

func (realDisk) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err // and not a File that holds nil
	}
	return f, nil
}

func (realDisk) CreateTemp(dir, pattern string) (File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// SyncDir does nothing on Windows, which neither needs nor allows it.
func (realDisk) SyncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
