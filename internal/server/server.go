// Package server is the control plane, assembled.
//
//	                      one port, TLS
//	                            │
//	          ┌─────────────────┼──────────────────┐
//	/v1/…-channel/ID (GET)   everything else    /healthz /readyz
//	          │                 │
//	       gateway ──Admit──▶  api ──▶ policy
//	          │                 │
//	          └────▶ broker ◀───┘
//	                   │
//	     store   record   route   keyring
//
// [Run] reads top to bottom: it opens what the server keeps, wires the rooms
// together, and lets them run until its context is done. They are stopped in
// the opposite order, and what is stopped last is what the others write to.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/api/ec2messages"
	"github.com/sallyport/sallyport/internal/api/iam"
	"github.com/sallyport/sallyport/internal/api/kms"
	"github.com/sallyport/sallyport/internal/api/sallyportapi"
	"github.com/sallyport/sallyport/internal/api/ssm"
	"github.com/sallyport/sallyport/internal/api/ssmmessages"
	"github.com/sallyport/sallyport/internal/api/sts"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/rawio"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/statedir"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/worker"
)

// How long the server takes over things.
const (
	flushEvery   = 2 * time.Second  // pings and last uses, to the store
	tidyEvery    = time.Hour        // recordings, keys, history
	stopWithin   = 5 * time.Second  // for requests that are under way
	headerWithin = 10 * time.Second // for a request's header
	idleConn     = 30 * time.Second // for a connection between requests

	databaseAgain = 2 * time.Second // before a database that did not answer is tried again
)

// maxHeader bounds a request's header. The longest of ours is a session token's,
// with its signature: 3 KiB.
const maxHeader = 16 << 10

// A Running is what a server says of itself once it is up.
type Running struct {
	Endpoint string // the public URL
	Addr     net.Addr
	Realm    sallyport.Realm
	CA       []byte // PEM; nil if the certificate is not of the server's own CA

	// API and Broker are for those that embed the server: dev, and tests.
	API    *api.Server
	Broker *broker.Broker
	Store  *store.DB
}

