package simulation

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"

	"github.com/sallyport/sallyport/internal/memnet"
)

// ending is a program that says hello, and after a while calls atEnd, prints
// 500 lines and ends with 58.
func ending(name string, atEnd func()) *Program {
	var lines strings.Builder
	for i := range 500 {
		fmt.Fprintf(&lines, "line %d of what the command prints last\n", i)
	}
	return &Program{Name: name, Status: 58, Steps: []Step{
		{Print: "hello\n"}, {Pause: 5 * time.Second}, {Do: atEnd, Print: lines.String()},
	}}
}

// soon runs f beside the program that calls soon's result.
func soon(w *World, f func()) func() {
	return func() { w.all.Go(f) }
}

// start asks for a session and joins it.
func start(w *World, kind Kind, p *Program) *Session {
	w.TB.Helper()
	return startAs(w, w.NewClient(), kind, p)
}

func startAs(w *World, as *Process, kind Kind, p *Program) *Session {
	w.TB.Helper()
	s, err := w.Ask(context.Background(), as, kind, p, 0)
	if err != nil {
		w.TB.Fatalf("%v\n%s", err, w.Log)
	}
	s.Join()
	return s
}

// A scenario is one bad day. Its session is to end by itself with status 58, all
// of its output shown, unless a cause is wanted. The invariants hold besides.
type scenario struct {
	name   string
	kind   Kind
	cause  string        // in what client and store say; "" is that it ended by itself
	within time.Duration // how soon after the program's end, or what ended the session, the client is told; 0 is 3 minutes
	said   string        // in what the client told its person on the way

	// play does it. It returns a session that it has joined.
	play func(w *World, kind Kind) *Session
}

