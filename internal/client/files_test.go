package client

import (
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// An endless node lists a directory without end.
type endless struct{}

func (endless) Filelist(*sftp.Request) (sftp.ListerAt, error) { return endless{}, nil }

func (endless) ListAt(infos []fs.FileInfo, _ int64) (int, error) {
	for i := range infos {
		infos[i] = endless{}
	}
	return len(infos), nil
}

func (endless) Name() string       { return "name" }
func (endless) Size() int64        { return 10 }
func (endless) Mode() fs.FileMode  { return 0o644 }
func (endless) ModTime() time.Time { return time.Time{} }
func (endless) IsDir() bool        { return false }
func (endless) Sys() any           { return nil }

func TestListingIsBounded(t *testing.T) {
	in, up := io.Pipe()
	down, out := io.Pipe()
	server := sftp.NewRequestServer(struct {
		io.Reader
		io.WriteCloser
	}{in, out}, sftp.Handlers{FileList: endless{}})
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve()
	}()
	f := &Files{}
	var err error
	if f.Client, err = sftp.NewClientPipe(&received{down, f}, up); err != nil {
		t.Fatal(err)
	}
	if infos, err := f.readDir("/", 1<<20); err == nil || !strings.Contains(err.Error(), "more than 1 MiB") {
		t.Errorf("%d names, %v", len(infos), err)
	}
	up.Close()
	<-served
	out.Close()
	f.Client.Close()
}
