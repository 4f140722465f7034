package clientcmd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/client"
)

func execCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARGUMENT...]",
		Short: "Run a command on a node",
		Long: `Run a command on a node, with its standard input, output and error apart, and
without a terminal. No shell reads the command there: for one, run it.

	sallyport exec web-1 -- systemctl restart nginx
	sallyport exec web-1 -- sh -c 'df -h | tail -n +2' > disks
	sallyport exec db-1 -- psql < schema.sql

Ctrl-C and Ctrl-\ go to the command. If nothing answers, as over a connection that
is stalled, that is said, and Ctrl-C once more ends the session and this program,
with 255. The exit status is the command's; 127 if
there is no such command on the node, and 126 if it cannot be started; 255 if no
session came about or it was lost; and 128 and the signal's number if a signal
ended this program, which ends the command too.

Agents of AWS's give a command no standard input.`,
	}
	c.Flags().SetInterspersed(false) // the command's flags are its own, -- or not
	c.Args = func(c *cobra.Command, args []string) error {
		args, err := execArguments(c, args)
		if err != nil {
			return err
		}
		return cobra.MinimumNArgs(2)(c, args)
	}
	settings := settingsFlags(c.Flags())
	streamHostFlag(c, settings)
	reason := c.Flags().String("reason", "", "why, for the record: a `text`")
	document := c.Flags().String("document", client.DocumentExec, "the session document's `name`; it runs its parameter command")
	noInput := c.Flags().BoolP("no-stdin", "n", false, "leave standard input alone, as in a loop that reads it")
	c.RunE = func(c *cobra.Command, args []string) error {
		args, err := execArguments(c, args)
		if err != nil {
			return err
		}
		command, err := quote(args[1:])
		if err != nil {
			return lost(c, err)
		}
		cl, err := load(c.Context(), settings)
		if err != nil {
			return lost(c, err)
		}
		node, err := findNode(c.Context(), cl, args[0])
		if err != nil {
			return lost(c, err)
		}
		inv, err := cl.StartSession(c.Context(), client.StartSession{
			Target: node, DocumentName: *document, Reason: *reason, Parameters: map[string][]string{"command": {command}},
		})
		if sallyport.CodeOf(err) == sallyport.InvalidDocument && *document == client.DocumentExec {
			err = fmt.Errorf("%s With AWS itself, use --document AWS-StartNonInteractiveCommand", client.Explain(err))
		}
		if err != nil {
			return lost(c, err)
		}
		s := newSession(c, cl, inv)
		s.Pipes = true
		if *noInput {
			s.Stdin = strings.NewReader("")
		}
		return join(c, s)
	}
	return c
}

// execArguments returns the node and the command of exec's arguments, which may
// have -- between them, and before that flags of exec's.
func execArguments(c *cobra.Command, args []string) ([]string, error) {
	if len(args) < 2 || !strings.HasPrefix(args[1], "-") {
		return args, nil
	}
	end := slices.Index(args, "--")
	if end < 0 {
		return nil, fmt.Errorf("%s after the node is no flag of the command's; what exec runs goes after --: sallyport exec NODE -- COMMAND …", args[1])
	}
	if err := c.ParseFlags(args[1:end]); err != nil {
		return nil, err
	}
	if extra := c.Flags().Args(); len(extra) > 0 {
		return nil, fmt.Errorf("%q stands before --; what exec runs goes after it: sallyport exec NODE -- COMMAND …", extra[0])
	}
	return append([]string{args[0]}, args[end+1:]...), nil
}

// quote writes a command line that is split into args again: by a shell, and by
// the agent, which does as a shell in this and in nothing else.
func quote(args []string) (string, error) {
	var line strings.Builder
	for i, arg := range args {
		if !utf8.ValidString(arg) || strings.ContainsRune(arg, 0) {
			return "", errors.New("the command cannot be sent: it has bytes in it that are no text")
		}
		if i > 0 {
			line.WriteByte(' ')
		}
		if arg != "" && strings.IndexFunc(arg, special) < 0 {
			line.WriteString(arg)
			continue
		}
		line.WriteString("'" + strings.ReplaceAll(arg, "'", `'\''`) + "'")
	}
	return line.String(), nil
}

// special reports whether a shell may make something of c.
func special(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("%+,-./:@_", c))
}
