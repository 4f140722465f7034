package usage

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func TestDuration(t *testing.T) {
	for _, c := range []struct {
		text string
		want time.Duration
		show string
	}{
		{"30d", 720 * time.Hour, "30d"},
		{"1d12h", 36 * time.Hour, "36h"},
		{"0.5d", 12 * time.Hour, "12h"},
		{"-1d", -24 * time.Hour, "-1d"},
		{"-1d1h", -25 * time.Hour, "-25h"},
		{"24h", 24 * time.Hour, "1d"},
		{"90m", 90 * time.Minute, "1h30m"},
		{"0", 0, "0s"},
		{"1m1s", 61 * time.Second, "1m1s"},
		{"10m", 10 * time.Minute, "10m"},
	} {
		var v time.Duration
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		DurationVar(flags, &v, "x", time.Hour, "")
		err := flags.Set("x", c.text)
		if shown := flags.Lookup("x").Value.String(); err != nil || v != c.want || shown != c.show {
			t.Errorf("%s: %v, shown as %s, %v; want %v, %s", c.text, v, shown, err, c.want, c.show)
		}
	}
	for _, bad := range []string{"", "d", "30", "1h1d", "1d-1h", "1d24h", "0x1d", "1e3d", "infd", "nand", "1000000d", "1d1d", "1d "} {
		if v, err := ParseDuration(bad); err == nil || !strings.Contains(err.Error(), "is not a duration, as in 30d") {
			t.Errorf("%q: %v, %v", bad, v, err)
		}
	}
}

// -h is for the command whose arguments it stands behind, or else for help.
func TestHelpBehindArguments(t *testing.T) {
	for _, c := range []struct{ line, wrong string }{
		{"connect -h", ""},
		{"connect web-1 -h", ""},
		{"connect --help web-1 df", ""},
		{"connect web-1 df -h", "there are too many arguments (2); type: sallyport connect NODE"},
		{"connect web-1 -x", "unknown shorthand flag: 'x' in -x"},
	} {
		root := &cobra.Command{Use: "sallyport", SilenceErrors: true, SilenceUsage: true}
		root.AddCommand(&cobra.Command{Use: "connect NODE", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error { return nil }})
		Strict(root)
		var out strings.Builder
		root.SetOut(&out)
		root.SetArgs(strings.Fields(c.line))
		err := root.Execute()
		if c.wrong == "" && (err != nil || !strings.Contains(out.String(), "sallyport connect [flags] NODE")) {
			t.Errorf("%s: %v, %s", c.line, err, out.String())
		}
		if c.wrong != "" && (err == nil || err.Error() != c.wrong || out.Len() > 0) {
			t.Errorf("%s: %v, %s", c.line, err, out.String())
		}
	}
}

func TestUnknownVariables(t *testing.T) {
	root := &cobra.Command{Use: "sallyport"}
	sub := &cobra.Command{Use: "server", Run: func(*cobra.Command, []string) {}}
	sub.Flags().Bool("require-signed", false, "")
	sub.Flags().String("database", "", "")
	root.AddCommand(sub)
	got := Unknown(root, []string{
		"SALLYPORT_DATABASE=x", "SALLYPORT_ROOT_KEY=x", "HOME=/", "SALLYPORT_PORT=tcp://10.0.0.1", "SALLYPORT_PORT_8443_TCP=x", "SALLYPORT_SERVICE_HOST=x",
		"SALLYPORT_REQUIRE_SINGED=true", "SALLYPORT_TEA=1", "SALLYPORT_ROOTKEY=x",
	}, []string{"SALLYPORT_ROOT_KEY"})
	want := []string{
		"the environment variable SALLYPORT_REQUIRE_SINGED is none of this program's, and is ignored; did you mean SALLYPORT_REQUIRE_SIGNED?",
		"the environment variable SALLYPORT_ROOTKEY is none of this program's, and is ignored; did you mean SALLYPORT_ROOT_KEY?",
		"the environment variable SALLYPORT_TEA is none of this program's, and is ignored",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUnreadVariables(t *testing.T) {
	c := &cobra.Command{Use: "agent"}
	c.Flags().Bool("no-sudo", false, "")
	c.Flags().String("state", "", "")
	c.Flags().String("shell", "", "")
	if err := c.ParseFlags([]string{"--state", "a"}); err != nil {
		t.Fatal(err)
	}
	got := Unread(c, []string{"SALLYPORT_NO_SUDO=1", "SALLYPORT_STATE=b", "SALLYPORT_SHELL=", "SALLYPORT_LISTEN=x"})
	if len(got) != 1 || got[0] != "the environment variable SALLYPORT_NO_SUDO is ignored here: agent takes flags alone; give --no-sudo" {
		t.Errorf("got %q", got)
	}
}
