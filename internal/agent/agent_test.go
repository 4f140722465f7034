package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/wire"
)

// A machine is a true agent on this machine, against a server in memory.
type machine struct {
	*servertest.Server
	t      *testing.T
	state  string
	node   sallyport.NodeID
	client *ssm.Client
	creds  aws.CredentialsProvider
	agent  func(*agent.Agent) // changes the agent before it runs; nil leaves it
}

func start(t *testing.T) *machine {
	t.Helper()
	s := servertest.Start(t, nil)
	m := &machine{Server: s, t: t, state: filepath.Join(t.TempDir(), "agent"), creds: s.Root()}
	m.client = s.SSM(m.creds)
	m.node = s.RegisterAgent(m.state)
	return m
}

// run runs the agent until the test is over or stop is called, and returns when
// it is online.
func (m *machine) run() (stop func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	connected := make(chan struct{}, 16)
	ended := make(chan error, 1)
	a := &agent.Agent{State: m.state, HTTP: m.HTTP, Log: slog.New(slog.NewTextHandler(m.t.Output(), nil)), Connected: func() { connected <- struct{}{} }}
	if m.agent != nil {
		m.agent(a)
	}
	go func() { ended <- a.Run(ctx) }()
	select {
	case <-connected:
	case err := <-ended:
		m.t.Fatalf("agent: %v", err)
	}
	m.eventually("the node is online", func() bool {
		out, err := m.client.GetConnectionStatus(m.t.Context(), &ssm.GetConnectionStatusInput{Target: aws.String(m.node.String())})
		return err == nil && out.Status == types.ConnectionStatusConnected
	})
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			m.t.Errorf("agent: %v", err)
		}
	}
	m.t.Cleanup(stop)
	return stop
}

// eventually polls, because what is waited for happens in true time.
func (m *machine) eventually(what string, ok func() bool) {
	m.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			m.t.Fatalf("it never happened: %s", what)
		}
	}
}

// A shell is a person in a session.
type shell struct {
	m      *machine
	id     string
	person *servertest.Person
	seen   strings.Builder
}

func (m *machine) shell() *shell {
	m.t.Helper()
	out, err := m.client.StartSession(m.t.Context(), &ssm.StartSessionInput{Target: aws.String(m.node.String())})
	if err != nil {
		m.t.Fatal(err)
	}
	p, err := m.Join(*out.SessionId, *out.TokenValue, "client", m.creds)
	if err != nil {
		m.t.Fatal(err)
	}
	return &shell{m: m, id: *out.SessionId, person: p}
}

func (s *shell) type_(text string) {
	s.m.t.Helper()
	if err := s.person.Stream.Send(s.m.t.Context(), wire.KindOutput, []byte(text)); err != nil {
		s.m.t.Fatal(err)
	}
}

// expect reads until what has been shown since the last time matches.
func (s *shell) expect(pattern string) []string {
	s.m.t.Helper()
	re := regexp.MustCompile(pattern)
	ctx, cancel := context.WithTimeout(s.m.t.Context(), 30*time.Second)
	defer cancel()
	for {
		if m := re.FindStringSubmatch(s.seen.String()); m != nil {
			rest := s.seen.String()[re.FindStringIndex(s.seen.String())[1]:]
			s.seen.Reset()
			s.seen.WriteString(rest)
			return m
		}
		msg, err := s.person.Stream.Receive(ctx)
		if err != nil {
			s.m.t.Fatalf("waiting for %q: %v; shown: %q", pattern, err, s.seen.String())
		}
		s.seen.Write(msg.Payload)
	}
}

func (s *shell) closed() wire.ChannelClosed {
	s.m.t.Helper()
	select {
	case c := <-s.person.Closed:
		return c
	case <-time.After(30 * time.Second):
		s.m.t.Fatal("the session was never closed")
		panic("unreachable")
	}
}

