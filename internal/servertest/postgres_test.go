package servertest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/need"
	"github.com/sallyport/sallyport/internal/pgtest"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

func cluster(t *testing.T) *pgtest.Cluster {
	t.Helper()
	c, err := pgtest.Start()
	if err != nil {
		need.Missing(t, fmt.Sprintf("there is no PostgreSQL: install Debian's package postgresql: %v", err))
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// A whole server on PostgreSQL, with an agent and a shell. PostgreSQL is killed
// under it: the shell goes on, callers are told why nothing else does, and when
// PostgreSQL is back so is everything. Another server is refused meanwhile.
func TestPostgresIsKilled(t *testing.T) {
	pg := cluster(t)
	s := servertest.Start(t, func(c *server.Config) { c.Database = pg.URL })

	second := s.Config
	second.State, second.KeyFile = t.TempDir(), s.Config.State+".key"
	var err error
	if second.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if second.Admin, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	err = server.Run(t.Context(), second, slog.New(slog.DiscardHandler), func(server.Running) { t.Error("a second server runs") })
	if !errors.Is(err, store.ErrClaimed) {
		t.Fatalf("a second server: %v", err)
	}

	state := t.TempDir()
	node := s.RegisterAgent(state)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	a := &agent.Agent{State: state, HTTP: s.HTTP, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	go func() { ran <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	root := s.Root()
	client := s.SSM(root)
	online := func() bool {
		out, err := client.GetConnectionStatus(t.Context(), &ssm.GetConnectionStatusInput{Target: aws.String(node.String())})
		return err == nil && out.Status == "connected"
	}
	servertest.Eventually(t, "the node is online", online)
	out, err := client.StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(node.String())})
	if err != nil {
		t.Fatal(err)
	}
	person, err := s.Join(*out.SessionId, *out.TokenValue, "client", root)
	if err != nil {
		t.Fatal(err)
	}
	shows := func(typed, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := person.Stream.Send(ctx, wire.KindOutput, []byte(typed)); err != nil {
			t.Fatal(err)
		}
		var seen strings.Builder
		for !strings.Contains(seen.String(), want) {
			m, err := person.Stream.Receive(ctx)
			if err != nil {
				t.Fatalf("%v; shown %q", err, seen.String())
			}
			seen.Write(m.Payload)
		}
	}
	shows("echo before $((40+1))\n", "before 41")

	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	shows("echo without $((40+2))\n", "without 42")
	once := ssm.NewFromConfig(s.AWS(root), func(o *ssm.Options) { o.RetryMaxAttempts = 1 })
	_, err = once.DescribeActivations(t.Context(), &ssm.DescribeActivationsInput{})
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != "ServiceUnavailableException" || !strings.Contains(api.ErrorMessage(), "database does not answer") {
		t.Errorf("a caller is told %v", err)
	}
	ready := func() int {
		resp, err := s.HTTP.Get(servertest.Endpoint + "/readyz")
		if err != nil {
			return 0
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := ready(); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d", got)
	}
	shows("echo still $((40+3))\n", "still 43")

	if err := pg.Run(); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the server is ready again", func() bool { return ready() == http.StatusOK })
	if !online() {
		t.Error("the node is not online")
	}
	shows("exit\n", "exit")
	servertest.Eventually(t, "the session is in the history", func() bool {
		list, err := client.DescribeSessions(t.Context(), &ssm.DescribeSessionsInput{State: "History"})
		return err == nil && len(list.Sessions) == 1
	})
}

// A server that is started before its database waits for it, and says so.
func TestServerIsFirst(t *testing.T) {
	pg := cluster(t)
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran, up := make(chan error, 1), make(chan server.Running, 1)
	go func() {
		ran <- server.Run(ctx, server.Config{Listener: l, Admin: admin, State: t.TempDir(), Database: pg.URL}, slog.New(slog.NewTextHandler(t.Output(), nil)), func(r server.Running) { up <- r })
	}()
	// Its CA is not known before it is up, and nothing secret is asked.
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	says := func(path, want string) func() bool {
		return func() bool {
			resp, err := web.Get("https://" + l.Addr().String() + path)
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			return strings.Contains(string(b), want)
		}
	}
	servertest.Eventually(t, "the port is answered", says("/readyz", "waits for its database"))
	servertest.Eventually(t, "and the process is there", says("/healthz", "ok"))
	if err := pg.Run(); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the server is ready", says("/readyz", "ready"))
	<-up
	web.CloseIdleConnections()
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
