//go:build unix

package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A named pipe among the ends is left alone: opening it would wait for ever.
func TestKeptEndIsNoPipe(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, endsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, endsDir, "a.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &Agent{State: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), reg: &Registration{}}
	if ends := a.readEnds(time.Now()); len(ends) != 0 {
		t.Errorf("read %v", ends)
	}
}
