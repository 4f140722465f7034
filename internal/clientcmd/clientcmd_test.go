package clientcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const session = "alice-0c4f1e9ab27d3355e"

// A plane answers API calls from a table, and shows what its node says.
type plane struct {
	url     string
	answers map[string]string // by operation; an answer with __type is a refusal
	shown   string            // by the node
	closed  wire.ChannelClosed
	typed   chan string // all of it, once it ends in Ctrl-D

	plays map[string]func(*end) // by document: what the node does instead

	mu    sync.Mutex
	asked map[string]string // the last body, by operation
	count map[string]int    // of calls, by operation
}

// body returns the last body of an operation.
func (p *plane) body(op string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[op]
}

func start(t *testing.T) *plane {
	p := &plane{
		answers: map[string]string{}, asked: map[string]string{}, count: map[string]int{}, typed: make(chan string, 1),
		plays: map[string]func(*end){},
	}
	s := httptest.NewTLSServer(p)
	t.Cleanup(s.Close)
	p.url = "wss" + strings.TrimPrefix(s.URL, "https") + "/v1/data-channel/"
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": s.URL, "AWS_REGION": "home-1", "AWS_CA_BUNDLE": bundle,
		"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(k, v)
	}
	for _, k := range []string{"AWS_PROFILE", "AWS_ENDPOINT_URL_SSM", "AWS_SESSION_TOKEN"} {
		t.Setenv(k, "")
		os.Unsetenv(k)
	}
	p.answers["StartSession"] = fmt.Sprintf(`{"SessionId":%q,"TokenValue":"t","StreamUrl":%q}`, session, p.url+"x")
	return p
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		p.node(w, r)
		return
	}
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSSM.")
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	p.asked[op] = string(body)
	p.count[op]++
	p.mu.Unlock()
	var in client.StartSession
	if json.Unmarshal(body, &in); op == "StartSession" && p.plays[in.DocumentName] != nil {
		fmt.Fprintf(w, `{"SessionId":%q,"TokenValue":"t","StreamUrl":%q}`, session, p.url+in.DocumentName)
		return
	}
	if strings.Contains(p.answers[op], "__type") {
		w.WriteHeader(http.StatusBadRequest)
	}
	io.WriteString(w, p.answers[op])
}

// node shows what it has to show, reads what is typed, and ends.
func (p *plane) node(w http.ResponseWriter, r *http.Request) {
	conn, err := socket.Accept(w, r)
	if err != nil {
		return
	}
	defer conn.Drop()
	if _, err := conn.ReadText(r.Context()); err != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &datachannel.Stream{Sends: wire.TypeOutputStreamData}
	ran := make(chan struct{})
	go func() { defer close(ran); defer cancel(); s.Run(ctx, conn) }()
	defer func() { cancel(); <-ran }()
	if play := p.plays[path.Base(r.URL.Path)]; play != nil {
		e := &end{Stream: s, conn: conn, ctx: ctx}
		play(e)
		e.close(wire.ChannelClosed{})
		<-ran
		return
	}
	s.Send(ctx, wire.KindOutput, []byte(p.shown))
	var typed []byte
	for !bytes.HasSuffix(typed, []byte{4}) {
		m, err := s.Receive(ctx)
		if err != nil {
			return
		}
		if m.Kind == wire.KindOutput {
			typed = append(typed, m.Payload...)
		}
	}
	p.typed <- string(typed)
	s.Flush(ctx)
	b, _ := p.closed.Frame(time.Now()).AppendBinary(nil)
	conn.WriteFrame(ctx, b)
	<-ran
}

// run runs a command as the program would.
func run(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	for _, c := range Commands() {
		if c.Name() != args[0] {
			continue
		}
		var out, errOut buffer
		c.SetArgs(args[1:])
		c.SetIn(strings.NewReader(stdin))
		c.SetOut(&out)
		c.SetErr(&errOut)
		err := c.ExecuteContext(t.Context())
		return out.String(), errOut.String(), err
	}
	t.Fatalf("there is no command %q", args[0])
	return "", "", nil
}

// A buffer is written by several at once, as a terminal is.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

