package clientcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
)

// exitLost is connect's exit status when there was no session, or the shell did
// not end by itself. It is OpenSSH's.
const exitLost = 255

// patience is how long a connection may be away where there is no terminal.
const patience = 10 * time.Minute

func connectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "connect NODE",
		Short: "Open a shell on a node",
		Long: `Open a shell on a node, named by its id, its name or its computer's name.

At the start of a line, ~. leaves and ends the session, and ~? lists the other
escapes. If the connection is lost the session is taken up again, for as long as
it lasts on the server.

What is piped in is typed for you, and then Ctrl-D. Output follows until the
shell has ended.

With -L, connections to a port here are made by the node, to itself or to any
host that it reaches, for as long as the shell is open; with -N there is no shell.
Only this machine can connect, unless an address to bind to is given.

	sallyport connect -L 8080:80 -L 5432:db.internal:5432 web-1
	sallyport connect -N -L ./db.sock:db.internal:5432 web-1
	sallyport connect --document AWS-StartInteractiveCommand --parameter command=top web-1

The exit status is the shell's. Where an agent of AWS's does not say, it is 0,
with a note on stderr. It is 255 if no session came about, or if the connection
failed, you left or another user ended it, or the session could not be ended; and 128 and the signal's number if a
signal ended the command, which ends the session too.`,
		Args: cobra.ExactArgs(1),
	}
	settings := settingsFlags(c.Flags())
	streamHostFlag(c, settings)
	var (
		fs         forwards
		parameters = parameters{}
	)
	reason := c.Flags().String("reason", "", "why, for the record: a `text`")
	document := c.Flags().String("document", "", "the session document's `name` (default: the account's preferences)")
	c.Flags().Var(parameters, "parameter", "one of the document's parameters, as `name=value`; may be given again")
	c.Flags().VarP(&fs, "forward", "L", "take connections here and have the node make them: `[bind:]port:host:hostport`, port:hostport for the node itself, or a socket's path for bind:port; may be given again")
	noShell := c.Flags().BoolP("no-shell", "N", false, "open no shell, and forward until Ctrl-C")
	c.Args = func(c *cobra.Command, args []string) error {
		if *noShell && len(fs) == 0 {
			return errors.New("-N opens no shell, and without -L there is nothing else to do")
		}
		if len(args) > 1 {
			return fmt.Errorf("connect opens a shell, and takes no command; to run one: sallyport exec %s -- %s", args[0], strings.Join(args[1:], " "))
		}
		return cobra.ExactArgs(1)(c, args)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := fs.open(); err != nil { // before there is a session
			return lost(c, err)
		}
		defer fs.close()
		cl, err := load(c.Context(), settings)
		if err != nil {
			return lost(c, err)
		}
		node, err := findNode(c.Context(), cl, args[0])
		if err != nil {
			return lost(c, err)
		}
		if *noShell {
			return onlyForward(c, cl, fs, node, *reason)
		}
		inv, err := cl.StartSession(c.Context(), client.StartSession{Target: node, DocumentName: *document, Reason: *reason, Parameters: parameters})
		if err != nil {
			return lost(c, err)
		}
		note(c.ErrOrStderr(), "session %s on %s", inv.SessionID, node)
		for _, f := range fs {
			note(c.ErrOrStderr(), "%v", f)
		}
		shell := newSession(c, cl, inv)
		ctx, stop := context.WithCancel(context.WithoutCancel(c.Context()))
		wait := fs.start(ctx, node, *reason, shell.Say, func() *client.Session {
			return &client.Session{Client: cl, Stderr: c.ErrOrStderr(), Window: shell.Window, Quiet: true}
		})
		err = join(c, shell)
		stop()
		if _, mayBeOn := wait(); mayBeOn && err == nil {
			err = Exit(exitLost)
		}
		return err
	}
	return c
}

// onlyForward forwards, with no shell beside, until the person has had enough.
func onlyForward(c *cobra.Command, cl *client.Client, fs forwards, node, reason string) error {
	ctx := c.Context()
	if !signal.Ignored(syscall.SIGHUP) {
		var stop func()
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP) // the window is closed
		defer stop()
	}
	for _, f := range fs {
		note(c.ErrOrStderr(), "%v", f)
	}
	window := newSession(c, cl, client.Invitation{}).Window
	say := func(text string) { note(c.ErrOrStderr(), "%s", text) }
	wait := fs.start(ctx, node, reason, say, func() *client.Session {
		return &client.Session{Client: cl, Stderr: c.ErrOrStderr(), Window: window}
	})
	if failed, _ := wait(); failed > 0 {
		return Exit(exitLost)
	}
	return nil
}

// parameters are a document's, from flags: it is a flag's value.
type parameters map[string][]string

func (p parameters) String() string { return "" }
func (p parameters) Type() string   { return "name=value" }

