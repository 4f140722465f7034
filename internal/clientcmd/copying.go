package clientcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"
)

// atOnce is how many files are copied at once: small ones are a few round trips
// each, and nothing else.
const atOnce = 8

// A copying is one run of cp.
type copying struct {
	src, dst  side
	recursive bool
	times     bool
	errOut    io.Writer
	terminal  *os.File // shows progress; nil shows none

	failed atomic.Bool // something was not copied, and was named

	found       int   // files and directories, also those that were listed alone
	files       []job // in the order they were found
	directories []job // likewise: the files of a directory come after it

	done, total atomic.Int64 // bytes
	mu          sync.Mutex
	name        string   // what is being copied
	shown       bool     // a line of progress is on the terminal
	parts       []string // what is left of copies that are not whole
}

// A job is one file, or directory, to be copied.
type job struct {
	from, to string
	info     fs.FileInfo
	fresh    bool // to is in a directory that was made for it
	straight bool // to is written in place
}

// run copies. An error is for what stops all of it; what is wrong with one file
// is said, and noted in failed.
func (c *copying) run(ctx context.Context, from []place, to place) error {
	into, err := c.dst.stat(to.path)
	isDir := err == nil && into.IsDir()
	if !isDir && (len(from) > 1 || strings.HasSuffix(to.path, "/")) {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no directory %s", to.path)
		}
		return fmt.Errorf("%s is no directory", to.path)
	}
	for _, p := range from {
		info, err := c.src.stat(p.path)
		if err != nil {
			if broken(err) {
				return err
			}
			c.fail(ctx, p.path, err)
			continue
		}
		target := to.path
		if isDir {
			switch base := c.src.base(p.path); base {
			case ".", "..", "/": // all that is in it
			default:
				target = c.dst.join(to.path, base)
			}
		}
		if err := c.count(1); err != nil {
			return err
		}
		if err := c.find(ctx, job{from: p.path, to: target, info: info}); err != nil {
			return err
		}
	}
	stop := c.progress(ctx)
	err = c.copyAll(ctx)
	stop()
	if ierr := c.interrupted(ctx); ierr != nil {
		return ierr
	}
	if left := c.left(); left != "" {
		note(c.errOut, "%s", left)
	}
	return err
}

// maxFound is how many files and directories are copied at once. All are listed
// before the first is copied.
const maxFound = 500_000

// find lists what there is to copy, from j down, and makes its directories.
func (c *copying) find(ctx context.Context, j job) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case j.info.Mode().IsRegular():
		c.files = append(c.files, j)
		c.total.Add(j.info.Size())
		return nil
	case !j.info.IsDir():
		what := "neither a file nor a directory"
		if j.info.Mode()&fs.ModeSymlink != 0 {
			what = "a symbolic link"
		}
		c.fail(ctx, j.from, errors.New("it is "+what))
		return nil
	case !c.recursive:
		c.fail(ctx, j.from, errors.New("it is a directory; copy it with -r"))
		return nil
	}
	// One that may not be written to could not be filled: its mode comes last.
	made, err := c.dst.mkdir(j.to, 0o700)
	if broken(err) {
		return err
	} else if err != nil {
		c.fail(ctx, j.to, err)
		return nil
	}
	c.directories = append(c.directories, j)
	infos, err := c.src.list(j.from)
	if broken(err) {
		return err
	}
	if err != nil {
		c.fail(ctx, j.from, err)
	}
	inside, err := c.inside(ctx, j, infos)
	if err != nil {
		return err
	}
	for _, info := range inside {
		if err := c.find(ctx, job{from: c.src.join(j.from, info.Name()), to: c.dst.join(j.to, info.Name()), info: info, fresh: made}); err != nil {
			return err
		}
	}
	return nil
}

// maxListed is how many bytes a name may have in a directory's list: the 255 characters
// of any system's.
const maxListed = 1 << 10

// inside returns what of a directory's list can be copied, and counts it. It is held
// until all of it was found, with what the directories above have.
func (c *copying) inside(ctx context.Context, j job, listed []fs.FileInfo) (can []fs.FileInfo, err error) {
	for _, info := range listed {
		switch name := info.Name(); {
		case len(name) > maxListed:
			c.fail(ctx, j.from, fmt.Errorf("it lists a name of %d bytes, and may have %d", len(name), maxListed))
		case !filepath.IsLocal(name) || name == "." || strings.ContainsAny(name, "/\x00"):
			c.fail(ctx, j.from, fmt.Errorf("it lists %q, which would be elsewhere", name))
		default:
			if stat, ok := info.Sys().(*sftp.FileStat); ok {
				stat.Extended = nil // of any length
			}
			can = append(can, info)
		}
	}
	return can, c.count(len(can))
}

// count counts files and directories that were found.
func (c *copying) count(more int) error {
	if c.found += more; c.found > maxFound {
		return fmt.Errorf("there are more than %d files and directories; copy fewer at a time", maxFound)
	}
	return nil
}

