package broker

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

func TestShellEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(wire.CapExitStatus)
		node.say("$ ")
		person.hear("$ ")
		person.say("exit 3\r")
		node.hear("exit 3\r")
		node.say("logout\r\n")
		status := 3
		w.complete(inv.Session, "Success", &status)

		person.hear("logout\r\n")
		person.wantClosed("")
		if person.closed.ExitStatus == nil || *person.closed.ExitStatus != 3 {
			t.Errorf("exit status %v, want 3", person.closed.ExitStatus)
		}
		w.wantState(inv.Session, sallyport.Terminated, "")
		if rec := w.stored(inv.Session); rec.ExitStatus == nil || *rec.ExitStatus != 3 {
			t.Errorf("stored exit status %v, want 3", rec.ExitStatus)
		}
		if person.join != nil {
			t.Errorf("the person's socket ended with %v", person.join)
		}
		if n := w.Stats().Live; n != 0 {
			t.Errorf("%d sessions are on", n)
		}
		if inv, err := w.Resume(t.Context(), inv.Session); err != nil || !inv.Token.Empty() {
			t.Errorf("a session that is over was resumed: %v", err)
		}
	})
}

// Idle is silence of the stream: what is acknowledged or repeated is silence.
func TestIdle(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		time.Sleep(19 * time.Minute)
		node.say("still here")
		person.hear("still here")
		time.Sleep(19 * time.Minute)
		w.wantState(inv.Session, sallyport.Connected, "")
		time.Sleep(time.Minute + time.Second)
		person.wantClosed("The session was idle for 20m0s.")
		node.wantClosed("idle")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "idle for 20m0s")
	})
}

// A client that can show it is warned a minute before, once for each end there
// would be; one that cannot is not.
func TestWarnedBeforeTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "D", MaxDuration: 40 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		person, node := w.far(wire.TypeInputStreamData, wire.CapNotices), w.far(wire.TypeOutputStreamData)
		w.attachPerson(person, inv, "")
		w.attachNode(node, inv.Session)
		wantNotices := func(n int, words string) {
			t.Helper()
			synctest.Wait()
			person.mu.Lock()
			defer person.mu.Unlock()
			if len(person.notices) != n || n > 0 && !strings.Contains(person.notices[n-1], words) {
				t.Errorf("told %q, want %d with %q", person.notices, n, words)
			}
		}
		time.Sleep(19*time.Minute - time.Second)
		wantNotices(0, "")
		time.Sleep(2 * time.Second)
		wantNotices(1, "ends in 1m0s, unless something is typed or shown: it has been idle, and may be for 20m0s")
		node.say("still here")
		time.Sleep(time.Minute)
		w.wantState(inv.Session, sallyport.Connected, "")
		time.Sleep(18*time.Minute - time.Second)
		wantNotices(1, "ends")
		time.Sleep(2 * time.Second)
		wantNotices(2, "ends")
		person.say("x")
		time.Sleep(58 * time.Second)
		wantNotices(3, "ends in 1m0s: it may last 40m0s")
		time.Sleep(time.Minute)
		person.wantClosed("maximum duration of 40m0s")
		w.complete(inv.Session, "Success", nil)
	})
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, _ := w.together()
		time.Sleep(19*time.Minute + 30*time.Second)
		if len(person.notices) > 0 {
			t.Errorf("told %q", person.notices)
		}
		w.complete(inv.Session, "Success", nil)
	})
}

func TestMaximumDuration(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, err := w.Start(t.Context(), Request{Who: w.ann, Node: w.node, Document: "D", MaxDuration: 5 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		person, node := w.far(wire.TypeInputStreamData), w.far(wire.TypeOutputStreamData)
		w.attachNode(node, inv.Session)
		w.attachPerson(person, inv, "")
		for range 4 {
			time.Sleep(time.Minute)
			person.say("x")
		}
		w.wantState(inv.Session, sallyport.Connected, "")
		time.Sleep(time.Minute + time.Second)
		person.wantClosed("maximum duration of 5m0s")
	})
}