func (p parameters) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q is not a name, = and a value", text)
	}
	p[name] = append(p[name], value)
	return nil
}

// lost says why there is no session.
func lost(c *cobra.Command, err error) error {
	note(c.ErrOrStderr(), "%s", client.Explain(err))
	return Exit(exitLost)
}

// newSession returns a session between the person and inv, to be run.
func newSession(c *cobra.Command, cl *client.Client, inv client.Invitation) *client.Session {
	s := &client.Session{
		Client: cl, Invitation: inv,
		Stdin: c.InOrStdin(), Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(),
	}
	if f, ok := s.Stdin.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		s.Window = patience
	}
	return s
}

// join holds the session, and says how it ended.
func join(c *cobra.Command, s *client.Session) error {
	// The program's context ends with the first signal. In a session Ctrl-C is
	// a key, and what the other signals do is the session's affair.
	end, err := s.Run(context.WithoutCancel(c.Context()))
	if err != nil {
		return lost(c, err)
	}
	return conclude(c, s.Invitation.SessionID, end)
}

// overBefore says of a session that it ended while its client was away.
func overBefore(id string, end client.Ending) string {
	said := fmt.Sprintf("session %s was over before the connection came back", id)
	switch {
	case end.Output != "":
		return said + ": " + end.Output
	case end.ExitStatus != nil:
		return fmt.Sprintf("%s, with exit status %d; the last of its output may be missing", said, *end.ExitStatus)
	}
	return said
}

func conclude(c *cobra.Command, id string, end client.Ending) error {
	w := c.ErrOrStderr()
	switch {
	case end.MayBeOn: // which it has said
		return Exit(exitLost)
	case end.How == client.Killed:
		return Exit(end.Status())
	case end.How == client.Left:
		note(w, "left session %s", id)
		return Exit(exitLost)
	case end.How == client.Abandoned:
		note(w, "left session %s, which has been ended: the interrupt did not reach the command", id)
		return Exit(exitLost)
	case end.How == client.Expired:
		note(w, "%s", overBefore(id, end))
		return Exit(exitLost)
	}
	if end.Output != "" {
		note(w, "session %s ended: %s", id, end.Output)
	}
	switch {
	case end.ExitStatus == nil && end.Output != "":
		return Exit(exitLost)
	case end.ExitStatus == nil:
		note(w, "the session ended; this node's agent does not say with which status")
	case *end.ExitStatus != 0:
		return Exit(*end.ExitStatus)
	}
	return nil
}

// findNode returns the ID of the node that a person means by name: an ID, the name
// that the node was registered with, or its computer's name, whole or up to the
// first dot, in either case of letters. The name it was registered with goes before
// a computer's, which the computer says of itself.
func findNode(ctx context.Context, cl *client.Client, name string) (string, error) {
	if id, err := sallyport.ParseNodeID(name); err == nil {
		return id.String(), nil
	}
	nodes, err := cl.Nodes(ctx)
	if err != nil {
		var refused *sallyport.Error
		if errors.As(err, &refused) && refused.Code == sallyport.AccessDeniedException {
			return "", fmt.Errorf("you may not list nodes, so name it by its id, not %q: %s", name, refused.Message)
		}
		return "", err
	}
	found := named(nodes, name)
	switch len(found) {
	case 0:
		return "", &noNodeError{name}
	case 1:
		return found[0].InstanceID, nil
	}
	// Not even one that alone is online is meant: it may be the wrong machine, and
	// the person would not hear of it.
	var list strings.Builder
	fmt.Fprintf(&list, "%d nodes are called %q; name one by its id:\n", len(found), name)
	t := tabwriter.NewWriter(&list, 0, 8, 2, ' ', 0)
	for _, n := range found {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", n.InstanceID, cell(n.Name), cell(n.ComputerName), cell(n.PingStatus), ago(n.LastPingDateTime.Time, time.Now()))
	}
	t.Flush()
	return "", errors.New(strings.TrimSuffix(list.String(), "\n"))
}

// A noNodeError is that no node is called name.
type noNodeError struct{ name string }

func (e *noNodeError) Error() string {
	return fmt.Sprintf("no node is called %q; sallyport nodes lists them", e.name)
}

// named returns the nodes called name: by the names they were registered with, if
// any are, before those whose computer is called so, and those before the ones
// whose computer's name only begins with it.
func named(nodes []client.Node, name string) []client.Node {
	var given, whole, short []client.Node
	for _, n := range nodes {
		host, _, _ := strings.Cut(n.ComputerName, ".")
		switch {
		case strings.EqualFold(n.Name, name):
			given = append(given, n)
		case strings.EqualFold(n.ComputerName, name):
			whole = append(whole, n)
		case strings.EqualFold(host, name):
			short = append(short, n)
		}
	}
	switch {
	case len(given) > 0:
		return given
	case len(whole) > 0:
		return whole
	}
	return short
}
