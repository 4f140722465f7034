package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/statedir"
)

// SocketPath is where the admin socket of the server with a state directory is.
func SocketPath(state string) string { return filepath.Join(state, "admin.sock") }

// maxSocketPath is how long a path to a Unix socket may be, on any system we
// run on, with room to spare.
const maxSocketPath = 100

// listenAdmin opens the admin socket: for the user that runs the server, and no
// other. It is also what keeps two servers from sharing a state directory.
func listenAdmin(state string) (net.Listener, error) {
	path := SocketPath(state)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path of the admin socket, %s, has %d characters, and sockets have room for %d; use a shorter state directory", path, len(path), maxSocketPath)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("another server is running with the state directory %s", state)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove an old admin socket: %w", err)
	}
	l, err := statedir.ListenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	return l, nil
}

// adminLife is how long credentials from the admin socket are good for.
const adminLife = 12 * time.Hour

// An Admission is what the admin socket answers: how to reach the server, as its
// administrator.
type Admission struct {
	Endpoint        string
	Region          string
	Account         string
	CA              string `json:",omitempty"` // PEM, if the server has a CA of its own
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	Expires         time.Time
}

// adminHandler serves metrics, profiles, and credentials for the administrator.
func (s *settled) adminHandler(a *api.Server, caPEM []byte, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("POST /admission", func(w http.ResponseWriter, r *http.Request) {
		t, err := a.Issue(api.Grant{Who: a.Root(), For: adminLife}, time.Now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(Admission{
			Endpoint: s.public.String(), Region: s.realm.Region, Account: s.realm.Account, CA: string(caPEM),
			AccessKeyID: t.AccessKeyID, SecretAccessKey: t.Secret.Reveal(), SessionToken: t.Token.Reveal(), Expires: t.Expires,
		})
	})
	return mux
}

// Admit asks the server with a state directory for admission. It must run on
// this machine, as the same user.
func Admit(ctx context.Context, state string) (Admission, error) {
	var out Admission
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", SocketPath(state))
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://admin/admission", nil)
	if err != nil {
		return out, err
	}
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return out, fmt.Errorf("the admin socket of the server with the state directory %s is for the user who runs it", state)
		}
		return out, fmt.Errorf("no server is running with the state directory %s; start one, or name another with --state", state)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return out, fmt.Errorf("the server answered %s", resp.Status)
	}
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// metrics is what the server counts, for Prometheus.
func metrics(b *broker.Broker, bus *route.Memory) *prometheus.Registry {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "sallyport", Name: name, Help: help}, value))
	}
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "sallyport", Name: "frames_dropped_total", Help: "Frames that made no sense or found no room.",
		}, func() float64 { return float64(b.Stats().Dropped) }),
	)
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "sallyport", Name: "panics_total", Help: "Bugs that ended one request, socket or session; each is a line in the log, with its stack.",
	}, func() float64 { return float64(panics.Count()) }))
	gauge("nodes_online", "Managed nodes whose control channel is open and may have sessions.", func() float64 { return float64(bus.Count()) })
	gauge("sessions_live", "Sessions that are on.", func() float64 { return float64(b.Stats().Live) })
	return r
}
