package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/servertest"
)

const acmeName = "sallyport.example"

// A caServer is Pebble: an ACME CA that resolves names and validates challenges
// over the network, as Let's Encrypt does.
type caServer struct {
	url    string
	bundle string            // the file of its own server's certificate
	roots  *x509.CertPool    // what it issues, verifies against
	orders atomic.Int64      // how many it has taken
	port   *servertest.Cable // what it takes to be port 443 of acmeName
	down   atomic.Bool       // its connections are closed at once
}

func newCA(t *testing.T) *caServer {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	port, err := servertest.NewCable()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	_, number, err := net.SplitHostPort(port.Addr())
	if err != nil {
		t.Fatal(err)
	}
	tlsPort, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: 90 * 24 * 60 * 60}})
	validation := va.New(quiet, 0, tlsPort, true, resolver(t), store)
	front := wfe.New(quiet, store, validation, authority, []string{"ca.example"}, true, false, 1, 1)
	answers := front.Handler()

	c := &caServer{port: port, roots: x509.NewCertPool()}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answered := &statusWriter{ResponseWriter: w}
		answers.ServeHTTP(answered, r)
		if strings.HasSuffix(r.URL.Path, "/order-plz") && answered.status == http.StatusCreated { // some nonces are refused, on purpose
			c.orders.Add(1)
		}
	}))
	s.Config.ErrorLog = quiet
	s.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if c.down.Load() {
			conn.Close()
		}
		return ctx
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	c.url = s.URL + wfe.DirectoryPath
	c.bundle = filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(c.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if !c.roots.AppendCertsFromPEM(authority.GetRootCert(0).PEM()) {
		t.Fatal("the CA has no root")
	}
	return c
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// resolver is a DNS server by which every name is this machine.
func resolver(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if name := q.Question[0]; name.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)})
		}
		w.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ActivateAndServe()
	}()
	t.Cleanup(func() {
		s.Shutdown()
		<-done
	})
	return l.Addr().String()
}

// lines keeps what a server logs.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// acmeServer runs a server whose certificate is c's, as port 443 of its name,
// until stop is called.
func acmeServer(t *testing.T, c *caServer, state string, change func(*server.Config)) (log *lines, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := server.Config{
		State: state, Listener: l, PublicURL: "https://" + acmeName,
		ACME: true, ACMECA: c.url, ACMECABundle: c.bundle, ACMEEmail: "operator@sallyport.example",
	}
	if change != nil {
		change(&config)
	}
	c.port.Lead(l.Addr().String()) // first: the CA calls as soon as it is asked
	log = &lines{}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan server.Running, 1), make(chan error, 1)
	go func() {
		done <- server.Run(ctx, config, slog.New(slog.NewTextHandler(log, nil)), func(r server.Running) { ready <- r })
	}()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("server did not start: %v", err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
		if t.Failed() {
			t.Log(log)
		}
	})
	t.Cleanup(stop)
	return log, stop
}

// shown is the certificate that a client who asks for a name is shown. It has been
// verified, except that it may have expired.
func (c *caServer) shown(name string) (*x509.Certificate, error) {
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{
		ServerName: name, InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			leaf := s.PeerCertificates[0]
			_, err := leaf.Verify(x509.VerifyOptions{DNSName: acmeName, Roots: c.roots, Intermediates: between, CurrentTime: leaf.NotBefore})
			return err
		},
	}}).Dial("tcp", c.port.Addr())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// eventually waits until the server shows a certificate that is not old.
func (c *caServer) eventually(t *testing.T, log *lines, old *x509.Certificate) *x509.Certificate {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(time.Minute); ; {
		cert, err := c.shown(acmeName)
		if err == nil && (old == nil || !cert.Equal(old)) {
			return cert
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("no certificate: %v; %s", err, log)
		}
	}
}

