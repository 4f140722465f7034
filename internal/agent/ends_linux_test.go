package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/need"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "fill-disk" {
		if err := keepEndsOnFullDisk(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ok")
		return
	}
	goleak.VerifyTestMain(m)
}

// On a file system that is full the ends of all sessions that were on are kept, at
// once, and read by the next process. It is a small one in memory, which only a
// child of ours sees.
func TestEndsAreKeptOnFullDisk(t *testing.T) {
	out := need.Namespace(t, `mount -t tmpfs -o size=2m tmpfs "$1" && exec "$0" fill-disk "$1"`, t.TempDir())
	if out != "ok\n" {
		t.Errorf("child: %s", out)
	}
}

func keepEndsOnFullDisk(dir string) error {
	a := &Agent{State: dir, Log: slog.New(slog.NewTextHandler(os.Stdout, nil)), reg: &Registration{Node: sallyport.NewNodeID()}}
	var ends []keptEnd
	for i := range 20 {
		e := keptEnd{Version: endVersion, Node: a.reg.Node, Session: sallyport.NewSessionID("ann"), At: time.Now(), Output: strings.Repeat("w", 1900+i)}
		if err := a.reserveEnd(e.Session); err != nil {
			return err
		}
		if err := a.reserveEnd(e.Session); err != nil { // as the next program does
			return err
		}
		ends = append(ends, e)
	}
	os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 2<<20), 0o600) // all that is left
	if err := os.WriteFile(filepath.Join(dir, "more"), []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk is not full: %w", err)
	}
	for _, e := range ends[:19] {
		if err := a.writeEnd(e); err != nil {
			return err
		}
	}
	if err := a.writeEnd(keptEnd{Version: endVersion, Node: a.reg.Node, Session: sallyport.NewSessionID("bob")}); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("an end without a reserve: %w", err)
	}
	a.sessions = map[string]*session{ends[19].Session.String(): {}} // which the next program takes over
	read := a.readEnds(time.Now())
	if len(read) != 19 {
		return fmt.Errorf("%d ends are read", len(read))
	}
	for _, r := range read {
		found := false
		for _, e := range ends {
			found = found || r.Session == e.Session && r.Output == e.Output
		}
		if !found {
			return fmt.Errorf("an end is read as %+v", r)
		}
	}
	if _, err := os.Stat(a.reservePath(ends[19].Session)); err != nil {
		return fmt.Errorf("the reserve of a session that is on: %w", err)
	}
	a.sessions = nil
	a.readEnds(time.Now())
	if left, err := os.ReadDir(filepath.Join(dir, endsDir)); err != nil || len(left) != 19 {
		return fmt.Errorf("%d files are left, %w", len(left), err)
	}
	return nil
}
