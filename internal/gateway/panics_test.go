package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// A panic ends the socket it is about, or refuses the request for one, with one
// line in the log. The socket beside it stays, and the gateway stops when it is
// told to.
func TestAPanicEndsOneSocket(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	good, bad, worse := sallyport.NewNodeID(), sallyport.NewNodeID(), sallyport.NewNodeID()
	var log lockedBuffer
	bus := new(route.Memory)
	g := &Gateway{
		Broker: &broker.Broker{Keys: keyring.Generate()}, Bus: bus, Store: db, Log: slog.New(slog.NewJSONHandler(&log, nil)),
		Admit: func(r *http.Request, _ string, _ func(*sallyport.Principal) []string) (*sallyport.Principal, error, error) {
			node, err := sallyport.ParseNodeID(filepath.Base(r.URL.Path))
			if node == worse {
				panic("a bug in admitting")
			}
			return &sallyport.Principal{Node: node}, nil, err
		},
		Lacks: func(_ context.Context, node sallyport.NodeID) (string, error) {
			if node == bad {
				panic("a bug in reading rights")
			}
			return "", nil
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- g.Run(ctx) }()
	for running := false; !running; {
		g.mu.Lock()
		running = g.ctx != nil
		g.mu.Unlock()
		runtime.Gosched()
	}
	web := httptest.NewServer(g)
	defer web.Close()
	dial := func(node sallyport.NodeID) (*socket.Conn, error) {
		c, _, err := socket.Dial(t.Context(), new(http.Transport), web.URL+"/v1/control-channel/"+node.String(), nil)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Drop() })
		hello, err := json.Marshal(wire.OpenControlChannel{TokenValue: wire.NewToken(g.Broker.ControlToken(node))})
		if err != nil {
			t.Fatal(err)
		}
		return c, c.WriteText(t.Context(), hello)
	}
	if _, err := dial(good); err != nil {
		t.Fatal(err)
	}
	before := panics.Count()
	if _, err := dial(worse); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("a socket that panics as it is admitted: %v", err)
	}
	c, err := dial(bad)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadFrame(t.Context()); err == nil {
		t.Error("the socket goes on")
	}
	for !bus.Online(good) {
		if t.Context().Err() != nil {
			t.Fatal("the good node never came")
		}
		runtime.Gosched()
	}
	if n := panics.Count() - before; n != 2 {
		t.Errorf("%d panics", n)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	for _, bug := range []string{"a bug in admitting", "a bug in reading rights"} {
		lines := 0
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, bug) && strings.Contains(line, `"level":"ERROR"`) && strings.Contains(line, "panics_test.go") {
				lines++
			}
		}
		if lines != 1 {
			t.Errorf("%d lines about %s:\n%s", lines, bug, log.String())
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