const nodes = `{"InstanceInformationList":[
 {"InstanceId":"mi-00000000000000001","Name":"web","ComputerName":"web1.example.com","PlatformType":"Linux","PlatformName":"Debian GNU/Linux","PlatformVersion":"13","AgentVersion":"3.3.40.0","PingStatus":"Online","LastPingDateTime":1,"IPAddress":"192.0.2.1"},
 {"InstanceId":"mi-00000000000000002","Name":"db","ComputerName":"db1","PingStatus":"Online"},
 {"InstanceId":"mi-00000000000000003","Name":"db","ComputerName":"db2","PingStatus":"Online"},
 {"InstanceId":"mi-00000000000000004","Name":"old","ComputerName":"a","PingStatus":"ConnectionLost"},
 {"InstanceId":"mi-00000000000000005","Name":"old","ComputerName":"b","PingStatus":"Online"},
 {"InstanceId":"mi-00000000000000006","Name":"db1","ComputerName":"evil\u001b[2J","PingStatus":"ConnectionLost"}]}`

func TestConnect(t *testing.T) {
	seven := 7
	tests := []struct {
		name   string
		args   []string
		closed wire.ChannelClosed
		target string // StartSession's
		err    error
		stderr string // its last line
	}{
		{"by id", []string{"mi-0123456789abcdef0"}, wire.ChannelClosed{ExitStatus: new(int)}, "mi-0123456789abcdef0", nil, "sallyport: session " + session + " on mi-0123456789abcdef0"},
		{"the exit status is the shell's", []string{"mi-0123456789abcdef0"}, wire.ChannelClosed{ExitStatus: &seven}, "mi-0123456789abcdef0", Exit(7), "on mi-0123456789abcdef0"},
		{"an agent of AWS's does not say", []string{"mi-0123456789abcdef0"}, wire.ChannelClosed{}, "mi-0123456789abcdef0", nil, "does not say with which status"},
		{"the cause acts on a terminal", []string{"mi-0123456789abcdef0"}, wire.ChannelClosed{Output: "\u009b2J\u202eby bob."}, "mi-0123456789abcdef0", Exit(255), "sallyport: session " + session + " ended: ?2J?by bob."},
		{"somebody else ends it", []string{"mi-0123456789abcdef0"}, wire.ChannelClosed{Output: "Terminated by bob."}, "mi-0123456789abcdef0", Exit(255), "sallyport: session " + session + " ended: Terminated by bob."},
		{"by name", []string{"web"}, wire.ChannelClosed{ExitStatus: new(int)}, "mi-00000000000000001", nil, ""},
		{"by the computer's name", []string{"WEB1.example.com"}, wire.ChannelClosed{ExitStatus: new(int)}, "mi-00000000000000001", nil, ""},
		{"by the computer's short name", []string{"web1"}, wire.ChannelClosed{ExitStatus: new(int)}, "mi-00000000000000001", nil, ""},
		{"by a name of which one is online", []string{"old"}, wire.ChannelClosed{}, "", Exit(255), "  mi-00000000000000005  old  b  Online          -"},
		{"by a name that was given, before a computer's", []string{"db1"}, wire.ChannelClosed{ExitStatus: new(int)}, "mi-00000000000000006", nil, ""},
		{"by a name nobody has", []string{"nobody"}, wire.ChannelClosed{}, "", Exit(255), `sallyport: no node is called "nobody"; sallyport nodes lists them`},
		{"by a name that several have", []string{"db"}, wire.ChannelClosed{}, "", Exit(255), "  mi-00000000000000003  db  db2  Online  -"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t)
			p.answers["DescribeInstanceInformation"] = nodes
			p.shown, p.closed = "$ ", tt.closed
			stdout, stderr, err := run(t, "exit\n", append([]string{"connect"}, tt.args...)...)
			if !errors.Is(err, tt.err) {
				t.Errorf("err = %v, want %v", err, tt.err)
			}
			if lines := strings.Split(strings.TrimRight(stderr, "\n"), "\n"); !strings.HasSuffix(lines[len(lines)-1], tt.stderr) {
				t.Errorf("stderr %q", stderr)
			}
			var asked client.StartSession
			json.Unmarshal([]byte(p.body("StartSession")), &asked)
			if asked.Target != tt.target {
				t.Errorf("asked for %q, want %q", asked.Target, tt.target)
			}
			if tt.target == "" {
				return
			}
			if typed := <-p.typed; typed != "exit\n\x04" || stdout != "$ " {
				t.Errorf("typed %q, shown %q", typed, stdout)
			}
		})
	}
}

func TestConnectRefused(t *testing.T) {
	p := start(t)
	p.answers["StartSession"] = `{"__type":"TargetNotConnected","Message":"mi-0123456789abcdef0 is not connected. It was last seen 2 hours ago. Its clock is 31 minutes slow."}`
	stdout, stderr, err := run(t, "", "connect", "mi-0123456789abcdef0")
	if !errors.Is(err, Exit(255)) || stdout != "" || stderr != "sallyport: mi-0123456789abcdef0 is not connected. It was last seen 2 hours ago. Its clock is 31 minutes slow.\n" {
		t.Errorf("err %v, stdout %q, stderr %q", err, stdout, stderr)
	}
}