var scenarios = []scenario{
	{
		name: "nothing goes wrong", kind: Shell, within: 2 * time.Second,
		play: func(w *World, kind Kind) *Session { return start(w, kind, ending("p", nil)) },
	},
	{
		name: "nothing goes wrong with a command", kind: Command, within: 2 * time.Second,
		play: func(w *World, kind Kind) *Session { return start(w, kind, ending("p", nil)) },
	},
	{
		name: "nothing goes wrong with pipes", kind: Exec, within: 2 * time.Second,
		play: func(w *World, kind Kind) *Session { return start(w, kind, ending("p", nil)) },
	},
	{
		name: "the control channel alone is down for 3 s as the command ends", kind: Command,
		play: func(w *World, kind Kind) *Session {
			before := time.Now()
			time.Sleep(time.Second)
			return start(w, kind, ending("p", soon(w, func() {
				w.AgentHost().Refuse(true)
				w.AgentHost().Cut(before)
				time.Sleep(3 * time.Second)
				w.AgentHost().Refuse(false)
			})))
		},
	},
	stalledThenCut("the agent's link stalls as the command ends, and is cut 1 s later", time.Second, 0),
	stalledThenCut("the agent's link stalls as the command ends, and is cut 4 s later", 4*time.Second, 0),
	stalledThenCut("the agent's link stalls as the command ends, is cut 1 s later and stays down for 4 s", time.Second, 4*time.Second),
	stalledThenCut("the agent's link stalls as the command ends, is cut 4 s later and stays down for 20 s", 4*time.Second, 20*time.Second),
	stalled("the agent's link stalls for 3 s as the command ends", 3*time.Second),
	stalled("the agent's link stalls for 5 s as the command ends", 5*time.Second),
	stalled("the agent's link stalls for 8 s as the command ends", 8*time.Second),
	stalled("the agent's link stalls for 15 s as the command ends", 15*time.Second),
	{
		name: "the client's link stalls for 4 s as the command ends, and is cut", kind: Command,
		play: func(w *World, kind Kind) *Session {
			p := w.NewClient()
			return startAs(w, p, kind, ending("p", soon(w, func() {
				p.Host.Stall(true)
				time.Sleep(4 * time.Second)
				p.Host.Cut(time.Time{})
				p.Host.Stall(false)
			})))
		},
	},
	clientCutAndRestart("the client is cut for 15 s, the command ends at 2 s, and the server is restarted at 13 s", func(w *World) { w.RestartServer(500 * time.Millisecond) }),
	clientCutAndRestart("the client is cut for 15 s, the command ends at 2 s, and the server is killed at 13 s", func(w *World) { w.CrashServer(false, 500*time.Millisecond) }),
	{
		name: "the database is locked as the command ends, and the server is killed", kind: Command,
		play: func(w *World, kind Kind) *Session {
			return start(w, kind, ending("p", soon(w, func() {
				unlock := w.LockDatabase()
				time.Sleep(3 * time.Second)
				state := w.KillServer(false)
				unlock()
				time.Sleep(time.Second)
				w.supervise(state)
			})))
		},
	},
	{
		name: "both ends attach, but never at once, and the agent is killed", kind: Shell, cause: "was lost and did not come back", within: 2 * time.Minute,
		play: func(w *World, kind Kind) *Session {
			s, err := w.Ask(context.Background(), w.NewClient(), kind, ending("p", nil), 0)
			if err != nil {
				w.TB.Fatal(err)
			}
			time.Sleep(2 * time.Second) // the agent is there
			w.AgentHost().Refuse(true)
			w.AgentHost().Cut(time.Time{})
			time.Sleep(time.Second)
			s.Join()
			time.Sleep(2 * time.Second)
			w.KillAgent()
			s.due = time.Now()
			s.Process.Host.Cut(time.Time{})
			return s
		},
	},
	{
		name: "the agent is dead, and the server is restarted every minute", kind: Shell, cause: "was lost and did not come back", within: 110 * time.Second,
		play: func(w *World, kind Kind) *Session {
			s := start(w, kind, ending("p", nil))
			time.Sleep(2 * time.Second)
			w.KillAgent()
			s.due = time.Now()
			for range 5 {
				if s.Wait(time.Minute) {
					break
				}
				w.RestartServer(time.Second)
			}
			return s
		},
	},
	underTheAgent(scenario{name: "the agent is stopped under a command", kind: Exec, within: 10 * time.Second}, func(w *World, _ *Session) { w.StopAgent() }),
	underTheAgent(scenario{name: "the agent is stopped under a shell", kind: Shell, within: 10 * time.Second}, func(w *World, _ *Session) { w.StopAgent() }),
	underTheAgent(scenario{name: "the agent is killed and started again at once", kind: Shell, within: 15 * time.Second}, func(w *World, _ *Session) {
		w.KillAgent()
		w.StartAgent()
	}),
	underTheAgent(scenario{name: "the agent is killed and started again after 20 s", kind: Shell, within: 40 * time.Second, said: "node"}, func(w *World, s *Session) {
		w.KillAgent()
		s.due = time.Now()
		time.Sleep(20 * time.Second)
		w.StartAgent()
	}),
	endsWhileServerIsDown("the agent is stopped after its command ended while the server was down", Command, "", func(w *World) { w.StopAgent() }),
	endsWhileServerIsDown("the agent is killed after its command ended while the server was down", Command, "", func(w *World) { w.KillAgent() }),
	endsWhileServerIsDown("the agent is killed as soon as its command has ended while the server was down", Exec, "", func(w *World) { w.KillAgent() }),
	endsWhileServerIsDown("the agent is stopped after its command on pipes ended while the server was down", Exec, "", func(w *World) { w.StopAgent() }),
	endsWhileServerIsDown("the agent is stopped with output that could not be sent while the server was down", Exec, "before the last of its output was sent", func(w *World) { w.StopAgent() }),
	{
		name: "a command is terminated while the client uploads", kind: Exec, cause: "Terminated by", within: 15 * time.Second,
		play: func(w *World, kind Kind) *Session {
			s := start(w, kind, &Program{Name: "p", Steps: []Step{{Copy: true}}})
			w.all.Go(func() {
				piece := strings.Repeat("what is uploaded\n", 2000)
				for range 200 {
					s.Type(piece)
				}
			})
			time.Sleep(700 * time.Millisecond)
			w.Terminate(w.NewClient(), s)
			return s
		},
	},
	{
		name: "a session is terminated as its command ends", kind: Command, cause: "?",
		play: func(w *World, kind Kind) *Session {
			admin, joined := w.NewClient(), make(chan *Session, 1)
			s := start(w, kind, ending("p", soon(w, func() { w.Terminate(admin, <-joined) })))
			joined <- s
			return s
		},
	},
	{
		name: "the disk is full as the command ends", kind: Command, cause: "log cannot be written", within: 30 * time.Second,
		play: func(w *World, kind Kind) *Session {
			return start(w, kind, ending("p", soon(w, func() {
				w.fact(full, nil)
				w.Disk.Fill(0)
				time.Sleep(time.Minute)
				w.Disk.Fill(-1)
			})))
		},
	},
	fullAndKilled("disk and database take nothing as the command prints, and the server is killed", "log cannot be written", "this is not logged\n"),
	fullAndKilled("disk and database take nothing as the command ends, and the server is killed", "", ""),
	{
		name: "the server is killed as the command ends", kind: Command,
		play: func(w *World, kind Kind) *Session {
			return start(w, kind, ending("p", soon(w, func() { w.CrashServer(false, time.Second) })))
		},
	},
	{
		name: "the server's power is cut as the command ends", kind: Command,
		play: func(w *World, kind Kind) *Session {
			return start(w, kind, ending("p", soon(w, func() { w.CrashServer(true, time.Second) })))
		},
	},
	{
		name: "the server is restarted as the command ends", kind: Command,
		play: func(w *World, kind Kind) *Session {
			return start(w, kind, ending("p", soon(w, func() { w.RestartServer(time.Second) })))
		},
	},
}

