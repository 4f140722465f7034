package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"github.com/sallyport/sallyport/internal/wire"
)

// BesideMark is in the names of files that a copy has not written whole yet.
const BesideMark = wire.BesideMark

// Files are a node's, through a session with its [wire.FileServer].
type Files struct {
	*sftp.Client
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the session is over

	listing atomic.Pointer[listing] // while a directory is listed

	// Once done is closed.
	err     error // why it ended, if not because we closed it
	mayBeOn bool  // as an Ending's
}

// errClosed is why a session ends whose server did not end in time when its files
// were closed. Every operation has been answered by then: no file misses anything.
var errClosed = errors.New("the files were closed")

var errNoInput = errors.New("this node's agent gives a command no standard input, and files go that way; AWS's agents do not, and scp with sallyport ssh-config does without")

// Files joins a session that runs [wire.FileServer], and returns once that has
// answered. What it and the session say beside goes to stderr and notice. The
// session ends with Close, or with ctx.
func (c *Client) Files(ctx context.Context, inv Invitation, stderr io.Writer, notice func(string)) (*Files, error) {
	in, up := io.Pipe()
	down, out := io.Pipe()
	ctx, cancel := context.WithCancelCause(ctx)
	f := &Files{cancel: cancel, done: make(chan struct{})}
	s := &Session{
		Client: c, Invitation: inv, Stdin: in, Stdout: out, Stderr: stderr, Notice: notice,
		Pipes: true, Apart: true, Input: true,
	}
	go func() {
		defer close(f.done)
		end, err := s.Run(ctx)
		f.err, f.mayBeOn = filesEnded(ctx, end, err), end.MayBeOn
		in.CloseWithError(io.ErrClosedPipe)
		out.CloseWithError(io.EOF)
	}()
	var err error
	f.Client, err = sftp.NewClientPipe(&received{down, f}, up, sftp.UseConcurrentWrites(true))
	if err != nil {
		up.Close()
		down.Close()
		cancel(nil)
		<-f.done
		return nil, f.Explain(err)
	}
	return f, nil
}

// maxListing is how many bytes a node may send to list a directory: 300,000 names
// and more.
const maxListing = 64 << 20

// ReadDir lists a directory. A list of more than 64 MiB is an error: the node chooses
// when it ends. It is called by one goroutine at a time.
func (f *Files) ReadDir(p string) ([]fs.FileInfo, error) { return f.readDir(p, maxListing) }

func (f *Files) readDir(p string, most int) ([]fs.FileInfo, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	f.listing.Store(&listing{most: most, left: most, stop: cancel})
	defer f.listing.Store(nil)
	infos, err := f.Client.ReadDirContext(ctx, p)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return infos, err
}

// A listing is how much of a directory's list may still come. The one goroutine
// that reads what the node sends owns left.
type listing struct {
	most int // bytes
	left int
	stop context.CancelCauseFunc
}

// received is what the node sends, counted while it lists a directory.
type received struct {
	io.Reader
	f *Files
}

func (r *received) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if l := r.f.listing.Load(); l != nil {
		if l.left -= n; l.left < 0 {
			l.stop(fmt.Errorf("the node's list of it has more than %d MiB", l.most>>20))
		}
	}
	return n, err
}

// filesEnded is why a session with a file server ended, or nil if it only came
// to its end.
func filesEnded(ctx context.Context, end Ending, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errClosed):
		return nil
	case err != nil:
		return err
	case end.How == Left:
		return context.Cause(ctx)
	case end.How == Expired && end.Output == "":
		return errors.New("the session was over before the connection came back")
	case strings.Contains(end.Output, wire.FileServer): // there is no such program
		return errors.New("this node's agent has no file server; update it, or use scp with sallyport ssh-config")
	case end.Output != "":
		return fmt.Errorf("the session ended: %s", end.Output)
	case end.ExitStatus != nil && *end.ExitStatus != 0:
		return fmt.Errorf("the node's file server ended with status %d", *end.ExitStatus)
	}
	return nil
}

// Explain is why an operation failed with err: what ended the session, if it
// has ended.
func (f *Files) Explain(err error) error {
	select {
	case <-f.done:
		if f.err != nil {
			return f.err
		}
	default:
	}
	return err
}

// Close has the server end, and the session with it. A server that does not end
// in a few seconds, as over a link that is stalled, is left to the control plane.
// The error is [ErrMayBeOn] if that could not be told.
func (f *Files) Close() error {
	defer f.cancel(errClosed)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		f.Client.Close() // it waits for the server to hang up
	}()
	hurry := time.AfterFunc(goodbye, func() { f.cancel(errClosed) })
	defer hurry.Stop()
	<-f.done
	<-closed
	if f.err == nil && f.mayBeOn {
		return ErrMayBeOn
	}
	return f.err
}

// RequestFiles asks for a session that [Client.Files] can join.
func RequestFiles(node, reason string) StartSession {
	return StartSession{Target: node, DocumentName: DocumentExec, Reason: reason, Parameters: map[string][]string{"command": {wire.FileServer}}}
}