func TestFlags(t *testing.T) {
	t.Run("are passed on", func(t *testing.T) {
		p := start(t)
		p.closed.ExitStatus = new(int)
		p.shown = "$ "
		if _, stderr, err := run(t, "", "connect", "mi-0123456789abcdef0", "--reason", "ticket 42", "--document", "Mine"); err != nil {
			t.Fatal(err, stderr)
		}
		if got := p.body("StartSession"); got != `{"Target":"mi-0123456789abcdef0","DocumentName":"Mine","Reason":"ticket 42"}` {
			t.Errorf("asked %s", got)
		}
	})
	t.Run("may be in the environment, and give way to the command line", func(t *testing.T) {
		p := start(t)
		p.closed.ExitStatus = new(int)
		p.shown = "$ "
		t.Setenv("SALLYPORT_REASON", "ticket 43")
		t.Setenv("SALLYPORT_DOCUMENT", "Theirs")
		t.Setenv("SALLYPORT_ENDPOINT_URL", os.Getenv("AWS_ENDPOINT_URL"))
		t.Setenv("AWS_ENDPOINT_URL", "https://not.there.example")
		if _, stderr, err := run(t, "", "connect", "mi-0123456789abcdef0", "--document", "Mine"); err != nil {
			t.Fatal(err, stderr)
		}
		if got := p.body("StartSession"); got != `{"Target":"mi-0123456789abcdef0","DocumentName":"Mine","Reason":"ticket 43"}` {
			t.Errorf("asked %s", got)
		}
	})
	t.Run("with a value that is none", func(t *testing.T) {
		start(t)
		t.Setenv("SALLYPORT_LIMIT", "many")
		if _, _, err := run(t, "", "sessions"); err == nil || !strings.Contains(err.Error(), "SALLYPORT_LIMIT") {
			t.Errorf("err = %v", err)
		}
	})
}

func TestNodes(t *testing.T) {
	p := start(t)
	p.answers["DescribeInstanceInformation"] = nodes
	stdout, stderr, err := run(t, "", "nodes")
	if err != nil || stderr != "" {
		t.Fatal(err, stderr)
	}
	lines := strings.Split(stdout, "\n")
	if len(lines) != 8 || strings.Fields(lines[0])[0] != "NODE" {
		t.Fatalf("stdout\n%s", stdout)
	}
	if got := strings.Fields(lines[1]); got[0] != "mi-00000000000000001" || got[len(got)-1] != "192.0.2.1" || !strings.Contains(lines[1], "Debian GNU/Linux 13") || !strings.Contains(lines[1], "d ago") {
		t.Errorf("the first is %q", lines[1])
	}
	if strings.Contains(stdout, "\x1b") {
		t.Error("a node's name acts on the terminal")
	}

	stdout, _, err = run(t, "", "nodes", "--json")
	var list []map[string]any
	if jerr := json.Unmarshal([]byte(stdout), &list); err != nil || jerr != nil || len(list) != 6 {
		t.Fatalf("%s, %v, %v", stdout, err, jerr)
	}
	if list[0]["InstanceId"] != "mi-00000000000000001" || list[0]["LastPingDateTime"] != "1970-01-01T00:00:01Z" || list[1]["LastPingDateTime"] != nil {
		t.Errorf("JSON %s", stdout)
	}

	p.answers["DescribeInstanceInformation"] = `{}`
	if stdout, stderr, err := run(t, "", "nodes"); err != nil || stdout != "" || !strings.HasPrefix(stderr, "sallyport: there are no nodes") {
		t.Errorf("without nodes: %q, %q, %v", stdout, stderr, err)
	}
	if stdout, _, err := run(t, "", "nodes", "--json"); err != nil || stdout != "[]\n" {
		t.Errorf("without nodes: %q, %v", stdout, err)
	}
	p.answers["DescribeInstanceInformation"] = `{"__type":"AccessDeniedException","Message":"You may not."}`
	if _, _, err := run(t, "", "nodes"); err == nil || err.Error() != "list nodes: You may not." {
		t.Errorf("refused: %v", err)
	}
}

