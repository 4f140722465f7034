package client

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/memnet"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

func TestMain(m *testing.M) {
	// The signal package starts a goroutine of its own the first time it is
	// used, which must not be in a bubble.
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	signal.Stop(c)
	if os.Getenv("SALLYPORT_TEST_PROGRAM") == "" {
		// A client that is started with nohup goes on when its window is closed;
		// those that tests start are not, even if the test was.
		for _, s := range []os.Signal{syscall.SIGHUP, os.Interrupt} {
			if signal.Ignored(s) {
				signal.Notify(make(chan os.Signal, 1), s)
			}
		}
	}
	if what := os.Getenv("SALLYPORT_TEST_PROGRAM"); what != "" {
		os.Exit(program(what))
	}
	goleak.VerifyTestMain(m)
}

const testSession = "alice-0c4f1e9ab27d3355e"

// A plane is a control plane with one session, and the node at its other end.
// It knows the wire and nothing of how a true one works.
type plane struct {
	t    testing.TB
	node *datachannel.Stream // the node's end: the test plays its shell

	// Set before use.
	answer func(target string) (status int, body string) // of an API call; nil or status 0 is the usual
	wrap   func(n int, c datachannel.Conn) datachannel.Conn
	refuse func(n int, w http.ResponseWriter) bool // a socket

	mu      sync.Mutex
	url     string
	token   string
	minted  int
	over    bool
	sockets []*socket.Conn
	opens   []wire.OpenDataChannel
	signed  []bool
	calls   []string
	changed chan struct{} // closed and made anew at every change of the above
	last    func(wire.Frame) error
}

func newPlane(t testing.TB) *plane {
	p := &plane{t: t, token: "token-0", changed: make(chan struct{})}
	p.node = &datachannel.Stream{Sends: wire.TypeOutputStreamData}
	t.Cleanup(p.node.Close)
	return p
}

// note makes a change and lets those who wait look. The caller holds mu.
func (p *plane) note() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait returns once ok does, which is asked under mu.
func (p *plane) wait(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		p.mu.Lock()
		done, changed := ok(), p.changed
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			p.t.Fatalf("waited a minute for %s", what)
		}
	}
}

func (p *plane) waitSockets(n int) {
	p.t.Helper()
	p.wait(fmt.Sprintf("socket %d", n), func() bool { return len(p.sockets) >= n })
}

func (p *plane) called(target string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if c == target {
			n++
		}
	}
	return n
}

func (p *plane) invitation() Invitation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Invitation{SessionID: testSession, StreamURL: p.url + "/v1/data-channel/" + testSession + "?role=publish_subscribe", Token: sallyport.NewSecret(p.token)}
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		p.api(w, r)
		return
	}
	p.mu.Lock()
	n := len(p.signed)
	p.signed = append(p.signed, sigv4.Signed(r))
	p.note()
	p.mu.Unlock()
	if p.refuse != nil && p.refuse(n, w) {
		return
	}
	conn, err := socket.Accept(w, r)
	if err != nil {
		return
	}
	text, err := conn.ReadText(context.Background())
	if err != nil {
		return
	}
	var open wire.OpenDataChannel
	if err := json.Unmarshal(text, &open); err != nil {
		p.t.Errorf("open message %s: %v", text, err)
	}
	p.mu.Lock()
	good := open.TokenValue.Reveal() == p.token && !p.over
	var old *socket.Conn
	if good {
		if len(p.sockets) > 0 {
			old = p.sockets[len(p.sockets)-1]
		}
		p.sockets = append(p.sockets, conn)
	}
	n = len(p.sockets) - 1
	p.opens = append(p.opens, open)
	p.last = func(f wire.Frame) error {
		b, err := f.AppendBinary(nil)
		if err != nil {
			return err
		}
		return conn.WriteFrame(context.Background(), b)
	}
	p.note()
	p.mu.Unlock()
	if old != nil {
		old.Drop()
	}
	if !good {
		conn.Drop()
		return
	}
	var c datachannel.Conn = conn
	if p.wrap != nil {
		c = p.wrap(n, conn)
	}
	go func() {
		defer conn.Drop()
		for { // the socket before is on its way out
			err := p.node.Run(context.Background(), c)
			if err == nil || !strings.Contains(err.Error(), "it is running") {
				return
			}
			runtime.Gosched()
		}
	}()
}

