package broker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// A server that stops, however, leaves its sessions to the next: the ends come
// back to it, and nothing is lost or repeated.
func TestServerRestarts(t *testing.T) {
	for _, caps := range [][]string{nil, datachannel.Capabilities()} {
		inBubble(t, func(t *testing.T, w *world) {
			inv, person, node := w.together(caps...)
			node.say("one ")
			person.hear("one ")
			person.say("two ")
			node.hear("two ")
			person.leave()
			node.say("three ") // into the log, and nowhere else
			w.halt()
			<-node.ended
			node.stream.Send(t.Context(), wire.KindOutput, []byte("four "))
			person.stream.Send(t.Context(), wire.KindOutput, []byte("five "))

			w.start()
			w.wantState(inv.Session, sallyport.Disconnected, "")
			w.attachNode(node, inv.Session)
			second, err := w.Resume(t.Context(), inv.Session)
			if err != nil {
				t.Fatal(err)
			}
			w.attachPerson(person, second, "client-1")
			person.hear("three four ")
			node.hear("five ")
			node.say("six")
			person.hear("six")
			w.wantState(inv.Session, sallyport.Connected, "")
		})
	}
}

// Sessions whose ends do not come back after a restart end, with a cause.
func TestNoEndComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, _ := w.together()
		connecting := w.begin()
		terminating, _, _ := w.together()
		w.Terminate(t.Context(), terminating.Session, "Terminated by bob.")
		w.halt()

		w.start()
		time.Sleep(5 * time.Minute)
		w.wantState(inv.Session, sallyport.Terminated, "was lost and did not come back")
		w.wantState(connecting.Session, sallyport.Failed, "did not answer")
		w.wantState(terminating.Session, sallyport.Terminated, "Terminated by bob.")
	})
}

// A session whose log is gone cannot be taken up, and says so.
func TestLogIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, _ := w.together()
		w.halt()
		if err := w.Shelf.Remove(inv.Session); err != nil {
			t.Fatal(err)
		}
		w.start()
		time.Sleep(time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "cut short")
	})
}

// A server that is killed when the log is sealed and the end not yet saved
// leaves a session that the next one finishes, with its recording.
func TestKilledBetweenSealAndSave(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, node := w.together()
		node.say("hello")
		w.Terminate(t.Context(), inv.Session, "Terminated by bob.")
		w.halt()
		if _, err := w.Shelf.Seal(inv.Session); err != nil {
			t.Fatal(err)
		}
		w.start()
		time.Sleep(endGrace + time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "Terminated by bob.")
		sealed, err := w.Shelf.Seal(inv.Session) // what there is, now that the log is gone
		if err != nil {
			t.Fatal(err)
		}
		if left, err := w.Shelf.Unsealed(); err != nil || len(left) != 0 {
			t.Errorf("logs are left: %v, %v", left, err)
		}
		rec, err := w.db.Sessions().Get(t.Context(), inv.Session)
		if err != nil || rec.Log.Size != sealed.Size || !bytes.Equal(rec.Log.Hash, sealed.SHA256) {
			t.Errorf("stored %+v, %v; sealed %+v", rec.Log, err, sealed)
		}
	})
}

// What is not logged is not relayed: a full disk ends the session, and says so.
func TestLogCannotBeWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		w.find(inv.Session).log.Close() // every write fails from here on
		node.say("secret")
		person.wantClosed("log cannot be written")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "log cannot be written")
	})
}

// A node's absence is counted from when it left, however often the server is
// restarted meanwhile.
func TestAbsenceOutlivesTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.leave()
		for range 3 {
			time.Sleep(31 * time.Second)
			w.halt()
			w.start()
			w.attachPerson(person, inv, "client-1")
		}
		time.Sleep(31 * time.Second)
		w.wantNodeLost(inv.Session, person)
	})
}

// The recording that is made after a full disk is known to the store.
func TestTidyStoresHashes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, node := w.together()
		node.say("hello")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "")
		// As if the disk had been full when it ended.
		cast := w.Shelf.CastPath(inv.Session)
		if err := os.Remove(cast); err != nil {
			t.Fatal(err)
		}
		again, err := w.Shelf.Create(inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		again.Append(record.Entry{At: time.Now(), What: record.Event, Body: []byte("kept")})
		again.Close()
		if err := w.db.Sessions().SetLog(t.Context(), inv.Session, store.Log{}); err != nil {
			t.Fatal(err)
		}
		if n, err := w.Tidy(t.Context()); err != nil || n != 1 {
			t.Fatalf("tidied %d, %v", n, err)
		}
		rec, err := w.db.Sessions().Get(t.Context(), inv.Session)
		if err != nil || rec.Log.Size == 0 || len(rec.Log.Hash) == 0 {
			t.Errorf("stored %+v, %v", rec.Log, err)
		}
		if left, _ := filepath.Glob(filepath.Join(w.dir, "sessions", "*.log")); len(left) != 0 {
			t.Errorf("left %q", left)
		}
	})
}

// The power failed before a session that had its log was stored. Its log, cut in
// its first line, is removed.
func TestTidyRemovesLogsOfNoSession(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		id := sallyport.NewSessionID("ann")
		name := filepath.Join(w.dir, "sessions", id.String()+".log")
		if err := os.WriteFile(name, []byte("SALLY"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Tidy(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the log is left: %v", err)
		}
	})
}

// A session that says more than its recording may have goes on without, and both
// its client and the recording say so; or it ends.
func TestFullRecording(t *testing.T) {
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.Limits = Limits{Recording: 64 << 10, EndAtRecording: ends}
				inv, person, node := w.together(append(datachannel.Capabilities(), wire.CapNotices)...)
				text := strings.Repeat("x", 60<<10)
				for range 2 {
					node.say(text)
					person.hear(text)
				}
				if ends {
					node.stream.Send(t.Context(), wire.KindOutput, []byte("more"))
					person.wantClosed("all it may have")
					return
				}
				for range 20 {
					node.say(text)
					person.hear(text)
				}
				if size := w.find(inv.Session).log.Size(); size > 256<<10 {
					t.Errorf("the log has %d bytes", size)
				}
				if len(person.notices) != 1 || !strings.Contains(person.notices[0], "is full") {
					t.Errorf("told %q", person.notices)
				}
				w.complete(inv.Session, "Success", nil)
				w.wantState(inv.Session, sallyport.Terminated, "")
				cast, err := os.ReadFile(w.Shelf.CastPath(inv.Session))
				if err != nil || !strings.Contains(string(cast), "the recording ends here") {
					t.Errorf("the recording does not say that it ends: %v", err)
				}
			})
		})
	}
}

// An end that comes when the server has let go of the session is told to come
// again, and not left at a socket that nothing reads.
func TestComesAsTheServerStops(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(wire.CapEnd)
		w.stop()
		person.leave()
		node.leave()

		broker, far := sockets()
		defer far.Cut()
		if err := w.JoinPerson(t.Context(), w.ann, inv.Session, inv.Token, "client-1", broker, nil); !errors.Is(err, errStopped) {
			t.Errorf("a client is told %v, want %v", err, errStopped)
		}
		w.stop = func() {}
	})
}
