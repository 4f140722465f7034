package clientcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
)

// drained is how long a node may be silent once ssh has said its last word.
const drained = 30 * time.Second

func sshProxyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ssh-proxy NODE [PORT]",
		Short: "Carry an SSH connection to a node, as ssh's ProxyCommand",
		Long: `Carry an SSH connection to a node: what is read from standard input goes to port
22 of the node, or to PORT, and what comes from there to standard output. It is
for ssh, scp, sftp and rsync, whose ProxyCommand it is:

	ssh -o ProxyCommand='sallyport ssh-proxy %h %p' user@mi-0123456789abcdef0

sallyport ssh-config prints that for ~/.ssh/config. Who may log in is for the
node's own sshd to say; who may come as far, for policy.`,
		Args: cobra.RangeArgs(1, 2),
	}
	settings := settingsFlags(c.Flags())
	streamHostFlag(c, settings)
	reason := c.Flags().String("reason", "", "why, for the record: a `text`")
	c.RunE = func(c *cobra.Command, args []string) error {
		port := "22"
		if len(args) == 2 {
			n, err := strconv.ParseUint(args[1], 10, 16)
			if err != nil || n == 0 {
				return lost(c, fmt.Errorf("%q is no port", args[1]))
			}
			port = strconv.FormatUint(n, 10)
		}
		cl, err := load(c.Context(), settings)
		if err != nil {
			return lost(c, err)
		}
		node, err := findNode(c.Context(), cl, args[0])
		if name, ok := strings.CutSuffix(strings.ToLower(args[0]), sshSuffix); ok {
			if _, none := errors.AsType[*noNodeError](err); none {
				node, err = findNode(c.Context(), cl, name)
			}
		}
		if err != nil {
			return lost(c, err)
		}
		inv, err := cl.StartSession(c.Context(), client.StartSession{
			Target: node, DocumentName: client.DocumentSSH, Reason: *reason, Parameters: map[string][]string{"portNumber": {port}},
		})
		if err != nil {
			return lost(c, err)
		}
		s := newSession(c, cl, inv)
		s.Pipes, s.Silence, s.Window = true, drained, 0
		if f, ok := s.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			// It is ssh's, and may be raw.
			s.Notice = func(text string) { fmt.Fprintf(f, "\r\nsallyport: %s\r\n", strings.ReplaceAll(text, "\n", "\r\n")) }
		}
		end, err := s.Run(context.WithoutCancel(c.Context()))
		switch {
		case err != nil:
			return lost(c, err)
		case end.MayBeOn:
		case end.How == client.Drained, end.How == client.Closed && end.Output == "":
			return nil
		}
		return conclude(c, inv.SessionID, end)
	}
	return c
}

// sshSuffix is what a host's name may end in for ssh, to say that it is a node's.
const sshSuffix = ".sallyport"

func sshConfigCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print what has ssh reach nodes by their name",
		Long: `Print what has ssh, scp, sftp and rsync reach nodes. Keep it in a file of its own,
and include that at the top of ~/.ssh/config:

	sallyport ssh-config > ~/.ssh/sallyport.conf
	Include sallyport.conf

Then these reach a node:

	ssh user@mi-0123456789abcdef0    by its ID
	ssh user@web-1.sallyport         by any of its names, as connect takes them
	ssh user@web-1                   by the name it was registered with

The last are listed, as the nodes are now: print it again when there are others.
Names that two nodes have are left out, and so are computers' own names, since a
computer could call itself like any host of yours.

The flags given here are kept in it. Keys are not: those are found where AWS's
tools find them, when ssh is run.`,
		Args: cobra.NoArgs,
	}
	settings := settingsFlags(c.Flags())
	streamHostFlag(c, settings)
	c.RunE = func(c *cobra.Command, _ []string) error {
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		line := []string{program, "ssh-proxy"}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Value.String() != "" && f.Value.Type() != "bool" {
				line = append(line, "--"+f.Name, f.Value.String())
			}
		})
		var nodes []client.Node
		cl, err := load(c.Context(), settings)
		if err == nil {
			nodes, err = cl.Nodes(c.Context())
		}
		if err != nil {
			note(c.ErrOrStderr(), "nodes are not listed by name, only by ID and by name%s: %s", sshSuffix, client.Explain(err))
		}
		var b strings.Builder
		fmt.Fprintf(&b, "# Nodes of Sallyport, by ID, by name%s, and by name.\nHost mi-* i-* *%[1]s\n\tProxyCommand %s %%h %%p\n", sshSuffix, proxyCommand(line, runtime.GOOS))
		for _, n := range sshHosts(nodes) {
			fmt.Fprintf(&b, "Host %s\n\tHostKeyAlias %s\n\tProxyCommand %s %[2]s %%p\n", n.Name, n.InstanceID, proxyCommand(line, runtime.GOOS))
		}
		_, err = io.WriteString(c.OutOrStdout(), b.String())
		return err
	}
	return c
}

// sshHosts returns the nodes whose names can stand for them in ssh's configuration:
// hosts' names, without dots, each that of one node.
func sshHosts(nodes []client.Node) (hosts []client.Node) {
	for _, n := range nodes {
		if id, err := sallyport.ParseNodeID(n.InstanceID); err != nil || id.String() != n.InstanceID {
			continue
		}
		if sshName.MatchString(n.Name) && len(named(nodes, n.Name)) == 1 {
			hosts = append(hosts, n)
		}
	}
	slices.SortFunc(hosts, func(a, b client.Node) int { return strings.Compare(a.Name, b.Name) })
	return hosts
}

var sshName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// proxyCommand writes a command as ssh_config(5) has it: ssh replaces what
// follows a percent sign, and a shell reads the rest, or on Windows the system.
func proxyCommand(args []string, system string) string {
	var quoted []string
	for _, arg := range args {
		switch {
		case system == "windows" && strings.ContainsAny(arg, " \t&()"):
			arg = `"` + arg + `"`
		case system != "windows" && strings.IndexFunc(arg, special) >= 0:
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		quoted = append(quoted, strings.ReplaceAll(arg, "%", "%%"))
	}
	return strings.Join(quoted, " ")
}
