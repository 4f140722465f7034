//go:build linux && interop

package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An ending is how a session can end, and what is then true of it.
type ending struct {
	name string

	// start is the client's program. isShell: it has a shell, which is ended by
	// what is typed.
	isShell bool
	start   func(c client, node string) *exec.Cmd

	// end has the session end; ID is the session's.
	end func(t *testing.T, shown *typist, id string, w *world, agent string)

	// shows are what the client shows, in order, beside the last lines.
	shows []string

	// status is our client's. A stock agent does not tell that of a shell, which
	// is 0.
	status int

	// cause is a pattern of the history's Details, which the client shows too. ""
	// is a session that ended by itself, and has none.
	cause string

	// outlives: a stock agent's session goes on, and then ends by itself.
	outlives bool

	// away: the server is away as the session ends. A stock agent forgets an end
	// and what is not acknowledged within about three seconds; then the session
	// ends as one whose node was lost, which is what everyone is told.
	away bool
}

// The lines that a session says last, and what they look like to a client.
const (
	lastLines = `i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo last-$i-; done`
	lastShown = "last-300-"
)

func shellOf(c client, node string) *exec.Cmd { return c.shell(node, "") }

func commandOf(script string) func(client, string) *exec.Cmd {
	return func(c client, node string) *exec.Cmd { return c.command(node, script, false) }
}

var endings = []ending{
	{
		name: "exit", isShell: true, start: shellOf, status: 58,
		end: func(t *testing.T, shown *typist, id string, w *world, agent string) {
			shown.expect(prompt)
			shown.types("stty -echo; " + lastLines + "; exit 58\r")
		},
	},
	{
		name: "command", start: commandOf(lastLines + "; exit 58"), status: 58,
	},
	{
		name: "terminated by another", isShell: true, start: shellOf, cause: `^Terminated by arn:aws:iam::\d+:root`, status: 255,
		end: func(t *testing.T, shown *typist, id string, w *world, agent string) {
			shown.expect(prompt)
			shown.types("stty -echo; " + lastLines + "\r")
			shown.expect(lastShown)
			w.aws("ssm", "terminate-session", "--session-id", id)
		},
	},
	{
		name: "server restarted", isShell: true, start: shellOf, shows: []string{"before-2-"}, status: 58,
		end: func(t *testing.T, shown *typist, id string, w *world, agent string) {
			shown.expect(prompt)
			shown.types("stty -echo; echo before-$((1+1))-\r")
			shown.expect("before-2-")
			w.restart(syscall.SIGTERM, 0)
			shown.types(lastLines + "; exit 58\r")
		},
	},
	{
		name: "server restarted while a command ends", away: true, start: commandOf("echo go-on; sleep 2; " + lastLines + "; exit 58"), shows: []string{"go-on"}, status: 58,
		end: func(t *testing.T, shown *typist, id string, w *world, agent string) {
			shown.expect("go-on")
			w.restart(syscall.SIGTERM, 3*time.Second)
		},
	},
	{
		name: "server killed while a command ends", away: true, start: commandOf("echo go-on; sleep 2; echo ending; " + lastLines + "; exit 58"), shows: []string{"go-on", "ending"}, status: 58,
		end: func(t *testing.T, shown *typist, id string, w *world, agent string) {
			shown.expect("ending")
			w.restart(syscall.SIGKILL, time.Second)
		},
	},
	{
		name: "server killed after a command has ended", away: true, start: commandOf("echo go-on; " + lastLines + "; exit 58"), shows: []string{"go-on"}, status: 58,
		end: func(t *testing.T, shown *typist, id string, w *world, agent string) {
			shown.expect("go-on")
			w.restart(syscall.SIGKILL, time.Second)
		},
	},
	{
		name: "agent stopped", isShell: true, start: shellOf, shows: []string{"before-2-"}, cause: `^the agent was stopped$`, status: 255, outlives: true,
		end: func(t *testing.T, shown *typist, id string, w *world, agent string) {
			shown.expect(prompt)
			shown.types("stty -echo; " + lastLines + "; echo before-$((1+1))-\r")
			shown.expect("before-2-")
			w.stopAgent(agent)
			if agent == stockAgent { // its sessions are other processes, and go on
				shown.types("echo after-$((1+1))-; exit 58\r")
				shown.expect("after-2-")
			}
		},
	},
}

// TestInteropEnds ends sessions in every way, with every agent and client. What the
// client showed, what the history says and what the recording has are the same.
func TestInteropEnds(t *testing.T) {
	w, agents, clients := everything(t)
	for agent, node := range agents {
		for name, c := range clients {
			for _, e := range endings {
				t.Run(agent+" with "+name+"/"+e.name, func(t *testing.T) {
					w.online(agent)
					ends(t, w, e, agent, node, c)
				})
			}
		}
	}
}

