package usage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Prefix is what the programs' environment variables begin with.
const Prefix = "SALLYPORT_"

// Variable is the environment variable that a flag may be given by.
func Variable(flag string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Unknown returns a sentence for each variable of an environment that is called
// like the program's and is none of them: neither a flag's, of root or a command
// below it, nor one of others. What is misspelt would be ignored without a word.
func Unknown(root *cobra.Command, environ, others []string) (said []string) {
	var known map[string]bool
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if value == "" || !strings.HasPrefix(name, Prefix) || isServiceLink(name) {
			continue
		}
		if known == nil {
			known = variables(root)
		}
		if !known[name] && !slices.Contains(others, name) {
			said = append(said, fmt.Sprintf("the environment variable %s is none of this program's, and is ignored%s", name, meant(near(name, known, others))))
		}
	}
	slices.Sort(said)
	return said
}

// Unread returns a sentence for each variable of an environment that is called like
// a flag of a command which reads no variables. What it says would be ignored
// without a word.
func Unread(c *cobra.Command, environ []string) (said []string) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		name := Variable(f.Name)
		set := slices.ContainsFunc(environ, func(pair string) bool { return len(pair) > len(name)+1 && strings.HasPrefix(pair, name+"=") })
		if set && !f.Changed {
			said = append(said, fmt.Sprintf("the environment variable %s is ignored here: %s takes flags alone; give --%s", name, c.CommandPath(), f.Name))
		}
	})
	return said
}

// isServiceLink reports whether a variable is one that Kubernetes sets in every
// container, for a service that is called sallyport.
func isServiceLink(name string) bool {
	return name == Prefix+"PORT" || strings.HasPrefix(name, Prefix+"PORT_") || strings.HasPrefix(name, Prefix+"SERVICE_")
}

// variables returns the names of the variables of all flags.
func variables(root *cobra.Command) map[string]bool {
	all := map[string]bool{}
	add := func(f *pflag.Flag) { all[Variable(f.Name)] = true }
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		c.Flags().VisitAll(add)
		c.PersistentFlags().VisitAll(add)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return all
}

// near returns the known names that are spelt nearly like name. The distance
// between names is cobra's to say, which says it of commands.
func near(name string, known map[string]bool, others []string) []string {
	all := &cobra.Command{SuggestionsMinimumDistance: 2}
	add := func(n string) { all.AddCommand(&cobra.Command{Use: n, Run: func(*cobra.Command, []string) {}}) }
	for n := range known {
		add(n)
	}
	for _, n := range others {
		add(n)
	}
	found := all.SuggestionsFor(name)
	slices.Sort(found)
	return found
}
