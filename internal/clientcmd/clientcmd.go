// Package clientcmd is what a person types. Each command is package client with
// words around it.
//
//	sallyport connect web-1               a shell on the node of that name
//	sallyport connect -L 8080:80 web-1    and a port here that leads to one there
//	sallyport exec web-1 -- uptime        one command, and its exit status
//	sallyport cp web-1:/etc/hosts .       files, either way
//	sallyport ssh-proxy, ssh-config       ssh, scp and rsync to a node
//	sallyport nodes                       which nodes there are
//	sallyport sessions                    which sessions are on
//	sallyport replay ID                   what was shown in one that is over
//	sallyport activation create           how a machine registers
//
// Whom they call, and as whom, they are told as AWS's own tools are: by the
// environment and the profile, or by flags named as the aws CLI's. Data goes to
// stdout; everything else to stderr, after "sallyport: ".
//
// Every flag may also be given in the environment: --reason as
// SALLYPORT_REASON, --endpoint-url as SALLYPORT_ENDPOINT_URL.
package clientcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/usage"
)

// An Exit is a command's exit status, where that is the result and not a
// failure to be told of: main prints nothing for it.
type Exit int

func (e Exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Commands returns the person's commands, to be added to a program's.
//
// A command whose RunE returns an [Exit] has said all there is to say.
func Commands() []*cobra.Command {
	all := []*cobra.Command{connectCommand(), execCommand(), cpCommand(), sshProxyCommand(), sshConfigCommand(), nodesCommand(), sessionsCommand(), replayCommand(), activationCommand()}
	for _, c := range all {
		prepare(c)
	}
	return all
}

// prepare has a command, and those below it, read their flags' variables.
func prepare(c *cobra.Command) {
	c.SilenceErrors, c.SilenceUsage = true, true
	c.PreRunE = func(c *cobra.Command, _ []string) error { return fromEnvironment(c.Flags()) }
	for _, sub := range c.Commands() {
		prepare(sub)
	}
}

// fromEnvironment gives every flag that is not on the command line its value
// from the environment, if it has one there.
func fromEnvironment(flags *pflag.FlagSet) (err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		name := usage.Variable(f.Name)
		value := os.Getenv(name)
		if f.Changed || value == "" || f.Name == "help" || err != nil {
			return
		}
		if serr := flags.Set(f.Name, value); serr != nil {
			err = fmt.Errorf("the variable %s: %w", name, serr)
		}
	})
	return err
}

// settingsFlags adds the flags that say whom to call, and as whom.
func settingsFlags(flags *pflag.FlagSet) *client.Settings {
	s := new(client.Settings)
	flags.StringVar(&s.Endpoint, "endpoint-url", "", "the control plane's `URL` (default: AWS_ENDPOINT_URL_SSM, AWS_ENDPOINT_URL or the profile's)")
	flags.StringVar(&s.Region, "region", "", "the control plane's `region` (default: AWS_REGION or the profile's)")
	flags.StringVar(&s.Profile, "profile", "", "which `profile` of ~/.aws (default: AWS_PROFILE)")
	flags.StringVar(&s.CABundle, "ca-bundle", "", "a `file` of certificates to believe in place of the system's (default: AWS_CA_BUNDLE or SSL_CERT_FILE)")
	return s
}

func streamHostFlag(c *cobra.Command, s *client.Settings) {
	c.Flags().StringVar(&s.StreamHost, "stream-host", "", "the `host` streams may be at, if not the control plane's own")
}

func load(ctx context.Context, s *client.Settings) (*client.Client, error) {
	c, err := client.Load(ctx, *s)
	if err != nil {
		return nil, errors.New(client.Explain(err))
	}
	return c, nil
}

// note says something that is not data.
func note(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, "sallyport: %s\n", sallyport.Printable(fmt.Sprintf(format, args...)))
}

// writeJSON writes v. What a terminal would act on, in what a machine says of
// itself, is written as an escape, which means the same.
func writeJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, r := range string(b) {
		switch {
		case r == '\n' || sallyport.PrintableLine(string(r)) == string(r):
			text.WriteRune(r)
		default: // in a string: all else of JSON is printable
			for _, unit := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&text, `\u%04x`, unit)
			}
		}
	}
	text.WriteByte('\n')
	_, err = io.WriteString(w, text.String())
	return err
}

// ago is how long before now t was, as people say it.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "-"
	case d < time.Second: // and clocks that disagree
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	}
	return fmt.Sprintf("%dd ago", d/(24*time.Hour))
}

// cell is s in a table, where an empty cell would look like a missing one.
// What a machine says of itself is shown, and does not act on the terminal.
func cell(s string) string {
	s = sallyport.PrintableLine(s)
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}