func ends(t *testing.T, w *world, e ending, agent, node string, c client) {
	before := w.sessions(t)
	shown := open(t, e.start(c, node))
	var id string
	w.eventually("there is a session", func() bool {
		for s := range w.sessions(t) {
			if _, old := before[s]; !old {
				id = s
			}
		}
		return id != ""
	})
	if e.end != nil {
		e.end(t, shown, id, w, agent)
	}
	began := time.Now()
	shown.within = 3 * time.Minute
	if err := shown.screen.expect(`never shown`); !strings.Contains(err.Error(), "closed") {
		t.Error("the client did not end")
	}
	ended := make(chan error, 1)
	go func() { ended <- shown.c.Wait() }()
	select {
	case <-ended:
	case <-time.After(3 * time.Minute):
		t.Error("the client did not end")
	}
	took := time.Since(began)
	all := string(shown.all)
	var h history
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(5 * time.Minute); h.Status != "Terminated" && h.Status != "Failed"; h = w.sessions(t)[id] {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("the history has it as %+v; shown is %q", h, tail(all))
		}
	}
	lost := agent == stockAgent && e.away && h.Details != ""
	switch {
	case lost:
		e.cause, e.status = `^The connection to mi-[0-9a-f]+ was lost and did not come back in 1m30s\.$`, 255
	case agent == stockAgent && e.outlives:
		e.cause = ""
	}
	if h.Status != "Terminated" || e.cause == "" && h.Details != "" || !regexp.MustCompile(e.cause).MatchString(h.Details) {
		t.Errorf("the history has it as %+v, want the cause %q", h, e.cause)
	}

	// The client: its last lines, then how it ended, then nothing.
	n, at := lines(t, "shown", all, isStock(c))
	if n != 300 && !lost {
		t.Errorf("shown are %d lines of 300: %q", n, tail(all))
	}
	for _, what := range e.shows {
		if !strings.Contains(all, what) {
			t.Errorf("it does not show %s: %q", what, tail(all))
		}
	}
	t.Logf("the client ended after %v, and it was in the history after %v", took.Round(100*time.Millisecond), time.Since(began).Round(100*time.Millisecond))
	_, isOurs := c.(ours)
	unsaid := agent == stockAgent && e.isShell && h.Details == "" // the agent does not tell a shell's status
	want := "\r\n\r\nExiting session with sessionId: " + id + ".\r\n\r\n"
	switch {
	case isOurs && unsaid:
		want = "sallyport: the session ended; this node's agent does not say with which status\r\n"
	case isOurs && h.Details == "":
		want = ""
	case isOurs:
		want = "sallyport: session " + id + " ended: " + h.Details + "\r\n"
	case h.Details != "":
		want = "\r\n\r\nSessionId: " + id + " : " + h.Details + "\r\n\r\n"
	}
	if !strings.HasSuffix(all[at:], want) {
		t.Errorf("it shows %q at its end, want %q", tail(all), want)
	}
	status := e.status
	if !isOurs || unsaid {
		status = 0
	}
	if got := shown.c.ProcessState.ExitCode(); got != status {
		t.Errorf("its exit status is %d, want %d", got, status)
	}
	if !isOurs && !e.isShell && !lost && !strings.Contains(all[at:], "EXIT_CODE: "+strconv.Itoa(e.status)) {
		t.Errorf("it does not show the command's status: %q", tail(all))
	}

	recording := w.recording(t, id)
	if recorded, _ := lines(t, "recorded", recording, false); recorded != n {
		t.Errorf("recorded are %d lines, and shown %d: %q", recorded, n, tail(recording))
	}
}

// lines checks that the last lines are in order, from the first on, and each once
// unless they may be repeated. It returns how many they are, and the offset after
// them.
func lines(t *testing.T, what, all string, repeated bool) (n, at int) {
	t.Helper()
	for _, m := range regexp.MustCompile(`last-(\d+)-`).FindAllStringSubmatchIndex(all, -1) {
		line, err := strconv.Atoi(all[m[2]:m[3]])
		switch {
		case err == nil && line == n+1:
			n, at = line, m[1]
		case err == nil && line <= n && repeated: // a stock plugin shows again what it could not acknowledge
		default:
			t.Fatalf("%s is line %d where line %d should be", what, line, n+1)
		}
	}
	return n, at
}

func tail(s string) string { return s[max(0, len(s)-220):] }

// A history is what describe-sessions says of a session.
type history struct{ SessionId, Status, Details string }

// sessions are all that are on or in the history.
func (w *world) sessions(t *testing.T) map[string]history {
	t.Helper()
	all := map[string]history{}
	for _, state := range []string{"Active", "History"} {
		c := exec.Command("aws", "ssm", "describe-sessions", "--state", state, "--endpoint-url", w.endpoint)
		c.Env = w.env
		out, err := c.Output()
		if err != nil {
			t.Fatalf("describe-sessions: %s, %v", out, err)
		}
		var list struct{ Sessions []history }
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatal(err)
		}
		for _, s := range list.Sessions {
			all[s.SessionId] = s
		}
	}
	return all
}

// recording is the text that a session's recording has.
func (w *world) recording(t *testing.T, id string) string {
	t.Helper()
	var name string
	w.eventually("there is a recording of "+id, func() bool {
		filepath.WalkDir(filepath.Join(w.state, "sessions"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.Contains(path, id) && strings.HasSuffix(path, ".cast") {
				name = path
			}
			return nil
		})
		return name != ""
	})
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range bytes.Lines(b) {
		var event []any
		if json.Unmarshal(line, &event) == nil && len(event) == 3 {
			fmt.Fprint(&text, event[2])
		}
	}
	return text.String()
}
