package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The units of docs/systemd start commands that are there, with flags that they have.
func TestUnits(t *testing.T) {
	units, err := filepath.Glob("../../docs/systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("there are no units: %v", err)
	}
	for _, name := range units {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, line, ok := strings.Cut(strings.ReplaceAll(string(b), "\\\n", " "), "\nExecStart=")
		if !ok {
			t.Errorf("%s starts nothing", name)
			continue
		}
		line, _, _ = strings.Cut(line, "\n")
		program, args := strings.Fields(line)[0], strings.Fields(line)[1:]
		if filepath.Base(program) == "sallyport-agent" {
			args = append([]string{"agent"}, args...)
		}
		cmd, args, err := command().Find(args)
		if err == nil {
			err = cmd.ParseFlags(args)
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil || cmd.RunE == nil || cmd.HasSubCommands() {
			t.Errorf("%s starts %q: %v", name, line, err)
		}
	}
}