func TestSessions(t *testing.T) {
	p := start(t)
	p.answers["DescribeInstanceInformation"] = nodes
	p.answers["DescribeSessions"] = `{"Sessions":[{"SessionId":"` + session + `","Target":"mi-00000000000000001","Status":"Connected","StartDate":1935000000.123,"Owner":"arn:aws:iam::1:user/alice","Reason":"ticket 42"}]}`
	stdout, stderr, err := run(t, "", "sessions", "--node", "web", "--owner", "arn:aws:iam::1:user/alice")
	if err != nil || stderr != "" || !strings.HasPrefix(stdout, "SESSION ") || !strings.Contains(stdout, session+"  mi-00000000000000001  Connected  arn:aws:iam::1:user/alice  ") || !strings.HasSuffix(stdout, "  ticket 42\n") {
		t.Errorf("%q, %q, %v", stdout, stderr, err)
	}
	if got := p.body("DescribeSessions"); got != `{"State":"Active","MaxResults":100,"Filters":[{"key":"Target","value":"mi-00000000000000001"},{"key":"Owner","value":"arn:aws:iam::1:user/alice"}]}` {
		t.Errorf("asked %s", got)
	}

	p.answers["DescribeSessions"] = strings.TrimSuffix(p.answers["DescribeSessions"], "}") + `,"NextToken":"n"}`
	stdout, stderr, err = run(t, "", "sessions", "--history", "--limit", "1")
	if err != nil || stderr != "sallyport: there are more; --limit 0 lists all\n" || !strings.Contains(stdout, "ENDED") {
		t.Errorf("%q, %q, %v", stdout, stderr, err)
	}
	if got := p.body("DescribeSessions"); got != `{"State":"History","MaxResults":1}` {
		t.Errorf("asked %s", got)
	}

	stdout, _, err = run(t, "", "sessions", "--json", "--limit", "1")
	var list []map[string]any
	if jerr := json.Unmarshal([]byte(stdout), &list); err != nil || jerr != nil || len(list) != 1 || list[0]["SessionId"] != session || list[0]["EndDate"] != nil {
		t.Errorf("%s, %v, %v", stdout, err, jerr)
	}

	p.answers["DescribeSessions"] = `{"Sessions":[{"SessionId":"` + session + `","Target":"mi-00000000000000001","Status":"Terminated","Reason":"txt.\u202eexe\u009b31m","Details":"a\tb\nc"}]}`
	if stdout, _, err := run(t, "", "sessions", "--history"); err != nil || !strings.Contains(stdout, "  txt.?exe?31m  a?b?c\n") || strings.ContainsAny(stdout, "\u202e\u009b") {
		t.Errorf("what acts on a terminal: %q, %v", stdout, err)
	}

	// One that ended by itself is not said to be terminated, as AWS has it; in JSON it is.
	p.answers["DescribeSessions"] = `{"Sessions":[{"SessionId":"` + session + `","Status":"Terminated"}]}`
	if stdout, _, err := run(t, "", "sessions", "--history"); err != nil || !strings.Contains(stdout, session+"  -     Ended   ") {
		t.Errorf("one that ended by itself: %q, %v", stdout, err)
	}
	if stdout, _, err := run(t, "", "sessions", session, "--json"); err != nil || !strings.Contains(stdout, `"Status": "Terminated"`) {
		t.Errorf("one by its ID: %q, %v", stdout, err)
	}
	if got := p.body("DescribeSessions"); got != `{"State":"Active","MaxResults":100,"Filters":[{"key":"SessionId","value":"`+session+`"}]}` {
		t.Errorf("asked %s", got)
	}
	for wrong, args := range map[string][]string{
		"--limit has to be 0":                {"--limit", "-1"},
		`--owner takes an ARN`:               {"--owner", "ann"},
		`"web" is not a session's ID`:        {"web"},
		"there is no session " + session[:1]: {session},
	} {
		p.answers["DescribeSessions"] = `{}`
		if _, _, err := run(t, "", append([]string{"sessions"}, args...)...); err == nil || !strings.HasPrefix(err.Error(), wrong) {
			t.Errorf("%v: %v", args, err)
		}
	}

	p.answers["DescribeSessions"] = `{}`
	for _, args := range [][]string{{"sessions"}, {"sessions", "--history"}} {
		if stdout, stderr, err := run(t, "", args...); err != nil || stdout != "" || !strings.HasPrefix(stderr, "sallyport: no such session") {
			t.Errorf("without any: %q, %q, %v", stdout, stderr, err)
		}
	}
}

