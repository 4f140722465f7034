//go:build unix

package pty

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sh starts a shell script on a terminal.
func sh(t *testing.T, script string, with ...func(*Command)) *Terminal {
	t.Helper()
	c := Command{
		Path: "/bin/sh", Args: []string{"sh", "-c", script},
		Env: []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}, Dir: t.TempDir(), Cols: 120, Rows: 40,
	}
	for _, f := range with {
		f(&c)
	}
	term, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(term.Close)
	return term
}

// await reads until the output so far contains want.
func await(t *testing.T, term *Terminal, want string) string {
	t.Helper()
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), want) {
		n, err := term.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("read: %v before %q came; so far %q", err, want, got.String())
		}
	}
	return got.String()
}

// rest reads to the end.
func rest(t *testing.T, term *Terminal) string {
	t.Helper()
	b, err := io.ReadAll(term)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestExitStatus(t *testing.T) {
	tests := []struct {
		name, script string
		want         int
	}{
		{"success", "exit 0", 0},
		{"failure", "exit 3", 3},
		{"killed by a signal", "kill -KILL $$", 128 + 9},
		{"stopped by an interrupt", "kill -INT $$", 128 + 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			term := sh(t, tt.script)
			rest(t, term)
			if got := term.Wait(); got != tt.want {
				t.Errorf("Wait = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	_, err := Start(Command{Path: "/nonexistent/shell", Args: []string{"-shell"}, Dir: "/"})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent/shell") {
		t.Errorf("err = %v", err)
	}
}

func TestSize(t *testing.T) {
	term := sh(t, "stty size; read x; stty size")
	if got := await(t, term, "\n"); got != "40 120\r\n" {
		t.Errorf("at the start the size is %q", got)
	}
	if err := term.Resize(33, 11); err != nil {
		t.Fatal(err)
	}
	io.WriteString(term, "\n")
	if got := rest(t, term); !strings.Contains(got, "11 33\r\n") {
		t.Errorf("after Resize: %q", got)
	}

	if got := rest(t, sh(t, "stty size", func(c *Command) { c.Cols, c.Rows = 0, 0 })); got != "24 80\r\n" {
		t.Errorf("by default: %q", got)
	}
}

func TestTheProgramHearsOfAResize(t *testing.T) {
	term := sh(t, `trap 'stty size; exit' WINCH; echo ready; while :; do read x; done`)
	await(t, term, "ready")
	if err := term.Resize(77, 22); err != nil {
		t.Fatal(err)
	}
	await(t, term, "22 77")
}

func TestEnvironmentIsAllThatWasGiven(t *testing.T) {
	t.Setenv("PTY_TEST_OURS", "leaked")
	for _, env := range [][]string{nil, {"A=b"}} {
		got := rest(t, sh(t, "/usr/bin/env", func(c *Command) { c.Env = env }))
		if strings.Contains(got, "leaked") {
			t.Errorf("with Env %q the program saw ours", env)
		}
	}
}

func TestItIsATerminal(t *testing.T) {
	for _, test := range []string{"test -t 0", "test -t 1", "test -t 2", ": </dev/tty", "stty -a | grep -q '[^-]iutf8'"} {
		term := sh(t, test)
		if out, status := rest(t, term), term.Wait(); status != 0 {
			t.Errorf("%s: %d %q", test, status, out)
		}
	}
}

func TestControlC(t *testing.T) {
	// The shell itself ignores it: what is in front must get it.
	term := sh(t, `trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.01; done`)
	await(t, term, "ready")
	io.WriteString(term, "\x03")
	await(t, term, "interrupted")
	rest(t, term)
	if got := term.Wait(); got != 7 {
		t.Errorf("Wait = %d", got)
	}
}

// A program that does not read can be interrupted though the terminal is full
// of what it has not read.
func TestInterruptPassesWhatIsStuck(t *testing.T) {
	term := sh(t, `trap 'echo interrupted' INT; echo ready; sleep 600; read x; echo "[$x]"`)
	await(t, term, "ready")
	wrote := make(chan error, 1)
	go func() {
		for {
			if _, err := io.WriteString(term, "pasted text that nobody reads\n"); err != nil {
				wrote <- err
				return
			}
		}
	}()
	// It has to be stuck first, and not because its echo is not read.
	for n, buf := 0, make([]byte, 4096); n < 2048; {
		m, err := term.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	within(t, 10*time.Second, "a full terminal", func() bool { return full(term) })
	if !term.Interrupt() {
		t.Fatal("refused")
	}
	if err := <-wrote; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the Write that waited: err = %v", err)
	}
	await(t, term, "interrupted")
	io.WriteString(term, "\x15after\n") // ^U: what was left of a line
	await(t, term, "[after]")

	raw := sh(t, `stty raw; echo ready; read x`)
	await(t, raw, "ready")
	if raw.Interrupt() {
		t.Error("a program that takes the character for text was interrupted")
	}
}

// full reports whether the terminal takes no more.
func full(term *Terminal) (full bool) {
	control(term.master.File, func(fd int) error {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p, 50)
		full = n == 0 && err == nil
		return err
	})
	return full
}

func TestUTF8(t *testing.T) {
	// The second é is erased whole, by one backspace.
	term := sh(t, `echo ready; read x; echo "[$x]"`)
	await(t, term, "ready\r\n")
	io.WriteString(term, "naïve 日本 éé\x7f\n")
	await(t, term, "[naïve 日本 é]")
}

func TestMegabytes(t *testing.T) {
	const lines = 200_000
	term := sh(t, fmt.Sprintf(`stty -opost; i=0; seq 1 %d; echo end`, lines))
	var want bytes.Buffer
	for i := range lines {
		fmt.Fprintln(&want, i+1)
	}
	want.WriteString("end\n")
	if got := rest(t, term); got != want.String() {
		t.Errorf("%d bytes came, want %d", len(got), want.Len())
	}
}

// Pasted text arrives whole, though the program takes its time.
func TestMegabytesIn(t *testing.T) {
	const size = 2 << 20
	term := sh(t, fmt.Sprintf(`stty raw -echo; printf ready; head -c %d | cksum`, size))
	await(t, term, "ready")
	line := []byte("0123456789abcdef")
	go io.Copy(term, io.LimitReader(&repeat{line: line}, size))
	want := rest(t, sh(t, fmt.Sprintf(`yes 0123456789abcdef | tr -d '\n' | head -c %d | cksum`, size)))
	if got := rest(t, term); strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("checksum %q, want %q", got, want)
	}
}

type repeat struct {
	line []byte
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.line[r.at%len(r.line)]
		r.at++
	}
	return len(p), nil
}

// alive reports whether a process runs: zombies do not.
func alive(pid int) bool {
	if runtime.GOOS == "linux" {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && !bytes.Contains(stat, []byte(") Z "))
	}
	return syscall.Kill(pid, 0) == nil
}

func number(t *testing.T, out, label string) int {
	t.Helper()
	_, after, ok := strings.Cut(out, label+"=")
	digits, _, _ := strings.Cut(after, "\r")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		t.Fatalf("no %s in %q", label, out)
	}
	return n
}

