package broker

import (
	"context"
	"database/sql"
	"encoding/json"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/wire"
)

// A sickDisk is the machine's, until it is full or takes nothing at all.
type sickDisk struct {
	brittleDisk
	full, broken atomic.Bool
}

func (d *sickDisk) OpenFile(name string, flag int, perm fs.FileMode) (record.File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &sickFile{f, d}, nil
}

type sickFile struct {
	*os.File
	disk *sickDisk
}

func (f *sickFile) WriteAt(b []byte, at int64) (int, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return 0, err
	case f.disk.broken.Load():
		return 0, syscall.EIO
	case f.disk.full.Load() && at+int64(len(b)) > info.Size():
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(b, at)
}

// onSickDisk has the world's logs on one, and returns that and what keeps the
// database from being written until it is called again.
func (w *world) onSickDisk() (disk *sickDisk, lock func() (unlock func())) {
	w.halt()
	disk = &sickDisk{}
	w.disk = disk
	w.start()
	return disk, func() func() {
		path := "/" + strings.TrimPrefix(filepath.ToSlash(filepath.Join(w.dir, "x.db")), "/")
		db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "_txlock=immediate"}).String())
		if err != nil {
			w.t.Fatal(err)
		}
		tx, err := db.Begin()
		if err != nil {
			w.t.Fatal(err)
		}
		return func() {
			tx.Rollback()
			db.Close()
		}
	}
}

// An end that cannot be stored is not told to a client, also not to one that comes
// back: the client is told that the server waits, and is told the end once it can be
// stored.
func TestEndThatCannotBeStored(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		disk, lock := w.onSickDisk()
		inv, person, node := w.together(wire.CapNotices)
		node.say("$ ")
		person.hear("$ ")
		unlock := lock()
		disk.broken.Store(true)
		node.say("not logged")
		time.Sleep(30 * time.Second)
		person.wantOpen()
		if len(person.notices) == 0 || !strings.Contains(person.notices[len(person.notices)-1], "told when it can be stored") {
			t.Errorf("the client was told %q", person.notices)
		}
		person.leave()
		again := w.far(wire.TypeInputStreamData, wire.CapNotices)
		w.attachPerson(again, inv, "client-1")
		time.Sleep(10 * time.Second)
		again.wantOpen()

		disk.broken.Store(false)
		disk.full.Store(true)
		time.Sleep(10 * time.Second)
		again.wantClosed("log cannot be written")
		unlock()
		time.Sleep(time.Minute)
		w.wantState(inv.Session, sallyport.Terminated, "log cannot be written")
	})
}

// A client that was told of the end on a full disk is not waited for by a server that
// follows: history has the end at once.
func TestToldOnFullDisk(t *testing.T) {
	caps := append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)
	inBubble(t, func(t *testing.T, w *world) {
		disk, lock := w.onSickDisk()
		inv, person, node := w.together(caps...)
		node.say("bye")
		person.hear("bye")
		unlock := lock()
		disk.full.Store(true)
		status := 7
		node.end(wire.End{ExitStatus: &status})
		person.hearEnd(7)
		time.Sleep(15 * time.Second) // the locked database is waited for, and tried again
		if stored := w.stored(inv.Session); stored.State() != sallyport.Connected {
			t.Errorf("the store has %v", stored.State())
		}
		if latest := w.Latest(w.stored(inv.Session)); latest.State() != sallyport.Terminated || latest.ExitStatus == nil || *latest.ExitStatus != 7 {
			t.Errorf("the session is listed as %v", latest.State())
		}
		w.halt()
		unlock()
		disk.full.Store(false)
		w.start()
		time.Sleep(time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "")
		if got := w.stored(inv.Session).ExitStatus; got == nil || *got != 7 {
			t.Errorf("history has status %v", got)
		}
	})
}

// A file copy whose last bytes are with neither its client nor the log of a full
// disk does not end well: what was told is what a server that follows says.
func TestCopyEndsOnFullDisk(t *testing.T) {
	caps := append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)
	copying := func(w *world) (inv Invitation, node *far) {
		properties, err := json.Marshal(wire.CommandProperties{Linux: wire.PlatformCommand{Commands: wire.FileServer}})
		if err != nil {
			w.t.Fatal(err)
		}
		var task wire.AgentTaskPayload
		task.DocumentContent.SessionType = "NonInteractiveCommands"
		task.DocumentContent.Properties = properties
		if inv, err = w.Start(w.t.Context(), Request{Who: w.ann, Node: w.node, Parameters: json.RawMessage("{}"), Task: task}); err != nil {
			w.t.Fatal(err)
		}
		return inv, w.far(wire.TypeOutputStreamData, caps...)
	}
	status := 0
	inBubble(t, func(t *testing.T, w *world) {
		disk, lock := w.onSickDisk()
		inv, node := copying(w)
		person := w.far(wire.TypeInputStreamData, caps...)
		w.attachPerson(person, inv, "client-1")
		w.attachNode(node, inv.Session)
		node.say("what is in the file")
		person.hear("what is in the file")
		defer lock()()
		disk.full.Store(true)
		node.end(wire.End{ExitStatus: &status})
		time.Sleep(time.Second)
		node.wantFlushed(true)
		person.wantClosed("")
		if got := person.closed.ExitStatus; got == nil || *got != 0 {
			t.Errorf("a client that has it all was told status %v", got)
		}
	})
	inBubble(t, func(t *testing.T, w *world) {
		disk, lock := w.onSickDisk()
		inv, node := copying(w)
		near, conn := sockets()
		go w.JoinPerson(context.Background(), nil, inv.Session, inv.Token, "c", near, caps)
		synctest.Wait()
		w.attachNode(node, inv.Session)
		node.say("what is in the file") // and is not acknowledged
		unlock := lock()
		disk.full.Store(true)
		node.end(wire.End{ExitStatus: &status})
		time.Sleep(10 * time.Second)
		conn.Cut()
		unlock()
		time.Sleep(time.Minute)
		w.wantState(inv.Session, sallyport.Terminated, "log cannot be written")
		if got := w.stored(inv.Session).ExitStatus; got != nil {
			t.Errorf("stored status %d", *got)
		}
	})
}
