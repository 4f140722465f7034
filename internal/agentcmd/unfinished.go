package agentcmd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/agent"
)

// An unfinished reads SFTP requests for a server, and makes the new files that a
// copy is written to beside its place (see [agent.BesideMark]) itself: so it knows
// which files are not whole when the session ends, and removes them.
//
// Where an open file has a path, the server is given that instead of the file's
// own. What it then does to the file by its path, such as setting times, it does to
// the open file, and not to what another user has put under that name meanwhile.
//
// On Windows requests are passed on as they are: an agent there ends a program
// without a signal, which leaves no time to tidy up.
type unfinished struct {
	in      *bufio.Reader
	dir     string // of paths that do not begin with a slash
	fdPaths bool   // an open file has a path: /dev/fd/7

	next []byte // of a request for the server, and not read yet
	rest int    // bytes of a request that are passed on as they come

	// mu guards all below. It is never released once the files are removed.
	mu    sync.Mutex
	files map[string]*besideFile // by path
	open  []*besideFile          // that were made last, with an open file each
	sweep int                    // how many files there are when those that are gone are forgotten
}

// A besideFile is a file that was made for a copy.
type besideFile struct {
	info fs.FileInfo
	file *os.File // nil once it is to be whole, or there are too many
}

// The requests that matter here. (draft-ietf-secsh-filexfer-02, 3)
const (
	requestOpen     = 3
	requestSetstat  = 9
	requestRemove   = 13
	requestRename   = 18
	requestExtended = 200

	openCreate, openTruncate, openExclusive = 0x08, 0x10, 0x20
)

const (
	maxRequest = 64 << 10 // of those that are read in whole; longer ones are passed on
	maxOpen    = 64       // files that are open here: a copy has 8 at a time
	firstSweep = 1024
)

func newUnfinished(in io.Reader, dir string) *unfinished {
	_, err := os.Stat("/dev/fd/0") // in a bare chroot there is none
	return &unfinished{in: bufio.NewReaderSize(in, 64<<10), dir: dir, fdPaths: err == nil, files: map[string]*besideFile{}, sweep: firstSweep}
}

// Read reads requests as the server is to have them.
func (u *unfinished) Read(b []byte) (int, error) {
	for len(u.next) == 0 && u.rest == 0 {
		head, err := u.in.Peek(5)
		if err != nil {
			if err == io.EOF && len(head) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		size := 4 + int(binary.BigEndian.Uint32(head))
		if size > maxRequest || !bytes.Contains([]byte{requestOpen, requestSetstat, requestRemove, requestRename, requestExtended}, head[4:]) {
			u.rest = size
			break
		}
		request := make([]byte, size)
		if _, err := io.ReadFull(u.in, request); err != nil {
			return 0, err
		}
		u.next = u.rewrite(request)
	}
	if len(u.next) > 0 {
		n := copy(b, u.next)
		u.next = u.next[n:]
		return n, nil
	}
	n, err := u.in.Read(b[:min(len(b), u.rest)])
	u.rest -= n
	return n, err
}

// text takes a string off a request: length u32, bytes.
func text(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	length := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(length) > uint64(len(b)) {
		return "", nil, false
	}
	return string(b[:length]), b[length:], true
}

// rewrite returns a request as the server is to have it: length u32, type u8, id
// u32, path string and, of an open, flags u32. One that is extended has its name
// before the path.
func (u *unfinished) rewrite(request []byte) []byte {
	if len(request) < 9 || runtime.GOOS == "windows" {
		return request
	}
	at, rest, ok := text(request[9:])
	if ok && request[4] == requestExtended && at == "posix-rename@openssh.com" {
		at, _, ok = text(rest)
	}
	if !ok {
		return request
	}
	if !path.IsAbs(at) {
		at = path.Join(u.dir, at) // as the server does
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var f *besideFile
	switch request[4] {
	case requestRemove, requestRename, requestExtended:
		if f := u.files[at]; f != nil { // a program that is open cannot be started
			u.close(f)
		}
		return request
	case requestOpen:
		if len(rest) < 4 || !isBeside(at) {
			return request
		}
		flags := binary.BigEndian.Uint32(rest)
		if flags&openCreate == 0 || flags&openExclusive == 0 {
			return request
		}
		if f = u.make(at); f == nil {
			return request // the server says why
		}
		binary.BigEndian.PutUint32(rest, flags&^(openCreate|openTruncate|openExclusive))
	default:
		if f = u.files[at]; f == nil || f.file == nil || !u.fdPaths {
			return request
		}
	}
	if u.fdPaths {
		at = "/dev/fd/" + strconv.Itoa(int(f.file.Fd()))
	}
	out := append(make([]byte, 4, len(request)+32), request[4:9]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(at)))
	out = append(append(out, at...), rest...)
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return out
}

// isBeside reports whether a path is such as a copy gives a file that is not whole.
func isBeside(at string) bool {
	name := path.Base(at)
	return strings.HasPrefix(name, ".") && strings.Contains(name, agent.BesideMark)
}

// make makes a file that is not there, for its owner alone. The caller holds mu.
func (u *unfinished) make(at string) *besideFile {
	file, err := os.OpenFile(at, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil
	}
	f := &besideFile{file: file}
	if f.info, err = file.Stat(); err != nil {
		file.Close()
		os.Remove(at)
		return nil
	}
	u.files[at] = f
	if u.open = append(u.open, f); len(u.open) > maxOpen {
		u.close(u.open[0])
	}
	if len(u.files) > u.sweep {
		for at, f := range u.files {
			if !f.isAt(at) {
				delete(u.files, at)
			}
		}
		u.sweep = max(firstSweep, 2*len(u.files))
	}
	return f
}

// close closes a file, and goes on knowing it. The caller holds mu.
func (u *unfinished) close(f *besideFile) {
	if at := slices.Index(u.open, f); at >= 0 {
		u.open = slices.Delete(u.open, at, at+1)
		f.file.Close()
		f.file = nil
	}
}

// isAt reports whether the file has a path: a copy that is whole has another.
func (f *besideFile) isAt(at string) bool {
	info, err := os.Lstat(at)
	return err == nil && os.SameFile(info, f.info)
}

// remove removes the files that are not whole. What another process has put in
// their places stays. No more files are made afterwards.
func (u *unfinished) remove() {
	u.mu.Lock() // for good
	for _, f := range u.open {
		f.file.Close()
	}
	for at, f := range u.files {
		if f.isAt(at) {
			os.Remove(at)
		}
	}
}
