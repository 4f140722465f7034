package simulation

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/record"
)

// A Disk is one directory of files that may fill up, and that forgets in a power
// cut what was not synced. It is the record.Disk of one server after another: see
// [Disk.Mount].
//
// It forgets as a journalling file system does. Of what was written after a
// file's last sync a part from the beginning survives, and zeros may follow it.
// Of the names made, changed and removed since the last sync of anything the
// first few survive.
type Disk struct {
	log *Log

	// mu guards all below, and every file.
	mu      sync.Mutex
	random  *rand.Rand
	free    int64 // bytes; negative is no limit
	names   map[string]*inode
	journal []map[string]*inode // the names before each change since the last sync
	mounted *Mount
	temp    int
	lost    map[string]int // bytes, by the name of a file that power cuts took them from
}

type inode struct {
	data    []byte
	durable []byte // as it was synced
	kept    int    // how much of the beginning of that has not changed since
	changed time.Time
	dirty   time.Time // when that was written which is not synced; zero if there is none
}

// NewDisk returns an empty disk without a limit. What survives a crash is of
// seed.
func NewDisk(log *Log, seed uint64) *Disk {
	return &Disk{log: log, random: rand.New(rand.NewPCG(seed, 2)), free: -1, names: map[string]*inode{}, lost: map[string]int{}}
}

// A Mount is the disk as one server has it, until it crashes.
type Mount struct {
	disk *Disk
	dead bool
	open int // files
}

// Mount makes the disk available to a server. The one before has stopped, or
// crashed.
func (d *Disk) Mount() *Mount {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mounted = &Mount{disk: d}
	return d.mounted
}

// Open counts the files that a server has open.
func (m *Mount) Open() int {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.open
}

// Fill has the disk take free more bytes; negative is any number.
func (d *Disk) Fill(free int64) {
	d.log.Add("disk", "free: %d", free)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = free
}

// Crash is the end of the server that has the disk, and of what was not synced if
// the power was cut. While it calls during, in which the rest of the server is to
// end as well, what is done to files waits, and then fails.
func (d *Disk) Crash(powerCut bool, during func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	during()
	if d.mounted != nil {
		d.mounted.dead = true
	}
	if !powerCut {
		return
	}
	if n := len(d.journal); n > 0 {
		if kept := d.random.IntN(n + 1); kept < n {
			d.names = d.journal[kept]
		}
		d.journal = nil
	}
	for name, f := range d.names {
		if f.kept < len(f.durable) && d.random.IntN(2) == 0 { // it was truncated, and that has not happened
			f.data = f.durable
		}
		size := len(f.data)
		if unsynced := size - min(f.kept, size); unsynced > 0 && len(f.data) != len(f.durable) {
			lost := d.random.IntN(unsynced + 1)
			f.data = f.data[:size-lost]
			d.lost[name] += lost
			if lost > 0 && d.random.IntN(4) == 0 {
				f.data = append(f.data[:size-lost:size-lost], make([]byte, min(lost, 64))...)
			}
			d.log.Add("disk", "%s lost %d of %d bytes that were not synced", name, lost, unsynced)
		}
		f.data = slices.Clone(f.data)
		f.durable, f.kept, f.dirty = slices.Clone(f.data), len(f.data), time.Time{}
	}
}

// Lost is how many bytes power cuts have taken from a file, by its name then.
func (d *Disk) Lost(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost[name]
}

// Unsynced is since when the oldest of what is not synced of the files whose names
// have a suffix was written, and the name of that file; zero if all is synced.
func (d *Disk) Unsynced(suffix string) (name string, since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n, f := range d.names {
		if strings.HasSuffix(n, suffix) && !f.dirty.IsZero() && (since.IsZero() || f.dirty.Before(since)) {
			name, since = n, f.dirty
		}
	}
	return name, since
}

// Read returns a file as it is.
func (d *Disk) Read(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(f.data), nil
}

// Names lists the files.
func (d *Disk) Names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names))
}

// note remembers the names as they are, before they change. The caller holds mu.
func (d *Disk) note() { d.journal = append(d.journal, maps.Clone(d.names)) }

var errDead = errors.New("the machine has lost its power")

