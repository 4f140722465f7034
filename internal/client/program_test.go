package client

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sallyport/sallyport"
)

// program makes the test binary one of the programs that are made of this
// package, so that it can be run on a terminal of its own, and killed.
func program(what string) int {
	switch what {
	case "plugin":
		return PluginMain(append([]string{"session-manager-plugin"}, os.Args[1:]...), os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	case "connect", "panic", "exec":
		c, err := Load(context.Background(), Settings{Endpoint: os.Args[1]})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		s := &Session{
			Client:     c,
			Invitation: Invitation{SessionID: os.Args[2], StreamURL: os.Args[3], Token: sallyport.NewSecret(os.Args[4])},
			Stdin:      os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			Pipes: what == "exec",
		}
		if what == "panic" {
			s.Stdout = bomb{os.Stdout}
		}
		end, err := s.Run(context.Background())
		switch {
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
			return 1
		case end.How == Killed:
			return end.Status()
		case end.How != Closed:
			return 100 + int(end.How)
		case end.ExitStatus != nil:
			return *end.ExitStatus
		}
		return 0
	case "aws": // as awscli/compat.py runs the plugin
		signal.Ignore(ignoredByCLI()...)
		cmd := exec.Command(os.Args[0], append([]string{responseVariable}, os.Args[2:]...)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), "SALLYPORT_TEST_PROGRAM=plugin", responseVariable+"="+os.Args[1])
		cmd.Run()
		return cmd.ProcessState.ExitCode()
	}
	return 99
}

func ignoredByCLI() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGQUIT, stop} }

// A bomb goes off when a certain word is shown.
type bomb struct{ io.Writer }

func (b bomb) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "boom") {
		panic("boom")
	}
	return b.Writer.Write(p)
}
