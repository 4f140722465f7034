package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// endsWorld is an agent with a state directory and nothing else, and its log.
func endsWorld(t *testing.T) (a *Agent, log *bytes.Buffer) {
	log = &bytes.Buffer{}
	return &Agent{State: t.TempDir(), Log: slog.New(slog.NewTextHandler(log, nil)), reg: &Registration{Node: sallyport.NewNodeID()}}, log
}

func (a *Agent) testEnd(t *testing.T, at time.Time) keptEnd {
	status := 7
	e := keptEnd{Version: endVersion, Node: a.reg.Node, Session: sallyport.NewSessionID("ann"), At: at, Output: "why", ExitStatus: &status}
	if err := a.writeEnd(e); err != nil {
		t.Fatal(err)
	}
	return e
}

// An end is read as it was written, by its owner alone. What is too old, another
// node's, damaged or too large is removed, and the log says so.
func TestKeptEnds(t *testing.T) {
	a, log := endsWorld(t)
	now := time.Now()
	dir := filepath.Join(a.State, endsDir)
	good := a.testEnd(t, now.Add(-endsFor+time.Minute))
	if info, err := os.Stat(a.endPath(good.Session)); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	bad := map[string]string{}
	damage := func(why string, change func(e *keptEnd)) {
		e := a.testEnd(t, now)
		change(&e)
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		bad[e.Session.String()] = why
		if err := os.WriteFile(a.endPath(e.Session), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage("kept for", func(e *keptEnd) { e.At = now.Add(-endsFor - time.Minute) })
	damage("kept for", func(e *keptEnd) { e.At = now.Add(endsFor + time.Minute) })
	damage("registered as", func(e *keptEnd) { e.Node = sallyport.NewNodeID() })
	damage("version 2", func(e *keptEnd) { e.Version = 2 })
	damage("more than 16384 bytes", func(e *keptEnd) { e.Output = strings.Repeat("x", maxEndSize) })
	for name, text := range map[string]string{"x.json": "{}", ".tmp-1": "{", "y": `{"Version":1}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ends := a.readEnds(now)
	if len(ends) != 1 || ends[0].Session != good.Session || *ends[0].ExitStatus != 7 || ends[0].Output != "why" || !ends[0].At.Equal(good.At) {
		t.Errorf("read %+v", ends)
	}
	for id, why := range bad {
		found := false
		for line := range strings.Lines(log.String()) {
			found = found || strings.Contains(line, id) && strings.Contains(line, why)
		}
		if !found {
			t.Errorf("the log does not say %q of %s:\n%s", why, id, log)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	a.removeEnd(good.Session)
	if ends := a.readEnds(now); len(ends) != 0 {
		t.Errorf("an acknowledged end is read: %+v", ends)
	}
}

// No more than maxEnds ends are kept, and the one that finds no room is an error.
func TestKeptEndsAreBounded(t *testing.T) {
	a, _ := endsWorld(t)
	a.testEnd(t, time.Now())
	dir := filepath.Join(a.State, endsDir)
	for range maxEnds - 1 {
		if err := os.WriteFile(filepath.Join(dir, sallyport.NewSessionID("ann").String()+".json"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := a.writeEnd(keptEnd{Version: endVersion, Node: a.reg.Node, Session: sallyport.NewSessionID("ann")})
	if err == nil || !strings.Contains(err.Error(), "all it may have") {
		t.Errorf("%v", err)
	}

	// More than that were put there by another program, and would keep new ends out.
	for range 2 * maxEnds {
		e := keptEnd{Version: endVersion, Node: a.reg.Node, Session: sallyport.NewSessionID("ann"), At: time.Now()}
		b, err := strictjson.Marshal(e)
		if err == nil {
			err = os.WriteFile(a.endPath(e.Session), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if read := a.readEnds(time.Now()); len(read) != maxEnds {
		t.Errorf("read %d ends, want %d", len(read), maxEnds)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != maxEnds {
		t.Errorf("%d files are left, %v, want %d", len(left), err, maxEnds)
	}
}

// A session whose end is still to be reported does not start again, and is among
// those that the agent says it has.
func TestKeptEndIsNotStartedAgain(t *testing.T) {
	a, _ := endsWorld(t)
	e := a.testEnd(t, time.Now())
	alive, stop := context.WithCancel(context.Background())
	a.sessions, a.kept, a.announcing, a.alive = map[string]*session{}, map[string]struct{}{}, make(chan struct{}, announcers), alive
	a.acks = map[wire.ID]chan struct{}{}
	a.takeUpEnds()
	a.mu.Lock()
	_, known := a.sessions[e.Session.String()]
	_, kept := a.kept[e.Session.String()]
	a.mu.Unlock()
	if !known || !kept {
		t.Errorf("known: %v, kept: %v", known, kept)
	}
	stop()
	a.running.Wait()
	if _, err := os.Stat(a.endPath(e.Session)); err != nil {
		t.Errorf("an end that was not acknowledged is gone: %v", err)
	}
}
