package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// endsDir is where in a state directory the ends of sessions are kept that the
// control plane has not acknowledged, a file for each. Each session that is on has
// a reserve there: a file as large as an end may be, written when the session
// starts, over which its end is written if the disk is full by then.
const endsDir = "ends"

// reserveMark is how the name of a reserve begins. Agents of before remove what
// they find under such names.
const reserveMark = ".tmp-reserve-"

// What is kept of ends.
const (
	maxEnds    = 500                // files; with the sessions that are on, fewer than a control plane listens to
	maxEndSize = 16 << 10           // bytes of a file; the cause has up to 2,000, and up to six times that in JSON
	endsFor    = 7 * 24 * time.Hour // afterwards an end is dropped: a control plane that is up gives a session up in minutes
	keepAfter  = 2 * time.Second    // how long an end may be unacknowledged before it is kept
	announcers = 16                 // ends that are reported at once
)

// endVersion is the version of a file that keeps an end.
const endVersion = 1

// A keptEnd is how a session ended, for the next process of the agent to report if
// this one cannot.
type keptEnd struct {
	Version      int
	Node         sallyport.NodeID // the registration's
	Session      sallyport.SessionID
	At           time.Time
	Failed       bool   `json:",omitempty"`
	Output       string `json:",omitempty"`
	ExitStatus   *int   `json:",omitempty"`
	Messages     *int64 `json:",omitempty"` // of the stream, less its end
	Acknowledged int64  `json:",omitempty"`
}

// readEnd reads what a file named name keeps for a node. Everything in it is
// checked: an error says what is wrong.
func readEnd(name string, b []byte, node sallyport.NodeID) (end keptEnd, err error) {
	if len(b) > maxEndSize {
		return end, fmt.Errorf("it has more than %d bytes", maxEndSize)
	}
	if err := strictjson.UnmarshalExact(b, &end); err != nil {
		return end, err
	}
	switch {
	case end.Version != endVersion:
		return end, fmt.Errorf("it is of version %d, and this agent reads version %d", end.Version, endVersion)
	case end.Session.IsZero() || end.Session.String()+".json" != name:
		return end, errors.New("it is of another session than its name says")
	case end.Node != node:
		return end, fmt.Errorf("it is of %s, and this machine is registered as %s", end.Node, node)
	case end.Acknowledged < 0 || end.Messages != nil && *end.Messages < 0:
		return end, errors.New("a number of messages is negative")
	}
	end.Output = reported(end.Output)
	return end, nil
}

// report is what the control plane is sent.
func (e *keptEnd) report() wire.AgentTaskComplete {
	c := wire.AgentTaskComplete{
		SchemaVersion: 1, TaskId: e.Session.String(), Topic: string(wire.TypeAgentTaskComplete),
		FinalTaskStatus: "Success", InstanceId: e.Node.String(),
		Output: e.Output, ExitStatus: e.ExitStatus, Messages: e.Messages, Acknowledged: e.Acknowledged,
	}
	if e.Failed {
		c.FinalTaskStatus = "Failed"
	}
	return c
}

func (a *Agent) endPath(id sallyport.SessionID) string {
	return filepath.Join(a.State, endsDir, id.String()+".json")
}

func (a *Agent) reservePath(id sallyport.SessionID) string {
	return filepath.Join(a.State, endsDir, reserveMark+id.String())
}