func (m *Mount) do(op, name string, f func(d *Disk) error) error {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	err := errDead
	if !m.dead {
		err = f(m.disk)
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// MkdirAll does nothing: there is one directory, by any name.
func (m *Mount) MkdirAll(dir string, _ fs.FileMode) error {
	return m.do("mkdir", dir, func(*Disk) error { return nil })
}

// OpenFile opens or makes a file.
func (m *Mount) OpenFile(name string, flag int, _ fs.FileMode) (record.File, error) {
	h := &handle{mount: m, name: name}
	err := m.do("open", name, func(d *Disk) error {
		base := filepath.Base(name)
		h.node = d.names[base]
		switch {
		case h.node == nil && flag&os.O_CREATE == 0:
			return fs.ErrNotExist
		case h.node != nil && flag&os.O_EXCL != 0:
			return fs.ErrExist
		case h.node == nil:
			d.note()
			h.node = &inode{changed: time.Now()}
			d.names[base] = h.node
		}
		m.open++
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// CreateTemp makes a file with a name that is not taken.
func (m *Mount) CreateTemp(dir, pattern string) (record.File, error) {
	m.disk.mu.Lock()
	m.disk.temp++
	name := strings.Replace(pattern, "*", fmt.Sprint(m.disk.temp), 1)
	m.disk.mu.Unlock()
	return m.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// Rename gives a file another name.
func (m *Mount) Rename(from, to string) error {
	return m.do("rename", from, func(d *Disk) error {
		f := d.names[filepath.Base(from)]
		if f == nil {
			return fs.ErrNotExist
		}
		d.note()
		delete(d.names, filepath.Base(from))
		d.names[filepath.Base(to)] = f
		return nil
	})
}

// Remove takes a file's name off it.
func (m *Mount) Remove(name string) error {
	return m.do("remove", name, func(d *Disk) error {
		f := d.names[filepath.Base(name)]
		if f == nil {
			return fs.ErrNotExist
		}
		d.note()
		delete(d.names, filepath.Base(name))
		if d.free >= 0 {
			d.free += int64(len(f.data))
		}
		return nil
	})
}

// ReadDir lists the files.
func (m *Mount) ReadDir(dir string) (all []fs.DirEntry, err error) {
	err = m.do("readdir", dir, func(d *Disk) error {
		for _, name := range slices.Sorted(maps.Keys(d.names)) {
			all = append(all, fs.FileInfoToDirEntry(info{name, d.names[name]}))
		}
		return nil
	})
	return all, err
}

// SyncDir makes the names last.
func (m *Mount) SyncDir(dir string) error {
	return m.do("sync", dir, func(d *Disk) error {
		d.journal = nil
		return nil
	})
}

// A handle is an open file.
type handle struct {
	mount  *Mount
	node   *inode
	name   string
	at     int64
	closed bool
}

func (h *handle) do(op string, f func(d *Disk) error) error {
	return h.mount.do(op, h.name, func(d *Disk) error {
		if h.closed {
			return fs.ErrClosed
		}
		return f(d)
	})
}

func (h *handle) Name() string { return h.name }

func (h *handle) Close() error {
	h.mount.disk.mu.Lock()
	defer h.mount.disk.mu.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	h.closed = true
	h.mount.open--
	return nil
}

func (h *handle) ReadAt(b []byte, off int64) (n int, err error) {
	end := false
	err = h.do("read", func(*Disk) error {
		if off < int64(len(h.node.data)) {
			n = copy(b, h.node.data[off:])
		}
		end = n < len(b)
		return nil
	})
	if err == nil && end {
		err = io.EOF
	}
	return n, err
}

func (h *handle) Read(b []byte) (n int, err error) {
	n, err = h.ReadAt(b, h.at)
	h.at += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (h *handle) WriteAt(b []byte, off int64) (n int, err error) {
	err = h.do("write", func(d *Disk) error {
		grow := max(off+int64(len(b))-int64(len(h.node.data)), 0)
		fits := b
		if d.free >= 0 && grow > d.free {
			fits = b[:max(int64(len(b))-(grow-d.free), 0)]
			grow = d.free
		}
		if d.free >= 0 {
			d.free -= grow
		}
		h.node.kept = min(h.node.kept, int(off))
		h.node.data = append(h.node.data, make([]byte, grow)...)
		n = copy(h.node.data[min(off, int64(len(h.node.data))):], fits)
		h.node.changed = time.Now()
		if n > 0 && h.node.dirty.IsZero() {
			h.node.dirty = time.Now()
		}
		if n < len(b) {
			return syscall.ENOSPC
		}
		return nil
	})
	return n, err
}

func (h *handle) Write(b []byte) (n int, err error) {
	n, err = h.WriteAt(b, h.at)
	h.at += int64(n)
	return n, err
}

func (h *handle) Seek(offset int64, whence int) (int64, error) {
	err := h.do("seek", func(*Disk) error {
		switch whence {
		case io.SeekCurrent:
			offset += h.at
		case io.SeekEnd:
			offset += int64(len(h.node.data))
		}
		h.at = offset
		return nil
	})
	return h.at, err
}

func (h *handle) Truncate(size int64) error {
	return h.do("truncate", func(d *Disk) error {
		if size > int64(len(h.node.data)) {
			return fs.ErrInvalid
		}
		if d.free >= 0 {
			d.free += int64(len(h.node.data)) - size
		}
		h.node.data = h.node.data[:size]
		h.node.kept = min(h.node.kept, int(size))
		return nil
	})
}

func (h *handle) Sync() error {
	return h.do("sync", func(d *Disk) error {
		h.node.durable, h.node.kept = slices.Clone(h.node.data), len(h.node.data)
		h.node.dirty = time.Time{}
		d.journal = nil
		return nil
	})
}

func (h *handle) Stat() (fs.FileInfo, error) {
	var i info
	err := h.do("stat", func(*Disk) error {
		i = info{filepath.Base(h.name), &inode{data: h.node.data, changed: h.node.changed}}
		return nil
	})
	return i, err
}

// info describes a file.
type info struct {
	name string
	node *inode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return int64(len(i.node.data)) }
func (i info) Mode() fs.FileMode  { return 0o600 }
func (i info) ModTime() time.Time { return i.node.changed }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }
