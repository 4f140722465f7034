package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// What either end says before the other is there waits for it.
func TestEitherEndMayComeFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		person, node := w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachPerson(person, inv, "")
		person.say("typed ahead\r")
		w.wantState(inv.Session, sallyport.Connecting, "")
		w.attachNode(node, inv.Session)
		node.hear("typed ahead\r")
		w.wantState(inv.Session, sallyport.Connected, "")

		inv = w.begin()
		person, node = w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		node.say("$ ")
		w.attachPerson(person, inv, "")
		person.hear("$ ")
	})
}

// A node that does not answer is asked three times, and then the session has
// failed and says so.
func TestNodeDoesNotAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		person := w.far(wire.TypeInputStreamData)
		w.attachPerson(person, inv, "")
		for _, asked := range []int{1, 2, 3} {
			if got := w.controlFrames(wire.TypeInteractiveShell); got != asked {
				t.Fatalf("asked %d times, want %d", got, asked)
			}
			time.Sleep(5*time.Second + time.Millisecond)
		}
		time.Sleep(30 * time.Second)
		if got := w.controlFrames(wire.TypeInteractiveShell); got != 3 {
			t.Errorf("asked %d times, want 3", got)
		}
		w.wantState(inv.Session, sallyport.Failed, "did not answer. Its agent was asked 3 times")
		person.wantClosed("did not answer")
		if _, err := w.NodeToken(t.Context(), w.node, inv.Session); err == nil || !strings.Contains(err.Error(), SessionOver) {
			t.Errorf("a node that comes late is told %v", err)
		}
	})
}

// What an agent says of a session is kept, and told, as text that a terminal does
// not act on.
func TestCauseIsPrintable(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		frame := wire.AgentTaskComplete{TaskId: inv.Session.String(), FinalTaskStatus: "Failed", Output: "\n----------ERROR-------\r\nno \x1b[31muser\u202e \u009b2Jx\xff\r\n"}.Frame(time.Now())
		if _, err := w.Complete(w.node, frame); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := w.stored(inv.Session).Cause; got != "no ?[31muser? ?2Jx?" {
			t.Errorf("the cause is %q", got)
		}
	})
}

// A client that joins with the token of a session that is over is told why it ended:
// where a shell could not be started, it is over before its client can join.
func TestComesTooLate(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		frame := wire.AgentTaskComplete{SchemaVersion: 1, TaskId: inv.Session.String(), FinalTaskStatus: "Failed", Output: "no such user", InstanceId: w.node.String()}.Frame(time.Now())
		if _, err := w.Complete(w.node, frame); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantState(inv.Session, sallyport.Failed, "no such user")
		join := func(token sallyport.Secret, who *sallyport.Principal) error {
			return w.JoinPerson(t.Context(), who, inv.Session, token, "", nil, nil)
		}
		if err := join(inv.Token, nil); sallyport.CodeOf(err) != sallyport.DoesNotExistException || !strings.Contains(err.Error(), "no such user") {
			t.Errorf("told %v", err)
		}
		for name, err := range map[string]error{
			"another token":             join(sallyport.GenerateSecret(), nil),
			"somebody else's signature": join(inv.Token, &sallyport.Principal{Kind: sallyport.UserKind, Name: "bob", ID: "AIDABOB"}),
		} {
			if err == nil || strings.Contains(err.Error(), "no such user") {
				t.Errorf("%s is told %v", name, err)
			}
		}
	})
}

// A node that would ask the client something first, and waits for no more than
// 15 seconds, is told when the client is there.
func TestNodeIsToldWhenItWillBeAnswered(t *testing.T) {
	tests := []struct {
		name    string
		task    wire.AgentTaskPayload
		awaited bool
	}{
		{"a shell", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "Standard_Stream"}}, false},
		{"an interactive command", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "InteractiveCommands"}}, false},
		{"a command without a terminal", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "NonInteractiveCommands"}}, true},
		{"a port", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "Port"}}, true},
		{"a shell that is encrypted", wire.AgentTaskPayload{DocumentContent: wire.SessionDocument{SessionType: "Standard_Stream", Inputs: wire.SessionInputs{KmsKeyId: "alias/x"}}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "x", Parameters: json.RawMessage("{}"), Task: tt.task})
				if err != nil {
					t.Fatal(err)
				}
				if got := w.controlFrames(wire.TypeInteractiveShell); (got == 0) != tt.awaited {
					t.Errorf("the node was told %d times before the client came", got)
				}
				time.Sleep(30 * time.Second)
				if !tt.awaited {
					w.wantState(inv.Session, sallyport.Failed, "did not answer")
					return
				}
				w.wantState(inv.Session, sallyport.Connecting, "")
				w.attachPerson(w.far(wire.TypeInputStreamData), inv, "client-1")
				if got := w.controlFrames(wire.TypeInteractiveShell); got != 1 {
					t.Errorf("the node was told %d times when the client came", got)
				}
				time.Sleep(20 * time.Second)
				w.wantState(inv.Session, sallyport.Failed, "asked 3 times")
			})
		})
	}
}

