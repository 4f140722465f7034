package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
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
			if err := errors.Join(settle(cmd.Flags(), configFile), c.Check()); err != nil {
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
	usage.DurationVar(f, &c.Idle, "idle", 0, "end sessions in which nothing passes for that long (default 20m; -1s is never)")
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
	usage.DurationVar(f, &c.KeepHistory, "keep-history", 0, "forget ended sessions, and events, after that long, as in 90d (default never)")
	f.BoolVar(&verbose, "verbose", false, "log more")
	f.BoolVar(&asJSON, "log-json", false, "log as JSON")
	return cmd
}

// settle gives every flag that was not given its value from the environment or
// from a file. All that is wrong is said at once.
func settle(flags *pflag.FlagSet, file string) error {
	set, err := readSettings(file)
	if err != nil {
		return err
	}
	var wrong []error
	for _, name := range slices.SortedFunc(maps.Keys(set), func(a, b string) int { return set[a].Line - set[b].Line }) {
		if f := flags.Lookup(name); f == nil || name == "config" || name == "help" {
			wrong = append(wrong, fmt.Errorf("%s:%d: there is no setting %q%s", file, set[name].Line, name, usage.DidYouMean(name, flags)))
		}
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "config" || f.Name == "help" {
			return
		}
		name := usage.Variable(f.Name)
		if value := os.Getenv(name); value != "" {
			if err := f.Value.Set(value); err != nil {
				wrong = append(wrong, fmt.Errorf("the environment variable %s: %w", name, err))
			}
		} else if node, ok := set[f.Name]; ok {
			if err := setFromYAML(f, node); err != nil {
				wrong = append(wrong, fmt.Errorf("%s:%d: %s: %w", file, node.Line, f.Name, err))
			}
		}
	})
	return errors.Join(wrong...)
}

// setFromYAML gives a flag a value of the settings' file: one, or a list where the
// flag may be given several times.
func setFromYAML(f *pflag.Flag, node yaml.Node) error {
	if node.Kind == yaml.AliasNode {
		node = *node.Alias
	}
	list, takesList := f.Value.(pflag.SliceValue)
	switch {
	case node.Kind == yaml.ScalarNode:
		return f.Value.Set(node.Value)
	case node.Kind == yaml.SequenceNode && takesList:
		var values []string
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode {
				return errors.New("it is not a list of values")
			}
			values = append(values, item.Value)
		}
		return list.Replace(values)
	}
	return errors.New("it is not one value")
}

// readSettings reads a file of settings, by name. Each has the line that it is on.
func readSettings(file string) (map[string]yaml.Node, error) {
	set := map[string]yaml.Node{}
	if file == "" {
		return set, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	var top yaml.Node
	if err := yaml.Unmarshal(b, &top); err != nil {
		return nil, yamlError(file, err)
	}
	if len(top.Content) == 0 {
		return set, nil
	}
	settings := top.Content[0]
	if settings.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: settings are lines like region: home-1, and this is not", file, settings.Line)
	}
	var wrong []error
	for i := 0; i+1 < len(settings.Content); i += 2 {
		name, value := settings.Content[i], settings.Content[i+1]
		if _, twice := set[name.Value]; twice {
			wrong = append(wrong, fmt.Errorf("%s:%d: %s is there twice, first in line %d", file, name.Line, name.Value, set[name.Value].Line))
			continue
		}
		set[name.Value] = *value
	}
	return set, errors.Join(wrong...)
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// yamlError writes an error of package yaml as compilers do: file, line, what.
func yamlError(file string, err error) error {
	text := err.Error()
	m := yamlLine.FindStringSubmatch(text)
	if m == nil || m[1] == "" {
		return fmt.Errorf("%s: %s", file, strings.TrimPrefix(text, "yaml: "))
	}
	return fmt.Errorf("%s:%s: %s", file, m[1], text[len(m[0]):])
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
