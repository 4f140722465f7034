//go:build unix

package agentcmd

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// filesOver is a client of a file server in a directory. done ends its session, and
// returns once the server has tidied up.
func filesOver(t *testing.T, dir string) (c *sftp.Client, done func()) {
	t.Helper()
	in, up := io.Pipe()
	down, out := io.Pipe()
	requests, ended := newUnfinished(in, dir), make(chan error, 1)
	go func() {
		err := serve(requests, out, dir)
		requests.remove()
		out.Close()
		ended <- err
	}()
	c, err := sftp.NewClientPipe(down, up)
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		up.Close() // as when a session is cut: nothing is said before
		if err := <-ended; err != nil {
			t.Error(err)
		}
		c.Close()
	}
}

// When a session ends, its file server removes the files of copies that are not
// whole. What is whole stays, and so does what it did not make or what another
// process has put in its place.
func TestUnfinishedCopiesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	stranger := filepath.Join(dir, ".s.sallyport-0123456789abcdef")
	if err := os.WriteFile(stranger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, done := filesOver(t, dir)
	make := func(name string) *sftp.File {
		t.Helper()
		f, err := c.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err == nil {
			_, err = f.Write([]byte(name))
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	make(".open.sallyport-1")
	make(filepath.Join(dir, ".absolute.sallyport-1"))
	make(".closed.sallyport-1").Close()
	make(".whole.sallyport-1").Close()
	make("other")
	make(".replaced.sallyport-1")
	if _, err := c.OpenFile(".open.sallyport-1", os.O_WRONLY|os.O_CREATE|os.O_EXCL); err == nil {
		t.Error("a file that is there was made")
	}
	if _, err := c.OpenFile(filepath.Base(stranger), os.O_WRONLY|os.O_CREATE|os.O_EXCL); err == nil {
		t.Error("another's file was made")
	}
	if err := errors.Join(
		c.PosixRename(".whole.sallyport-1", "whole"),
		os.Rename(filepath.Join(dir, ".replaced.sallyport-1"), filepath.Join(dir, "taken")),
		os.WriteFile(filepath.Join(dir, ".replaced.sallyport-1"), []byte("a stranger's"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	program := make(".program.sallyport-1")
	if err := errors.Join(program.Truncate(0), program.Chmod(0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := program.WriteAt([]byte("#!/bin/sh\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(program.Close(), c.PosixRename(".program.sallyport-1", "program"), exec.Command(filepath.Join(dir, "program")).Run()); err != nil {
		t.Errorf("a whole copy cannot be started: %v", err)
	}
	for range 3 * maxOpen { // more than are kept open
		f := make(".many.sallyport-1")
		if err := errors.Join(f.Close(), c.Remove(".many.sallyport-1")); err != nil {
			t.Fatal(err)
		}
	}
	done()
	for name, want := range map[string]string{
		"whole": ".whole.sallyport-1", "other": "other", ".replaced.sallyport-1": "a stranger's", filepath.Base(stranger): "",
		".open.sallyport-1": "gone", ".absolute.sallyport-1": "gone", ".closed.sallyport-1": "gone",
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			got = []byte("gone")
		}
		if string(got) != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
}

// What is set of a copy that is not whole is set of the open file, though a link
// has its name by then.
func TestUnfinishedCopyIsNotSwapped(t *testing.T) {
	if _, err := os.Stat("/dev/fd/0"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	victim, at := filepath.Join(dir, "victim"), filepath.Join(dir, ".f.sallyport-1")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, done := filesOver(t, dir)
	defer done()
	f, err := c.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		t.Fatal(err)
	}
	moved, then := filepath.Join(dir, "moved"), time.Unix(1_000_000_000, 0)
	if err := errors.Join(os.Rename(at, moved), os.Symlink(victim, at), f.Chmod(0o640), c.Chtimes(at, then, then)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(moved); err != nil || info.Mode() != 0o640 || !info.ModTime().Equal(then) {
		t.Errorf("the copy is %v of %v, %v", info.Mode(), info.ModTime(), err)
	}
	if info, err := os.Stat(victim); err != nil || info.Mode() != 0o600 || info.ModTime().Equal(then) {
		t.Errorf("the file that the link leads to is %v of %v, %v", info.Mode(), info.ModTime(), err)
	}
}

// Requests of any bytes are read to their end, and no file is made outside a
// directory of the test's.
func FuzzRequests(f *testing.F) {
	dir := f.TempDir()
	open := append([]byte{0, 0, 0, 9 + 8 + 8, requestOpen, 0, 0, 0, 1, 0, 0, 0, 8}, ".sallyp-\x00\x00\x00\x2a\x00\x00\x00\x00"...)
	f.Add(open)
	f.Add([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3})
	f.Add([]byte{0, 0, 0, 0, requestOpen, 0, 0, 0, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, requestSetstat, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.ContainsAny(b, "/") {
			return
		}
		u := newUnfinished(bytes.NewReader(b), dir)
		if _, err := io.Copy(io.Discard, u); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
		u.remove()
	})
}
