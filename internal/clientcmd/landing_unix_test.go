//go:build unix

package clientcmd

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/pkg/sftp"

	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/need"
	"github.com/sallyport/sallyport/internal/wire"
)

const testNode = "mi-0123456789abcdef0"

// bothWays runs test for copies to a node and from it, in a directory of its own:
// cp copies a file src/new, which has "new" in it, to dst/to.
func bothWays(t *testing.T, test func(t *testing.T, dst string, cp func(to string) (stderr string, err error))) {
	for _, up := range []bool{true, false} {
		t.Run(map[bool]string{true: "to a node", false: "from a node"}[up], func(t *testing.T) {
			p := start(t)
			home, local := t.TempDir(), t.TempDir()
			p.serveFiles(t, home)
			t.Chdir(local)
			src, dst, srcAt, dstAt := local, home, "", testNode+":"
			if !up {
				src, dst, srcAt, dstAt = home, local, testNode+":", ""
			}
			plant(t, src, map[string]string{"new": "new"})
			test(t, dst, func(to string) (string, error) {
				_, stderr, err := run(t, "", "cp", srcAt+"new", dstAt+to)
				return stderr, err
			})
			for line := range strings.Lines(tree(t, dst)) {
				if strings.Contains(line, wire.BesideMark) {
					t.Errorf("left is %s", line)
				}
			}
		})
	}
}