// reserveEnd makes the reserve of a session, unless an earlier program has. It is
// not synced: what a full disk could take is its room, and a file that is written
// has that.
func (a *Agent) reserveEnd(id sallyport.SessionID) error {
	if err := os.MkdirAll(filepath.Join(a.State, endsDir), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(a.reservePath(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	room := make([]byte, maxEndSize)
	rand.Read(room) // a file system may keep zeros without giving them room
	_, err = f.Write(room)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// releaseEnd removes the reserve of a session, if it has one.
func (a *Agent) releaseEnd(id sallyport.SessionID) { os.Remove(a.reservePath(id)) }

// writeOver writes an end over a session's reserve, in place, and gives it the
// name of an end. Both need no room on most file systems.
func (a *Agent) writeOver(id sallyport.SessionID, b []byte) error {
	if len(b) > maxEndSize {
		return fmt.Errorf("it has %d bytes, and the reserve %d", len(b), maxEndSize)
	}
	f, err := os.OpenFile(a.reservePath(id), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, bytes.Repeat([]byte("\n"), maxEndSize-len(b))...), 0) // which JSON may end with
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), a.endPath(id))
}

// writeEnd keeps an end, over its session's reserve if there is no other room. The
// state directory is this process's alone, so that the files are counted under
// endsMu.
func (a *Agent) writeEnd(e keptEnd) error {
	b, err := strictjson.Marshal(e)
	if err != nil {
		return err
	}
	dir := filepath.Join(a.State, endsDir)
	a.endsMu.Lock()
	defer a.endsMu.Unlock()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	there = slices.DeleteFunc(there, func(e fs.DirEntry) bool {
		return !e.Type().IsRegular() || strings.HasPrefix(e.Name(), reserveMark)
	})
	if len(there) >= maxEnds {
		return fmt.Errorf("%s has %d of them, which is all it may have", dir, len(there))
	}
	b = append(b, '\n')
	err = writeFile(a.endPath(e.Session), b)
	if err != nil {
		if oerr := a.writeOver(e.Session, b); oerr != nil {
			return errors.Join(err, fmt.Errorf("nor over its reserve: %w", oerr))
		}
	}
	return nil
}

// removeEnd forgets an end that the control plane has acknowledged.
func (a *Agent) removeEnd(id sallyport.SessionID) {
	if err := os.Remove(a.endPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Log.Warn("acknowledged end of session not removed", sallyport.LogSession, id.String(), sallyport.LogErr, err)
	}
}

// A keeper keeps the end of one session in the state directory while the control
// plane has not acknowledged it.
type keeper struct {
	s      *session
	end    keptEnd // less Acknowledged
	timer  *time.Timer
	unhook func() bool // stops the write that the agent's stop would cause

	// mu guards all below, and is held while the file is written or removed.
	mu      sync.Mutex
	written bool
	there   bool // the file may be there
	done    bool
}

// keepEnd keeps the end of s if it is not acknowledged within keepAfter, and at
// once when no data channel is open, the one that is open is lost, or the agent
// stops or is upgraded. takenUp says that an earlier program may have kept it.
func (s *session) keepEnd(takenUp bool) *keeper {
	c := s.complete
	k := &keeper{s: s, there: takenUp, end: keptEnd{
		Version: endVersion, Node: s.agent.reg.Node, Session: s.id, At: time.Now(), Failed: c.FinalTaskStatus != "Success",
		Output: c.Output, ExitStatus: c.ExitStatus, Messages: c.Messages, Acknowledged: c.Acknowledged,
	}}
	k.timer = time.AfterFunc(keepAfter, func() { s.guard(k.write) })
	k.unhook = context.AfterFunc(s.era, func() { s.guard(k.write) })
	s.keeping.Store(k)
	if !s.riding.Load() {
		k.write()
	}
	return k
}

// write writes the file, unless that was done or need not be.
func (k *keeper) write() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.written || k.done {
		return
	}
	k.written, k.there = true, true
	k.end.Acknowledged = k.s.acknowledged(k.end.Acknowledged)
	if err := k.s.agent.writeEnd(k.end); err != nil {
		k.s.log.Error("end of session not kept: it is lost if the agent ends before the control plane answers", sallyport.LogErr, err)
	}
}

// A delivery is what became of the end of a session.
type delivery uint8

const (
	undelivered  delivery = iota
	acknowledged          // by the control plane
	handedOver            // the next program has it
)