func (p *plane) api(w http.ResponseWriter, r *http.Request) {
	target := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSSM.")
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	p.calls = append(p.calls, target)
	answer := p.answer
	p.note()
	p.mu.Unlock()
	if answer != nil {
		if status, text := answer(target); status != 0 {
			w.WriteHeader(status)
			io.WriteString(w, text)
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch target {
	case "StartSession":
		fmt.Fprintf(w, `{"SessionId":%q,"TokenValue":%q,"StreamUrl":%q}`, testSession, p.token, p.url+"/v1/data-channel/"+testSession)
	case "ResumeSession":
		if !bytes.Contains(body, []byte(testSession)) {
			p.t.Errorf("resumed %s", body)
		}
		token := ""
		if !p.over {
			p.minted++
			p.token = fmt.Sprint("token-", p.minted)
			token = p.token
		}
		fmt.Fprintf(w, `{"SessionId":%q,"TokenValue":%q,"StreamUrl":%q}`, testSession, token, p.url+"/v1/data-channel/"+testSession)
	case "TerminateSession":
		p.over = true
		p.note()
		fmt.Fprintf(w, `{"SessionId":%q}`, testSession)
	default:
		w.WriteHeader(400)
		fmt.Fprint(w, `{"__type":"UnknownOperationException","message":"What?"}`)
	}
}

// end has the control plane say that the session is over, once the person has
// acknowledged what the node showed.
func (p *plane) end(output string, status *int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.node.Flush(ctx); err != nil {
		p.t.Errorf("flush: %v", err)
	}
	p.mu.Lock()
	p.over = true
	last := p.last
	p.mu.Unlock()
	last(wire.ChannelClosed{SessionId: testSession, Output: output, ExitStatus: status}.Frame(time.Now()))
}

// cut loses the newest socket.
func (p *plane) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sockets[len(p.sockets)-1].Drop()
}

// show has the node show text.
func (p *plane) show(text string) {
	p.t.Helper()
	if err := p.node.Send(context.Background(), wire.KindOutput, []byte(text)); err != nil {
		p.t.Error(err)
	}
}

// next returns the next message that came to the node.
func (p *plane) next() datachannel.Message {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := p.node.Receive(ctx)
	if err != nil {
		p.t.Fatalf("nothing more came to the node: %v", err)
	}
	return datachannel.Message{Kind: m.Kind, Payload: bytes.Clone(m.Payload)}
}

// typed returns what is typed until it is as long as want, and checks it.
func (p *plane) typed(want string) {
	p.t.Helper()
	var got []byte
	for len(got) < len(want) {
		if m := p.next(); m.Kind == wire.KindOutput {
			got = append(got, m.Payload...)
		}
	}
	if string(got) != want {
		p.t.Fatalf("typed %q, want %q", got, want)
	}
}

// serve puts the plane on a network in memory, for a bubble. dial may wrap the
// client's end of each connection.
func (p *plane) serve(dial func(net.Conn) net.Conn) *Client {
	p.url = "ws://127.0.0.1"
	network := memnet.New(0, nil)
	l := network.Listen()
	s := &http.Server{Handler: p}
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.Serve(l) }()
	host := network.NewHost("client", 0, 0)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		near, err := host.Dial(ctx, "tcp", address)
		if err == nil && dial != nil {
			near = dial(near)
		}
		return near, err
	}}
	p.t.Cleanup(func() {
		p.mu.Lock()
		for _, c := range p.sockets {
			c.Drop()
		}
		p.mu.Unlock()
		transport.CloseIdleConnections()
		s.Close()
		<-stopped
	})
	base := &url.URL{Scheme: "http", Host: "127.0.0.1"}
	httpClient := &http.Client{Transport: transport}
	keys := func(context.Context) (endpoint.Credentials, error) {
		return endpoint.Credentials{AccessKeyID: "AKIATEST", Secret: sallyport.NewSecret("secret")}, nil
	}
	return &Client{
		api:      &endpoint.Client{Base: base, HTTP: httpClient, Region: "home-1", Credentials: keys},
		unsigned: &endpoint.Client{Base: base, HTTP: httpClient, Region: "home-1"},
	}
}

// serveTLS puts the plane on a port of this machine, and returns its address
// and a file with its certificate.
func (p *plane) serveTLS() (address, bundle string) {
	s := httptest.NewTLSServer(p)
	p.t.Cleanup(func() {
		p.mu.Lock()
		for _, c := range p.sockets {
			c.Drop()
		}
		p.mu.Unlock()
		s.Close()
	})
	p.mu.Lock()
	p.url = "wss" + strings.TrimPrefix(s.URL, "https")
	p.mu.Unlock()
	bundle = filepath.Join(p.t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(bundle, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return s.URL, bundle
}

// awsEnvironment is one with nothing of the tester's in it.
func awsEnvironment(bundle string) map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "home-1", "AWS_CA_BUNDLE": bundle,
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_PROFILE": "", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_SSM": "", "AWS_SESSION_TOKEN": "", "SALLYPORT_STREAM_HOST": "",
		"AWS_DEFAULT_REGION": "", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "", "SSL_CERT_FILE": "",
	}
}

func setAWS(t *testing.T, bundle string) {
	for k, v := range awsEnvironment(bundle) {
		t.Setenv(k, v)
	}
}

// A screen is where output is shown.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newScreen() *screen { return &screen{more: make(chan struct{})} }

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// wait returns once the screen shows text.
func (s *screen) wait(t testing.TB, text string) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		shown, more := strings.Contains(s.text.String(), text), s.more
		s.mu.Unlock()
		if shown {
			return
		}
		select {
		case <-more:
		case <-deadline.C:
			t.Fatalf("the screen does not show %q but %q", text, s)
		}
	}
}
