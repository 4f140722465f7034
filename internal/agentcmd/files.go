package agentcmd

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pkg/sftp"

	"github.com/sallyport/sallyport/internal/agent"
)

// ServeFiles makes this process an SFTP server on its standard input and output
// if an agent started it as one, and then does not return. A program that is or
// has an agent calls it first in main. The server serves all that its user may
// read and write, from the directory it was started in, and ends with its input.
// It removes copies that are not whole, also when a signal ends it.
func ServeFiles() {
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") != agent.FileServer {
		return
	}
	if err := serveFiles(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", agent.FileServer, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveFiles() error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	requests := newUnfinished(os.Stdin, filepath.ToSlash(dir))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE) // an agent that was killed reads no answers, and asks nothing more
	go func() {
		<-ended
		requests.remove()
		os.Exit(1)
	}()
	err = serve(requests, os.Stdout, dir)
	signal.Stop(ended)
	requests.remove()
	return err
}

// serve answers requests until they end.
func serve(requests io.Reader, answers io.WriteCloser, dir string) error {
	server, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{requests, answers}, sftp.WithServerWorkingDirectory(dir))
	if err != nil {
		return err
	}
	if err := server.Serve(); err != nil && err != io.EOF {
		return err
	}
	return nil
}