// underTheAgent is a scenario in which a session has its agent taken away.
func underTheAgent(sc scenario, take func(w *World, s *Session)) scenario {
	sc.cause = "agent"
	sc.play = func(w *World, kind Kind) *Session {
		s := start(w, kind, ending("p", nil))
		time.Sleep(2 * time.Second)
		take(w, s)
		return s
	}
	return sc
}

func stalledThenCut(name string, after, down time.Duration) scenario {
	return scenario{name: name, kind: Command, play: func(w *World, kind Kind) *Session {
		return start(w, kind, ending("p", soon(w, func() {
			w.AgentHost().Stall(true)
			time.Sleep(after)
			w.AgentHost().Refuse(down > 0)
			w.AgentHost().Cut(time.Time{})
			w.AgentHost().Stall(false)
			time.Sleep(down)
			w.AgentHost().Refuse(false)
		})))
	}}
}

func stalled(name string, long time.Duration) scenario {
	return scenario{name: name, kind: Command, play: func(w *World, kind Kind) *Session {
		return start(w, kind, ending("p", soon(w, func() {
			w.AgentHost().Stall(true)
			time.Sleep(long)
			w.AgentHost().Stall(false)
		})))
	}}
}

func clientCutAndRestart(name string, restart func(w *World)) scenario {
	return scenario{name: name, kind: Command, play: func(w *World, kind Kind) *Session {
		s := start(w, kind, ending("p", nil))
		time.Sleep(3 * time.Second)
		s.Process.Host.Refuse(true)
		s.Process.Host.Cut(time.Time{})
		time.Sleep(13 * time.Second)
		restart(w)
		time.Sleep(1500 * time.Millisecond)
		s.Process.Host.Refuse(false)
		return s
	}}
}

// fullAndKilled has disk and database take nothing from when the command prints
// something, or nothing, and ends, until the server has been killed.
func fullAndKilled(name, cause, prints string) scenario {
	return scenario{name: name, kind: Command, cause: cause, within: 15 * time.Second, play: func(w *World, kind Kind) *Session {
		var unlock func()
		fill := func() {
			w.fact(full, nil)
			w.Disk.Fill(0)
			unlock = w.LockDatabase()
		}
		s := start(w, kind, &Program{Name: "p", Status: 58, Steps: []Step{{Print: "hello\n"}, {Pause: 5 * time.Second}, {Do: fill, Print: prints}}})
		if !s.Wait(20 * time.Second) {
			w.TB.Error("the client is not told while the disk is full")
		}
		state := w.KillServer(false)
		unlock()
		w.Disk.Fill(-1)
		w.supervise(state)
		return s
	}}
}

// endsWhileServerIsDown has a command end while the server is stopped, the agent
// ended by endAgent, then both started. With a cause, the command prints something
// while the server is stopped, which is lost with the agent.
func endsWhileServerIsDown(name string, kind Kind, cause string, endAgent func(*World)) scenario {
	return scenario{name: name, kind: kind, cause: cause, play: func(w *World, kind Kind) *Session {
		last := Step{Do: w.StopServer}
		if cause != "" {
			last.Print = "nothing hears this\n"
		}
		steps := ending("p", nil).Steps
		steps[2].Do = nil
		s := start(w, kind, &Program{Name: "p", Status: 58, Steps: append(steps, Step{Pause: time.Second}, last)})
		for s.Program.Truth().Ended.IsZero() {
			time.Sleep(10 * time.Millisecond)
		}
		if strings.Contains(name, "as soon as") {
			time.Sleep(100 * time.Millisecond)
		} else {
			time.Sleep(3 * time.Second)
		}
		endAgent(w)
		w.supervise(w.lastServer().state)
		w.StartAgent()
		return s
	}}
}

func TestScenarios(t *testing.T) {
	for i, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			problems, log := inWorld(t, uint64(i), -1, sc.run)
			for _, p := range problems {
				t.Error(p)
			}
			if t.Failed() {
				t.Logf("events:\n%s", log)
			}
		})
	}
}