// What is at the destination stays what it is: a link that is followed, a pipe, a
// file that a process has open.
func TestCpOverWhatIsNoPlainFile(t *testing.T) {
	has := func(t *testing.T, path, want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", path, got, err, want)
		}
	}
	copies := func(t *testing.T, cp func(string) (string, error), to string) {
		t.Helper()
		if stderr, err := cp(to); stderr != "" || err != nil {
			t.Fatalf("to %s: %q, %v", to, stderr, err)
		}
	}
	bothWays(t, func(t *testing.T, dst string, cp func(string) (string, error)) {
		plant(t, dst, map[string]string{"d/e/old": "old", "f/": ""})
		for link, to := range map[string]string{"d/link": "e/old", "f/relative": "../d/link", "absolute": filepath.Join(dst, "f/relative"), "dangling": "d/none", "loop": "loop"} {
			if err := os.Symlink(to, filepath.Join(dst, link)); err != nil {
				t.Fatal(err)
			}
		}
		copies(t, cp, "absolute")
		has(t, filepath.Join(dst, "d/e/old"), "new")
		copies(t, cp, "dangling")
		has(t, filepath.Join(dst, "d/none"), "new")
		for _, link := range []string{"absolute", "f/relative", "d/link", "dangling"} {
			if info, err := os.Lstat(filepath.Join(dst, link)); err != nil || info.Mode()&fs.ModeSymlink == 0 {
				t.Errorf("%s is no link any more: %v, %v", link, info, err)
			}
		}
		if stderr, err := cp("loop"); err != Exit(1) || !strings.Contains(stderr, "not copied") {
			t.Errorf("to itself: %q, %v", stderr, err)
		}
		long := strings.Repeat("é", 127)
		copies(t, cp, long)
		has(t, filepath.Join(dst, long), "new")
		copies(t, cp, long)
		has(t, filepath.Join(dst, long), "new")
		if runtime.GOOS == "linux" {
			f, err := os.Create(filepath.Join(dst, "open"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			copies(t, cp, fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			if got, err := io.ReadAll(f); err != nil || string(got) != "new" {
				t.Errorf("what was open has %q, %v", got, err)
			}
		}
	})
	t.Run("a pipe", func(t *testing.T) {
		p := start(t)
		home := t.TempDir()
		p.serveFiles(t, home)
		t.Chdir(t.TempDir())
		plant(t, home, map[string]string{"new": "new"})
		if err := syscall.Mkfifo("pipe", 0o600); err != nil {
			t.Fatal(err)
		}
		read := make(chan string, 1)
		go func() {
			b, err := os.ReadFile("pipe")
			read <- fmt.Sprint(string(b), err)
		}()
		if _, stderr, err := run(t, "", "cp", testNode+":new", "pipe"); stderr != "" || err != nil {
			t.Fatalf("%q, %v", stderr, err)
		}
		if got := <-read; got != "new<nil>" {
			t.Errorf("read %q", got)
		}
		if info, err := os.Lstat("pipe"); err != nil || info.Mode() != fs.ModeNamedPipe|0o600 {
			t.Errorf("the pipe is %v, %v", info.Mode(), err)
		}
	})
}

// A file keeps its owner and group, where root copies over it.
func TestCpKeepsTheOwner(t *testing.T) {
	need.Root(t, func(t *testing.T) {
		bothWays(t, func(t *testing.T, dst string, cp func(string) (string, error)) {
			plant(t, dst, map[string]string{"old": "old"})
			old := filepath.Join(dst, "old")
			if err := os.Chown(old, 12345, 23456); err != nil {
				t.Fatal(err)
			}
			if stderr, err := cp("old"); stderr != "" || err != nil {
				t.Fatalf("%q, %v", stderr, err)
			}
			info, err := os.Stat(old)
			if err != nil {
				t.Fatal(err)
			}
			if uid, gid := owner(info); uid != 12345 || gid != 23456 || info.Size() != 3 || info.Mode() != 0o644 {
				t.Errorf("it is %d's and %d's: %v, %d bytes", uid, gid, info.Mode(), info.Size())
			}
		})
	})
}

// refusing is a node's file system that refuses what besides reading and writing
// the files that are there would be done: files beside them, or their taking the
// place.
type refusing struct {
	sftp.Handlers
	create, rename bool
	asked          int
}

func (r *refusing) Filewrite(q *sftp.Request) (io.WriterAt, error) {
	if r.create && strings.Contains(q.Filepath, wire.BesideMark) {
		r.asked++
		return nil, sftp.ErrSSHFxPermissionDenied
	}
	return r.FilePut.Filewrite(q)
}

func (r *refusing) Filecmd(q *sftp.Request) error {
	if r.rename && (q.Method == "Rename" || q.Method == "PosixRename") {
		r.asked++
		return sftp.ErrSSHFxFailure
	}
	return r.FileCmd.Filecmd(q)
}

// PosixRename is what an sftp.RequestServer asks for.
func (r *refusing) PosixRename(q *sftp.Request) error { return r.Filecmd(q) }

// Where a file cannot be made beside another, or cannot take its place, it is
// written in its place.
func TestCpInPlace(t *testing.T) {
	for name, r := range map[string]*refusing{"no file may be made there": {create: true}, "nor renamed": {rename: true}} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			t.Chdir(t.TempDir())
			r.Handlers = sftp.InMemHandler()
			p.plays[client.DocumentExec] = func(e *end) {
				e.shake("NonInteractiveCommands", nil, ours)
				sftp.NewRequestServer(e, sftp.Handlers{FileGet: r.FileGet, FilePut: r, FileCmd: r, FileList: r.FileList}).Serve()
				e.tell(wire.KindExitCode, []byte("EXIT_CODE: 0"))
			}
			for _, text := range []string{"old, and longer", "new"} {
				plant(t, ".", map[string]string{"f": text})
				if _, stderr, err := run(t, "", "cp", "f", testNode+":/f"); stderr != "" || err != nil {
					t.Fatalf("%q, %v", stderr, err)
				}
				if _, stderr, err := run(t, "", "cp", testNode+":/f", "back"); stderr != "" || err != nil {
					t.Fatalf("back: %q, %v", stderr, err)
				}
				if got, _ := os.ReadFile("back"); string(got) != text {
					t.Errorf("there is %q, want %q", got, text)
				}
			}
			if _, stderr, err := run(t, "", "cp", "-r", testNode+":/", "all"); stderr != "" || err != nil {
				t.Fatalf("all: %q, %v", stderr, err)
			}
			if got := tree(t, "all"); r.asked == 0 || strings.Contains(got, wire.BesideMark) {
				t.Errorf("asked %d times, there is:\n%s", r.asked, got)
			}
		})
	}
}