// A server with --acme has its certificate issued by the CA that it is told of,
// which validates the challenge on the server's own port, shows it to those who ask
// for its name and refuses others, and has it still when it is started again and
// the CA is away.
func TestACME(t *testing.T) {
	c := newCA(t)
	state := t.TempDir()
	log, stop := acmeServer(t, c, state, nil)
	first := c.eventually(t, log, nil)
	if !slices.Equal(first.DNSNames, []string{acmeName}) {
		t.Errorf("names %q", first.DNSNames)
	}
	web := &http.Client{Transport: &http.Transport{
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return net.Dial("tcp", c.port.Addr()) },
		TLSClientConfig: &tls.Config{RootCAs: c.roots},
	}}
	answer, err := web.Get("https://" + acmeName + "/healthz")
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", answer, err)
	}
	answer.Body.Close()
	web.CloseIdleConnections()

	for _, name := range []string{"other.example", "x." + acmeName, "localhost"} {
		_, err := c.shown(name)
		if !strings.HasSuffix(fmt.Sprint(err), "tls: unrecognized name") {
			t.Errorf("a client that asks for %s: %v, want the alert unrecognized_name", name, err)
		}
	}
	for _, name := range []string{strings.ToUpper(acmeName), ""} { // a client by address asks for no name
		if cert, err := c.shown(name); err != nil || !cert.Equal(first) {
			t.Errorf("a client that asks for %q: %v", name, err)
		}
	}
	// A stranger who says that it validates a challenge, when there is none.
	if conn, err := tls.Dial("tcp", c.port.Addr(), &tls.Config{ServerName: acmeName, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true}); err == nil {
		t.Error("a challenge that the CA did not set is answered")
		conn.Close()
	}
	if n := c.orders.Load(); n != 1 {
		t.Errorf("%d orders were made, want 1", n)
	}
	if log.count("level=WARN") > 0 {
		t.Errorf("strangers fill the log: %s", log)
	}
	if n := log.count(`msg="certificate obtained"`); n != 1 {
		t.Errorf("it is logged %d times: %s", n, log)
	}
	stop()

	c.down.Store(true)
	log, _ = acmeServer(t, c, state, nil)
	if again, err := c.shown(acmeName); err != nil || !again.Equal(first) {
		t.Errorf("after a restart: %v, want the certificate that was kept", err)
	}
	if n := c.orders.Load(); n != 1 || log.count("level=WARN") > 0 {
		t.Errorf("%d orders, and logged: %s", n, log)
	}
	info, err := os.Stat(filepath.Join(state, "acme"))
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the directory of the certificate's key: %v, %v", info.Mode(), err)
	}
}

// A certificate that was kept and is due is renewed at the start, and its successor
// shown without another.
func TestACMERenewsAtStart(t *testing.T) {
	c := newCA(t)
	state := t.TempDir()
	log, stop := acmeServer(t, c, state, nil)
	old := c.eventually(t, log, nil)
	stop()
	about, err := filepath.Glob(filepath.Join(state, "acme", "certificates", "*", "*", "*.json"))
	if err != nil || len(about) != 1 {
		t.Fatalf("%q, %v", about, err)
	}
	b, err := os.ReadFile(about[0])
	if err != nil {
		t.Fatal(err)
	}
	at := regexp.MustCompile(`("_selectedTime": *)"[^"]*"`) // when the CA wants it renewed
	due := at.ReplaceAll(b, []byte(`$1"2020-01-01T00:00:00Z"`))
	if bytes.Equal(due, b) {
		t.Fatalf("it does not say when it is due: %s", b)
	}
	if err := os.WriteFile(about[0], due, 0o600); err != nil {
		t.Fatal(err)
	}
	log, _ = acmeServer(t, c, state, nil)
	c.eventually(t, log, old)
	if n := c.orders.Load(); n != 2 {
		t.Errorf("%d orders were made, want 2", n)
	}
}

