package clientcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
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

// patience is how long a connection may be away where nobody is watching.
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

The exit status is the shell's. Where an agent of AWS's does not say, it is 0,
with a note on stderr. It is 255 if no session came about, or if the connection
failed, you left or somebody else ended it; and 128 and the signal's number if a
signal ended the command, which ends the session too.`,
		Args: cobra.ExactArgs(1),
	}
	settings := settingsFlags(c.Flags())
	reason := c.Flags().String("reason", "", "why, for the record: a `text`")
	document := c.Flags().String("document", "", "the session document's `name` (default: the account's preferences)")
	c.Flags().StringVar(&settings.StreamHost, "stream-host", "", "the `host` streams may be at, if not the control plane's own")
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := load(c.Context(), settings)
		if err != nil {
			return lost(c, err)
		}
		node, err := findNode(c.Context(), cl, args[0])
		if err != nil {
			return lost(c, err)
		}
		inv, err := cl.StartSession(c.Context(), client.StartSession{Target: node, DocumentName: *document, Reason: *reason})
		if err != nil {
			return lost(c, err)
		}
		note(c.ErrOrStderr(), "session %s on %s", inv.SessionID, node)
		return join(c, cl, inv)
	}
	return c
}

// lost says why there is no session.
func lost(c *cobra.Command, err error) error {
	note(c.ErrOrStderr(), "%s", client.Explain(err))
	return Exit(exitLost)
}

// join holds the session, and says how it ended.
func join(c *cobra.Command, cl *client.Client, inv client.Invitation) error {
	s := &client.Session{
		Client: cl, Invitation: inv,
		Stdin: c.InOrStdin(), Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(),
	}
	if f, ok := s.Stdin.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		s.Window = patience
	}
	// The program's context ends with the first signal. In a session Ctrl-C is
	// a key, and what the other signals do is the session's affair.
	end, err := s.Run(context.WithoutCancel(c.Context()))
	if err != nil {
		return lost(c, err)
	}
	return conclude(c, inv.SessionID, end)
}

func conclude(c *cobra.Command, id string, end client.Ending) error {
	w := c.ErrOrStderr()
	switch end.How {
	case client.Killed:
		return Exit(end.Status())
	case client.Left:
		note(w, "left session %s", id)
		return Exit(exitLost)
	case client.Expired:
		note(w, "session %s was over before the connection came back", id)
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

// findNode returns the ID of the node that a person means by name: an ID, the
// name it was registered with, or its computer's name, whole or up to the first
// dot, in either case of letters.
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
		return "", fmt.Errorf("no node is called %q; sallyport nodes lists them", name)
	case 1:
		return found[0].InstanceID, nil
	}
	var list strings.Builder
	fmt.Fprintf(&list, "%d nodes are called %q; name one by its id:\n", len(found), name)
	t := tabwriter.NewWriter(&list, 0, 8, 2, ' ', 0)
	for _, n := range found {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", n.InstanceID, cell(n.Name), cell(n.ComputerName), cell(n.PingStatus), ago(n.LastPingDateTime.Time, time.Now()))
	}
	t.Flush()
	return "", errors.New(strings.TrimSuffix(list.String(), "\n"))
}

// named returns the nodes called name: by their whole names, if any are, before
// those whose computer's name only begins with it. Of several, one that alone is
// online is meant: machines that were replaced leave their names behind.
func named(nodes []client.Node, name string) []client.Node {
	var whole, short []client.Node
	for _, n := range nodes {
		host, _, _ := strings.Cut(n.ComputerName, ".")
		switch {
		case strings.EqualFold(n.Name, name), strings.EqualFold(n.ComputerName, name):
			whole = append(whole, n)
		case strings.EqualFold(host, name):
			short = append(short, n)
		}
	}
	if len(whole) == 0 {
		whole = short
	}
	var online []client.Node
	for _, n := range whole {
		if n.PingStatus == "Online" {
			online = append(online, n)
		}
	}
	if len(online) == 1 {
		return online
	}
	return whole
}