// within waits for what is bound to happen, and complains if it does not.
func within(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	tests := []struct {
		name, script string
		patient      bool // whether it takes the whole of grace
	}{
		{"a program that waits", `echo leader=$$; echo child=$$; echo ready; read x`, false},
		{"a program that does not want to", `trap '' HUP TERM INT; echo leader=$$; echo child=$$; echo ready; while :; do sleep 0.05; done`, true},
		{"what it started", `echo leader=$$; sleep 600 & echo child=$!; echo ready; wait`, false},
		{"what it started, that ignores a hang-up", `echo leader=$$; (trap '' HUP; sleep 600) & echo child=$!; echo ready; wait`, true},
		{"a job in a group of its own", `set -m; echo leader=$$; sleep 600 & echo child=$!; echo ready; wait`, false},
		{"one that was stopped", `set -m; echo leader=$$; sleep 600 & echo child=$!; kill -STOP $!; echo ready; read x`, false},
		{"one that writes without end", `echo leader=$$; echo child=$$; echo ready; yes`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			term := sh(t, tt.script)
			out := await(t, term, "ready")
			leader, child := number(t, out, "leader"), number(t, out, "child")
			start := time.Now()
			term.Close()
			if alive(leader) {
				t.Error("the program outlived Close")
			}
			if d := time.Since(start); !tt.patient && d > grace*9/10 {
				t.Errorf("Close took %v", d)
			}
			within(t, 5*time.Second, "end of what it started", func() bool { return !alive(child) })
			if term.Wait() < 128 && !tt.patient {
				t.Errorf("status %d, want that of a signal", term.Wait())
			}
			term.Close()
		})
	}
}