// Run runs a control plane until ctx is done. It calls ready once requests are
// answered, and returns after ready has. What it returns other than nil is for the operator, and says what
// to do.
func Run(ctx context.Context, config Config, logger *slog.Logger, ready func(Running)) error {
	c, err := config.settle()
	if err != nil {
		return err
	}
	stores, err := keyring.ParseStores(ctx, c.KeyStores)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c.background = ctx

	// What the server keeps.
	if err := statedir.Prepare(c.State); err != nil {
		return err
	}
	unlock, err := statedir.Lock(c.State, "sallyport server")
	if err != nil {
		return fmt.Errorf("%w; a server's state is its own alone", err)
	}
	defer unlock()
	admin := c.Admin
	if admin == nil {
		if admin, err = listenAdmin(c.State); err != nil {
			return err
		}
	}
	defer admin.Close()

	// The port: taken before anything is touched, and answered on last.
	listener := c.Listener
	if listener == nil {
		if listener, err = net.Listen("tcp", c.Listen); err != nil {
			return explainListen(c.Listen, err)
		}
		c.Listener = listener
		if c.public, err = c.publicURL(); err != nil { // a port of 0 is known by now
			return err
		}
	}
	defer listener.Close()

	tlsConfig, caPEM, keepCert, err := c.tlsConfig(logger)
	if err != nil {
		return err
	}
	if keepCert != nil {
		kept := make(chan struct{})
		go func() {
			defer close(kept)
			keepCert(ctx)
		}()
		defer func() {
			stop()
			<-kept
		}()
	}
	var port front
	web := &http.Server{
		Handler:           &port,
		ReadHeaderTimeout: headerWithin,
		IdleTimeout:       idleConn,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(quiet{logger}, "", 0),
	}
	var serving chan error // receives why the port is not answered any more; nil before it is
	serveCtx, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	answer := func() {
		serving = make(chan error, 1)
		go func() {
			serving <- serve(serveCtx, web, tls.NewListener(bounded(rawio.Listen(listener), descriptors()), tlsConfig))
		}()
	}
	db, err := openDatabase(ctx, c.Database, answer, logger)
	if err != nil {
		if stopServing(); serving != nil {
			<-serving
		}
		if ctx.Err() != nil && errors.Is(err, store.ErrUnavailable) {
			return nil // it was stopped while it waited
		}
		return err
	}
	defer db.Close() // last: everything else may still write
	if err := db.Claim(ctx); err != nil {
		return err
	}
	_, inUse, err := db.Meta().Realm(ctx)
	if err != nil {
		return err
	}
	err = db.Update(ctx, func(tx *store.Tx) error {
		if !inUse {
			if err := furnish(ctx, tx); err != nil {
				return err
			}
		}
		return tx.Meta().SetRealm(ctx, c.realm)
	})
	if err != nil {
		return err
	}
	keys, err := c.openKeys(ctx, db)
	if err != nil {
		return err
	}
	if err := db.Nodes().MarkAllOffline(ctx); err != nil { // until they dial again
		return err
	}
	shelf, err := record.OpenShelf(c.Disk, filepath.Join(c.State, "sessions"))
	if err != nil {
		return err
	}
	defer shelf.Close() // once the sessions have closed their logs

	// The rooms.
	bus := &route.Memory{}
	sessions := &broker.Broker{Store: db, Bus: bus, Shelf: shelf, Keys: keys, Log: logger, Idle: c.Idle, Limits: c.Limits}
	db.OnGone = sessions.EndBasis
	apiServer := &api.Server{Realm: c.realm, Store: db, Keys: keys, Log: logger}
	apiServer.Services = []*api.Service{
		(&ssm.Server{API: apiServer, Broker: sessions, Bus: bus, StreamHost: c.public.Host, Started: time.Now()}).Service(),
		(&ssmmessages.Server{API: apiServer, Broker: sessions}).Service(),
		(&ec2messages.Server{API: apiServer, Stopping: ctx.Done()}).Service(),
		iam.Service(),
		sts.Service(),
		(&kms.Server{API: apiServer, Stores: stores}).Service(),
		(&sallyportapi.Server{API: apiServer, Shelf: shelf}).Service(),
	}
	if err := apiServer.BindStored(ctx); err != nil {
		return err
	}
	sockets := &gateway.Gateway{
		Realm: c.realm, Broker: sessions, Bus: bus, Store: db, Log: logger,
		Admit: apiServer.AdmitSocket, Lacks: apiServer.NodeLacks, RequireSigned: c.RequireSigned, NewestWins: c.NewestAgentWins,
	}

	work, err := jobs(ctx, c.KeepHistory, db, shelf, sessions, logger)
	if err != nil {
		return err
	}

	adminWeb := &http.Server{Handler: c.adminHandler(apiServer, caPEM, metrics(sessions, bus)), ReadHeaderTimeout: headerWithin, ErrorLog: web.ErrorLog}

	// And they run. The broker is up before the first request can come.
	running := Running{Endpoint: c.public.String(), Addr: listener.Addr(), Realm: c.realm, CA: caPEM, API: apiServer, Broker: sessions, Store: db}
	g, gctx := errgroup.WithContext(ctx)
	brokerReady := make(chan struct{})
	g.Go(func() error { return sessions.Run(gctx, func() { close(brokerReady) }) })
	g.Go(func() error { return sockets.Run(gctx) })
	g.Go(func() error {
		return db.Run(gctx, flushEvery, func(err error) { logger.Error("last pings not written", sallyport.LogErr, err) })
	})
	g.Go(func() error { return db.Hold(gctx) })
	g.Go(func() error { return work.Run(gctx) })
	g.Go(func() error { return serve(gctx, adminWeb, admin) })
	g.Go(func() error {
		select {
		case <-brokerReady:
		case <-gctx.Done():
			return nil
		}
		logger.Info("server started", sallyport.LogAddr, listener.Addr().String(), sallyport.LogVersion, sallyport.Version, sallyport.LogPath, c.State)
		answers := contained(handler(apiServer, sockets, db), logger)
		port.ready.Store(&answers)
		if serving == nil {
			answer()
		}
		g.Go(func() error {
			ready(running)
			return nil
		})
		select {
		case err := <-serving:
			return err
		case <-gctx.Done():
			stopServing()
			return <-serving
		}
	})
	err = g.Wait()
	logger.Info("server stopped")
	return err
}

