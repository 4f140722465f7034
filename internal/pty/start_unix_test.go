//go:build unix

package pty

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/need"
	"golang.org/x/sys/unix"
)

// What a shell would say 126 or 127 to is an error with that status. Neither on
// pipes nor on a terminal does it end this process, or leave a descriptor open.
func TestWhatCannotBeStarted(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := []struct {
		name string
		c    Command
		want error
		code int
	}{
		{"a directory", Command{Path: dir}, syscall.EISDIR, 126},
		{"a file without an interpreter", Command{Path: file("plain", "echo no\n", 0o755)}, syscall.ENOEXEC, 126},
		{"a file that may not be executed", Command{Path: file("data", "#!/bin/sh\n", 0o644)}, syscall.EACCES, 126},
		{"a script whose interpreter is not there", Command{Path: file("lost", "#!/nonexistent\n", 0o755)}, syscall.ENOENT, 127},
		{"no such file", Command{Path: filepath.Join(dir, "none")}, syscall.ENOENT, 127},
		{"a file as a directory", Command{Path: filepath.Join(dir, "plain", "x")}, syscall.ENOTDIR, 126},
		{"too long an argument", Command{Path: "/bin/echo", Args: []string{"echo", strings.Repeat("x", 4<<20)}}, syscall.E2BIG, 126},
		{"a zero byte in an argument", Command{Path: "/bin/echo", Args: []string{"echo", "a\x00b"}}, syscall.EINVAL, 126},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Dir = dir
			before := openDescriptors(t)
			for _, apart := range []bool{false, true} {
				p, err := StartPipes(tt.c, apart, apart)
				if p != nil || !errors.Is(err, tt.want) || StartStatus(err) != tt.code {
					t.Errorf("on pipes: %v, %v, status %d; want %v, %d", p, err, StartStatus(err), tt.want, tt.code)
				}
				if strings.Contains(err.Error(), "fork/exec") {
					t.Errorf("on pipes: %v", err)
				}
			}
			term, err := Start(tt.c)
			if term != nil || !errors.Is(err, tt.want) || StartStatus(err) != tt.code {
				t.Errorf("on a terminal: %v, %v", term, err)
			}
			if after := openDescriptors(t); after != before {
				t.Errorf("%d descriptors are open, %d were", after, before)
			}
		})
	}
}

// openDescriptors counts this process's descriptors.
func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A process that has no descriptors left gets an error, at whichever of them it is,
// and keeps none.
func TestNoDescriptorsLeft(t *testing.T) {
	c := Command{Path: "/bin/true", Args: []string{"true"}, Dir: "/"}
	t.Run("on pipes", func(t *testing.T) {
		fewDescriptors(t, 3, func() (func(), error) {
			p, err := StartPipes(c, true, true)
			if err != nil {
				return nil, err
			}
			return p.Close, nil
		})
	})
	t.Run("on a terminal", func(t *testing.T) {
		fewDescriptors(t, 2, func() (func(), error) {
			term, err := Start(c)
			if err != nil {
				return nil, err
			}
			return term.Close, nil
		})
	})
}

// fewDescriptors has start run with ever more descriptors to spare, until it
// succeeds, which is not before it has failed so often.
func fewDescriptors(t *testing.T, often int, start func() (end func(), err error)) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	for failed := range 64 {
		// Descriptors are given from the lowest: the limit counts those in use.
		lowest, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		limit := was
		limit.Cur = uint64(lowest.Fd()) + uint64(failed)
		lowest.Close()
		before := openDescriptors(t)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		end, err := start()
		unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
		if err == nil {
			end()
			if failed < often {
				t.Errorf("%d starts failed before one succeeded", failed)
			}
			return
		}
		if !errors.Is(err, syscall.EMFILE) || StartStatus(err) != 126 {
			t.Fatalf("with %d descriptors: %v", failed, err)
		}
		if after := openDescriptors(t); after != before {
			t.Fatalf("with %d descriptors: %d are open, %d were", failed, after, before)
		}
	}
	t.Error("no start succeeded")
}

// A home that is not there, or that its user may not enter, is the root
// directory instead.
func TestDirThatCannotBeEntered(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	starts := func(t *testing.T, dir string, as *Credential) {
		c := Command{Path: "/bin/sh", Args: []string{"sh", "-c", "pwd"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir, As: as}
		p, err := StartPipes(c, false, false)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if b, err := io.ReadAll(p.Stdout); err != nil || string(b) != "/\n" || p.Wait() != 0 {
			t.Errorf("on pipes: %q, %v, status %d", b, err, p.Wait())
		}
		term, err := Start(c)
		if err != nil {
			t.Fatal(err)
		}
		defer term.Close()
		if b, err := io.ReadAll(term); err != nil || string(b) != "/\r\n" {
			t.Errorf("on a terminal: %q, %v", b, err)
		}
	}
	t.Run("not there", func(t *testing.T) { starts(t, "/nonexistent", nil) })
	t.Run("a file", func(t *testing.T) { starts(t, file, nil) })
	t.Run("another user's", func(t *testing.T) {
		need.Root(t, func(t *testing.T) { starts(t, closed, &Credential{UID: 65534, GID: 65534}) })
	})
}