func TestNoClientConnects(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		node := w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		time.Sleep(2*time.Minute + time.Second)
		node.wantClosed("No client connected in 2m0s.")
		time.Sleep(endGrace)
		w.wantState(inv.Session, sallyport.Failed, "No client connected")
		if w.controlFrames(wire.TypeChannelClosed) != 1 {
			t.Error("the node's control channel was not told")
		}
	})
}

// A session that its node ends before a client has ever connected is Terminating
// for as long as one might come, and no longer; one that is terminated, a moment.
func TestEndsWithoutClient(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		node := w.far(wire.TypeOutputStreamData, wire.CapEnd)
		w.attachNode(node, inv.Session)
		node.say("said to no client")
		status := 7
		node.end(wire.End{ExitStatus: &status})
		time.Sleep(2*time.Minute - time.Second)
		w.wantState(inv.Session, sallyport.Terminating, "")
		time.Sleep(2 * time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "")
	})
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		w.attachNode(w.far(wire.TypeOutputStreamData), inv.Session)
		w.Terminate(t.Context(), inv.Session, "Terminated by ann.")
		time.Sleep(endGrace + time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "ann")
	})
}

// The first client to use a token has it to itself.
func TestTwoClientsRace(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		thief := w.far(wire.TypeInputStreamData)
		w.attachPerson(thief, inv, "client-2")
		if sallyport.CodeOf(thief.join) != sallyport.AccessDeniedException {
			t.Errorf("a second client was met with %v", thief.join)
		}
		w.attachPerson(thief, inv, "")
		if sallyport.CodeOf(thief.join) != sallyport.AccessDeniedException {
			t.Errorf("a client without an ID was met with %v", thief.join)
		}
		node.say("for her alone")
		person.hear("for her alone")
	})
}

// The same client on a second socket takes the session over: its first is a
// connection that is dead and has not been noticed.
func TestSocketIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		near, again := sockets()
		second := make(chan error, 1)
		go func() {
			second <- w.JoinPerson(context.Background(), nil, inv.Session, inv.Token, "client-1", near, nil)
		}()
		synctest.Wait()
		if !errors.Is(person.join, errReplaced) {
			t.Errorf("the first socket ended with %v", person.join)
		}
		node.say("hello")
		if b, err := again.ReadFrame(t.Context()); err != nil || !bytes.HasSuffix(b, []byte("hello")) {
			t.Errorf("the second read %q, %v", b, err)
		}
		again.Cut()
		if err := <-second; err == nil {
			t.Error("a cut socket ended without an error")
		}
	})
}

func TestWhoMayAttach(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		near, _ := sockets()
		bob := &sallyport.Principal{ARN: "arn:aws:iam::000000000000:user/bob", ID: "AIDABOB"}
		other := sallyport.NewNodeID()
		for name, err := range map[string]error{
			"a person with another token":        w.JoinPerson(t.Context(), nil, inv.Session, sallyport.GenerateSecret(), "", near, nil),
			"a person with no token":             w.JoinPerson(t.Context(), nil, inv.Session, sallyport.Secret{}, "", near, nil),
			"somebody else's signature":          w.JoinPerson(t.Context(), bob, inv.Session, inv.Token, "", near, nil),
			"a session that is not there":        w.JoinPerson(t.Context(), nil, sallyport.NewSessionID("ann"), inv.Token, "", near, nil),
			"a node with the person's token":     w.JoinNode(t.Context(), w.node, inv.Session, inv.Token, near, nil, this),
			"another node":                       w.JoinNode(t.Context(), other, inv.Session, inv.Token, near, nil, this),
			"a node before it asked for a token": w.JoinNode(t.Context(), w.node, inv.Session, sallyport.Secret{}, near, nil, this),
		} {
			if sallyport.CodeOf(err) != sallyport.AccessDeniedException {
				t.Errorf("%s was met with %v", name, err)
			}
		}
		if _, err := w.NodeToken(t.Context(), other, inv.Session); sallyport.CodeOf(err) != sallyport.DoesNotExistException {
			t.Errorf("another node's CreateDataChannel was met with %v", err)
		}
		w.complete(inv.Session, "Success", nil) // so that the bubble ends
	})
}

