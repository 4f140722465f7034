// Package clientcmd answers how people use sessions from a command line:
// connect, nodes and sessions.
package clientcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
)

// An ExitError ends the program with a status of its own, without another word:
// whoever returns it has said what there was to say.
type ExitError struct{ Status int }

func (e ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// lost is the exit status of connect when the connection failed, as ssh's.
const lost = 255

// Commands are connect, nodes and sessions.
func Commands() []*cobra.Command {
	return []*cobra.Command{connectCommand(), nodesCommand(), sessionsCommand()}
}

// flags gives a command the settings that all of them share.
func flags(cmd *cobra.Command) *client.Settings {
	s := new(client.Settings)
	f := cmd.Flags()
	f.StringVar(&s.Endpoint, "endpoint-url", "", "the control plane's `URL` (default AWS_ENDPOINT_URL)")
	f.StringVar(&s.Region, "region", "", "its region's `name` (default AWS_REGION)")
	f.StringVar(&s.Profile, "profile", "", "the `name` of an AWS profile (default AWS_PROFILE)")
	f.StringVar(&s.CABundle, "ca-bundle", "", "a PEM `file` of certificates to believe beside the system's (default AWS_CA_BUNDLE)")
	return s
}

func connectCommand() *cobra.Command {
	var in client.StartSession
	cmd := &cobra.Command{
		Use:   "connect NODE",
		Short: "Open a shell on a managed node",
		Long: `Open a shell on a managed node, given its ID, its name or its computer name.

The exit status is the shell's. Where an agent of AWS's does not say, it is 0,
with a note on stderr; it is 255 when the connection failed or was ended by
somebody else, and 1 or 2 as for every command when there was no session.

At the beginning of a line ~. leaves the session, ~? lists what else there is,
and ~~ types one ~.`,
		Args: cobra.ExactArgs(1),
	}
	settings := flags(cmd)
	f := cmd.Flags()
	f.StringVar(&in.Reason, "reason", "", "why, for the record")
	f.StringVar(&in.DocumentName, "document", "", "the `name` of a session document")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		c, err := client.Load(ctx, *settings)
		if err != nil {
			return err
		}
		if in.Target, err = resolve(ctx, c, args[0]); err != nil {
			return err
		}
		inv, err := c.StartSession(ctx, in)
		if err != nil {
			return errors.New(client.Explain(err))
		}
		say := func(format string, a ...any) {
			fmt.Fprintf(cmd.ErrOrStderr(), "sallyport: "+format+"\n", a...)
		}
		say("session %s on %s", inv.SessionID, in.Target)
		// Signals are the session's from here on: the context of the program
		// ends with the first one, and Ctrl-C is a key.
		s := &client.Session{Client: c, Invitation: inv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
		end, err := s.Run(context.WithoutCancel(ctx))
		return ended(end, err, say)
	}
	return cmd
}

// ended says how a session ended, where that is not plain to see, and turns it
// into an exit status.
func ended(end client.Ending, err error, say func(string, ...any)) error {
	switch {
	case err != nil:
		say("%s", client.Explain(err))
		return ExitError{lost}
	case end.How == client.Left:
		say("left the session")
		return ExitError{lost}
	case end.How == client.Killed:
		if n, ok := end.Signal.(syscall.Signal); ok {
			return ExitError{128 + int(n)}
		}
		return ExitError{lost}
	case end.How == client.Expired:
		say("the session had ended while the connection was lost")
		return ExitError{lost}
	case end.Output != "":
		say("%s", end.Output)
		return ExitError{lost}
	case end.ExitStatus == nil:
		say("the session ended; this node's agent does not say with which status")
		return nil
	case *end.ExitStatus != 0:
		return ExitError{*end.ExitStatus}
	}
	return nil
}

// resolve finds the node that a person means: by its ID, by the name it was
// given, or by its computer's name.
func resolve(ctx context.Context, c *client.Client, name string) (id string, err error) {
	if _, err := sallyport.ParseNodeID(name); err == nil {
		return name, nil
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return "", fmt.Errorf("find node %q: %s", name, client.Explain(err))
	}
	var found []client.Node
	for _, n := range nodes {
		if n.InstanceID == name || strings.EqualFold(n.Name, name) || strings.EqualFold(n.ComputerName, name) {
			found = append(found, n)
		}
	}
	if len(found) > 1 { // machines that were replaced leave their names behind
		var online []client.Node
		for _, n := range found {
			if n.PingStatus == "Online" {
				online = append(online, n)
			}
		}
		if len(online) == 1 {
			found = online
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no node is called %q; sallyport nodes lists them", name)
	case 1:
		return found[0].InstanceID, nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes are called %q; say which by its ID:", len(found), name)
	for _, n := range found {
		fmt.Fprintf(&b, "\n  %s  %s  %s", n.InstanceID, n.PingStatus, n.IPAddress)
	}
	return "", errors.New(b.String())
}

func nodesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "nodes", Short: "List managed nodes", Args: cobra.NoArgs}
	settings := flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := client.Load(cmd.Context(), *settings)
		if err != nil {
			return err
		}
		nodes, err := c.Nodes(cmd.Context())
		if err != nil {
			return errors.New(client.Explain(err))
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), nodes)
		}
		t := newTable(cmd.OutOrStdout(), "NODE", "NAME", "COMPUTER", "PLATFORM", "AGENT", "STATUS", "SEEN", "ADDRESS")
		for _, n := range nodes {
			t.row(n.InstanceID, n.Name, n.ComputerName, strings.TrimSpace(n.PlatformName+" "+n.PlatformVersion), n.AgentVersion, n.PingStatus, ago(n.LastPingDateTime.Time), n.IPAddress)
		}
		return t.Flush()
	}
	return cmd
}