func TestShell(t *testing.T) {
	m := start(t)
	m.run()
	s := m.shell()
	s.type_("stty size; echo $((6*7)) \"$TERM\" \"${LANG:+lang}\" \"$SALLYPORT_SESSION_ID\"; pwd\r")
	s.expect(`24 80\s+42 xterm-256color lang ` + regexp.QuoteMeta(s.id))
	if err := s.person.Stream.Send(t.Context(), wire.KindSize, []byte(`{"cols":132,"rows":50}`)); err != nil {
		t.Fatal(err)
	}
	s.type_("stty size\r")
	s.expect(`50 132\r\n`)
	s.type_("sh -c 'echo sl$((1))eping; exec sleep 100'\r")
	s.expect("sl1eping")
	s.type_("\x03") // Ctrl-C, through the line discipline
	s.type_("echo status $?\r")
	s.expect(`status 130\r\n`)
	s.type_("printf 'caf\\303\\251 \\346\\227\\245\\n'\r")
	s.expect("café 日\r\n")
	s.type_("exit 3\r")
	if c := s.closed(); c.Output != "" {
		t.Errorf("told %q", c.Output)
	}
	m.eventually("the exit status is in the history", func() bool {
		id, err := sallyport.ParseSessionID(s.id)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := m.Store.Sessions().Get(t.Context(), id)
		return err == nil && rec.State() == sallyport.Terminated && rec.ExitStatus != nil && *rec.ExitStatus == 3
	})
}

// The environment of a session is made from a list: what the agent has, and a
// session should not see, is not in it.
func TestEnvironment(t *testing.T) {
	t.Setenv("SALLYPORT_TEST_SECRET", "s3cret")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
	m := start(t)
	m.run()
	s := m.shell()
	s.type_("env | sort; echo 'e'nd\r")
	all := s.expect(`(?s)(.*)\nend\r\n`)[1]
	if strings.Contains(all, "s3cret") {
		t.Errorf("the session sees the agent's environment: %s", all)
	}
	for _, name := range []string{"HOME=", "USER=", "LOGNAME=", "SHELL=", "PATH="} {
		if !strings.Contains(all, name) {
			t.Errorf("%s is not set", name)
		}
	}
}