func TestTerminateTellsWho(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		w.Terminate(t.Context(), inv.Session, "Terminated by arn:aws:iam::000000000000:user/bob.")
		w.wantState(inv.Session, sallyport.Terminating, "user/bob")
		person.wantClosed("Terminated by arn:aws:iam::000000000000:user/bob.")
		node.wantClosed("user/bob")
		w.complete(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Terminated, "user/bob")
		w.Terminate(t.Context(), inv.Session, "again") // of a session that is over: nothing
		w.wantState(inv.Session, sallyport.Terminated, "user/bob")
	})
}

// A node that was told to end a session and does not say that it has is not
// waited for for ever.
func TestNodeNeverReaps(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, _, _ := w.together()
		w.Terminate(t.Context(), inv.Session, "Terminated.")
		time.Sleep(endGrace + time.Second)
		w.wantState(inv.Session, sallyport.Terminated, "Terminated.")
	})
}

// end has the node say, as the last message of its stream, how it ended.
func (f *far) end(e wire.End) {
	f.w.t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		f.w.t.Fatal(err)
	}
	if err := f.stream.SendLast(f.w.t.Context(), wire.KindEnd, b); err != nil {
		f.w.t.Fatal(err)
	}
	synctest.Wait()
}

func (f *far) wantFlushed(want bool) {
	f.w.t.Helper()
	ctx, cancel := context.WithTimeout(f.w.t.Context(), time.Millisecond)
	defer cancel()
	if err := f.stream.Flush(ctx); (err == nil) != want {
		f.w.t.Fatalf("all that the node sent is acknowledged: %v, want %v", err == nil, want)
	}
}

// hearEnd waits for the node's last message.
func (f *far) hearEnd(status int) {
	f.w.t.Helper()
	ctx, cancel := context.WithTimeout(f.w.t.Context(), time.Minute)
	defer cancel()
	m, err := f.stream.Receive(ctx)
	var e wire.End
	if err != nil || m.Kind != wire.KindEnd || json.Unmarshal(m.Payload, &e) != nil || e.ExitStatus == nil || *e.ExitStatus != status {
		f.w.t.Fatalf("heard %v %s, %v, want exit status %d", m.Kind, m.Payload, err, status)
	}
	synctest.Wait()
}

// The end is the last message of the node's stream. The node is free when all of
// it is on the server's disk, and the client gets it also if the node goes away then.
func TestEndInTheStream(t *testing.T) {
	status := 58
	caps := append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)
	wantEnded := func(w *world, id sallyport.SessionID) {
		w.t.Helper()
		w.wantState(id, sallyport.Terminated, "")
		if rec := w.stored(id); rec.ExitStatus == nil || *rec.ExitStatus != status {
			w.t.Errorf("stored exit status %v", rec.ExitStatus)
		}
	}
	tests := map[string]func(w *world, inv Invitation, person, node *far){
		"both are there": func(w *world, inv Invitation, person, node *far) {
			node.say("bye")
			node.end(wire.End{ExitStatus: &status})
			node.wantFlushed(true)
			person.hear("bye")
			person.hearEnd(status)
			person.wantClosed("")
			if person.closed.ExitStatus == nil || *person.closed.ExitStatus != status {
				w.t.Errorf("told %v", person.closed.ExitStatus)
			}
		},
		"the person is away": func(w *world, inv Invitation, person, node *far) {
			person.leave()
			node.say("bye")
			node.end(wire.End{ExitStatus: &status})
			node.wantFlushed(true)
			node.leave()
			time.Sleep(19 * time.Minute)
			again, err := w.Resume(w.t.Context(), inv.Session)
			if err != nil || again.Token.Empty() {
				w.t.Fatalf("not resumed: %v", err)
			}
			w.attachPerson(person, again, "client-1")
			person.hear("bye")
			person.hearEnd(status)
		},
		"the server is restarted twice while the person is away": func(w *world, inv Invitation, person, node *far) {
			person.leave()
			node.say("bye")
			node.end(wire.End{ExitStatus: &status})
			node.wantFlushed(true)
			node.leave()
			for range 2 {
				w.halt()
				w.start()
			}
			w.attachPerson(person, inv, "client-1") // its token is good still
			person.hear("bye")
			person.hearEnd(status)
		},
		"an administrator comes too late": func(w *world, inv Invitation, person, node *far) {
			person.leave()
			node.end(wire.End{ExitStatus: &status})
			w.Terminate(w.t.Context(), inv.Session, "Terminated by bob.") // which gives the client up, and changes nothing else
			synctest.Wait()
			err := w.JoinPerson(w.t.Context(), nil, inv.Session, inv.Token, "client-1", nil, nil)
			if ended, ok := errors.AsType[*Ended](err); !ok || ended.ExitStatus == nil || *ended.ExitStatus != status {
				w.t.Errorf("a client that comes then is told %v", err)
			}
		},
		"a message before it is late": func(w *world, inv Invitation, person, node *far) {
			frame := func(seq int64, kind wire.Kind, payload string) []byte {
				f := wire.NewFrame(wire.TypeOutputStreamData, []byte(payload), time.Now())
				f.Seq, f.Kind = seq, kind
				return encode(f)
			}
			for _, b := range [][]byte{frame(0, wire.KindOutput, "a"), frame(2, wire.KindEnd, `{"ExitStatus":58}`), frame(1, wire.KindOutput, "b")} {
				if err := node.conn.WriteFrame(w.t.Context(), b); err != nil {
					w.t.Fatal(err)
				}
				synctest.Wait()
			}
			person.hear("ab")
			person.hearEnd(status)
		},
		"the client does not know it": func(w *world, inv Invitation, person, node *far) {
			person.leave()
			person.caps = []string{wire.CapExitStatus}
			node.say("bye")
			node.end(wire.End{ExitStatus: &status})
			w.attachPerson(person, inv, "client-1")
			person.hear("bye")
			person.wantClosed("")
			if person.closed.ExitStatus == nil || *person.closed.ExitStatus != status {
				w.t.Errorf("told %v", person.closed.ExitStatus)
			}
			for _, heard := range person.heard {
				if heard == wire.TypeOutputStreamData {
					w.t.Error("the client was sent the node's last message")
				}
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				inv, person, node := w.together(caps...)
				test(w, inv, person, node)
				wantEnded(w, inv.Session)
			})
		})
	}
}

