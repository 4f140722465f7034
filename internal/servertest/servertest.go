// Package servertest puts a whole control plane in memory, for tests.
//
// [Start] runs the true server, over TLS, on a network of pipes: there are no
// ports, and inside a testing/synctest bubble an hour costs nothing. Clients
// are the SDK's own. A [Node] is a machine that speaks as AWS's agent does and
// whose shell is a function; the true agent, with true shells, is tested where
// time is true.
package servertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/memnet"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/store"
)

// Endpoint is where the server in memory says it is.
const Endpoint = "https://sallyport.test"

// A Server is a control plane that is running.
type Server struct {
	server.Running
	T      testing.TB
	Config server.Config
	HTTP   *http.Client // reaches it, and believes it

	net  *memnet.Network
	host *memnet.Host // of all who call it
	stop context.CancelFunc
	done chan error
}

// Start runs a server until the test is over. Change may change its
// configuration before it starts; nil leaves it.
func Start(t testing.TB, change func(*server.Config)) *Server {
	t.Helper()
	s := &Server{T: t, Config: server.Config{PublicURL: Endpoint, State: t.TempDir(), Idle: -1}, net: memnet.New(0, nil)}
	s.host = s.net.NewHost("caller", 0, 0)
	if change != nil {
		change(&s.Config)
	}
	s.start()
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) start() {
	s.T.Helper()
	s.Config.Listener, s.Config.Admin = s.net.Listen(), s.net.NewLocal()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan server.Running, 1)
	s.done = make(chan error, 1)
	done := s.done
	go func() {
		done <- server.Run(ctx, s.Config, slog.New(slog.NewTextHandler(s.T.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), func(r server.Running) { ready <- r })
	}()
	select {
	case s.Running = <-ready:
	case err := <-done:
		cancel()
		s.T.Fatalf("server did not start: %v", err)
	}
	s.API.Undeclared = func(what string) { s.T.Error(what) }
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA)
	s.HTTP = &http.Client{Transport: &http.Transport{DialContext: s.host.Dial, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	s.stop = cancel
}

// Stop stops the server, as a signal does. Stopping twice is stopping once.
func (s *Server) Stop() {
	s.HTTP.CloseIdleConnections()
	s.stop()
	if s.done == nil {
		return
	}
	if err := <-s.done; err != nil {
		s.T.Errorf("server: %v", err)
	}
	s.done = nil
}

// Restart stops the server and starts another on the same state.
func (s *Server) Restart() {
	s.T.Helper()
	s.Stop()
	s.start()
}

// Root returns short-lived credentials of the account's root.
func (s *Server) Root() aws.CredentialsProvider {
	s.T.Helper()
	t, err := s.API.Issue(api.Grant{Who: s.API.Root(), For: 12 * time.Hour}, time.Now())
	if err != nil {
		s.T.Fatal(err)
	}
	return credentials.NewStaticCredentialsProvider(t.AccessKeyID, t.Secret.Reveal(), t.Token.Reveal())
}

// User makes a user with one inline policy, and returns an access key of hers.
// No policy gives no rights.
func (s *Server) User(name, policy string) aws.CredentialsProvider {
	s.T.Helper()
	ctx := s.T.Context()
	now := time.Now()
	if err := s.Store.IAM().CreateUser(ctx, sallyport.User{Name: name, Path: "/", ID: sallyport.EntityID("AIDA"), Created: now}); err != nil {
		s.T.Fatal(err)
	}
	if policy != "" {
		if err := s.Store.IAM().PutInlinePolicy(ctx, store.User(name), "test", policy); err != nil {
			s.T.Fatal(err)
		}
	}
	key := sallyport.AccessKey{ID: sallyport.EntityID("AKIA"), User: name, Active: true, Created: now}
	secret := sallyport.GenerateSecret()
	if err := s.Store.IAM().CreateAccessKey(ctx, key, secret); err != nil {
		s.T.Fatal(err)
	}
	return credentials.NewStaticCredentialsProvider(key.ID, secret.Reveal(), "")
}

// AWS is the SDK's configuration for a caller with credentials p.
func (s *Server) AWS(p aws.CredentialsProvider) aws.Config {
	return aws.Config{Region: s.Realm.Region, Credentials: p, HTTPClient: s.HTTP, BaseEndpoint: aws.String(Endpoint), RetryMaxAttempts: 1}
}

// SSM is the SDK's client for a caller with credentials p.
func (s *Server) SSM(p aws.CredentialsProvider) *ssm.Client { return ssm.NewFromConfig(s.AWS(p)) }

// Client is our own client for a caller with credentials p; nil signs nothing.
func (s *Server) Client(p aws.CredentialsProvider) *endpoint.Client {
	base, err := url.Parse(Endpoint)
	if err != nil {
		s.T.Fatal(err)
	}
	c := &endpoint.Client{Base: base, HTTP: s.HTTP, Region: s.Realm.Region}
	if p != nil {
		c.Credentials = func(ctx context.Context) (endpoint.Credentials, error) {
			k, err := p.Retrieve(ctx)
			return endpoint.Credentials{AccessKeyID: k.AccessKeyID, Secret: sallyport.NewSecret(k.SecretAccessKey), Token: sallyport.NewSecret(k.SessionToken)}, err
		}
	}
	return c
}

// A Buffer is a buffer for many goroutines: of a log, say.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String is all that was written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Eventually waits until ok, and has the test fail if that takes a minute. In a
// bubble of synctest it waits in the bubble's time.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			tb.Fatalf("in a minute it did not come about that %s", what)
		}
	}
}
