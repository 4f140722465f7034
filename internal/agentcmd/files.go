package agentcmd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pkg/sftp"

	"github.com/sallyport/sallyport/internal/agent"
)

// ServeFiles makes this process an SFTP server on its standard input and output
// if an agent started it as one, and then does not return. A program that is or
// has an agent calls it first in main. The server serves all that its user may
// read and write, from the directory it was started in, and ends with its input.
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
	server, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout}, sftp.WithServerWorkingDirectory(dir))
	if err != nil {
		return err
	}
	if err := server.Serve(); err != nil && err != io.EOF {
		return err
	}
	return nil
}
