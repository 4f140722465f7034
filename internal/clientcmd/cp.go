package clientcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sallyport/sallyport/internal/client"
)

func cpCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cp [-r] FROM... TO",
		Short: "Copy files to or from a node",
		Long: `Copy files to or from a node. A place on a node is NODE:PATH, where a path that
does not begin with a slash, or begins with ~/, is in the home directory of the session's user; a
place here that has a colon in it can be written ./like:this.

	sallyport cp nginx.conf web-1:/etc/nginx/
	sallyport cp -r web-1:/var/log/nginx .

A file is written beside its place, as .NAME.sallyport-…, and takes the place
once it is whole: a copy that is cut short leaves what was there as it was, and
the end that wrote such a part removes it, unless that is killed with kill -9 or
runs Windows. Only what another file cannot replace, as a device or a pipe, is
written in place.

Files keep their modes. With -r directories are copied with all that is in them,
save symbolic links and what is neither a file nor a directory, which are left
out and named. The node needs no SSH, and an agent of ours.

The exit status is 1 if something was not copied, and 255 if no session came
about, or it could not be ended.`,
		Args: cobra.MinimumNArgs(2),
	}
	settings := settingsFlags(c.Flags())
	streamHostFlag(c, settings)
	reason := c.Flags().String("reason", "", "why, for the record: a `text`")
	recursive := c.Flags().BoolP("recursive", "r", false, "copy directories")
	times := c.Flags().BoolP("preserve", "p", false, "keep the times of files, too")
	quiet := c.Flags().BoolP("quiet", "q", false, "show no progress")
	c.RunE = func(c *cobra.Command, args []string) error {
		from, to, node, err := places(args)
		if err != nil {
			return err
		}
		if to.node == "" { // before there is a session
			for _, p := range from {
				if info, err := os.Stat(to.path); len(from) > 1 && (err != nil || !info.IsDir()) {
					return fmt.Errorf("copy %s: %s is no directory", p.path, to.path)
				}
			}
		} else {
			for _, p := range from {
				if info, err := os.Stat(p.path); err != nil {
					return fmt.Errorf("copy: %w", err)
				} else if info.IsDir() && !*recursive {
					return fmt.Errorf("copy: %s is a directory; copy it with -r", p.path)
				}
			}
		}
		cl, err := load(c.Context(), settings)
		if err != nil {
			return lost(c, err)
		}
		id, err := findNode(c.Context(), cl, node)
		if err != nil {
			return lost(c, err)
		}
		inv, err := cl.StartSession(c.Context(), client.RequestFiles(id, *reason))
		if err != nil {
			return lost(c, err)
		}
		ctx := c.Context()
		if !signal.Ignored(syscall.SIGHUP) {
			var stop func()
			ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP) // the window is closed
			defer stop()
		}
		session, joined, end := lingering(ctx)
		defer end()
		far, err := cl.Files(session, inv, c.ErrOrStderr(), func(text string) { note(c.ErrOrStderr(), "%s", text) })
		if err != nil {
			return lost(c, err)
		}
		joined()
		cp := &copying{src: here{}, dst: there{far}, recursive: *recursive, times: *times, errOut: c.ErrOrStderr()}
		if to.node == "" {
			cp.src, cp.dst = cp.dst, cp.src
		}
		if f, ok := cp.errOut.(*os.File); ok && !*quiet && term.IsTerminal(int(f.Fd())) {
			cp.terminal = f
		}
		err = cp.run(ctx, from, to)
		cerr := far.Close()
		mayBeOn := errors.Is(cerr, client.ErrMayBeOn)
		if err == nil && !mayBeOn {
			err = cerr
		}
		if err != nil && ctx.Err() == nil {
			err = errors.New(client.Explain(far.Explain(err)))
		}
		switch {
		case err != nil && mayBeOn:
			note(c.ErrOrStderr(), "copy: %v", err)
			return Exit(exitLost)
		case err != nil:
			return fmt.Errorf("copy: %w", err)
		case mayBeOn: // which the session has said
			return Exit(exitLost)
		case cp.failed.Load():
			return Exit(1) // each was named
		}
		return nil
	}
	return c
}

