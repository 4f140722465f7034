package clientcmd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sallyport/sallyport/internal/client"
)

func cpCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cp [-r] FROM... TO",
		Short: "Copy files to or from a node",
		Long: `Copy files to or from a node. A place on a node is NODE:PATH, where a path that
does not begin with a slash is in the home directory of the session's user; a
place here that has a colon in it can be written ./like:this.

	sallyport cp nginx.conf web-1:/etc/nginx/
	sallyport cp -r web-1:/var/log/nginx .

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
		far, err := cl.Files(c.Context(), inv, c.ErrOrStderr(), func(text string) { note(c.ErrOrStderr(), "%s", text) })
		if err != nil {
			return lost(c, err)
		}
		cp := &copying{src: here{}, dst: there{far}, recursive: *recursive, times: *times, errOut: c.ErrOrStderr()}
		if to.node == "" {
			cp.src, cp.dst = cp.dst, cp.src
		}
		if f, ok := cp.errOut.(*os.File); ok && !*quiet && term.IsTerminal(int(f.Fd())) {
			cp.terminal = f
		}
		err = cp.run(c.Context(), from, to)
		cerr := far.Close()
		mayBeOn := errors.Is(cerr, client.ErrMayBeOn)
		if err == nil && !mayBeOn {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("copy: %s", client.Explain(far.Explain(err)))
		}
		switch {
		case cp.failed.Load():
			return Exit(1) // each was named
		case mayBeOn: // which the session has said
			return Exit(exitLost)
		}
		return nil
	}
	return c
}

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
	create(path string) (io.WriteCloser, error) // or empty what is there
	mkdir(path string, mode fs.FileMode) error  // unless it is there
	chmod(path string, mode fs.FileMode) error
	chtimes(path string, modified time.Time) error
}

// here is this machine.
type here struct{}

func (here) join(dir, name string) string               { return filepath.Join(dir, name) }
func (here) base(p string) string                       { return filepath.Base(p) }
func (here) stat(p string) (fs.FileInfo, error)         { return os.Stat(p) }
func (here) open(p string) (io.ReadCloser, error)       { return os.Open(p) }
func (here) chmod(p string, mode fs.FileMode) error     { return os.Chmod(p, mode) }
func (here) chtimes(p string, modified time.Time) error { return os.Chtimes(p, modified, modified) }

func (here) create(p string) (io.WriteCloser, error) {
	return os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
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

func (here) mkdir(p string, mode fs.FileMode) error {
	err := os.Mkdir(p, mode)
	if info, serr := os.Lstat(p); err != nil && serr == nil && info.IsDir() {
		return nil
	}
	return err
}

// there is the node. Its paths have slashes, on every system.
type there struct{ *client.Files }

func (t there) join(dir, name string) string               { return path.Join(dir, name) }
func (t there) base(p string) string                       { return path.Base(strings.ReplaceAll(p, `\`, "/")) }
func (t there) stat(p string) (fs.FileInfo, error)         { return t.Stat(p) }
func (t there) list(p string) ([]fs.FileInfo, error)       { return t.ReadDir(p) }
func (t there) open(p string) (io.ReadCloser, error)       { return t.Open(p) }
func (t there) create(p string) (io.WriteCloser, error)    { return t.Create(p) }
func (t there) chmod(p string, mode fs.FileMode) error     { return t.Chmod(p, mode) }
func (t there) chtimes(p string, modified time.Time) error { return t.Chtimes(p, modified, modified) }

func (t there) mkdir(p string, mode fs.FileMode) error {
	err := t.Mkdir(p)
	if info, serr := t.Lstat(p); err != nil && serr == nil && info.IsDir() {
		return nil
	}
	return err
}
