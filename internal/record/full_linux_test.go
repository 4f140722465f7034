package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/need"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "fill-disk" {
		if err := endOnFullDisk(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ok")
		return
	}
	os.Exit(m.Run())
}

// On a file system that is full the ends of all sessions that were on can be
// stored, at once, and are read by the next server. It is a small one in memory,
// which only a child of ours sees.
func TestEndsOnFullFileSystem(t *testing.T) {
	out := need.Namespace(t, `mount -t tmpfs -o size=2m tmpfs "$1" && exec "$0" fill-disk "$1"`, t.TempDir())
	if out != "ok\n" {
		t.Errorf("child: %s", out)
	}
}

func endOnFullDisk(dir string) error {
	shelf, err := OpenShelf(nil, filepath.Join(dir, "sessions"))
	if err != nil {
		return err
	}
	var logs []*Log
	for range 20 {
		l, err := shelf.Create(sallyport.NewSessionID("ann"))
		if err != nil {
			return err
		}
		logs = append(logs, l)
	}
	for full := 0; full < len(logs); {
		for _, l := range logs {
			if _, err := l.Append(Entry{At: time.Now(), What: Event, Body: make([]byte, 4000)}); errors.Is(err, syscall.ENOSPC) {
				full++
			} else if err != nil {
				return err
			}
		}
	}
	os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 1<<20), 0o600) // all that is left
	if err := os.WriteFile(filepath.Join(dir, "more"), []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk is not full: %w", err)
	}
	why := strings.Repeat("why", ReserveSize/3-10)
	for _, l := range logs {
		if err := l.AppendLast(Entry{At: time.Now(), What: Fate, Body: []byte(`"` + why + `"`)}); err != nil {
			return err
		}
	}
	for _, l := range logs { // which is as it was left: no log was closed
		found := false
		again, err := shelf.Open(l.id, func(_ int64, e Entry) { found = found || e.What == Fate && strings.Contains(string(e.Body), why) })
		if err != nil || !found {
			return fmt.Errorf("the end is not in the log that is opened again: %w", err)
		}
		again.Close()
		l.file.Close()
	}
	return nil
}