// What the session ended of first is what both its client and the history say.
func TestEndAfterAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		status := 129
		caps := append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)
		inv, person, node := w.together(caps...)
		w.Terminate(t.Context(), inv.Session, "Terminated by bob.")
		node.end(wire.End{ExitStatus: &status}) // of the shell, which was hung up on
		node.wantFlushed(true)
		person.wantClosed("Terminated by bob.")
		w.wantState(inv.Session, sallyport.Terminated, "Terminated by bob.")
		if rec := w.stored(inv.Session); rec.ExitStatus != nil {
			t.Errorf("stored exit status %d", *rec.ExitStatus)
		}
	})
}

// A node that reports its end on the control channel may have more to say on the
// data channel, which is waited for.
func TestReportIsFasterThanTheOutput(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		w.report(inv.Session, "Success", nil)
		w.wantState(inv.Session, sallyport.Connected, "")
		node.say("the last of it")
		node.leave()
		person.hear("the last of it")
		person.wantClosed("")
		w.wantState(inv.Session, sallyport.Terminated, "")
	})
}

// An agent of ours says an exit status. If it does not, it was stopped.
func TestAgentWithoutStatus(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, _ := w.together(wire.CapExitStatus)
		w.complete(inv.Session, "Success", nil)
		person.wantClosed("without saying how its program ended")
	})
}

// A client that stays on its socket after the end loses it in a while. If it has
// not acknowledged all that was said, it may come back for it.
func TestStaysAfterTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, _ := w.together()
		person.stays = true
		w.complete(inv.Session, "Success", nil)
		person.wantClosed("")
		w.wantState(inv.Session, sallyport.Terminating, "")
		time.Sleep(drainGrace + time.Millisecond)
		<-person.ended
		w.wantState(inv.Session, sallyport.Terminated, "")
	})
}

// A server that lost what it was told of an end says that, and not that the agent
// was restarted, which has been there all the time.
func TestEndThatWasLost(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together()
		node.leave()
		w.halt()
		w.start()
		w.attachPerson(person, inv, "client-1")
		w.Lost(w.node, wire.SallyportSessions{Process: this})
		person.wantClosed("how was lost with the server")
		w.wantState(inv.Session, sallyport.Terminated, "how was lost with the server")
	})
}

