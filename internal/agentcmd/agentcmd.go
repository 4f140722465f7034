// Package agentcmd answers how the agent is run: its commands, for the binary
// that is the agent alone and for the one that is everything.
package agentcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/statedir"
	"github.com/sallyport/sallyport/internal/usage"
)

// codeEnv is the environment variable that may hold the activation code: an
// argument is seen by everybody on the machine.
const codeEnv = "SALLYPORT_ACTIVATION_CODE"

// Commands are register and run.
func Commands() []*cobra.Command {
	all := []*cobra.Command{registerCommand(), runCommand()}
	for _, c := range all {
		// A server's variables may be in the same environment, and mean its directory.
		c.PreRun = func(c *cobra.Command, _ []string) {
			for _, said := range usage.Unread(c, os.Environ()) {
				fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", c.Root().Name(), said)
			}
		}
	}
	return all
}

// StateDir is where the agent keeps its registration if no flag names a directory:
// for root, below the system's place for state.
func StateDir() string {
	home, err := os.UserHomeDir()
	switch {
	case runtime.GOOS == "windows":
		return filepath.Join(os.Getenv("ProgramData"), "Sallyport", "Agent")
	case os.Geteuid() == 0:
		return "/var/lib/sallyport-agent"
	case os.Getenv("XDG_STATE_HOME") != "":
		return filepath.Join(os.Getenv("XDG_STATE_HOME"), "sallyport-agent")
	case err == nil:
		return filepath.Join(home, ".local", "state", "sallyport-agent")
	}
	return ""
}