func TestControlToken(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		token := w.ControlToken(w.node)
		if err := w.CheckControlToken(w.node, token); err != nil {
			t.Error(err)
		}
		if err := w.CheckControlToken(sallyport.NewNodeID(), token); err == nil {
			t.Error("a node's token let another node in")
		}
		time.Sleep(controlTokenLife + time.Second)
		if err := w.CheckControlToken(w.node, token); err == nil {
			t.Error("an old token is still good")
		}
	})
}

// Ends of ours are told of each other, in either order of attaching; others never
// are.
func TestPeersAreIntroduced(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, person, node := w.together(datachannel.Capabilities()...)
		for name, f := range map[string]*far{"person": person, "node": node} {
			if f.stream.Chunk() <= 1024 {
				t.Errorf("the %s's messages are of %d bytes still", name, f.stream.Chunk())
			}
		}
	})
	inBubble(t, func(t *testing.T, w *world) {
		_, person, node := w.together()
		for name, f := range map[string]*far{"person": person, "node": node} {
			f.mu.Lock()
			for _, heard := range f.heard {
				if heard == wire.TypeSallyportPeer {
					t.Errorf("a stock %s was sent %s", name, heard)
				}
			}
			f.mu.Unlock()
		}
	})
}

func TestStartNeedsARunningBroker(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.stop()
		_, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "D"})
		if sallyport.CodeOf(err) != sallyport.ServiceUnavailableException {
			t.Errorf("Start = %v", err)
		}
		if ids, err := w.Shelf.Unsealed(); err != nil || len(ids) != 0 {
			t.Errorf("it left a log: %v, %v", ids, err)
		}
		w.stop = func() {}
	})
}

// As many sessions of one person, on one node and in all may be on, and no more.
func TestSessionLimits(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.Limits = Limits{PerUser: 2, PerNode: 3, Total: 4}
		bob := &sallyport.Principal{Kind: sallyport.UserKind, ARN: "arn:aws:iam::000000000000:user/bob", ID: "AIDABOB", Root: "AIDABOB", Name: "bob"}
		other := sallyport.NewNodeID()
		start := func(who *sallyport.Principal, at sallyport.NodeID) error {
			_, err := w.Start(t.Context(), Request{Who: who, Node: at, Parameters: json.RawMessage("{}")})
			return err
		}
		var ids []sallyport.SessionID
		for range 2 {
			ids = append(ids, w.begin().Session)
		}
		refused := func(err error, says string) {
			t.Helper()
			if sallyport.CodeOf(err) != sallyport.ServiceQuotaExceededException || !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want to be told %q", err, says)
			}
		}
		refused(start(w.ann, other), "You have as many sessions as there may be at once: 2")
		if err := start(bob, w.node); err != nil {
			t.Fatal(err)
		}
		refused(start(bob, w.node), w.node.String()+" has as many")
		if err := start(bob, other); err != nil {
			t.Fatal(err)
		}
		eve := &sallyport.Principal{Kind: sallyport.UserKind, ARN: "arn:aws:iam::000000000000:user/eve", ID: "AIDAEVE", Root: "AIDAEVE", Name: "eve"}
		refused(start(eve, other), "The server has as many")
		w.Terminate(t.Context(), ids[0], "Terminated by bob.")
		if err := start(w.ann, w.node); err != nil {
			t.Errorf("after one has ended: %v", err)
		}
		left, err := w.Shelf.Unsealed()
		if err != nil || len(left) > 5 {
			t.Errorf("logs of sessions that did not start are left: %v, %v", left, err)
		}
	})
}

// A disk that is nearly full, or recordings that have all they may, keep sessions
// from starting, and say so.
func TestNoRoomToStart(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		request := Request{Who: w.ann, Node: w.node, Parameters: json.RawMessage("{}")}
		w.Limits = Limits{MinFree: 1 << 60}
		if _, err := w.Start(t.Context(), request); sallyport.CodeOf(err) != sallyport.ServiceUnavailableException || !strings.Contains(err.Error(), "disk is nearly full") {
			t.Errorf("%v", err)
		}
		w.Limits = Limits{Recordings: 10}
		w.begin()
		time.Sleep(time.Minute)
		if _, err := w.Start(t.Context(), request); sallyport.CodeOf(err) != sallyport.ServiceUnavailableException || !strings.Contains(err.Error(), "may have 10 bytes") {
			t.Errorf("%v", err)
		}
	})
}