// tidyWithin is how long a copy that was interrupted has for removing what is not
// whole, before its session ends.
const tidyWithin = 2 * time.Second

// lingering returns the context of a session that ends with ctx or, once joined has
// been called, tidyWithin later. The caller calls end when it is over.
func lingering(ctx context.Context) (session context.Context, joined, end func()) {
	session, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var on atomic.Bool
	late := time.AfterFunc(never, func() { cancel(context.Cause(ctx)) })
	stop := context.AfterFunc(ctx, func() {
		if on.Load() {
			late.Reset(tidyWithin)
		} else {
			cancel(context.Cause(ctx))
		}
	})
	return session, func() { on.Store(true) }, func() {
		stop()
		late.Stop()
		cancel(nil)
	}
}

const never = 1<<63 - 1

// A place is where a file is.
type place struct {
	node string // "" is here
	path string
}

// readPlace reads NODE:PATH. What has a slash before its first colon is here,
// and so is, on Windows, what begins with the letter of a drive.
func readPlace(arg string) place {
	node, p, ok := strings.Cut(arg, ":")
	if !ok || node == "" || strings.ContainsAny(node, `/\`) || runtime.GOOS == "windows" && len(node) == 1 {
		return place{"", arg}
	}
	// A shell of the node's would read ~ so, and no shell reads this.
	if p == "~" {
		p = ""
	}
	p = strings.TrimPrefix(p, "~/")
	if p == "" {
		p = "."
	}
	return place{node, p}
}

// places reads a command line. All of it but the last is on one side, and that
// is on the other.
func places(args []string) (from []place, to place, node string, err error) {
	to = readPlace(args[len(args)-1])
	for _, arg := range args[:len(args)-1] {
		p := readPlace(arg)
		switch {
		case p.node == "" && to.node == "":
			return nil, to, "", fmt.Errorf("copy: neither %s nor %s is on a node; write NODE:PATH", arg, args[len(args)-1])
		case p.node != "" && to.node != "":
			return nil, to, "", errors.New("copy: both are on nodes; copy to this machine first")
		case len(from) > 0 && p.node != from[0].node:
			return nil, to, "", errors.New("copy: what is copied is on more than one node; do it once for each")
		}
		node = p.node + to.node
		from = append(from, p)
	}
	return from, to, node, nil
}

// A side has files: this machine or the node. Its paths are its own.
type side interface {
	join(dir, name string) string
	base(path string) string
	stat(path string) (fs.FileInfo, error)   // through symbolic links
	list(path string) ([]fs.FileInfo, error) // not through them
	open(path string) (io.ReadCloser, error)
	create(path string) (target, error) // or empty what is there

	// createNew makes a file that is not there, for its owner alone until Chmod.
	createNew(path string) (target, error)

	// writable is nil if the file that is there may be written, which it is not.
	writable(path string) error

	lstat(path string) (fs.FileInfo, error)
	follow(link string) (path string, err error) // where a symbolic link leads: one step
	rename(from, to string) error                // in the place of what is there
	remove(path string) error
	mkdir(path string, mode fs.FileMode) (made bool, err error) // unless it is there
	chmod(path string, mode fs.FileMode) error
	chtimes(path string, modified time.Time) error
}

// A target is a file that is written. Its mode, owner and times are set by way of
// the open file, and never by its path, which another user may have made a link to
// a file of their choice by then.
type target interface {
	io.WriteCloser
	Stat() (fs.FileInfo, error)
	Chmod(mode fs.FileMode) error
	Chown(uid, gid int) error
	Chtimes(modified time.Time) error
}

// An openHere is a target on this machine.
type openHere struct{ *os.File }

func (f openHere) Chtimes(modified time.Time) error { return setTimes(f.File, modified) }

// openedHere is a file, or no file and not one that holds nil.
func openedHere(file *os.File, err error) (target, error) {
	if err != nil {
		return nil, err
	}
	return openHere{file}, nil
}

// An openThere is a target on the node.
type openThere struct {
	*sftp.File
	files *client.Files
	path  string
}

// Chtimes sets the times by the path: an SFTP library that sets them by the open
// file is not to be had. The node's server, while it has that file open, takes the
// path for the open file.
func (f openThere) Chtimes(modified time.Time) error {
	return f.files.Chtimes(f.path, modified, modified)
}

func (t there) opened(path string, file *sftp.File, err error) (target, error) {
	if err != nil {
		return nil, err
	}
	return openThere{file, t.Files, path}, nil
}

// here is this machine.
type here struct{}

func (here) join(dir, name string) string               { return filepath.Join(dir, name) }
func (here) base(p string) string                       { return filepath.Base(p) }
func (here) stat(p string) (fs.FileInfo, error)         { return os.Stat(p) }
func (here) open(p string) (io.ReadCloser, error)       { return os.Open(p) }
func (here) chmod(p string, mode fs.FileMode) error     { return os.Chmod(p, mode) }
func (here) chtimes(p string, modified time.Time) error { return os.Chtimes(p, modified, modified) }

func (here) create(p string) (target, error) {
	return openedHere(os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600))
}

func (here) list(p string) (infos []fs.FileInfo, err error) {
	entries, err := os.ReadDir(p)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // it has gone since
		}
		infos = append(infos, info)
	}
	return infos, err
}

func (here) mkdir(p string, mode fs.FileMode) (made bool, err error) {
	err = os.Mkdir(p, mode)
	if info, serr := os.Lstat(p); err != nil && serr == nil && info.IsDir() {
		return false, nil
	}
	return err == nil, err
}

func (here) createNew(p string) (target, error) {
	return openedHere(os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600))
}

func (here) writable(p string) error {
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func (here) lstat(p string) (fs.FileInfo, error) { return os.Lstat(p) }
func (here) rename(from, to string) error        { return os.Rename(from, to) }
func (here) remove(p string) error               { return os.Remove(p) }
func (here) follow(link string) (string, error) {
	to, err := os.Readlink(link)
	if err == nil && !filepath.IsAbs(to) {
		dir, _ := filepath.Split(link)
		to = dir + to // and not cleaned: dir may have links in it
	}
	return to, err
}

// there is the node. Its paths have slashes, on every system.
type there struct{ *client.Files }

func (t there) join(dir, name string) string               { return path.Join(dir, name) }
func (t there) base(p string) string                       { return path.Base(strings.ReplaceAll(p, `\`, "/")) }
func (t there) stat(p string) (fs.FileInfo, error)         { return t.Stat(p) }
func (t there) list(p string) ([]fs.FileInfo, error)       { return t.ReadDir(p) }
func (t there) open(p string) (io.ReadCloser, error)       { return t.Open(p) }
func (t there) chmod(p string, mode fs.FileMode) error     { return t.Chmod(p, mode) }
func (t there) chtimes(p string, modified time.Time) error { return t.Chtimes(p, modified, modified) }

func (t there) mkdir(p string, mode fs.FileMode) (made bool, err error) {
	err = t.Mkdir(p)
	if info, serr := t.Lstat(p); err != nil && serr == nil && info.IsDir() {
		return false, nil
	}
	return err == nil, err
}

func (t there) create(p string) (target, error) {
	f, err := t.Create(p)
	return t.opened(p, f, err)
}

func (t there) createNew(p string) (target, error) {
	f, err := t.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	return t.opened(p, f, err)
}

func (t there) writable(p string) error {
	f, err := t.OpenFile(p, os.O_WRONLY)
	if err != nil {
		return err
	}
	return f.Close()
}

func (t there) lstat(p string) (fs.FileInfo, error) { return t.Lstat(p) }
func (t there) remove(p string) error               { return t.Remove(p) }
func (t there) rename(from, to string) error        { return t.PosixRename(from, to) }

func (t there) follow(link string) (string, error) {
	to, err := t.ReadLink(link)
	if err == nil && !path.IsAbs(to) {
		to = link[:strings.LastIndexByte(link, '/')+1] + to
	}
	return to, err
}