// What a node says after its session was ended is neither shown nor recorded, and
// its end is acknowledged all the same.
func TestOutputAfterTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv, person, node := w.together(append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd)...)
		node.say("before")
		person.hear("before")
		w.Terminate(t.Context(), inv.Session, "Terminated by bob.")
		node.say("after")
		node.end(wire.End{})
		node.wantFlushed(true)
		w.wantState(inv.Session, sallyport.Terminated, "by bob")
		cast, err := os.ReadFile(w.Shelf.CastPath(inv.Session))
		if err != nil || !strings.Contains(string(cast), "before") || strings.Contains(string(cast), "after") {
			t.Errorf("%s, %v", cast, err)
		}
	})
}

// Numbers that nothing reaches are refused, and an early end is looked at again
// when what it waits for has come, not with every message.
func TestHostileEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		inv := w.begin()
		token, err := w.NodeToken(t.Context(), w.node, inv.Session)
		if err != nil {
			t.Fatal(err)
		}
		near, conn := sockets()
		go w.JoinNode(context.Background(), w.node, inv.Session, token, near, []string{wire.CapEnd}, this)
		write := func(seq int64, kind wire.Kind, payload string) {
			f := wire.NewFrame(wire.TypeOutputStreamData, []byte(payload), time.Now())
			f.Seq, f.Kind = seq, kind
			conn.WriteFrame(t.Context(), encode(f))
			synctest.Wait()
		}
		s := w.find(inv.Session)
		write(math.MaxInt64, wire.KindEnd, `{}`)
		write(math.MaxInt64, wire.KindOutput, "x")
		if s.endSeq != -1 || len(s.lanes[node].held) != 0 {
			t.Errorf("the end is %d, %d frames are held", s.endSeq, len(s.lanes[node].held))
		}
		write(0, wire.KindOutput, "a")
		write(5, wire.KindEnd, `{}`)
		write(3, wire.KindOutput, "d")
		if s.endSeq != -1 || s.missing != 1 {
			t.Errorf("the end is %d, missing %d", s.endSeq, s.missing)
		}
		write(1, wire.KindOutput, "b")
		write(4, wire.KindOutput, "e")
		if s.endSeq != -1 || s.missing != 2 {
			t.Errorf("the end is %d, missing %d", s.endSeq, s.missing)
		}
		write(2, wire.KindOutput, "c")
		if s.endSeq != 5 {
			t.Errorf("the end is %d", s.endSeq)
		}
		conn.Cut()
	})
}

// A report of an end by an agent that keeps it is acknowledged once the end is on
// disk, and again for each repeat; what of the stream never came is said.
func TestReportIsAcknowledgedOnceKept(t *testing.T) {
	status, lacking, whole := 7, int64(2), int64(1)
	for name, messages := range map[string]*int64{"": &whole, "before the last of its output was sent": &lacking} {
		inBubble(t, func(t *testing.T, w *world) {
			inv, person, node := w.together(wire.CapExitStatus)
			node.say("one")
			person.hear("one")
			node.leave()
			frame := wire.AgentTaskComplete{
				TaskId: inv.Session.String(), FinalTaskStatus: "Success", InstanceId: w.node.String(), ExitStatus: &status, Messages: messages,
			}.Frame(time.Now())
			if answer, err := w.Complete(w.node, frame); answer != nil || err != nil {
				t.Errorf("%q: a report was answered before the end was on disk: %d bytes, %v", name, len(answer), err)
			}
			if n := w.controlFrames(wire.TypeAgentTaskAcknowledge); n != 1 {
				t.Errorf("%q: acknowledged %d times", name, n)
			}
			if answer, err := w.Complete(w.node, frame); len(answer) == 0 || err != nil {
				t.Errorf("%q: a repeat was answered with %d bytes, %v", name, len(answer), err)
			}
			person.wantClosed(name)
			if got := person.closed.ExitStatus; got == nil || *got != 7 {
				t.Errorf("%q: told status %v", name, got)
			}
			person.leave()
			synctest.Wait()
			w.wantState(inv.Session, sallyport.Terminated, name)
			if got := w.stored(inv.Session).ExitStatus; got == nil || *got != 7 {
				t.Errorf("%q: stored status %v", name, got)
			}
			if answer, err := w.Complete(w.node, frame); len(answer) == 0 || err != nil {
				t.Errorf("%q: after the end, a repeat was answered with %d bytes, %v", name, len(answer), err)
			}
		})
	}
}