func (sc scenario) run(w *World) (problems []Problem) {
	bad := func(i Invariant, format string, args ...any) {
		problems = append(problems, Problem{i, fmt.Sprintf(format, args...)})
	}
	s := sc.play(w, sc.kind)
	within := sc.within
	if within == 0 {
		within = 3 * time.Minute
	}
	from := s.due
	if from.IsZero() {
		from = time.Now()
	}
	if !s.Wait(within + 10*time.Second) {
		bad(Told, "the client is not told of the end in %v", within)
	} else if truth := s.Program.Truth(); !truth.Ended.IsZero() && truth.Ended.After(from) && !truth.HungUp {
		from = truth.Ended
	}
	if over := s.Over; !over.IsZero() && over.Sub(from) > within {
		bad(Told, "the client was told of the end after %v, not within %v", over.Sub(from).Round(time.Millisecond), within)
	}
	w.Settle(30 * time.Minute)
	if !s.Wait(time.Minute) { // it would never end
		w.Log.Add("scenario", "the client is given up")
		s.Kill()
		s.Wait(time.Minute)
		s.gone = false
	}
	problems = append(problems, w.CheckAll()...)
	switch e := s.Ending; {
	case sc.cause == "" && (e.Output != "" || e.ExitStatus == nil || *e.ExitStatus != s.Program.Status):
		bad(Told, "the client was told %q, status %s; want status %d alone", e.Output, show(e.ExitStatus), s.Program.Status)
	case sc.cause != "" && sc.cause != "?" && (!strings.Contains(e.Output, sc.cause) || e.ExitStatus != nil && *e.ExitStatus == 0):
		bad(Told, "the client was told %q, status %s; want %q and no status", e.Output, show(e.ExitStatus), sc.cause)
	}
	if sc.said != "" && !s.Said(sc.said) {
		bad(Told, "the client did not say %q on the way", sc.said)
	}
	if log := w.Log.String(); strings.Contains(log, "cannot go from") || strings.Contains(log, "panic") {
		bad(Empty, "a log has a complaint of a bug")
	}
	return problems
}

// forward starts a session to a port whose service answers with digests, and joins
// it. done closes the service.
func forward(w *World) (s *Session, done func()) {
	w.TB.Helper()
	s, err := w.Ask(context.Background(), w.NewClient(), Forward, nil, 5000)
	if err != nil {
		w.TB.Fatal(err)
	}
	service := w.Machine.Listen(5000)
	w.all.Go(func() { serveDigests(service) })
	s.Join()
	return s, func() { service.Close() }
}

// Connections through a port, several at once, when nothing goes wrong.
func TestForward(t *testing.T) {
	problems, log := inWorld(t, 1, -1, func(w *World) (problems []Problem) {
		s, done := forward(w)
		defer done()
		var conns sync.WaitGroup
		for i := range 4 {
			conns.Go(func() {
				if err := (connPlan{up: i * 50_000, down: 100_000 - i*20_000}).use(s); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
			})
		}
		conns.Wait()
		s.Leave()
		if !s.Wait(10 * time.Second) {
			t.Error("the client does not leave")
		}
		w.Settle(time.Minute)
		return w.CheckAll()
	})
	for _, p := range problems {
		t.Error(p)
	}
	if t.Failed() {
		t.Logf("events:\n%s", log)
	}
}

// A client that leaves while its link is stalled ends its session all the same:
// when the link is cut, when it goes on, and when the network has forgotten the
// connections it had.
func TestLeavesOverStalledLink(t *testing.T) {
	for name, mend := range map[string]func(h *memnet.Host){
		"cut after 2.5 s": func(h *memnet.Host) {
			time.Sleep(2500 * time.Millisecond)
			h.Cut(time.Time{})
			h.Stall(false)
		},
		"goes on after 4 s": func(h *memnet.Host) {
			time.Sleep(4 * time.Second)
			h.Stall(false)
		},
		"forgotten": func(h *memnet.Host) {
			h.Lose(time.Time{})
			h.Stall(false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			problems, log := inWorld(t, 1, -1, func(w *World) (problems []Problem) {
				s, done := forward(w)
				defer done()
				if err := (connPlan{up: 1000, down: 1000}).use(s); err != nil {
					t.Error(err)
				}
				s.Process.Host.Stall(true)
				w.all.Go(func() { mend(s.Process.Host) })
				s.Leave()
				if !s.Wait(10 * time.Second) {
					t.Error("the client does not leave")
				}
				if s.Ending.MayBeOn || s.Said("could not be ended") {
					t.Error("the client could not end its session")
				}
				on, err := w.Store().Sessions().Unfinished(context.Background())
				for _, rec := range on {
					if rec.State() != sallyport.Terminating {
						t.Errorf("%s is %v, %v", rec.ID, rec.State(), err)
					}
				}
				w.Settle(time.Minute)
				return w.CheckAll()
			})
			for _, p := range problems {
				t.Error(p)
			}
			if t.Failed() {
				t.Logf("events:\n%s", log)
			}
		})
	}
}
