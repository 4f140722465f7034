//go:build unix

package clientcmd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/need"
)

// A swapped is this machine, and an attacker on it who has a link take the place of
// each new file at once.
type swapped struct {
	here
	victim string
}

func (s swapped) createNew(p string) (target, error) {
	file, err := s.here.createNew(p)
	if err == nil {
		err = os.Symlink(s.victim, p+".link")
	}
	if err == nil {
		err = os.Rename(p+".link", p)
	}
	return file, err
}

// The mode, the owner and the times that a copy is given are the copy's, though a link has its
// name by then.
func TestLandingIsNotSwapped(t *testing.T) {
	dir := t.TempDir()
	victim, place := filepath.Join(dir, "victim"), filepath.Join(dir, "place")
	for _, name := range []string{victim, place} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	there, err := os.Lstat(place)
	if err != nil {
		t.Fatal(err)
	}
	c := &copying{src: here{}, dst: swapped{victim: victim}}
	l, err := c.landBeside(place, there, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	then := time.Unix(1_000_000_000, 0)
	if err := l.file.Chtimes(then); err != nil {
		t.Fatal(err)
	}
	if info, err := l.file.Stat(); err != nil || info.Mode().Perm() != 0o644 || !info.ModTime().Equal(then) {
		t.Errorf("the copy is %v of %v, %v", info.Mode(), info.ModTime(), err)
	}
	if info, err := os.Stat(victim); err != nil || info.Mode().Perm() != 0o600 || info.ModTime().Equal(then) {
		t.Errorf("the file that the link leads to is %v of %v, %v", info.Mode(), info.ModTime(), err)
	}
}

// Another user's file or link in a directory such as /tmp is left to the system's
// own rules.
func TestLandingInSharedDirectory(t *testing.T) { need.Root(t, testLandingInSharedDirectory) }

func testLandingInSharedDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	c := &copying{src: here{}, dst: here{}}
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{file, link} {
		if place, _, err := c.destination(job{to: p}); err != nil || place != file {
			t.Errorf("one's own %s is at %s, %v", p, place, err)
		}
		if err := os.Lchown(p, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.destination(job{to: p}); !errors.Is(err, errTry) {
			t.Errorf("another user's %s: %v, want %v", p, err, errTry)
		}
		if err := os.Lchown(p, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}
