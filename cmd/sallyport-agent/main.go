// Command sallyport-agent is the agent alone, for machines that want a binary
// of a few megabytes. It is what "sallyport agent" is.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agentcmd"
	"github.com/sallyport/sallyport/internal/usage"
)

func main() {
	agentcmd.ServeFiles()
	// An agent is a guest on its machine: memory is worth more than the time
	// of a collection.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	root := &cobra.Command{
		Use:           "sallyport-agent",
		Short:         "Offer this machine for sessions",
		Version:       sallyport.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(agentcmd.Commands()...)
	usage.Strict(root)
	err := root.ExecuteContext(ctx)
	stop()
	if err != nil {
		said := err.Error()
		if e, ok := errors.AsType[*sallyport.Error](err); ok {
			said = e.Message
		}
		fmt.Fprintf(os.Stderr, "sallyport-agent: %s\n", said)
		if _, ok := errors.AsType[usage.Error](err); ok {
			os.Exit(2)
		}
		os.Exit(1)
	}
}