// explainListen says why the port could not be taken, and what to do.
func explainListen(address string, err error) error {
	_, port, _ := net.SplitHostPort(address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		find := ""
		if runtime.GOOS == "linux" {
			find = fmt.Sprintf(" (as root, ss -ltnp 'sport = :%s' names it)", port)
		}
		return fmt.Errorf("%s is in use, perhaps by another sallyport server or dev%s; stop that, or give --listen another port", address, find)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s may not be listened on by this user: ports below 1024 need root, or on Linux the capability CAP_NET_BIND_SERVICE; or give --listen another port", address)
	}
	return fmt.Errorf("listen on %s: %w", address, err)
}

// A front is the handler of the port: an explanation, until the server is there.
type front struct{ ready atomic.Pointer[http.Handler] }

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := f.ready.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	if r.URL.Path == "/healthz" {
		fmt.Fprintln(w, "ok", sallyport.Version)
		return
	}
	w.Header().Set("Retry-After", "2")
	http.Error(w, "the server waits for its database, which does not answer", http.StatusServiceUnavailable)
}

// openDatabase opens the database, and waits for one that does not answer yet, as
// when both machines have just been started. It calls waiting before it waits, so
// that the port is answered meanwhile, and says why nothing else is.
func openDatabase(ctx context.Context, dsn string, waiting func(), logger *slog.Logger) (*store.DB, error) {
	db, err := store.Open(ctx, dsn)
	if !errors.Is(err, store.ErrUnavailable) {
		return db, err
	}
	logger.Warn("waiting for the database", sallyport.LogErr, err)
	waiting()
	tick := time.NewTicker(databaseAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
		if db, err = store.Open(ctx, dsn); !errors.Is(err, store.ErrUnavailable) {
			return db, err
		}
	}
}

// serve answers on l until ctx is done, and lets what is under way finish.
func serve(ctx context.Context, s *http.Server, l net.Listener) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		if s.Shutdown(late) != nil {
			s.Close()
		}
	}()
	err := s.Serve(l)
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// handler says who answers what.
func handler(apiServer *api.Server, sockets *gateway.Gateway, db *store.DB) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/"):
			sockets.ServeHTTP(w, r)
		case r.URL.Path == "/healthz": // the process is there
			fmt.Fprintln(w, "ok", sallyport.Version)
		case r.URL.Path == "/readyz": // and can do its work
			ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
			defer cancel()
			if err := db.Ready(ctx); err != nil {
				http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ready")
		default:
			apiServer.ServeHTTP(w, r)
		}
	})
}

// contained answers with h. A panic that h has not made an error itself closes the
// connection, for half an answer may have been sent, and is one line in the log.
func contained(h http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := panics.Run(func() error {
			h.ServeHTTP(w, r)
			return nil
		})
		if err != nil {
			logger.ErrorContext(r.Context(), "request panicked", sallyport.LogRemote, r.RemoteAddr, sallyport.LogErr, err, panics.Stack(err))
			panic(http.ErrAbortHandler) // which net/http takes for just that, and does not log
		}
	})
}

// NodeRole is a role that a new database has, for nodes: what AWS's console
// makes when an activation is first created there.
const NodeRole = "SallyportManagedNode"