func (c *copying) copyAll(ctx context.Context) error {
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, j := range c.files {
		if each.Err() != nil {
			break
		}
		g.Go(func() error {
			err := c.copyFile(each, j)
			if broken(err) {
				return err
			}
			if err != nil {
				c.fail(each, j.from, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := len(c.directories) - 1; i >= 0; i-- { // a directory's times change with what is in it
		j := c.directories[i]
		if err := c.finish(j); broken(err) {
			return err
		} else if err != nil {
			c.fail(ctx, j.to, err)
		}
	}
	return nil
}

// copyFile copies one file, so that its place has it whole or is as it was.
func (c *copying) copyFile(ctx context.Context, j job) error {
	c.mu.Lock()
	c.name = j.from
	c.mu.Unlock()
	err := c.copyTo(ctx, j)
	if errors.Is(err, errTry) && ctx.Err() == nil {
		c.done.Add(-j.info.Size())
		j.straight = true
		err = c.copyTo(ctx, j)
	}
	return err
}

func (c *copying) copyTo(ctx context.Context, j job) error {
	src, err := c.src.open(j.from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := c.land(j)
	if errors.Is(err, fs.ErrNotExist) { // the file need not be there, so it is its directory that is not
		return fmt.Errorf("there is no directory for %s", j.to)
	}
	if err != nil {
		return fmt.Errorf("to %s: %w", j.to, err)
	}
	// The node's end, whichever that is, has many requests on their way at once.
	if far, ok := src.(io.WriterTo); ok && c.dst == (here{}) {
		if _, err = far.WriteTo(newWriting(ctx, c, dst.file, j.info.Size())); errors.Is(err, errWhole) {
			err = nil
		}
	} else if far, ok := dst.file.(io.ReaderFrom); ok {
		_, err = far.ReadFrom(&reading{c, ctx, src, j.info.Size()})
	}
	if err == nil && dst.regular && !dst.beside() {
		err = dst.file.Chmod(j.info.Mode().Perm())
	}
	if err == nil && dst.regular && c.times {
		err = dst.file.Chtimes(j.info.ModTime())
	}
	if cerr := dst.file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = c.settle(j, dst)
	}
	if err != nil {
		c.discard(dst)
		return fmt.Errorf("to %s: %w", j.to, err)
	}
	return nil
}

// finish gives a directory what is left: its mode, and its times.
func (c *copying) finish(j job) error {
	if err := c.dst.chmod(j.to, j.info.Mode().Perm()); err != nil {
		return fmt.Errorf("to %s: %w", j.to, err)
	}
	if c.times {
		if err := c.dst.chtimes(j.to, j.info.ModTime()); err != nil {
			return fmt.Errorf("to %s: %w", j.to, err)
		}
	}
	return nil
}

// broken reports whether err is the session's, and not a file's.
func broken(err error) bool {
	return errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, context.Canceled)
}

// A reading is a file that is read, and counted.
type reading struct {
	c    *copying
	ctx  context.Context
	src  io.Reader
	size int64
}

// Size tells how much is to be expected.
func (r *reading) Size() int64 { return r.size }

func (r *reading) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.src.Read(b)
	r.c.done.Add(int64(n))
	return n, err
}

// A writing is a file that is written, and counted. Of a file that has a size no more
// than that is written, as scp does: what is longer by now has grown, or is a node's
// that does not come to an end.
type writing struct {
	c    *copying
	ctx  context.Context
	dst  io.Writer
	left int64
	size int64 // as it was listed; 0 is of what is made as it is read, as in /proc
}

// maxUnsized is how much is copied of a file without a size.
const maxUnsized = 64 << 20

// errWhole is that a file has been written in its whole size.
var errWhole = errors.New("all of it has been copied")

func newWriting(ctx context.Context, c *copying, dst io.Writer, size int64) *writing {
	w := &writing{c: c, ctx: ctx, dst: dst, left: size, size: size}
	if size <= 0 {
		w.left = maxUnsized
	}
	return w
}

func (w *writing) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	more := int64(len(b)) > w.left
	if more {
		b = b[:w.left]
	}
	n, err := w.dst.Write(b)
	w.left -= int64(n)
	w.c.done.Add(int64(n))
	switch {
	case err != nil || !more:
		return n, err
	case w.size > 0:
		return n, errWhole
	}
	return n, fmt.Errorf("it was listed as empty, and has more than %d MiB", maxUnsized>>20)
}

// fail says that something is not copied.
func (c *copying) fail(ctx context.Context, name string, err error) {
	if ctx.Err() != nil {
		return // which is the reason, and is said once
	}
	c.failed.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	note(c.errOut, "%s is not copied: %s", cell(name), cell(err.Error()))
}

// clear takes the line of progress away. The caller holds mu.
func (c *copying) clear() {
	if c.shown {
		fmt.Fprint(c.terminal, "\r\x1b[K")
		c.shown = false
	}
}

// progress shows how far it has come, on a terminal, until the function it
// returns is called. What is over before one would look is not shown.
func (c *copying) progress(ctx context.Context) (stop func()) {
	if c.terminal == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	start := time.Now()
	all.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				c.mu.Lock()
				defer c.mu.Unlock()
				c.clear()
				return
			case <-tick.C:
			}
			width := 80
			if w, _, err := term.GetSize(int(c.terminal.Fd())); err == nil && w > 0 {
				width = w
			}
			c.mu.Lock()
			fmt.Fprint(c.terminal, "\r\x1b[K"+progressLine(cell(c.name), c.done.Load(), c.total.Load(), time.Since(start), width-1))
			c.shown = true
			c.mu.Unlock()
		}
	})
	return func() { cancel(); all.Wait() }
}

// progressLine is one line of no more than width characters.
func progressLine(name string, done, total int64, took time.Duration, width int) string {
	rate := float64(done) / max(took.Seconds(), 0.001)
	line := fmt.Sprintf("%3d%%  %s of %s  %s/s", 100*done/max(total, 1), size(float64(done)), size(float64(total)), size(rate))
	if left := float64(total - done); rate > 0 && left > 0 {
		line += "  " + time.Duration(left/rate*float64(time.Second)).Round(time.Second).String() + " left"
	}
	if room := width - len(line) - 2; room > 8 {
		if runes := []rune(name); len(runes) > room {
			name = "…" + string(runes[len(runes)-room+1:])
		}
		line += "  " + name
	}
	return line
}

// size is n bytes, as people say it.
func size(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if n < 1024 {
			if unit == "B" {
				return fmt.Sprintf("%.0f %s", n, unit)
			}
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f TiB", n)
}
