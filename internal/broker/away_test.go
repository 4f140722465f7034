package broker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// A person who comes back has another token, and misses nothing; the token from
// before is good for nothing.
func TestResume(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.say("before ")
		person.hear("before ")
		person.leave()
		w.wantState(inv.Session, sallyport.Disconnected, "")
		node.say("while away ")
		time.Sleep(10 * time.Minute)

		second, err := w.Resume(t.Context(), inv.Session)
		if err != nil || second.Token.Empty() {
			t.Fatal(err)
		}
		w.attachPerson(person, inv, "client-1")
		if sallyport.CodeOf(person.join) != sallyport.AccessDeniedException {
			t.Errorf("the old token was met with %v", person.join)
		}
		w.attachPerson(person, second, "client-1")
		person.hear("while away ")
		node.say("after")
		person.hear("after")
		person.say("and back")
		node.hear("and back")
		w.wantState(inv.Session, sallyport.Connected, "")
	})
}

// What a shell says last while its person is away is kept for as long as they may
// be away.
func TestShellEndsWhilePersonIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(datachannel.Capabilities()...)
		person.leave()
		node.say("famous last words")
		node.leave()
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminating, "")
		time.Sleep(55 * time.Second)
		second, err := w.Resume(t.Context(), inv.Session)
		if err != nil || second.Token.Empty() {
			t.Fatalf("%v, no token: %v", err, second.Token.Empty())
		}
		w.attachPerson(person, second, "client-1")
		person.hear("famous last words")
		person.wantClosed("")
		w.wantState(inv.Session, sallyport.Terminated, "")
	})
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(datachannel.Capabilities()...)
		person.leave()
		node.say("famous last words")
		node.leave()
		w.complete(inv.Session, "Success", nil)
		time.Sleep(20*time.Minute - 2*time.Second)
		w.wantState(inv.Session, sallyport.Terminating, "")
		time.Sleep(2 * time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "")
		if second, err := w.Resume(t.Context(), inv.Session); err != nil || !second.Token.Empty() {
			t.Errorf("after that, %v, a token: %v", err, !second.Token.Empty())
		}
	})
	inBubble(t, func(t *testing.T, w *world) { // an administrator ended it, and it does not wait for the client
		inv, person, node := w.together(datachannel.Capabilities()...)
		person.leave()
		node.say("secrets")
		w.Terminate(t.Context(), inv.Session, "Terminated by arn.")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "by arn")
	})
}

func TestPersonStaysAway(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		person.leave()
		for range 10 { // the shell keeps talking, so it is not idle
			time.Sleep(2 * time.Minute)
			node.stream.Send(t.Context(), wire.KindOutput, []byte("."))
		}
		time.Sleep(time.Minute)
		w.wantState(inv.Session, sallyport.Terminated, "The client was away for 20m0s.")
		node.wantClosed("away")
	})
}

func TestNodeIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.leave()
		time.Sleep(60 * time.Second)
		w.attachNode(node, inv.Session) // it was away for a minute
		node.say("back")
		person.hear("back")
		node.leave()
		time.Sleep(90*time.Second + time.Second)
		person.wantClosed("was lost and did not come back in 1m30s")
	})
}

func TestDeregisteredNode(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, person, node := w.together()
		w.EndNode(sallyport.NewNodeID(), "not this one")
		w.EndNode(w.node, w.node.String()+" was deregistered.")
		person.wantClosed("was deregistered")
		node.wantClosed("was deregistered")
	})
}

// Two ends that attach, but never at once, do not keep a session for ever.
func TestNeverTogether(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		person, node := w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		node.leave()
		w.attachPerson(person, inv, "client-1")
		time.Sleep(91 * time.Second)
		w.wantNodeLost(inv.Session, person)
	})
}

// wantNodeLost wants a session to have ended because its node stayed away, and its
// client to have been told.
func (w *world) wantNodeLost(id sallyport.SessionID, person *far) {
	w.t.Helper()
	person.wantClosed("was lost and did not come back")
	w.wantState(id, sallyport.Terminated, "was lost and did not come back")
}

// An agent's new process that has not the sessions of the one before says so,
// and they end at once; until then the person is told that the node is away.
func TestSessionsOfAnotherProcess(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(wire.CapNotices)
		kept, _, _ := w.together()
		fresh := w.begin() // not begun there: it cannot have been lost
		node.leave()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if len(person.notices) != 1 || !strings.Contains(person.notices[0], "is away") {
			t.Errorf("told %q", person.notices)
		}
		another := wire.Process{Instance: "i3", Place: "a copy"}
		w.Lost(w.node, wire.SallyportSessions{Process: another}) // which says nothing of this one's
		w.wantState(inv.Session, sallyport.Connected, "")
		w.Lost(w.node, wire.SallyportSessions{Sessions: []string{kept.Session.String()}, Process: wire.Process{Instance: "i2", Place: this.Place}})
		person.wantClosed("was stopped or restarted")
		w.wantState(inv.Session, sallyport.Terminated, "was stopped or restarted")
		w.wantState(kept.Session, sallyport.Connected, "")
		w.wantState(fresh.Session, sallyport.Connecting, "")
	})
}