func TestTerminated(t *testing.T) {
	m := start(t)
	m.run()
	s := m.shell()
	s.type_("trap '' HUP; echo pid $$; sleep 1000\r") // a shell that will not hang up
	pid := s.expect(`pid (\d+)\r\n`)[1]
	if _, err := m.client.TerminateSession(t.Context(), &ssm.TerminateSessionInput{SessionId: &s.id}); err != nil {
		t.Fatal(err)
	}
	if c := s.closed(); !strings.Contains(c.Output, "Terminated by") {
		t.Errorf("told %q", c.Output)
	}
	m.eventually("the shell is gone", func() bool {
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// Megabytes of output, with the person's socket cut in the middle, arrive whole.
func TestOutputSurvivesLostSockets(t *testing.T) {
	m := start(t)
	m.run()
	s := m.shell()
	s.type_("stty -echo -onlcr; echo ready\r")
	s.expect("ready\n")
	s.type_("seq 1 200000; echo 'do'ne\r")
	s.expect(`\n20000\n`)
	s.person.Leave()

	resumed, err := m.client.ResumeSession(t.Context(), &ssm.ResumeSessionInput{SessionId: &s.id})
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Rejoin(s.person, s.id, *resumed.TokenValue, "client", m.creds)
	if err != nil {
		t.Fatal(err)
	}
	s.person = p
	s.expect(`\n200000\n(?:.*)done`)
}

// The same session, asked for twice, is one shell.
func TestRepeatedRequest(t *testing.T) {
	m := start(t)
	m.run()
	s := m.shell()
	s.type_("echo one$((0+1))\r")
	s.expect("one1")
	other := m.shell()
	other.type_("echo two$((1+1))\r")
	other.expect("two2")
	if s.id == other.id {
		t.Error("two sessions have one ID")
	}
}

func TestUnregistered(t *testing.T) {
	a := &agent.Agent{State: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "run register first") {
		t.Errorf("Run without a registration = %v", err)
	}
}

func TestRegistrationIsKept(t *testing.T) {
	m := start(t)
	info, err := os.Stat(filepath.Join(m.state, "node.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
	_, err = agent.Register(t.Context(), agent.Registering{State: m.state, Endpoint: servertest.Endpoint, Region: "home-1", Trust: endpoint.Trust{}})
	if !errors.Is(err, agent.ErrRegistered) {
		t.Errorf("registering again = %v", err)
	}
	if _, err := m.client.DeregisterManagedInstance(t.Context(), &ssm.DeregisterManagedInstanceInput{InstanceId: aws.String(m.node.String())}); err != nil {
		t.Fatal(err)
	}
	a := &agent.Agent{State: m.state, HTTP: m.HTTP, Log: slog.New(slog.DiscardHandler)}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "register it again") {
		t.Errorf("an agent that was deregistered runs on: %v", err)
	}
}

// An agent that is online when its machine is deregistered stops, though it has
// credentials that would be good for half an hour yet.
func TestDeregisteredWhileOnline(t *testing.T) {
	m := start(t)
	ended, connected := make(chan error, 1), make(chan struct{}, 16)
	a := &agent.Agent{State: m.state, HTTP: m.HTTP, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Connected: func() { connected <- struct{}{} }}
	go func() { ended <- a.Run(t.Context()) }()
	<-connected
	if _, err := m.client.DeregisterManagedInstance(t.Context(), &ssm.DeregisterManagedInstanceInput{InstanceId: aws.String(m.node.String())}); err != nil {
		t.Fatal(err)
	}
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "register it again") {
			t.Errorf("it stopped with %v", err)
		}
	case <-late.C:
		t.Error("it runs on, and asks")
	}
}

// A certificate of an authority that is not believed is said with the flags that
// help, at registration and later.
func TestUnknownAuthority(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(t.Output(), "", 0)
	s.StartTLS()
	defer s.Close()
	state := filepath.Join(t.TempDir(), "agent")
	_, err := agent.Register(t.Context(), agent.Registering{State: state, Endpoint: s.URL, Region: "home-1", Activation: "a", Code: sallyport.NewSecret("c")})
	if err == nil || !strings.Contains(err.Error(), "unknown authority") || !strings.Contains(err.Error(), "(--ca-pin)") || !strings.Contains(err.Error(), "(--ca-file)") {
		t.Errorf("Register = %v", err)
	}

	m := start(t)
	kept := filepath.Join(m.state, "registration.json")
	b, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, bytes.Replace(b, []byte(servertest.Endpoint), []byte(s.URL), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	var said servertest.Buffer
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- (&agent.Agent{State: m.state, Log: slog.New(slog.NewTextHandler(&said, nil))}).Run(ctx)
	}()
	m.eventually("it says which flag helps", func() bool { return strings.Contains(said.String(), "with --force and --ca-pin or --ca-file") })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Two agents with one identity are told of each other, and the one that came
// later is kept out until the first is gone.
func TestTwoAgentsOfOneNode(t *testing.T) {
	m := start(t)
	logs := make([]*servertest.Buffer, 2)
	agents := 0
	m.agent = func(a *agent.Agent) {
		logs[agents] = new(servertest.Buffer)
		a.Log = slog.New(slog.NewTextHandler(logs[agents], nil))
		agents++
	}
	stopFirst := m.run()
	first := m.shell()
	first.type_("echo of the $((40+2))nd; unset HISTFILE\n")
	first.expect("of the 42nd")
	m.run() // the node is online all the while
	const says = "use the identity of"
	m.eventually("both are told", func() bool {
		return strings.Contains(logs[0].String(), says) && strings.Contains(logs[1].String(), says)
	})
	second := m.shell()
	second.type_("echo still $((40+3))\n")
	second.expect("still 43")
	if strings.Contains(logs[1].String(), "session started") || strings.Count(logs[0].String(), "session started") != 2 {
		t.Errorf("the sessions are not the first agent's:\n%s\n%s", logs[0], logs[1])
	}
	nodes, err := m.client.DescribeInstanceInformation(t.Context(), &ssm.DescribeInstanceInformationInput{})
	if err != nil || len(nodes.InstanceInformationList) != 1 || nodes.InstanceInformationList[0].PingStatus != types.PingStatusOnline {
		t.Errorf("%+v, %v", nodes, err)
	}

	stopFirst()
	if c := first.closed(); !strings.Contains(c.Output, "was stopped") {
		t.Errorf("told %q", c.Output)
	}
	m.eventually("the second has the node", func() bool {
		out, err := m.client.GetConnectionStatus(t.Context(), &ssm.GetConnectionStatusInput{Target: aws.String(m.node.String())})
		return err == nil && out.Status == types.ConnectionStatusConnected
	})
	third := m.shell()
	third.type_("echo now $((40+4)); exit\n")
	third.expect("now 44")
	third.closed()
}

// lostAnswer is a transport that loses the first answer.
type lostAnswer struct {
	http.RoundTripper
	lost bool
}

func (l *lostAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil && !l.lost {
		l.lost = true
		resp.Body.Close()
		return nil, io.ErrUnexpectedEOF
	}
	return resp, err
}

// A registration that cannot finish uses nothing up, and one whose answer is lost
// is made good by another: the machine becomes one node.
func TestRegistrationIsOne(t *testing.T) {
	m := start(t)
	out, err := m.client.CreateActivation(t.Context(), &ssm.CreateActivationInput{IamRole: aws.String("SallyportManagedNode"), RegistrationLimit: aws.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	web := *m.HTTP
	web.Transport = &lostAnswer{RoundTripper: m.HTTP.Transport}
	r := agent.Registering{
		State: filepath.Join(t.TempDir(), "new"), Endpoint: servertest.Endpoint, Region: m.Realm.Region,
		Activation: *out.ActivationId, Code: sallyport.NewSecret(*out.ActivationCode), HTTP: &web,
	}
	elsewhere := r
	elsewhere.Region, elsewhere.HTTP = "away-1", m.HTTP
	if _, err := agent.Register(t.Context(), elsewhere); err == nil || !strings.Contains(err.Error(), "--region "+m.Realm.Region) {
		t.Errorf("with a wrong region: %v", err)
	}
	unwritable := r
	unwritable.State = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(unwritable.State, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Register(t.Context(), unwritable); err == nil {
		t.Error("registered with a file for a state directory")
	}
	if _, err := agent.Register(t.Context(), r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("with a lost answer: %v", err)
	}
	reg, err := agent.Register(t.Context(), r)
	if err != nil {
		t.Fatalf("again: %v", err)
	}
	nodes, err := m.client.DescribeInstanceInformation(t.Context(), &ssm.DescribeInstanceInformationInput{
		Filters: []types.InstanceInformationStringFilter{{Key: aws.String("ActivationIds"), Values: []string{*out.ActivationId}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.InstanceInformationList { // one that has not called yet is not in it
		if *n.InstanceId != reg.Node.String() {
			t.Errorf("there is a ghost, %s", *n.InstanceId)
		}
	}
	list, err := m.client.DescribeActivations(t.Context(), &ssm.DescribeActivationsInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list.ActivationList {
		if *a.ActivationId == *out.ActivationId && aws.ToInt32(a.RegistrationsCount) != 1 {
			t.Errorf("%d registrations were counted", aws.ToInt32(a.RegistrationsCount))
		}
	}
	forced := r
	forced.Force, forced.Activation = true, "0b4f1c66-1111-4222-8333-944455566677"
	if _, err := agent.Register(t.Context(), forced); err == nil {
		t.Error("registered with an activation that is not there")
	}
	if old, err := agent.Load(r.State); err != nil || old.Node != reg.Node {
		t.Errorf("the earlier registration is lost: %v", err)
	}
	r.State = filepath.Join(t.TempDir(), "another machine")
	if _, err := agent.Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), "has been used") {
		t.Errorf("another machine: %v", err)
	}
}

// Ctrl-C reaches a program that does not read, past what was typed meanwhile,
// and what is typed then reaches the shell.
func TestInterruptPassesWhatIsStuck(t *testing.T) {
	m := start(t)
	m.run()
	s := m.shell()
	// What says that it is ready is what the interrupt ends: a shell that is about to
	// start it would take the interrupt for itself.
	s.type_("stty -echo; sh -c \"echo rea'dy'; exec sleep 600\"\r")
	s.expect("ready\r\n")
	s.type_(strings.Repeat("never read\r", 3000))
	s.type_("\x03")
	s.type_("\recho al'ive'\r")
	s.expect("alive")
}
