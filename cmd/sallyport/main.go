// Command sallyport is a session manager: a control plane, an agent, and the
// commands to use them. One binary does all three.
//
// Called session-manager-plugin, it is that: the program the aws CLI runs for
// start-session.
//
// Exit statuses are 0 for success, 1 for failure and 2 for a command line that
// could not be read; connect, exec and ssh-proxy have their own, which their
// help lists.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agentcmd"
	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/clientcmd"
	"github.com/sallyport/sallyport/internal/usage"
)

func main() {
	agentcmd.ServeFiles()
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == "session-manager-plugin" {
		plugin()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	root := command()
	for _, said := range usage.Unknown(root, os.Environ(), variables) {
		fmt.Fprintf(os.Stderr, "sallyport: %s\n", sallyport.PrintableLine(said))
	}
	err := root.ExecuteContext(ctx)
	stop()
	os.Exit(status(err))
}

// variables are those of the environment that are no flag's. Sessions have the
// session's ID in theirs.
var variables = []string{"SALLYPORT_ROOT_KEY", "SALLYPORT_ACTIVATION_CODE", "SALLYPORT_SESSION_ID"}

// plugin is the program the aws CLI runs. It does not return.
func plugin() { os.Exit(client.PluginMain(os.Args, os.Environ(), os.Stdin, os.Stdout, os.Stderr)) }

// status says why, if a command failed, and returns the exit status.
func status(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[clientcmd.Exit](err); ok {
		return int(exit) // it has said why
	}
	said := err.Error()
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		said = e.Message
	}
	for line := range strings.Lines(sallyport.Printable(said)) { // a server's words, or a file's name
		fmt.Fprintf(os.Stderr, "sallyport: %s\n", strings.TrimRight(line, "\n"))
	}
	if _, ok := errors.AsType[usage.Error](err); ok {
		fmt.Fprintln(os.Stderr, `Run "sallyport help" for the commands, or a command with --help for its flags.`)
		return 2
	}
	return 1
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "A self-hosted session manager that speaks AWS's protocols",
		Long: `sallyport runs a control plane for sessions on machines that are anywhere, an
agent on each of them, and the commands to use them. AWS's own tools work with
it as they are.

	sallyport dev                      try it: a server, and this machine as a node
	eval "$(sallyport env)"            have aws and these commands use it
	aws ssm start-session --target mi-…
	sallyport connect mi-…`,
		Version:       sallyport.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true

	agent := &cobra.Command{Use: "agent", Short: "Run on a machine, and offer it for sessions"}
	agent.AddCommand(agentcmd.Commands()...)
	root.AddCommand(devCommand(), envCommand(), serverCommand(), caCommand(), keyCommand(), agent)
	root.AddCommand(clientcmd.Commands()...)
	usage.Strict(root)
	return root
}

// logger writes a server's log: text for a person at a terminal, JSON for a
// program that collects logs.
func logger(verbose, asJSON bool) *slog.Logger {
	options := &slog.HandlerOptions{}
	if verbose {
		options.Level = slog.LevelDebug
	}
	if asJSON {
		options.ReplaceAttr = sallyport.PrintableAttr
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
