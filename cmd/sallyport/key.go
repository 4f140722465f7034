package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/usage"
)

func keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Manage the server's root key"}
	cmd.AddCommand(keyRotateCommand())
	return cmd
}

func keyRotateCommand() *cobra.Command {
	var c server.Config
	var dropOld bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the root key, and seal all secrets with the new one",
		Long: `Replace the server's root key, and seal the access keys and KMS keys in its
database with the new one. The server must be stopped meanwhile. A copy of the
key file from before opens nothing that is sealed afterwards, and a copy of the
database from before still wants it.

The old root key stays in the file, for short-lived credentials that it sealed:
people's, for twelve hours at most, and nodes' for one. With --drop-old it is taken
out; such credentials are refused at once, and nodes get new ones by themselves.
After a root key was seen by a stranger, use that.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := settle(cmd.Flags(), ""); err != nil { // the variables that the server has
				return usage.Errorf("%w", err)
			}
			r, err := server.RotateKey(cmd.Context(), c, dropOld)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "sallyport: %s has root key %d now, and %d keys were sealed with it; back the file up, apart from the state directory\n", r.KeyFile, r.Version, r.Sealed)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.State, "state", stateDir("server"), "the server's state `directory`")
	f.StringVar(&c.Database, "database", "", "a `path`, or postgres://… (default sallyport.db in the state directory)")
	f.StringVar(&c.KeyFile, "key-file", "", "the root key's `file` (default the state directory's name and .key)")
	f.BoolVar(&dropOld, "drop-old", false, "take the older root keys out of the file")
	return cmd
}
