package clientcmd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/sallyport/sallyport/internal/client"
)

// A landing is where a copy is written. A copy that is cut short leaves what was
// there before as it was: it is written beside its place, under a name of its own,
// and takes the place once it is whole. It is not synced to disk, as scp's and
// rsync's are not.
//
// Written in place, as it comes, is what cannot be replaced by another file: a
// device, a pipe, what a process has open (/dev/stdout), a file in a directory in
// which the user may make none, and one whose owner would be another.
type landing struct {
	file  target
	at    string // what file is: the place itself, or beside it
	place string // what a symbolic link leads to, and not the link

	regular bool // it has a mode and times of its own, which a device keeps
}

// beside reports whether the copy is not in its place yet.
func (l *landing) beside() bool { return l.at != l.place }

// errTry says that a file cannot be written beside its place, and may be in it.
var errTry = errors.New("it is to be written in its place")

// land opens where j is written. It has the mode of what is copied, unless it is in
// its place.
func (c *copying) land(j job) (*landing, error) {
	if j.straight {
		return c.landStraight(j.to)
	}
	place, there, err := c.destination(j)
	if err == nil {
		var l *landing
		if l, err = c.landBeside(place, there, j.info.Mode().Perm()); err == nil {
			return l, nil
		}
	}
	if errors.Is(err, errTry) {
		return c.landStraight(j.to)
	}
	return nil, err
}

func (c *copying) landStraight(at string) (*landing, error) {
	file, err := c.dst.create(at)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &landing{file: file, at: at, place: at, regular: info.Mode().IsRegular()}, nil
}

// maxLinks is how many symbolic links are followed to a file, as on Linux.
const maxLinks = 40

// destination returns the path that j is to have, which is none of a symbolic
// link, and the file that is there, if one is: a regular one, which may be written.
func (c *copying) destination(j job) (place string, there fs.FileInfo, err error) {
	if j.fresh {
		return j.to, nil, nil
	}
	place = j.to
	for links := 0; ; links++ {
		if strings.HasPrefix(place, "/dev/fd/") || strings.HasPrefix(place, "/proc/") {
			return "", nil, errTry // a file that a process has open, as /dev/stdout is, and goes on writing to
		}
		there, err = c.dst.lstat(place)
		switch {
		case errors.Is(err, fs.ErrNotExist) && links == 0:
			return place, nil, nil
		case broken(err):
			return "", nil, err
		case err != nil || links == maxLinks:
			return "", nil, errTry // which says what is wrong
		}
		if others, err := c.isOthers(place, there); broken(err) {
			return "", nil, err
		} else if err != nil || others {
			return "", nil, errTry
		}
		switch {
		case there.Mode().IsRegular():
			return place, there, c.dst.writable(place)
		case there.Mode()&fs.ModeSymlink == 0:
			return "", nil, errTry
		}
		if place, err = c.dst.follow(place); err != nil {
			return "", nil, err
		}
	}
}

// landBeside makes a file beside place, which takes the place of there, if that is
// not nil.
func (c *copying) landBeside(place string, there fs.FileInfo, mode fs.FileMode) (*landing, error) {
	at := beside(place)
	file, err := c.dst.createNew(at)
	switch {
	case err == nil:
	case there == nil && !broken(err), errors.Is(err, fs.ErrPermission), strings.Contains(err.Error(), "read-only file system"):
		return nil, errTry // with nothing to lose, or no room to make one
	default:
		return nil, err
	}
	l := &landing{file: file, at: at, place: place, regular: true}
	if there != nil {
		err = keepOwner(file, there)
	}
	if err == nil {
		err = file.Chmod(mode)
	}
	if err != nil {
		c.discard(l)
		return nil, err
	}
	return l, nil
}

// keepOwner gives a file the owner and group of what it is to replace.
func keepOwner(file target, of fs.FileInfo) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	uid, gid := owner(of)
	if u, g := owner(info); u == uid && g == gid {
		return nil
	}
	if err := file.Chown(uid, gid); broken(err) {
		return err
	} else if err != nil {
		return errTry
	}
	return nil
}

// isOthers reports whether what is at a path belongs to another user than its
// directory does, in a directory where every user may make files, such as /tmp.
// Whether a link or a file there is to be followed or written the system decides,
// which knows who asks (Linux: fs.protected_symlinks, fs.protected_regular).
func (c *copying) isOthers(place string, info fs.FileInfo) (bool, error) {
	dir := place[:strings.LastIndexAny(place, `/\`)+1]
	if dir == "" {
		dir = "."
	}
	of, err := c.dst.stat(dir)
	if err != nil {
		return false, err
	}
	if of.Mode()&fs.ModeSticky == 0 || of.Mode().Perm()&0o002 == 0 {
		return false, nil
	}
	mine, _ := owner(of)
	uid, _ := owner(info)
	return uid != mine, nil
}

// discard removes a copy that is not whole, and notes one that it cannot remove.
func (c *copying) discard(l *landing) {
	l.file.Close()
	if !l.beside() {
		c.leave(l.at)
		return
	}
	if err := c.dst.remove(l.at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.leave(l.at)
	}
}

// leave notes that a part of a copy is left somewhere.
func (c *copying) leave(at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parts = append(c.parts, at)
}

// settle puts a whole copy, whose file is closed, into its place. errTry is that it
// cannot be put there.
func (c *copying) settle(j job, l *landing) error {
	if !l.beside() {
		return nil
	}
	if err := c.dst.rename(l.at, l.place); broken(err) {
		return err
	} else if err != nil { // its place may be a mount point, or be held by another program
		return fmt.Errorf("%w: %w", errTry, err)
	}
	return nil
}

// maxName is how many bytes the name of a file that waits beside its place has at
// most.
const maxName = 255

// beside returns a path next to place that is not taken:
// dir/.name.sallyport-0123456789abcdef. Both kinds of slashes end the directory:
// where one of them does not, the name has it in it.
func beside(place string) string {
	i := strings.LastIndexAny(place, `/\`) + 1
	random := make([]byte, 8)
	rand.Read(random)
	tail := client.BesideMark + hex.EncodeToString(random)
	name := place[i:]
	if room := maxName - 1 - len(tail); len(name) > room {
		name = strings.ToValidUTF8(name[:room], "")
	}
	return place[:i] + "." + name + tail
}

// interrupted is the error of a copy that was, once it has tidied up; nil if it was
// not.
func (c *copying) interrupted(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	if left := c.left(); left != "" {
		return errors.New("interrupted; " + left)
	}
	return errors.New("interrupted; what was not copied whole is as it was before")
}

// left says which parts of copies are left; "" is none.
func (c *copying) left() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch len(c.parts) {
	case 0:
		return ""
	case 1:
		return cell(c.parts[0]) + " is a part of what was being copied"
	}
	return fmt.Sprintf("%s and %d more are parts of what was being copied", cell(c.parts[0]), len(c.parts)-1)
}
