// Package usage has the programs' command lines explain themselves: what is
// wrong with one, and what to type. [Strict] is called once, on the root command
// with all its commands.
package usage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// An Error is a command line that could not be read. A program exits with 2 for
// it.
type Error struct{ error }

// Errorf returns an Error, as fmt.Errorf does.
func Errorf(format string, args ...any) Error { return Error{fmt.Errorf(format, args...)} }

func (e Error) Unwrap() error { return e.error }

// Strict has c, and every command below it, return an [Error] for a command line
// that it cannot read. A command that has others and is typed alone shows its
// help.
func Strict(c *cobra.Command) {
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if !errors.Is(err, pflag.ErrHelp) {
			return Error{explainFlag(c, err)}
		}
		// -h after what is no argument of the command's may be meant for another: as in
		// connect NODE df -h.
		if args := c.Flags().Args(); len(args) > 1 && c.ValidateArgs(args) != nil {
			return c.ValidateArgs(args)
		}
		return err
	})
	if c.Flags().Lookup("help") == nil {
		c.Flags().Bool("help", false, "help for "+c.Name()+", also -h") // cobra's own takes -h wherever it stands
	}
	if name, rest, ok := strings.Cut(c.Use, " "); ok && c.Runnable() {
		c.Use = name + " " + flagsInUse + " " + rest
		c.DisableFlagsInUseLine = true // cobra puts them last, where those of exec would be the command's
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.Args = cobra.NoArgs // what it has are the names of other commands
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, a []string) error {
			err := args(c, a)
			if err == nil {
				return nil
			}
			if !ofNumber(err) {
				return Error{err}
			}
			tooFew := args(c, append(a, "x", "x")) == nil || args(c, append(a, "x")) == nil
			return Error{explainArguments(c, a, tooFew)}
		}
	}
	for _, sub := range c.Commands() {
		Strict(sub)
	}
}

// ofNumber reports whether err is cobra's, of how many arguments there are.
func ofNumber(err error) bool {
	for _, begin := range []string{"accepts ", "requires at least ", "unknown command "} {
		if strings.HasPrefix(err.Error(), begin) {
			return true
		}
	}
	return false
}

func explainArguments(c *cobra.Command, args []string, tooFew bool) error {
	switch {
	case c.HasSubCommands():
		c.SuggestionsMinimumDistance = 2
		return fmt.Errorf("no command %q%s", args[0], meant(c.SuggestionsFor(args[0])))
	case tooFew:
		return fmt.Errorf("an argument is missing; type: %s", typed(c))
	case typed(c) == c.CommandPath():
		return fmt.Errorf("%q is an argument too many: %s takes none", args[0], c.CommandPath())
	}
	return fmt.Errorf("there are too many arguments (%d); type: %s", len(args), typed(c))
}

// explainFlag adds to the error of a flag what may have been meant by it.
func explainFlag(c *cobra.Command, err error) error {
	if before, _, ok := strings.Cut(typed(c), " -- "); ok && c.Flags().ArgsLenAtDash() < 0 && len(c.Flags().Args()) > 0 {
		return fmt.Errorf("%w; what %s runs, with its own flags, goes after --: %s -- %s",
			err, c.Name(), before, "COMMAND …")
	}
	_, name, ok := strings.Cut(err.Error(), "unknown flag: --")
	if !ok {
		return err
	}
	found := nearFlags(name, c.Flags())
	for i := range found {
		found[i] = "--" + found[i]
	}
	return fmt.Errorf("%w%s", err, meant(found))
}

// nearFlags returns the flags that are spelt nearly like name.
func nearFlags(name string, flags *pflag.FlagSet) []string {
	var all []string
	flags.VisitAll(func(f *pflag.Flag) { all = append(all, f.Name) })
	return near(name, nil, all)
}

// DidYouMean asks whether a flag was meant by a name that is none, as in a file of
// settings. It is empty if none is spelt nearly so.
func DidYouMean(name string, flags *pflag.FlagSet) string { return meant(nearFlags(name, flags)) }

// typed is how a command is typed, without its flags.
func typed(c *cobra.Command) string {
	use := strings.Replace(c.Use, " "+flagsInUse, "", 1)
	if c.HasParent() {
		return c.Parent().CommandPath() + " " + use
	}
	return use
}

// flagsInUse stands for a command's flags in the line that says how it is used.
const flagsInUse = "[flags]"

// meant asks whether one of the names was meant. It is empty without names.
func meant(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}
