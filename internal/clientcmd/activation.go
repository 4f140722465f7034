package clientcmd

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/usage"
)

// nodeRole is the role for nodes that a new control plane has, with its path.
const nodeRole = "service-role/SallyportManagedNode"

// longestActivation is how long an activation may be good for. (Systems Manager
// API Reference, "CreateActivation".)
const longestActivation = 30 * 24 * time.Hour

func activationCommand() *cobra.Command {
	c := &cobra.Command{Use: "activation", Short: "Let machines register"}
	c.AddCommand(activationCreateCommand(), activationListCommand(), activationDeleteCommand())
	return c
}

func activationCreateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "create",
		Short: "Create an activation, and print the command to paste on the machine",
		Long: `Create an activation, and print the command that registers a machine by it.

The command has the activation's code, which is good for as many machines, and as
long, as you say, and is not shown again.`,
		Args: cobra.NoArgs,
	}
	settings := settingsFlags(c.Flags())
	var in client.CreateActivation
	var expires time.Duration
	f := c.Flags()
	f.StringVar(&in.Role, "role", nodeRole, "the IAM `role` the machines act in")
	f.StringVar(&in.Name, "name", "", "what to call the machine; where more than one may register, with -1, -2 … behind it")
	f.IntVar(&in.Limit, "limit", 1, "how many machines may register")
	usage.DurationVar(f, &expires, "expires", 24*time.Hour, "for how long; at most 30d")
	asJSON := f.Bool("json", false, "write JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if in.Limit < 1 || in.Limit > 1000 {
			return usage.Errorf("--limit has to be from 1 to 1000, not %d", in.Limit)
		}
		if expires <= 0 || expires > longestActivation {
			return usage.Errorf("--expires has to be more than 0 and at most 30d, not %v", expires)
		}
		in.Expires = time.Now().Add(expires)
		ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
		defer cancel()
		cl, err := load(ctx, settings)
		if err != nil {
			return err
		}
		pin, err := cl.OwnCA(ctx) // before there is an activation that would not be printed
		if err != nil {
			return fmt.Errorf("create activation: %s", client.Explain(err))
		}
		id, code, err := cl.CreateActivation(ctx, in)
		if err != nil {
			return fmt.Errorf("create activation: %s", client.Explain(err))
		}
		words := []string{"sallyport", "agent", "register", "--endpoint", cl.Endpoint(), "--region", cl.Region(), "--id", id, "--code", code.Reveal()}
		if !pin.IsZero() {
			words = append(words, "--ca-pin", pin.String())
		}
		line, err := quote(words) // for a root shell, with what the server answered in it
		if err != nil || sallyport.PrintableLine(line) != line {
			return fmt.Errorf("create activation: the server answered an ID or a code with characters that neither has; delete the activation %q", id)
		}
		if *asJSON {
			return writeJSON(c.OutOrStdout(), struct {
				ActivationID   string `json:"ActivationId"`
				ActivationCode string
				ExpirationDate client.Time
				Endpoint       string
				Region         string
				CAPin          string `json:"CaPin"` // "" if the server's CA is not its own
				Command        string
			}{id, code.Reveal(), client.Time{Time: in.Expires}, cl.Endpoint(), cl.Region(), pin.String(), line})
		}
		fmt.Fprintln(c.OutOrStdout(), line)
		note(c.ErrOrStderr(), "paste that on the machine, then run: sallyport agent run")
		return nil
	}
	return c
}

func activationListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List activations", Args: cobra.NoArgs}
	settings := settingsFlags(c.Flags())
	asJSON := c.Flags().Bool("json", false, "write JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := load(c.Context(), settings)
		if err != nil {
			return err
		}
		all, err := cl.Activations(c.Context())
		if err != nil {
			return fmt.Errorf("list activations: %s", client.Explain(err))
		}
		if *asJSON {
			return writeJSON(c.OutOrStdout(), append([]client.Activation{}, all...))
		}
		if len(all) == 0 {
			note(c.ErrOrStderr(), "there are no activations; sallyport activation create makes one")
			return nil
		}
		t := &table{columns: []column{{"ACTIVATION", 0}, {"NAME", 1}, {"STATUS", 0}, {"USED", 0}, {"EXPIRES", 2}, {"ROLE", 3}}}
		for _, a := range all {
			status := "open"
			switch {
			case a.Expired:
				status = "expired"
			case a.RegistrationsCount >= a.RegistrationLimit:
				status = "used up"
			}
			used := strconv.Itoa(a.RegistrationsCount) + " of " + strconv.Itoa(a.RegistrationLimit)
			t.add(cell(a.ActivationID), cell(a.DefaultInstanceName), status, used, moment(a.ExpirationDate), cell(a.IAMRole))
		}
		return t.write(c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
}

func activationDeleteCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "delete ACTIVATION",
		Short: "Delete an activation; nodes that came by it stay",
		Args:  cobra.ExactArgs(1),
	}
	settings := settingsFlags(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := load(c.Context(), settings)
		if err != nil {
			return err
		}
		if err := cl.DeleteActivation(c.Context(), args[0]); err != nil {
			return fmt.Errorf("delete activation: %s", client.Explain(err))
		}
		return nil
	}
	return c
}
