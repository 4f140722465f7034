package simulation

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/record"
)

func create(t *testing.T, m *Mount, name string) record.File {
	t.Helper()
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A power cut leaves what was synced, and a beginning of what was not; a killed
// server leaves everything. Neither lets the server before write any more.
func TestCrash(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		for _, powerCut := range []bool{false, true} {
			d := NewDisk(NewLog(), seed)
			f := create(t, d.Mount(), "log")
			f.Write([]byte("synced"))
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			f.Write([]byte(" and not"))
			d.Crash(powerCut, func() {})
			if _, err := f.Write([]byte("late")); err == nil {
				t.Error("a server that is dead has written")
			}
			b, err := d.Read("log")
			if err != nil {
				t.Fatal(err)
			}
			kept := strings.TrimRight(string(b), "\x00")
			if !strings.HasPrefix(kept, "synced") || !strings.HasPrefix("synced and not", kept) || !powerCut && kept != "synced and not" {
				t.Errorf("seed %d, power cut %v: %q is left", seed, powerCut, b)
			}
			if len(kept) < len("synced and not") {
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("nothing was ever lost")
	}
}

// A name that was not synced may be gone after a power cut; it never names
// another file.
func TestCrashForgetsNames(t *testing.T) {
	there := map[bool]int{}
	for seed := range uint64(50) {
		d := NewDisk(NewLog(), seed)
		m := d.Mount()
		f := create(t, m, "first")
		f.Write([]byte("x"))
		f.Sync()
		if err := m.Rename("first", "second"); err != nil {
			t.Fatal(err)
		}
		d.Crash(true, func() {})
		names := strings.Join(d.Names(), " ")
		if names != "first" && names != "second" {
			t.Fatalf("seed %d: %q", seed, names)
		}
		there[names == "second"]++
	}
	if len(there) != 2 {
		t.Errorf("renames survive %v", there)
	}
}

// A full disk takes what fits, says so, and takes more when there is room.
func TestFullDisk(t *testing.T) {
	d := NewDisk(NewLog(), 1)
	m := d.Mount()
	f := create(t, m, "log")
	d.Fill(3)
	if n, err := f.Write([]byte("hello")); n != 3 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d, %v", n, err)
	}
	if err := f.Truncate(0); err != nil {
		t.Error(err)
	}
	if n, err := f.WriteAt([]byte("yes"), 0); n != 3 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if _, err := m.OpenFile("other", os.O_RDONLY, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if m.Open() != 1 {
		t.Errorf("%d files are open", m.Open())
	}
	f.Close()
	if m.Open() != 0 {
		t.Errorf("%d files are open", m.Open())
	}
}
