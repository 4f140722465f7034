package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/agentcmd"
	"github.com/sallyport/sallyport/internal/need"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/servertest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sallyport": main, "session-manager-plugin": plugin,
		agent.FileServer: agentcmd.ServeFiles, // the agent runs itself under this name
	})
}

// heed has the programs that tests start not ignore signals, as they would if this
// process was started with nohup, or in the background by a script: a shell never
// heeds what it was started ignoring. What this process heeds does not change: it
// drops them.
func heed(signals ...os.Signal) {
	for _, s := range signals {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
}

// Every promise we make at the command line is a script in testdata/script. Run
// one with: go test ./cmd/sallyport -run Script/first
func TestScript(t *testing.T) {
	heed(syscall.SIGHUP, os.Interrupt)
	need.PartlyProgram(t, "aws", "awscli")
	need.PartlyProgram(t, "curl", "curl")
	namespace := exec.Command("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt").Run() == nil
	if !namespace && runtime.GOOS == "linux" {
		need.Partly(t, "there is no user namespace: install Debian's package util-linux, and run it where the kernel allows them")
	}
	before := exec.Command("git", "cat-file", "-e", yesterday+"^{commit}").Run() == nil
	if !before {
		need.Partly(t, "the repository does not have the commit "+yesterday+", which is upgraded from: fetch its whole history")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(5 * time.Minute), // a script that hangs says where
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_STATE_HOME", e.WorkDir+"/state")
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			e.Setenv("SHELL", "/bin/sh")
			e.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			e.Setenv("AWS_PAGER", "")
			return nil
		},
		Condition: func(what string) (bool, error) {
			switch what {
			case "namespace":
				return namespace, nil
			case "yesterday":
				return before, nil
			}
			return false, fmt.Errorf("there is no condition %q", what)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"wait-for": waitFor,
			"use-env":  useEnv,
			"keep":     keep,

			"wait-for-file": waitForFile,
			"wait-for-part": waitForPart,
			"counts":        counts,
			"here":          here,
			"program":       program,
			"yesterday":     buildYesterday,
			"serve":         serve,
			"forward":       forward,
			"fetch":         fetch,
			"cable":         cable,
			"cut":           cut,
			"copies":        copies,
			"ask":           ask,
			"json-lines":    jsonLines,
		},
	})
}

// patience is how long a script waits for something to come about.
const patience = 60 * time.Second

// waitFor waits until a command's output matches: wait-for 'Online' exec aws …
// With server and a directory it waits for that server.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: wait-for server directory | wait-for pattern program arguments…")
	}
	deadline := time.Now().Add(patience)
	for {
		var last string
		if args[0] == "server" {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := server.Admit(ctx, ts.MkAbs(args[1]))
			cancel()
			if err == nil {
				return
			}
			last = err.Error()
		} else {
			err := ts.Exec(args[1], args[2:]...)
			last = ts.ReadFile("stdout")
			if err == nil && regexp.MustCompile(args[0]).MatchString(last) {
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("it never came about: %s; last seen: %s", strings.Join(args, " "), last)
		}
		pause := time.NewTimer(50 * time.Millisecond)
		<-pause.C
	}
}

// waitForFile waits until a file is there: wait-for-file path
func waitForFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: wait-for-file path")
	}
	for deadline := time.Now().Add(patience); ; {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never came about", args[0])
		}
		pause := time.NewTimer(20 * time.Millisecond)
		<-pause.C
	}
}

// waitForPart waits until cp has written some of a file into a directory, beside its
// place: wait-for-part directory
func waitForPart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: wait-for-part directory")
	}
	for deadline := time.Now().Add(patience); ; {
		parts, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), ".*.sallyport-*"))
		ts.Check(err)
		for _, part := range parts {
			if info, err := os.Stat(part); err == nil && info.Size() > 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no part of a file ever came into %s", args[0])
		}
		pause := time.NewTimer(20 * time.Millisecond)
		<-pause.C
	}
}

// here writes the script's directory into a file, where it says @WORK@: a shell
// in a session has none of the script's environment. here file
func here(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: here file")
	}
	text := strings.ReplaceAll(ts.ReadFile(args[0]), "@WORK@", ts.Getenv("WORK"))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// program copies sallyport to where the script may replace it: program path
