package clientcmd

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/usage"
)

func nodesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "nodes",
		Short: "List managed nodes",
		Args:  cobra.NoArgs,
	}
	settings := settingsFlags(c.Flags())
	asJSON := c.Flags().Bool("json", false, "write JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := load(c.Context(), settings)
		if err != nil {
			return err
		}
		nodes, err := cl.Nodes(c.Context())
		if err != nil {
			return fmt.Errorf("list nodes: %s", client.Explain(err))
		}
		if *asJSON {
			if nodes == nil {
				nodes = []client.Node{}
			}
			return writeJSON(c.OutOrStdout(), nodes)
		}
		if len(nodes) == 0 {
			note(c.ErrOrStderr(), "there are no nodes; sallyport activation create says how to register one")
			return nil
		}
		return nodeTable(nodes, time.Now()).write(c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
}

func nodeTable(nodes []client.Node, now time.Time) *table {
	t := &table{columns: []column{{"NODE", 0}, {"NAME", 0}, {"COMPUTER", 1}, {"PLATFORM", 3}, {"AGENT", 5}, {"STATUS", 0}, {"LAST SEEN", 2}, {"ADDRESS", 4}}}
	for _, n := range nodes {
		platform := n.PlatformName
		if platform == "" {
			platform = n.PlatformType
		} else if n.PlatformVersion != "" {
			platform += " " + n.PlatformVersion
		}
		t.add(cell(n.InstanceID), cell(n.Name), cell(n.ComputerName),
			cell(platform), cell(n.AgentVersion), cell(n.PingStatus), ago(n.LastPingDateTime.Time, now), cell(n.IPAddress))
	}
	return t
}

func sessionsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "sessions [SESSION]",
		Short: "List sessions that are on, or with --history those that are over",
		Long: `List sessions that are on, or with --history those that are over; or one session
by its ID, on or over.`,
		Args: cobra.MaximumNArgs(1),
	}
	settings := settingsFlags(c.Flags())
	var q client.SessionQuery
	c.Flags().BoolVar(&q.History, "history", false, "list those that are over")
	c.Flags().StringVar(&q.Target, "node", "", "only those on this node: an `id or name`")
	c.Flags().StringVar(&q.Owner, "owner", "", "only those of this `ARN`")
	c.Flags().IntVar(&q.Limit, "limit", 100, "list no more than the newest `n`; 0 lists all")
	asJSON := c.Flags().Bool("json", false, "write JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		if q.Limit < 0 {
			return usage.Errorf("--limit has to be 0, for all, or more, not %d", q.Limit)
		}
		if q.Owner != "" && !strings.HasPrefix(q.Owner, "arn:") {
			return usage.Errorf("--owner takes an ARN, as in arn:aws:iam::000000000000:user/ann, and %q is none", q.Owner)
		}
		if len(args) == 1 {
			if _, err := sallyport.ParseSessionID(args[0]); err != nil {
				return usage.Errorf("%q is not a session's ID, like alice-0c4f1e9ab27d3355e; for those on a node use --node, for a user's --owner", args[0])
			}
			q.ID = args[0]
		}
		cl, err := load(c.Context(), settings)
		if err != nil {
			return err
		}
		if q.Target != "" {
			if q.Target, err = findNode(c.Context(), cl, q.Target); err != nil {
				return fmt.Errorf("list sessions: %s", client.Explain(err))
			}
		}
		sessions, more, err := cl.Sessions(c.Context(), q)
		if err == nil && len(sessions) == 0 && q.ID != "" && !q.History {
			q.History = true
			sessions, more, err = cl.Sessions(c.Context(), q)
		}
		if err != nil {
			return fmt.Errorf("list sessions: %s", client.Explain(err))
		}
		if more {
			defer note(c.ErrOrStderr(), "there are more; --limit 0 lists all")
		}
		if *asJSON {
			if sessions == nil {
				sessions = []client.SessionInfo{}
			}
			return writeJSON(c.OutOrStdout(), sessions)
		}
		switch {
		case len(sessions) > 0:
			return sessionTable(sessions, q.History).write(c.OutOrStdout(), c.ErrOrStderr())
		case q.ID != "":
			return fmt.Errorf("there is no session %s, neither on nor in the history", q.ID)
		case q.History:
			note(c.ErrOrStderr(), "no such session is in the history")
		default:
			note(c.ErrOrStderr(), "no such session is on; --history lists those that are over")
		}
		return nil
	}
	return c
}

func sessionTable(sessions []client.SessionInfo, history bool) *table {
	t := &table{columns: []column{{"SESSION", 0}, {"NODE", 1}, {"STATUS", 0}, {"OWNER", 3}, {"STARTED", 2}, {"REASON", 4}}}
	if history {
		t.columns = []column{{"SESSION", 0}, {"NODE", 2}, {"STATUS", 0}, {"OWNER", 4}, {"STARTED", 3}, {"ENDED", 6}, {"REASON", 5}, {"CAUSE", 1}}
	}
	for _, s := range sessions {
		if history {
			t.add(cell(s.SessionID), cell(s.Target), endedStatus(s), cell(s.Owner), moment(s.StartDate), moment(s.EndDate), cell(s.Reason), cell(s.Details))
		} else {
			t.add(cell(s.SessionID), cell(s.Target), cell(s.Status), cell(s.Owner), moment(s.StartDate), cell(s.Reason))
		}
	}
	return t
}

// endedStatus is the status of a session that is over, for people. AWS calls every
// session Terminated that began, also one whose shell ended by itself: that has no
// cause.
func endedStatus(s client.SessionInfo) string {
	if s.Status == "Terminated" && s.Details == "" {
		return "Ended"
	}
	return cell(s.Status)
}

// moment is a time in a table: in the person's own zone, and sortable.
func moment(t client.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(timeLayout)
}

// timeLayout is how times are shown to people: in their own zone, which is named.
const timeLayout = "2006-01-02 15:04:05 MST"