// furnish puts into a new database what everybody needs.
func furnish(ctx context.Context, tx *store.Tx) error {
	err := tx.IAM().CreateRole(ctx, sallyport.Role{
		Name: NodeRole, Path: "/service-role/", ID: sallyport.EntityID("AROA"), Created: time.Now(), MaxSession: time.Hour,
		Description: "What managed nodes act in, unless their activation names another role.",
		Trust:       `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ssm.amazonaws.com"},"Action":"sts:AssumeRole"}]}`,
	})
	if err != nil && sallyport.CodeOf(err) != sallyport.EntityAlreadyExists { // an earlier version was killed before it set the realm
		return err
	}
	return tx.IAM().Attach(ctx, store.Role(NodeRole), "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore")
}

// openKeys reads the root key, or makes one for a database that never had one.
func (s *settled) openKeys(ctx context.Context, db *store.DB) (*keyring.Keyring, error) {
	keys, set, err := keyring.FromEnv(rootKeyEnv)
	if err != nil {
		return nil, err
	}
	if !set {
		keys, err = keyring.ReadFile(s.KeyFile)
		if errors.Is(err, fs.ErrNotExist) {
			keyed, kerr := db.Keyed(ctx)
			if kerr != nil {
				return nil, kerr
			}
			if keyed {
				return nil, fmt.Errorf("the database is sealed with a root key, and there is none in %s; put the key file back, or name it with --key-file", s.KeyFile)
			}
			keys, err = keyring.CreateFile(s.KeyFile)
		}
		if err != nil {
			return nil, err
		}
	}
	return keys, db.Unlock(ctx, keys)
}

// jobs returns what does the server's queued jobs. Each hour: recordings that could
// not be made when their sessions ended are made, KMS keys whose time has come are
// deleted, and history that is old enough is forgotten.
func jobs(ctx context.Context, keep time.Duration, db *store.DB, shelf *record.Shelf, b *broker.Broker, logger *slog.Logger) (*worker.Worker, error) {
	const (
		sealAll    = "seal recordings"
		deleteKeys = "delete KMS keys"
		forget     = "forget history"
	)
	w := &worker.Worker{Queue: db.Jobs(), Log: logger, Do: map[string]func(context.Context, store.Item) error{
		broker.SealJob: b.SealLate,
		sealAll: func(ctx context.Context, _ store.Item) error {
			_, err := b.Tidy(ctx)
			return err
		},
		deleteKeys: func(ctx context.Context, _ store.Item) error {
			gone, err := db.Keys().DeleteDue(ctx, time.Now())
			if len(gone) > 0 {
				logger.Info("KMS keys deleted, as was scheduled", "keys", gone)
			}
			return err
		},
		forget: func(ctx context.Context, _ store.Item) error {
			if keep == 0 {
				return nil
			}
			return forgetHistory(ctx, time.Now().Add(-keep), db, shelf, logger)
		},
	}}
	err := db.Update(ctx, func(tx *store.Tx) error {
		for _, kind := range []string{sealAll, deleteKeys, forget} {
			// When sessions have been taken up.
			if err := tx.Jobs().Add(ctx, store.Item{Kind: kind, Name: kind, Due: time.Now().Add(time.Minute), Every: tidyEvery}); err != nil {
				return err
			}
		}
		return nil
	})
	return w, err
}

// forgetHistory deletes what is known of sessions that ended before then: their
// rows, recordings, and the events and dead items of that time.
func forgetHistory(ctx context.Context, then time.Time, db *store.DB, shelf *record.Shelf, logger *slog.Logger) error {
	n, err := db.Sessions().Forget(ctx, then)
	if n > 0 {
		logger.Info("history forgotten", "sessions", n)
	}
	if err != nil {
		return err
	}
	_, events := db.Events().Forget(ctx, then)
	_, dead := db.Jobs().Forget(ctx, then)
	_, untold := db.Outbox().Forget(ctx, then)
	return errors.Join(shelf.Expire(then), events, dead, untold)
}

// quiet has net/http's own complaints, which strangers cause, logged at debug level,
// which is off by default.
type quiet struct{ log *slog.Logger }

func (q quiet) Write(b []byte) (int, error) {
	q.log.Debug("connection failed", sallyport.LogErr, strings.TrimSpace(string(b)))
	return len(b), nil
}
