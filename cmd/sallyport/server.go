package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/usage"
)

func serverCommand() *cobra.Command {
	var c server.Config
	var configFile string
	var verbose, asJSON bool
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane",
		Long: `Run the control plane: APIs, sockets and all, on one port over TLS.

Every flag may also be set by an environment variable (--public-url by
SALLYPORT_PUBLIC_URL) or in a YAML file named by --config (public-url: …). A
flag wins over the environment, and the environment over the file.

Without --cert and --acme the server makes a CA of its own, whose certificate
"sallyport ca" prints. The root key, which secrets in the database are sealed
with, is read from --key-file or from SALLYPORT_ROOT_KEY, and made with a new
database. Metrics, profiles and the administrator's way in are on a socket in
the state directory, for the user who runs the server alone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := settle(cmd.Flags(), configFile); err != nil {
				return usage.Errorf("%w", err)
			}
			return server.Run(cmd.Context(), c, logger(verbose, asJSON), func(r server.Running) {
				fmt.Fprintf(os.Stderr, "sallyport: serving %s, account %s, region %s, state in %s\n", r.Endpoint, r.Realm.Account, r.Realm.Region, c.State)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&configFile, "config", "", "a YAML `file` of these settings")
	f.StringVar(&c.PublicURL, "public-url", "", "where nodes and people reach the server, as in https://sallyport.example (default this machine's name)")
	f.StringVar(&c.Listen, "listen", server.DefaultListen, "the `address` to serve on")
	f.StringVar(&c.Account, "account", server.DefaultAccount, "the account `ID`: 12 digits")
	f.StringVar(&c.Region, "region", server.DefaultRegion, "the region's `name`; best one that AWS does not have")
	f.StringVar(&c.State, "state", stateDir("server"), "the state `directory`")
	f.StringVar(&c.Database, "database", "", "a `path`, or postgres://… (default sallyport.db in the state directory)")
	f.StringVar(&c.KeyFile, "key-file", "", "the root key's `file` (default the state directory's name and .key)")
	f.StringVar(&c.CertFile, "cert", "", "the server's certificate and chain, a PEM `file`")
	f.StringVar(&c.CertKeyFile, "cert-key", "", "its key, a PEM `file`")
	f.BoolVar(&c.ACME, "acme", false, "have the certificate issued by Let's Encrypt, which must reach the port as 443")
	f.StringVar(&c.ACMEEmail, "acme-email", "", "the `address` the CA may write to")
	f.StringVar(&c.ACMECA, "acme-ca", "", "another ACME CA's directory `URL`, as in https://ca.example/acme/acme/directory")
	f.StringVar(&c.ACMECABundle, "acme-ca-bundle", "", "what that CA's own server is verified against, a PEM `file` (default what this machine trusts)")
	f.DurationVar(&c.Idle, "idle", 0, "end sessions in which nothing passes for that long (default 20m; negative is never)")
	f.IntVar(&c.Limits.Total, "max-sessions", 0, "how many sessions may be on at once (default 5000)")
	f.IntVar(&c.Limits.PerUser, "max-sessions-per-user", 0, "how many of one user or role session (default 100)")
	f.IntVar(&c.Limits.PerNode, "max-sessions-per-node", 0, "how many on one node (default 200)")
	f.Var((*byteSize)(&c.Limits.Recording), "max-recording", "how large the recording of a session may become, as in 500MiB (default 1GiB)")
	f.BoolVar(&c.Limits.EndAtRecording, "end-at-max-recording", false, "end a session whose recording is full, which otherwise goes on unrecorded")
	f.Var((*byteSize)(&c.Limits.MinFree), "min-free", "how much of the disk must be free for a session to start; -1 does not ask (default 256MiB)")
	f.Var((*byteSize)(&c.Limits.Recordings), "max-recordings", "how large all recordings may become before no session starts (default as there is room)")
	f.BoolVar(&c.NewestAgentWins, "newest-agent-wins", false, "when two agents use one node's identity, keep the one that came last, not the first")
	f.BoolVar(&c.RequireSigned, "require-signed", false, "refuse clients too old to sign their sockets")
	f.StringSliceVar(&c.KeyStores, "key-store", nil, "an outside KMS that keys may be in, as vault=vault:https://vault.example:8200/transit or aws=aws:eu-central-1")
	f.DurationVar(&c.KeepHistory, "keep-history", 0, "forget ended sessions, and events, after that long (default never)")
	f.BoolVar(&verbose, "verbose", false, "log more")
	f.BoolVar(&asJSON, "log-json", false, "log as JSON")
	return cmd
}

// settle gives every flag that was not given its value from the environment or
// from a file. All that is wrong is said at once.
func settle(flags *pflag.FlagSet, file string) error {
	set := map[string]yaml.Node{}
	var wrong []error
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := yaml.Unmarshal(b, &set); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		for name, node := range set {
			if f := flags.Lookup(name); f == nil || name == "config" || name == "help" {
				wrong = append(wrong, fmt.Errorf("%s has no setting %q (near line %d)", file, name, node.Line))
			} else if node.Kind != yaml.ScalarNode {
				wrong = append(wrong, fmt.Errorf("%s: %s is not one value (line %d)", file, name, node.Line))
			}
		}
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "config" || f.Name == "help" {
			return
		}
		name := "SALLYPORT_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := os.LookupEnv(name); ok {
			if err := f.Value.Set(value); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
			}
		} else if node, ok := set[f.Name]; ok && node.Kind == yaml.ScalarNode {
			if err := f.Value.Set(node.Value); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %s (line %d): %w", file, f.Name, node.Line, err))
			}
		}
	})
	return errors.Join(wrong...)
}

// stateDir is where state is kept if no flag names a directory: for root, the
// directory called what below the system's place for state.
func stateDir(what string) string {
	home, err := os.UserHomeDir()
	switch {
	case runtime.GOOS == "windows":
		return filepath.Join(os.Getenv("ProgramData"), "Sallyport", what)
	case os.Geteuid() == 0 && what == "server":
		return "/var/lib/sallyport"
	case os.Getenv("XDG_STATE_HOME") != "":
		return filepath.Join(os.Getenv("XDG_STATE_HOME"), "sallyport", what)
	case err == nil:
		return filepath.Join(home, ".local", "state", "sallyport", what)
	}
	return ""
}

func caCommand() *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Print the certificate of the server's own CA",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := admit(cmd.Context(), state)
			if err != nil {
				return err
			}
			if a.CA == "" {
				return errors.New("the server's certificate is not of a CA of its own")
			}
			fmt.Fprint(cmd.OutOrStdout(), a.CA)
			return nil
		},
	}
	stateFlag(cmd, &state)
	return cmd
}