// An exit is reported although something in the background holds on to the
// terminal, and nothing the program wrote is lost.
func TestBackgroundJobsDoNotHoldUpTheEnd(t *testing.T) {
	tests := []struct{ name, script string }{
		{"a job that sleeps", `set -m; sleep 600 & echo child=$!; echo last words; exit 5`},
		{"a job that never stops talking", `set -m; yes & echo child=$!; echo last words; exit 5`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			term := sh(t, tt.script)
			start := time.Now()
			out := rest(t, term)
			if !strings.Contains(out, "last words") {
				t.Errorf("output %.200q", out)
			}
			if got := term.Wait(); got != 5 {
				t.Errorf("Wait = %d", got)
			}
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("it took %v", d)
			}
			term.Close()
			// It was left running on purpose, as ssh would.
			syscall.Kill(number(t, out, "child"), syscall.SIGKILL)
		})
	}
}

// What came before the end is read after it, by a reader that is late.
func TestLateReader(t *testing.T) {
	term := sh(t, `stty -opost; seq 1 500; exit 4`)
	term.Wait()
	if got := strings.Count(rest(t, term), "\n"); got != 500 {
		t.Errorf("%d lines, want 500", got)
	}
}

func TestCloseReleasesReadAndWrite(t *testing.T) {
	term := sh(t, `stty raw -echo; echo ready; exec sleep 600`)
	await(t, term, "ready")
	done := make(chan error, 2)
	go func() {
		_, err := io.ReadAll(term)
		done <- err
	}()
	go func() {
		_, err := io.Copy(term, &repeat{line: []byte("nobody reads this")})
		if err != nil {
			err = nil // as it must
		}
		done <- err
	}()
	term.Close()
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("still waiting after Close")
		}
	}
	if err := term.Resize(1, 1); err == nil {
		t.Error("Resize succeeded after Close")
	}
}

func TestLookupUser(t *testing.T) {
	ctx := t.Context()
	root, err := LookupUser(ctx, "root")
	if err != nil || root.UID != 0 || root.Home == "" || root.Shell == "" {
		t.Errorf("root is %+v, %v", root, err)
	}
	if byNumber, err := LookupUser(ctx, "0"); err != nil || byNumber != root {
		t.Errorf("0 is %+v, %v", byNumber, err)
	}
	if _, err := LookupUser(ctx, "nobody-by-this-name"); !errors.Is(err, ErrNoUser) {
		t.Errorf("a name nobody has: err = %v", err)
	}
	for _, bad := range []string{"", "-x", "a b", "a;b", "$(id)", "a\nb", "a:b", "/etc", "root\x00"} {
		if _, err := LookupUser(ctx, bad); err == nil || errors.Is(err, ErrNoUser) {
			t.Errorf("%q was asked about: %v", bad, err)
		}
	}
	me, err := CurrentUser(ctx)
	if err != nil || me.UID != os.Getuid() {
		t.Errorf("CurrentUser = %+v, %v", me, err)
	}
	if path, args := (User{Shell: "/bin/bash"}).LoginShell(); path != "/bin/bash" || args[0] != "-bash" {
		t.Errorf("LoginShell = %s %v", path, args)
	}
}

func TestParseUser(t *testing.T) {
	tests := []struct {
		name, line string
		want       User
	}{
		{"seven fields", "ann:x:1000:1001:Ann,,,:/home/ann:/bin/zsh\n", User{"ann", 1000, 1001, "/home/ann", "/bin/zsh"}},
		{"ten fields", "ann:*:501:20::0:0:Ann:/Users/ann:/bin/zsh", User{"ann", 501, 20, "/Users/ann", "/bin/zsh"}},
		{"no shell is sh", "ann:x:1000:1001:::", User{"ann", 1000, 1001, "/", "/bin/sh"}},
		{"too few", "ann:x:1000", User{}},
		{"no number", "ann:x:a:1:::", User{}},
		{"nobody", ":x:1:1:::", User{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseUser(tt.line)
			if got != tt.want || (err == nil) != (tt.want != User{}) {
				t.Errorf("parseUser = %+v, %v", got, err)
			}
		})
	}
}

// For every line of the password database the user is whole or there is none.
func FuzzParseUser(f *testing.F) {
	f.Add("ann:x:1000:1001:Ann:/home/ann:/bin/zsh\n")
	f.Add("a:*:501:20::0:0:A:/Users/a:/bin/zsh")
	f.Fuzz(func(t *testing.T, line string) {
		u, err := parseUser(line)
		if err == nil && (u.Name == "" || u.UID < 0 || u.Home == "" || u.Shell == "") {
			t.Fatalf("%+v", u)
		}
	})
}

func TestCanceledLookup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if u, err := LookupUser(ctx, "root"); err == nil && u.UID != 0 {
		t.Errorf("%+v", u)
	}
}