// A CA that is away at the start is waited for: the server is up, says so once, and
// has its certificate soon after the CA is back. One that never comes back does not
// keep the server from being stopped.
func TestACMEWaitsForTheCA(t *testing.T) {
	c := newCA(t)
	c.down.Store(true)
	log, _ := acmeServer(t, c, t.TempDir(), nil)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(time.Minute); log.count("waiting for the ACME CA") == 0; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it does not say so: %s", log)
		}
	}
	if _, err := c.shown(acmeName); err == nil {
		t.Error("it has a certificate of a CA that is away")
	}
	c.down.Store(false)
	c.eventually(t, log, nil)
	if n := log.count("level=WARN"); n != 1 || log.count(c.url) != 1 || log.count("the ACME CA answers") != 1 {
		t.Errorf("%d warnings: %s", n, log)
	}

	c.down.Store(true)
	_, stop := acmeServer(t, c, t.TempDir(), nil)
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Error("it does not stop while the CA is away")
	}
}

// What is not an ACME CA, or not one that is trusted, is said, with what to do.
func TestACMEWithoutTheRightCA(t *testing.T) {
	c := newCA(t)
	for want, change := range map[string]func(*server.Config){
		"404 Not Found, and not the directory of an ACME CA; --acme-ca is its URL": func(s *server.Config) { s.ACMECA += "s" },
		"certificate signed by unknown authority; if it is a CA of yours, --acme-ca-bundle names the file of its root": func(s *server.Config) {
			s.ACMECABundle = ""
		},
	} {
		log, stop := acmeServer(t, c, t.TempDir(), change)
		tick := time.NewTicker(10 * time.Millisecond)
		for late := time.After(time.Minute); log.count(want) == 0; {
			select {
			case <-tick.C:
			case <-late:
				t.Fatalf("it does not say %q: %s", want, log)
			}
		}
		tick.Stop()
		stop()
	}
	if n := c.orders.Load(); n != 0 {
		t.Errorf("%d orders were made", n)
	}
}

// Settings of ACME that cannot work, or that would be ignored, are refused at the
// start, with what to do.
func TestACMESettings(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(dir, "damaged")
	c := newCA(t)
	log, stop := acmeServer(t, c, damaged, nil)
	c.eventually(t, log, nil)
	stop()
	certs, err := filepath.Glob(filepath.Join(damaged, "acme", "certificates", "*", "*", "*.crt"))
	if err != nil || len(certs) != 1 {
		t.Fatalf("%q, %v", certs, err)
	}
	if err := os.WriteFile(certs[0], []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		config server.Config
		want   string
	}{
		{server.Config{ACMECA: c.url}, "--acme-ca is for certificates issued by ACME: give --acme too, or leave it out"},
		{server.Config{ACMECABundle: c.bundle}, "--acme-ca-bundle is for certificates issued by ACME: give --acme too, or leave it out"},
		{server.Config{ACMEEmail: "a@b.example"}, "--acme-email is for certificates issued by ACME: give --acme too, or leave it out"},
		{server.Config{ACME: true, CertFile: "c", CertKeyFile: "k"}, "give --cert or --acme, not both"},
		{server.Config{ACME: true, ACMECA: "http://ca.example/dir"}, `--acme-ca "http://ca.example/dir" is not an https URL`},
		{server.Config{ACME: true, ACMECA: "ca.example"}, `--acme-ca "ca.example" is not an https URL`},
		{server.Config{ACME: true, PublicURL: "https://192.0.2.1"}, "ACME issues certificates for names, and the public URL has the address 192.0.2.1: give --public-url a name"},
		{server.Config{ACME: true, ACMECABundle: filepath.Join(dir, "none")}, "read --acme-ca-bundle: open "},
		{server.Config{ACME: true, ACMECABundle: empty}, "empty has no certificate; it is PEM"},
		{server.Config{ACME: true, ACMECA: c.url, ACMECABundle: c.bundle, State: damaged}, "remove that directory to have another issued"},
	} {
		if tt.config.State == "" {
			tt.config.State = filepath.Join(dir, "s")
		}
		if tt.config.PublicURL == "" {
			tt.config.PublicURL = "https://" + acmeName
		}
		tt.config.Listen = "127.0.0.1:0"
		ctx, cancel := context.WithCancel(t.Context())
		err := server.Run(ctx, tt.config, slog.New(slog.DiscardHandler), func(server.Running) { cancel() })
		cancel()
		if !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}
