package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/agentcmd"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/statedir"
	"github.com/sallyport/sallyport/internal/usage"
)

func devCommand() *cobra.Command {
	var state, listen string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try it: a server, and this machine as a managed node",
		Long: `Run a server with its defaults on this machine alone, and an agent that makes
this machine its managed node. Sessions are yours: they run as you, with your
shell. Nothing is served to other machines. Ctrl-C stops all of it; the state
stays, and the next dev goes on with it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := settle(cmd.Flags(), ""); err != nil {
				return usage.Errorf("%w", err)
			}
			agentcmd.CloseOnExec()
			return dev(cmd.Context(), state, listen, verbose, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", stateDir("dev"), "the state `directory`")
	f.StringVar(&listen, "listen", "127.0.0.1:8443", "the `address` to serve on: a loopback one")
	f.BoolVar(&verbose, "verbose", false, "log more")
	return cmd
}

func dev(ctx context.Context, state, listen string, verbose bool, out io.Writer) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return usage.Errorf("listen address %q is not a host and a port", listen)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usage.Errorf("dev serves this machine alone, and %s is not a loopback address; to serve others, see sallyport server", host)
	}
	listener, err := net.Listen("tcp", listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use, perhaps by another dev; stop it, or give --listen another port", listen)
	}
	if err != nil {
		return err
	}
	defer listener.Close()
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	up := make(chan server.Running, 1)
	serverCtx, stopServer := context.WithCancel(context.WithoutCancel(ctx)) // the agent says goodbye first
	defer stopServer()
	g.Go(func() error {
		defer stop()
		return server.Run(serverCtx, server.Config{Listener: listener, State: state}, log, func(r server.Running) { up <- r })
	})
	g.Go(func() error {
		defer stopServer()
		var r server.Running
		select {
		case r = <-up:
		case <-gctx.Done():
			return nil
		}
		return devAgent(gctx, r, filepath.Join(state, "agent"), log, func(node sallyport.NodeID) { greet(out, r, node, state) })
	})
	return g.Wait()
}

// devAgent makes this machine a node of r, if it is not one already, and runs
// its agent. Ready is called when the node is online, the first time.
func devAgent(ctx context.Context, r server.Running, state string, log *slog.Logger, ready func(sallyport.NodeID)) error {
	reg, err := agent.Load(state)
	if err == nil {
		if _, known := r.Store.Nodes().Get(ctx, reg.Node); known != nil {
			err = errors.New("of another server")
		} else if reg.Endpoint != r.Endpoint { // of this one, at another port
			reg.Endpoint, reg.CA = r.Endpoint, string(r.CA)
			if err := reg.Save(state); err != nil {
				return err
			}
		}
	}
	if err != nil {
		if reg, err = devRegister(ctx, r, state); err != nil {
			return err
		}
	}
	unlock, err := statedir.Lock(state, "the agent of sallyport dev")
	if err != nil {
		return err
	}
	defer unlock()
	greeted := false
	a := &agent.Agent{State: state, Log: log, Connected: func() {
		if !greeted {
			greeted = true
			ready(reg.Node)
		}
	}}
	return a.Run(ctx)
}

func devRegister(ctx context.Context, r server.Running, state string) (*agent.Registration, error) {
	name, err := os.Hostname()
	if err != nil {
		name = "this machine"
	}
	now := time.Now()
	code := sallyport.GenerateSecret()
	role, err := r.API.NodeRole(ctx, server.NodeRole)
	if err != nil {
		return nil, err
	}
	activation := sallyport.Activation{
		ID: uuid.NewString(), Code: code.Hash(), Role: role.PathAndName(), RoleID: role.ID, Name: name, Description: "sallyport dev",
		Limit: 1, Created: now, Expires: now.Add(time.Hour),
	}
	if err := r.Store.Activations().Create(ctx, activation); err != nil {
		return nil, err
	}
	return agent.Register(ctx, agent.Registering{
		State: state, Endpoint: r.Endpoint, Region: r.Realm.Region, Activation: activation.ID, Code: code,
		Trust: endpoint.Trust{PEM: r.CA}, Force: true,
	})
}

// greet says how to connect, as lines to paste.
func greet(out io.Writer, r server.Running, node sallyport.NodeID, state string) {
	self, err := os.Executable()
	if err != nil {
		self = "sallyport"
	} else if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, self); err == nil && len(rel) < len(self) {
			self = rel
		}
	}
	env := self + " env"
	if state != stateDir("dev") {
		env += " --state " + quote(state)
	}
	fmt.Fprintf(out, `
Sallyport is up.
  endpoint  %s
  node      %s, which is this machine
  state     %s

In another terminal:
  eval "$(%s)"
  aws ssm start-session --target %s

Ctrl-C stops all of it.
`, r.Endpoint, node, state, env, node)
}