func program(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: program path")
	}
	path, err := exec.LookPath("sallyport")
	ts.Check(err)
	b, err := os.ReadFile(path)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o700))
}

// yesterday is the last commit whose ends and server do not send the end of a
// session in its stream.
const yesterday = "8f369e7"

// buildYesterday builds the program of before: yesterday path
func buildYesterday(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: yesterday path")
	}
	src := ts.MkAbs("src-of-yesterday")
	ts.Check(os.Mkdir(src, 0o700))
	archive := exec.Command("git", "archive", yesterday)
	archive.Dir = "../.." // the whole of it
	unpack := exec.Command("tar", "-x", "-C", src)
	var err error
	unpack.Stdin, err = archive.StdoutPipe()
	ts.Check(err)
	ts.Check(unpack.Start())
	ts.Check(archive.Run())
	ts.Check(unpack.Wait())
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", ts.MkAbs(args[0]), "./cmd/sallyport")
	build.Dir = src
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		ts.Fatalf("build the program of %s: %v\n%s", yesterday, err, out)
	}
}

// counts checks that a file has line-N- for every N from a first to a last, in
// order, and each once: counts file 1 3000
func counts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: counts file first last")
	}
	next, err := strconv.Atoi(args[1])
	ts.Check(err)
	last, err := strconv.Atoi(args[2])
	ts.Check(err)
	for _, m := range regexp.MustCompile(`line-(\d+)-`).FindAllStringSubmatch(ts.ReadFile(args[0]), -1) {
		if m[1] != strconv.Itoa(next) {
			ts.Fatalf("line-%s- where line-%d- should be", m[1], next)
		}
		next++
	}
	if next != last+1 {
		ts.Fatalf("the last line is %d, want %d", next-1, last)
	}
}

var export = regexp.MustCompile(`^export ([A-Z_]+)='([^']*)'$`)

// useEnv has the rest of the script use the variables that a file, sallyport
// env's output, exports.
func useEnv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: use-env file")
	}
	set := 0
	for lines := bufio.NewScanner(strings.NewReader(ts.ReadFile(args[0]))); lines.Scan(); {
		if m := export.FindStringSubmatch(lines.Text()); m != nil {
			ts.Setenv(m[1], m[2])
			set++
		}
	}
	if set == 0 {
		ts.Fatalf("%s exports nothing", args[0])
	}
}

// keep sets a variable to what a pattern's group matches in a file:
// keep NODE stdout '(mi-[0-9a-f]+)'
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: keep VARIABLE file pattern")
	}
	m := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(m) != 2 {
		ts.Fatalf("%s does not match %s: %s", args[1], args[2], ts.ReadFile(args[1]))
	}
	ts.Setenv(args[0], m[1])
}

// serve sends the content of a file to each client that connects to a port, until
// the script is over: serve file VARIABLE
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: serve file VARIABLE")
	}
	text := ts.ReadFile(args[0])
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, text)
			conn.Close()
		}
	}()
	ts.Setenv(args[1], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// forward runs sallyport connect -N for a port, or a host and a port, until the
// script is over, and sets a variable to the local port:
// forward VARIABLE node [host:]port
func forward(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: forward VARIABLE node [host:]port")
	}
	path, err := exec.LookPath("sallyport")
	ts.Check(err)
	c := exec.Command(path, "connect", "-N", "-L", "0:"+args[2], args[1])
	for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "HOME", "PATH"} {
		c.Env = append(c.Env, name+"="+ts.Getenv(name))
	}
	said, err := c.StderrPipe()
	ts.Check(err)
	ts.Check(c.Start())
	ts.Defer(func() {
		c.Process.Signal(os.Interrupt)
		time.AfterFunc(10*time.Second, func() { c.Process.Kill() })
		c.Wait()
	})
	late := time.AfterFunc(patience, func() { c.Process.Kill() }) // which ends the scan
	defer late.Stop()
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if m := regexp.MustCompile(`127\.0\.0\.1:(\d+) to `).FindStringSubmatch(lines.Text()); m != nil {
			ts.Setenv(args[0], m[1])
			go io.Copy(io.Discard, said)
			return
		}
		ts.Logf("%s", lines.Text())
	}
	ts.Fatalf("nothing was forwarded")
}

// cables are those of scripts that are running, by address.
var cables sync.Map