// shown is how many sessions are listed if nobody says.
const shown = 100

func sessionsCommand() *cobra.Command {
	var asJSON bool
	q := client.SessionQuery{}
	var node string
	cmd := &cobra.Command{Use: "sessions", Short: "List sessions that are on, or were", Args: cobra.NoArgs}
	settings := flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&q.History, "history", false, "those that are over")
	f.StringVar(&node, "node", "", "on one node alone: its `ID` or name")
	f.StringVar(&q.Owner, "owner", "", "of one owner alone: an `ARN`")
	f.IntVar(&q.Limit, "limit", shown, "how many at most; 0 is all")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		c, err := client.Load(ctx, *settings)
		if err != nil {
			return err
		}
		if node != "" {
			if q.Target, err = resolve(ctx, c, node); err != nil {
				return err
			}
		}
		all, more, err := c.Sessions(ctx, q)
		if err != nil {
			return errors.New(client.Explain(err))
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), all)
		}
		t := newTable(cmd.OutOrStdout(), "SESSION", "NODE", "STATUS", "OWNER", "STARTED", "ENDED", "REASON", "CAUSE")
		for _, s := range all {
			t.row(s.SessionID, s.Target, s.Status, s.Owner, moment(s.StartDate.Time), moment(s.EndDate.Time), s.Reason, s.Details)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if more {
			fmt.Fprintf(cmd.ErrOrStderr(), "sallyport: there are more; --limit shows them\n")
		}
		return nil
	}
	return cmd
}

func printJSON[T any](w io.Writer, all []T) error {
	if all == nil {
		all = []T{}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(all)
}

// A table lines up columns for a person.
type table struct{ *tabwriter.Writer }

func newTable(w io.Writer, head ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(head...)
	return t
}

// row writes one line. What nodes and people have said of themselves is kept
// from acting on the terminal.
func (t table) row(cells ...string) {
	for i, c := range cells {
		c = strings.Map(func(r rune) rune {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				return '?'
			}
			return r
		}, c)
		if c == "" {
			c = "-"
		}
		cells[i] = c
	}
	fmt.Fprintln(t, strings.Join(cells, "\t"))
}

// ago is how long ago t was, as a person says it.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := time.Since(t)
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}