func registerCommand() *cobra.Command {
	var r agent.Registering
	var code, codeFile, pin, caFile string
	cmd := &cobra.Command{
		Use:   "register",
		Short: "Make this machine a managed node",
		Long: `Make this machine a managed node, by an activation.

"sallyport activation create" prints this command, filled in. The code may also
be in the environment variable ` + codeEnv + `, or in a file (--code-file,
with - for standard input): arguments are seen by everybody on the machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if code == "" {
				code = os.Getenv(codeEnv)
			}
			if codeFile != "" {
				b, err := readFile(codeFile, cmd.InOrStdin())
				if err != nil {
					return fmt.Errorf("read activation code: %w", err)
				}
				code = strings.TrimSpace(string(b))
			}
			var missing []string
			for flag, value := range map[string]string{"--endpoint": r.Endpoint, "--region": r.Region, "--id": r.Activation, "--code": code} {
				if value == "" {
					missing = append(missing, flag)
				}
			}
			if len(missing) > 0 {
				return fmt.Errorf("it takes %s as well; sallyport activation create prints them all", strings.Join(missing, " and "))
			}
			r.Code = sallyport.NewSecret(code)
			var err error
			if r.Trust.Pin, err = endpoint.ParsePin(pin); err != nil {
				return err
			}
			if caFile != "" {
				if r.Trust.PEM, err = os.ReadFile(caFile); err != nil {
					return fmt.Errorf("read CA file: %w", err)
				}
			}
			if err := statedir.Prepare(r.State); err != nil {
				return err
			}
			unlock, err := statedir.Lock(r.State, "sallyport agent register")
			if err != nil {
				return fmt.Errorf("%w; stop that first", err)
			}
			defer unlock()
			reg, err := agent.Register(cmd.Context(), r)
			if errors.Is(err, agent.ErrRegistered) {
				return fmt.Errorf("%w; give --force to forget that", err)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "sallyport: this machine is %s; its agent runs with: %s\n", reg.Node, runLine(cmd, r.State))
			fmt.Fprintln(cmd.OutOrStdout(), reg.Node)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Endpoint, "endpoint", "", "the control plane's `URL`")
	f.StringVar(&r.Region, "region", "", "its region's `name`")
	f.StringVar(&r.Activation, "id", "", "the activation's `ID`")
	f.StringVar(&code, "code", "", "the activation's `code`")
	f.StringVar(&codeFile, "code-file", "", "a `file` that has the code, or -")
	f.StringVar(&pin, "ca-pin", "", "believe one CA alone: sha256: and the `hash` of its certificate")
	f.StringVar(&caFile, "ca-file", "", "a PEM `file` of certificates to believe beside the system's")
	f.StringVar(&r.State, "state", StateDir(), "the state `directory`")
	f.BoolVar(&r.Force, "force", false, "register again, as another node")
	return cmd
}

// runLine is what to type next: the same program's run command.
func runLine(cmd *cobra.Command, state string) string {
	line := strings.TrimSuffix(cmd.CommandPath(), "register") + "run"
	if state != StateDir() {
		line += " --state " + state
	}
	return line
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, 4<<10))
	}
	return os.ReadFile(name)
}

func runCommand() *cobra.Command {
	var state, shell string
	var verbose, asJSON, asSelf, noSudo bool
	var allow, deny []string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Offer this machine for sessions, until stopped",
		Long: `Offer this machine for sessions, until stopped.

An agent that runs as root has sessions run as ssm-user, who is made when first
needed and may use sudo, unless the preferences say another (Run As). Another
agent's run as its own user.

A shell is the user's login shell. --shell /bin/sh has it as AWS's agent does,
which programs that read a shell's output may count on.

Ports may be forwarded to any address but link-local ones and those where clouds
keep a machine's credentials. --forward-allow and --forward-deny add to that: of
the prefixes an address is in the longest decides. To allow one network alone,
deny 0.0.0.0/0 and ::/0, and allow it.` + upgradeHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			CloseOnExec()
			options := &slog.HandlerOptions{}
			if verbose {
				options.Level = slog.LevelDebug
			}
			var handler slog.Handler = slog.NewTextHandler(cmd.ErrOrStderr(), options)
			if asJSON {
				options.ReplaceAttr = sallyport.PrintableAttr
				handler = slog.NewJSONHandler(cmd.ErrOrStderr(), options)
			}
			var err error
			a := &agent.Agent{State: state, Log: slog.New(handler), SSMUser: os.Geteuid() == 0 && !asSelf, NoSudo: noSudo}
			ctx, stop := context.WithCancel(cmd.Context())
			defer stop()
			if a.ForwardAllow, err = prefixes("--forward-allow", allow); err != nil {
				return err
			}
			if a.ForwardDeny, err = prefixes("--forward-deny", deny); err != nil {
				return err
			}
			if a.Shell, err = checkShell(shell); err != nil {
				return err
			}
			if only, err := upgradeOnHangUp(a, stop, cmd.OutOrStdout()); only || err != nil {
				return err
			}
			unlock, err := lockState(state) // not earlier: a program that is asked whether it can take over is not the agent yet
			if err != nil {
				return err
			}
			defer unlock()
			return a.Run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", StateDir(), "the state `directory`")
	f.BoolVar(&verbose, "verbose", false, "log more")
	f.BoolVar(&asJSON, "log-json", false, "log as JSON")
	f.BoolVar(&asSelf, "as-self", false, "sessions run as the agent's own user, even if that is root")
	f.BoolVar(&noSudo, "no-sudo", false, "the ssm-user that is made may not use sudo")
	f.StringVar(&shell, "shell", "", "the `program` that sessions of a shell run, by its path (default: the user's login shell)")
	f.StringArrayVar(&allow, "forward-allow", nil, "ports may be forwarded into this `CIDR`; may be repeated")
	f.StringArrayVar(&deny, "forward-deny", nil, "ports may not be forwarded into this `CIDR`; may be repeated")
	return cmd
}

// lockState takes the state directory for this agent. One that is not there is for
// the agent to complain of.
func lockState(state string) (unlock func(), err error) {
	if _, err := os.Stat(state); err != nil {
		return func() {}, nil
	}
	if err := statedir.Prepare(state); err != nil {
		return nil, err
	}
	return statedir.Lock(state, "sallyport agent")
}

// checkShell checks what --shell has.
func checkShell(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	if runtime.GOOS == "windows" {
		return "", errors.New("--shell: sessions on Windows run PowerShell, and nothing else")
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("--shell %q is no path that begins with a slash, like /bin/sh", path)
	}
	if info, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("--shell: %w", err)
	} else if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
		return "", fmt.Errorf("--shell %s is no program", path)
	}
	return path, nil
}

// prefixes reads CIDRs. A lone address is a prefix of its whole length.
func prefixes(flag string, list []string) (all []netip.Prefix, err error) {
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if addr, aerr := netip.ParseAddr(text); err != nil && aerr == nil && addr.Zone() == "" {
			p, err = addr.Unmap().Prefix(addr.Unmap().BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("%s %q is no CIDR, like 10.0.0.0/8", flag, text)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}