// cable makes a network that can be cut, and an address for a server to listen
// on at its other end: cable ADDRESS LISTEN
func cable(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cable ADDRESS LISTEN")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	l.Close() // the system gives the port to no other program so soon
	c, err := servertest.NewCable()
	ts.Check(err)
	ts.Defer(c.Close)
	c.Lead(l.Addr().String())
	cables.Store(c.Addr(), c)
	ts.Setenv(args[0], c.Addr())
	ts.Setenv(args[1], l.Addr().String())
}

// cut cuts a cable for two seconds: cut address
func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: cut address")
	}
	c, ok := cables.Load(args[0])
	if !ok {
		ts.Fatalf("there is no cable at %s", args[0])
	}
	c.(*servertest.Cable).Cut(context.Background(), 2*time.Second)
}

// copies has a port of a node say numbers for a few seconds, does harm twice
// while they are copied through a forwarded port, and checks that each came
// once and in its turn: copies node cut cable | copies node kill file, where the
// file has the number of a process that is killed with -9.
func copies(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: copies node cut cable | copies node kill file")
	}
	harm := func() { cut(ts, false, args[2:]) }
	if args[1] == "kill" {
		// Left behind, it would keep the script's output open, and be waited for.
		ts.Defer(func() {
			b, err := os.ReadFile(ts.MkAbs(args[2]))
			if pid, perr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && perr == nil {
				if p, err := os.FindProcess(pid); err == nil {
					p.Kill()
				}
			}
		})
		harm = func() {
			pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[2])))
			ts.Check(err)
			p, err := os.FindProcess(pid)
			ts.Check(err)
			ts.Check(p.Kill())
		}
	}
	const last, atOnce = 4 << 20, 8 << 10 // 32 MiB
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		pace := time.NewTicker(10 * time.Millisecond) // so that there is something to harm
		defer pace.Stop()
		var b []byte
		for n := range uint64(last) {
			if b = binary.BigEndian.AppendUint64(b, n); len(b) < 8*atOnce {
				continue
			}
			if _, err := conn.Write(b); err != nil {
				return
			}
			b = b[:0]
			<-pace.C
		}
		conn.Write(b)
	}()
	forward(ts, false, []string{"COPIED", args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port)})
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+ts.Getenv("COPIED"), patience)
	ts.Check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	from := bufio.NewReader(conn)
	var b [8]byte
	var harming sync.WaitGroup
	defer harming.Wait()
	for want := range uint64(last) {
		if _, err := io.ReadFull(from, b[:]); err != nil {
			ts.Fatalf("after %d numbers of %d: %v", want, last, err)
		}
		if got := binary.BigEndian.Uint64(b[:]); got != want {
			ts.Fatalf("%d is where %d should be", got, want)
		}
		if want == last/4 || want == last/2 {
			harming.Go(harm)
		}
	}
	if n, err := from.Read(b[:]); err != io.EOF {
		ts.Fatalf("%d bytes more, %v", n, err)
	}
}

// ask prints the status and the answer of a URL, which may be asked on a socket
// instead: ask [socket] URL
func ask(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: ask [socket] URL")
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if len(args) == 2 {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", ts.MkAbs(args[0]))
		}
	} else {
		ca, err := os.ReadFile(ts.Getenv("AWS_CA_BUNDLE"))
		ts.Check(err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	resp, err := (&http.Client{Transport: transport, Timeout: patience}).Get(args[len(args)-1])
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s", resp.StatusCode, b)
}

// jsonLines checks that every line of a file is an object of JSON, with a time and
// a level, and that one of them has a message: json-lines file message
func jsonLines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: json-lines file message")
	}
	found := false
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		var entry struct {
			Time  time.Time
			Level slog.Level
			Msg   string
		}
		if strings.HasPrefix(line, "sallyport: ") {
			continue // what a person is told
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time.IsZero() {
			ts.Fatalf("%s: %v", line, err)
		}
		found = found || entry.Msg == args[1]
	}
	if !found {
		ts.Fatalf("%s never says %q", args[0], args[1])
	}
}

// fetch checks that a local port says what is in a file: fetch port file
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fetch port file")
	}
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+args[0], patience)
	ts.Check(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(conn)
	ts.Check(err)
	if string(got) != ts.ReadFile(args[1]) {
		ts.Fatalf("the port says %q", got)
	}
}
