package clientcmd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"

	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/wire"
)

// serveFiles has the node serve the files of a directory, as an agent of ours, and
// say then that its server has ended.
func (p *plane) serveFiles(t *testing.T, home string) {
	p.serveFilesThen(t, home, func(e *end) { e.tell(wire.KindExitCode, []byte("EXIT_CODE: 0")) })
}

// serveFilesThen has the node serve the files of a directory and call last once
// they are closed.
func (p *plane) serveFilesThen(t *testing.T, home string, last func(e *end)) {
	p.plays[client.DocumentExec] = func(e *end) {
		e.shake("NonInteractiveCommands", nil, ours)
		s, err := sftp.NewServer(e, sftp.WithServerWorkingDirectory(home))
		if err != nil {
			t.Error(err)
			return
		}
		s.Serve()
		last(e)
	}
}

// plant makes files under dir: a name that ends in a slash is a directory.
func plant(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			os.MkdirAll(p, 0o755)
			continue
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tree lists all that is under dir, with modes and sizes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		sum := 0
		if info.Mode().IsRegular() {
			text, _ := os.ReadFile(p)
			for _, c := range text {
				sum = sum*31 + int(c)
			}
		}
		if rel != "." {
			fmt.Fprintf(&b, "%s %v %x\n", rel, info.Mode(), sum)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReadPlace(t *testing.T) {
	tests := map[string]place{
		"web-1:/etc/hosts": {"web-1", "/etc/hosts"},
		"web-1:":           {"web-1", "."},
		"web-1:a:b":        {"web-1", "a:b"},
		"hosts":            {"", "hosts"},
		"./a:b":            {"", "./a:b"},
		"/a:b":             {"", "/a:b"},
		":a":               {"", ":a"},
		"":                 {"", ""},
	}
	for arg, want := range tests {
		if got := readPlace(arg); got != want {
			t.Errorf("%q is %+v, want %+v", arg, got, want)
		}
	}
	for _, args := range [][]string{{"a", "b"}, {"x:a", "y:b"}, {"x:a", "y:b", "c"}, {"x:a", "b", "x:c"}} {
		if _, _, _, err := places(args); err == nil {
			t.Errorf("%q can be copied", args)
		}
	}
}

func TestCp(t *testing.T) {
	big := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{3}).Read(big)
	files := map[string]string{"a": "A", "b c": "B", "empty": "", "big": string(big), "d/e/f": "F", "d/none/": ""}
	for i := range 100 {
		files[fmt.Sprintf("many/%d", i)] = strings.Repeat("x", i)
	}
	const node = "mi-0123456789abcdef0"
	for _, up := range []bool{true, false} {
		name := map[bool]string{true: "to a node", false: "from a node"}[up]
		t.Run(name, func(t *testing.T) {
			p := start(t)
			home, local := t.TempDir(), t.TempDir()
			p.serveFiles(t, home)
			t.Chdir(local)
			src, dst, srcAt, dstAt := local, home, "", node+":"
			if !up {
				src, dst, srcAt, dstAt = home, local, node+":", ""
			}
			plant(t, src, map[string]string{})
			plant(t, filepath.Join(src, "s"), files)
			os.Chmod(filepath.Join(src, "s/a"), 0o751)
			os.Chmod(filepath.Join(src, "s/d/e"), 0o500)
			defer os.Chmod(filepath.Join(src, "s/d/e"), 0o700)
			defer os.Chmod(filepath.Join(dst, "copy/d/e"), 0o700)
			defer os.Chmod(filepath.Join(dst, "s/d/e"), 0o700)
			at := time.Unix(1e9, 0)
			os.Chtimes(filepath.Join(src, "s/a"), at, at)

			cp := func(args ...string) {
				t.Helper()
				if stdout, stderr, err := run(t, "", append([]string{"cp"}, args...)...); err != nil || stdout+stderr != "" {
					t.Fatalf("%q: %q, %q, %v", args, stdout, stderr, err)
				}
			}
			cp("-p", srcAt+"s/a", dstAt+"a2")
			info, err := os.Stat(filepath.Join(dst, "a2"))
			if err != nil || info.Mode().Perm() != 0o751 || !info.ModTime().Equal(at) {
				t.Errorf("a file: %v, %v", info, err)
			}
			cp(srcAt+"s/a", srcAt+"s/b c", dstAt+".")
			if got, _ := os.ReadFile(filepath.Join(dst, "b c")); string(got) != "B" {
				t.Errorf("into a directory: %q", got)
			}
			cp(srcAt+"s/big", dstAt+"a2") // over another
			if got, _ := os.ReadFile(filepath.Join(dst, "a2")); !bytes.Equal(got, big) {
				t.Errorf("a large file has %d bytes", len(got))
			}
			cp("-r", srcAt+"s", dstAt+"copy") // which is not there
			cp("-r", srcAt+"s", dstAt+".")    // and into one that is
			want := tree(t, filepath.Join(src, "s"))
			for _, d := range []string{"copy", "s"} {
				if diff := cmp.Diff(want, tree(t, filepath.Join(dst, d))); diff != "" {
					t.Errorf("%s (-want +got)\n%s", d, diff)
				}
			}
			if p.count["StartSession"] != 5 || p.count["TerminateSession"] != 0 {
				t.Errorf("calls: %v", p.count)
			}
			if !strings.Contains(p.body("StartSession"), `"command":["sallyport-sftp-server"]`) {
				t.Errorf("asked %s", p.body("StartSession"))
			}
		})
	}
}

func TestCpGoesWrong(t *testing.T) {
	const node = "mi-0123456789abcdef0"
	t.Run("one file of several is not there", func(t *testing.T) {
		p := start(t)
		home := t.TempDir()
		t.Chdir(t.TempDir())
		plant(t, home, map[string]string{"a": "A"})
		p.serveFiles(t, home)
		_, stderr, err := run(t, "", "cp", node+":none\x1b[2J", node+":a", ".")
		if err != Exit(1) || stderr != "sallyport: none?[2J is not copied: file does not exist\n" {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
		if got, _ := os.ReadFile("a"); string(got) != "A" {
			t.Errorf("the other is %q", got)
		}
	})
	t.Run("a node that would have us write elsewhere", func(t *testing.T) {
		p := start(t)
		dir := t.TempDir()
		os.Mkdir(filepath.Join(dir, "in"), 0o755)
		t.Chdir(filepath.Join(dir, "in"))
		p.plays[client.DocumentExec] = func(e *end) {
			e.shake("NonInteractiveCommands", nil, ours)
			evil := evilFiles{}
			sftp.NewRequestServer(e, sftp.Handlers{FileGet: evil, FileList: evil}).Serve()
			e.tell(wire.KindExitCode, []byte("EXIT_CODE: 0"))
		}
		_, stderr, err := run(t, "", "cp", "-r", node+":d", ".")
		if err != Exit(1) || !strings.Contains(stderr, `which would be elsewhere`) {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
		for line := range strings.Lines(tree(t, dir)) {
			if !strings.HasPrefix(line, "in ") && !strings.HasPrefix(line, "in/d") {
				t.Errorf("there is %s", line)
			}
		}
	})
	t.Run("an agent of AWS's", func(t *testing.T) {
		p := start(t)
		t.Chdir(t.TempDir())
		p.plays[client.DocumentExec] = func(e *end) { e.shake("NonInteractiveCommands", nil, nil) }
		_, stderr, err := run(t, "", "cp", node+":a", ".")
		if err != Exit(255) || !strings.Contains(stderr, "AWS's agents do not") {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("an agent of ours that is older", func(t *testing.T) {
		p := start(t)
		t.Chdir(t.TempDir())
		p.plays[client.DocumentExec] = func(e *end) {
			e.shake("NonInteractiveCommands", nil, ours)
			e.close(wire.ChannelClosed{Output: `Unable to start command: there is no program "sallyport-sftp-server"`})
		}
		_, stderr, err := run(t, "", "cp", node+":a", ".")
		if err != Exit(255) || !strings.HasPrefix(stderr, "sallyport: this node's agent has no file server; update it") {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("a file server that fails", func(t *testing.T) {
		p := start(t)
		t.Chdir(t.TempDir())
		p.plays[client.DocumentExec] = func(e *end) {
			e.shake("NonInteractiveCommands", nil, ours)
			e.tell(wire.KindStdErr, []byte("sallyport-sftp-server: not found\n"))
			e.tell(wire.KindExitCode, []byte("EXIT_CODE: 127"))
		}
		_, stderr, err := run(t, "", "cp", node+":a", ".")
		if err != Exit(255) || !strings.HasSuffix(stderr, "not found\nsallyport: the node's file server ended with status 127\n") {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("somebody else ends it", func(t *testing.T) {
		p := start(t)
		t.Chdir(t.TempDir())
		plant(t, ".", map[string]string{"a": "A", "b": "B"})
		p.plays[client.DocumentExec] = func(e *end) {
			e.shake("NonInteractiveCommands", nil, ours)
			e.Read(make([]byte, 100)) // the beginning
			e.Write([]byte{0, 0, 0, 5, 2, 0, 0, 0, 3})
			e.Read(make([]byte, 100))
			e.close(wire.ChannelClosed{Output: "Terminated by bob."})
		}
		_, stderr, err := run(t, "", "cp", "a", "b", node+":.")
		if err == nil || err.Error() != "copy: the session ended: Terminated by bob." || stderr != "" {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("mistakes are told before there is a session", func(t *testing.T) {
		p := start(t)
		t.Chdir(t.TempDir())
		plant(t, ".", map[string]string{"d/a": "A", "f": "F"})
		for want, args := range map[string][]string{
			"is a directory":            {"d", node + ":."},
			"no such file":              {"none", node + ":."},
			"f is no directory":         {node + ":a", node + ":b", "f"},
			"write NODE:PATH":           {"f", "g"},
			"copy to this machine":      {node + ":f", node + ":g"},
			"requires at least 2 arg(s": {"f"},
		} {
			if _, _, err := run(t, "", append([]string{"cp"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v", args, err)
			}
		}
		if len(p.count) != 0 {
			t.Errorf("calls: %v", p.count)
		}
	})
}

// Ctrl-C ends a copy and the session with it.
func TestCpInterrupted(t *testing.T) {
	p := start(t)
	t.Chdir(t.TempDir())
	plant(t, ".", map[string]string{"a": "A"})
	reached := make(chan struct{})
	p.plays[client.DocumentExec] = func(e *end) {
		e.shake("NonInteractiveCommands", nil, ours)
		e.Read(make([]byte, 100))
		e.Write([]byte{0, 0, 0, 5, 2, 0, 0, 0, 3})
		e.Read(make([]byte, 100))
		close(reached)
		io.Copy(io.Discard, e)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for _, c := range Commands() {
		if c.Name() != "cp" {
			continue
		}
		c.SetArgs([]string{"a", "mi-0123456789abcdef0:."})
		c.SetErr(new(buffer))
		done := make(chan error, 1)
		go func() { done <- c.ExecuteContext(ctx) }()
		<-reached
		stop()
		if err := <-done; err == nil {
			t.Error("it ended well")
		}
	}
	if p.count["TerminateSession"] != 1 {
		t.Errorf("calls: %v", p.count)
	}
}

// evilFiles are a directory with names in it that lead out.
type evilFiles struct{}

func (evilFiles) Fileread(*sftp.Request) (io.ReaderAt, error) { return strings.NewReader("evil"), nil }

func (evilFiles) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method == "List" {
		return listing{{"../evil", 0o644}, {"..", fs.ModeDir | 0o755}, {"/tmp/evil", 0o644}, {"a/../../evil", 0o644}, {"", 0o644}}, nil
	}
	return listing{{"d", fs.ModeDir | 0o755}}, nil
}

type listing []evilInfo

func (l listing) ListAt(infos []fs.FileInfo, from int64) (n int, err error) {
	for i := int(from); i < len(l) && n < len(infos); i++ {
		infos[n] = l[i]
		n++
	}
	if int(from)+n == len(l) {
		err = io.EOF
	}
	return n, err
}

type evilInfo struct {
	name string
	mode fs.FileMode
}

func (i evilInfo) Name() string       { return i.name }
func (i evilInfo) Size() int64        { return 4 }
func (i evilInfo) Mode() fs.FileMode  { return i.mode }
func (i evilInfo) ModTime() time.Time { return time.Unix(1, 0) }
func (i evilInfo) IsDir() bool        { return i.mode.IsDir() }
func (i evilInfo) Sys() any           { return nil }

func TestProgressLine(t *testing.T) {
	tests := []struct {
		name        string
		done, total int64
		took        time.Duration
		width       int
		want        string
	}{
		{"a", 0, 0, 0, 79, "  0%  0 B of 0 B  0 B/s  a"},
		{"a", 512, 1024, time.Second, 79, " 50%  512 B of 1.0 KiB  512 B/s  1s left  a"},
		{"a", 3 << 30, 4 << 40, time.Minute, 79, "  0%  3.0 GiB of 4.0 TiB  51.2 MiB/s  22h44m20s left  a"},
		{"/a/very/long/name", 1, 1, time.Second, 36, "100%  1 B of 1 B  1 B/s  …/long/name"},
		{"a", 1, 1, time.Second, 10, "100%  1 B of 1 B  1 B/s"},
	}
	for _, tt := range tests {
		if got := progressLine(tt.name, tt.done, tt.total, tt.took, tt.width); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// Every file has been answered for when the files are closed. A server that does
// not end then, as behind a link that stalls, does not make the copy fail.
func TestCpWithoutGoodbye(t *testing.T) {
	p := start(t)
	home := t.TempDir()
	p.serveFilesThen(t, home, func(e *end) { <-e.ctx.Done() })
	from := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(from, []byte("A"), 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, err := run(t, "", "cp", from, "mi-0123456789abcdef0:a"); err != nil || stdout+stderr != "" {
		t.Fatalf("%q, %q, %v", stdout, stderr, err)
	}
	if got, err := os.ReadFile(filepath.Join(home, "a")); string(got) != "A" {
		t.Errorf("copied %q, %v", got, err)
	}
}

// A file has the size that it was listed with, and a node's list and files an end.
func TestCopiesAreBounded(t *testing.T) {
	c, piece := &copying{}, make([]byte, 1<<20)
	var b bytes.Buffer
	w := newWriting(t.Context(), c, &b, 10)
	if n, err := w.Write(piece[:6]); n != 6 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := w.Write(piece[:4]); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := w.Write(piece); n != 0 || err != errWhole || b.Len() != 10 {
		t.Errorf("%d, %v, %d bytes in all", n, err, b.Len())
	}
	w = newWriting(t.Context(), c, io.Discard, 0)
	for range maxUnsized / len(piece) {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(piece); err == nil || !strings.Contains(err.Error(), "listed as empty") {
		t.Errorf("a file without a size does not end: %v", err)
	}
	// What is listed counts before it is looked at.
	c = &copying{src: lists{here{}, listing{{"d", fs.ModeDir}, {"e", 0}, {strings.Repeat("n", maxListed+1), 0}}}, dst: here{}, recursive: true, errOut: &b, found: maxFound - 1}
	b.Reset()
	err := c.find(t.Context(), job{to: filepath.Join(t.TempDir(), "top"), info: evilInfo{"top", fs.ModeDir}})
	if err == nil || !strings.Contains(err.Error(), "copy fewer at a time") || len(c.directories) != 1 {
		t.Errorf("more than %d files: %v, after %d directories", maxFound, err, len(c.directories))
	}
	if !strings.Contains(b.String(), "a name of 1025 bytes") {
		t.Errorf("said %q", b.String())
	}
}

// lists is this machine, where every directory has the same list.
type lists struct {
	here
	all listing
}

func (l lists) list(string) (infos []fs.FileInfo, err error) {
	for _, info := range l.all {
		infos = append(infos, info)
	}
	return infos, nil
}
