package clientcmd

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/client"
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
		return nodeTable(c.OutOrStdout(), nodes, time.Now())
	}
	return c
}

func nodeTable(w io.Writer, nodes []client.Node, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tNAME\tCOMPUTER\tPLATFORM\tAGENT\tSTATUS\tLAST SEEN\tADDRESS")
	for _, n := range nodes {
		platform := n.PlatformName
		if platform == "" {
			platform = n.PlatformType
		} else if n.PlatformVersion != "" {
			platform += " " + n.PlatformVersion
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cell(n.InstanceID), cell(n.Name), cell(n.ComputerName),
			cell(platform), cell(n.AgentVersion), cell(n.PingStatus), ago(n.LastPingDateTime.Time, now), cell(n.IPAddress))
	}
	return t.Flush()
}

func sessionsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "sessions",
		Short: "List sessions that are on, or with --history those that are over",
		Args:  cobra.NoArgs,
	}
	settings := settingsFlags(c.Flags())
	var q client.SessionQuery
	c.Flags().BoolVar(&q.History, "history", false, "list those that are over")
	c.Flags().StringVar(&q.Target, "node", "", "only those on this node: an `id or name`")
	c.Flags().StringVar(&q.Owner, "owner", "", "only those of this `ARN`")
	c.Flags().IntVar(&q.Limit, "limit", 100, "list no more than the newest `n`; 0 lists all")
	asJSON := c.Flags().Bool("json", false, "write JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
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
		if len(sessions) == 0 {
			if q.History {
				note(c.ErrOrStderr(), "no such session is in the history")
			} else {
				note(c.ErrOrStderr(), "no such session is on; --history lists those that are over")
			}
			return nil
		}
		return sessionTable(c.OutOrStdout(), sessions, q.History)
	}
	return c
}

func sessionTable(w io.Writer, sessions []client.SessionInfo, history bool) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	head := []string{"SESSION", "NODE", "STATUS", "OWNER", "STARTED", "REASON"}
	if history {
		head = []string{"SESSION", "NODE", "STATUS", "OWNER", "STARTED", "ENDED", "REASON", "CAUSE"}
	}
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, s := range sessions {
		row := []string{cell(s.SessionID), cell(s.Target), cell(s.Status), cell(s.Owner), moment(s.StartDate)}
		if history {
			row = append(row, moment(s.EndDate), cell(s.Reason), cell(s.Details))
		} else {
			row = append(row, cell(s.Reason))
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
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