// finish ends the keeping: it removes the file of an end that was acknowledged,
// and has one that was not delivered reported until it is.
func (k *keeper) finish(how delivery) {
	if how != acknowledged {
		k.write()
	}
	if how == undelivered {
		k.s.agent.announceLater(k.end)
	}
	if how != handedOver {
		defer k.s.agent.releaseEnd(k.s.id)
	}
	k.timer.Stop()
	k.unhook()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done = true
	if how == acknowledged && k.there {
		k.s.agent.removeEnd(k.s.id)
	}
}

// takeUpEnds has the ends reported that an earlier process kept. Those of sessions
// that this process has are left to them.
func (a *Agent) takeUpEnds() {
	for _, e := range a.readEnds(time.Now()) {
		if !a.has(e.Session.String()) {
			a.announceLater(e)
		}
	}
}

// has reports whether a session is this process's, and not over.
func (a *Agent) has(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sessions[id] != nil
}

// announceLater has an end that is kept reported until it is acknowledged or the
// agent stops. What starts its session is known for a repeat meanwhile.
func (a *Agent) announceLater(e keptEnd) {
	id := e.Session.String()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept[id] = struct{}{}
	if a.sessions[id] == nil {
		a.sessions[id] = nil
	}
	a.running.Go(func() {
		err := panics.Run(func() error {
			a.announceKept(a.alive, e)
			return nil
		})
		if err != nil {
			a.Log.Error("end of session not reported", sallyport.LogSession, id, sallyport.LogErr, err, panics.Stack(err))
		}
	})
}

// announceKept reports an end until it is acknowledged, and forgets it then, or
// ctx ends: then its file stays.
func (a *Agent) announceKept(ctx context.Context, e keptEnd) {
	select {
	case a.announcing <- struct{}{}:
		defer func() { <-a.announcing }()
	case <-ctx.Done():
		return
	}
	if !a.complete(ctx, e.report()) {
		return
	}
	a.removeEnd(e.Session)
	id := e.Session.String()
	a.Log.Info("end of session reported late", sallyport.LogSession, id, "exit", exitText(e.ExitStatus), "ended", e.At)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.kept, id)
	if a.sessions[id] == nil {
		a.forget(id)
	}
}

// readEnds returns the ends that are kept. What cannot be read, is another
// node's or is too old is removed, with a line in the log.
func (a *Agent) readEnds(now time.Time) (ends []keptEnd) {
	dir := filepath.Join(a.State, endsDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			a.Log.Error("ends of sessions not read", sallyport.LogErr, err)
		}
		return nil
	}
	dropped := 0
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if !entry.Type().IsRegular() { // opening a pipe would wait for its other end
			a.Log.Error("end of session not read: it is no regular file", sallyport.LogPath, path)
			continue
		}
		if id, ok := strings.CutPrefix(entry.Name(), reserveMark); ok && a.has(id) { // it was taken over
			continue
		}
		if strings.HasPrefix(entry.Name(), ".tmp-") { // a process was killed as it wrote it, or while the session was on
			os.Remove(path)
			continue
		}
		if len(ends) == maxEnds { // this agent writes no more: they would keep it from writing any
			os.Remove(path)
			dropped++
			continue
		}
		e, err := readEndFile(path, a.reg.Node)
		if age := now.Sub(e.At); err == nil && age.Abs() > endsFor {
			err = fmt.Errorf("it is of %s, and is kept for %v", e.At.Format(time.RFC3339), endsFor)
		}
		if err != nil {
			a.Log.Error("end of session dropped", sallyport.LogPath, path, sallyport.LogErr, err)
			os.Remove(path)
			continue
		}
		ends = append(ends, e)
	}
	if dropped > 0 {
		a.Log.Error("ends of sessions dropped: there are too many", "read", len(ends), "dropped", dropped)
	}
	return ends
}

func readEndFile(path string, node sallyport.NodeID) (keptEnd, error) {
	f, err := os.Open(path)
	if err != nil {
		return keptEnd{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEndSize+1))
	if err != nil {
		return keptEnd{}, err
	}
	return readEnd(filepath.Base(path), b, node)
}