func TestActivations(t *testing.T) {
	p := start(t)
	p.answers["DescribeActivations"] = `{"ActivationList":[
		{"ActivationId":"11111111-2222-3333-4444-555555555555","DefaultInstanceName":"rack 7","IamRole":"r","RegistrationLimit":3,"RegistrationsCount":1,"ExpirationDate":1935000000},
		{"ActivationId":"21111111-2222-3333-4444-555555555555","RegistrationLimit":1,"RegistrationsCount":1},
		{"ActivationId":"31111111-2222-3333-4444-555555555555","RegistrationLimit":1,"Expired":true}]}`
	stdout, stderr, err := run(t, "", "activation", "list")
	if err != nil || stderr != "" || !strings.Contains(stdout, "  rack 7  open     1 of 3  20") || !strings.Contains(stdout, "used up  1 of 1") || !strings.Contains(stdout, "expired  0 of 1") {
		t.Errorf("%q, %q, %v", stdout, stderr, err)
	}
	stdout, _, err = run(t, "", "activation", "list", "--json")
	var list []map[string]any
	if jerr := json.Unmarshal([]byte(stdout), &list); err != nil || jerr != nil || len(list) != 3 || list[0]["RegistrationLimit"] != 3.0 || list[2]["Expired"] != true {
		t.Errorf("%s, %v, %v", stdout, err, jerr)
	}
	if _, _, err := run(t, "", "activation", "delete", "11111111-2222-3333-4444-555555555555"); err != nil || p.body("DeleteActivation") != `{"ActivationId":"11111111-2222-3333-4444-555555555555"}` {
		t.Errorf("deleted by %s, %v", p.body("DeleteActivation"), err)
	}
	for _, args := range [][]string{{"--limit", "0"}, {"--limit", "1001"}, {"--expires", "31d"}, {"--expires", "-1h"}} {
		if _, _, err := run(t, "", append([]string{"activation", "create"}, args...)...); err == nil || !strings.HasPrefix(err.Error(), args[0]+" has to be ") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// The command to paste is one command of a shell, for any ID and code.
func TestCommandToPaste(t *testing.T) {
	p := start(t)
	p.answers["CreateActivation"] = `{"ActivationId":"1","ActivationCode":"a;reboot $(x)"}`
	stdout, _, err := run(t, "", "activation", "create")
	words, serr := shlex(stdout)
	if i := slices.Index(words, "--code"); err != nil || serr != nil || i < 0 || words[i+1] != "a;reboot $(x)" || !strings.Contains(stdout, "'a;reboot $(x)'") {
		t.Errorf("%q, %v, %v", stdout, err, serr)
	}
	p.answers["CreateActivation"] = `{"ActivationId":"1","ActivationCode":"a\u001b[2J"}`
	if stdout, _, err := run(t, "", "activation", "create"); err == nil || stdout != "" || !strings.Contains(err.Error(), "an ID or a code") {
		t.Errorf("%q, %v", stdout, err)
	}
}

func TestReplayFlags(t *testing.T) {
	for _, args := range [][]string{{"--speed", "NaN"}, {"--speed", "0"}, {"--speed", "1e-9"}, {"--speed", "1e9"}, {"--max-idle", "-1s"}} {
		if _, _, err := run(t, "", append([]string{"replay", "x.cast"}, args...)...); err == nil || !strings.HasPrefix(err.Error(), args[0]+" has to be ") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// JSON does not act on a terminal, and says what a machine said.
func TestJSONOnTerminal(t *testing.T) {
	const name = "a\u009b2J\u202e\x7f\x1b\U000e0041é"
	var b strings.Builder
	if err := writeJSON(&b, []string{name}); err != nil || b.String() != "[\n  \"a\\u009b2J\\u202e\\u007f\\u001b\\udb40\\udc41é\"\n]\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	var got []string
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil || got[0] != name {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestAgo(t *testing.T) {
	now := time.Unix(1e9, 0)
	for want, d := range map[string]time.Duration{
		"now": 0, "3s ago": 3 * time.Second, "59s ago": 59900 * time.Millisecond, "1m ago": time.Minute,
		"59m ago": 59 * time.Minute, "1h ago": time.Hour, "47h ago": 47 * time.Hour, "2d ago": 48 * time.Hour,
	} {
		if got := ago(now.Add(-d), now); got != want {
			t.Errorf("%v before: %q, want %q", d, got, want)
		}
	}
	if got := ago(now.Add(time.Minute), now); got != "now" {
		t.Errorf("a minute from now: %q", got)
	}
	if got := ago(time.Time{}, now); got != "-" {
		t.Errorf("never: %q", got)
	}
}
