package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/client"
)

// command measures one command that does nothing, over and over, each with a
// connection and a session of its own.
func command(ctx context.Context, w *world) ([]figure, error) {
	measure := func(command ...string) (p50 time.Duration, err error) {
		var took []time.Duration
		for range 100 {
			began := time.Now()
			if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
				return 0, fmt.Errorf("%q: %w: %s", command, err, out)
			}
			took = append(took, time.Since(began))
		}
		return percentile(took, 50), nil
	}
	ours, err := measure(w.main, "exec", "-n", w.node, "--", "true")
	if err != nil {
		return nil, err
	}
	f := figure{"exec NODE -- true, p50 of 100", ms(ours), "-", "-", "< 25 ms"}
	if ssh, err := w.ssh(ctx); err != nil {
		f.beside = err.Error()
	} else {
		theirs, err := measure("ssh", "-F", ssh[2], "far", "true")
		if err != nil {
			return nil, err
		}
		f.beside, f.ratio = ms(theirs)+" (ssh -J)", ratio(ours, theirs)
	}
	return []figure{f}, nil
}

// forwarded is how much one measurement of a forwarded port carries.
const forwarded = 1 << 30

// forward measures downloads through a forwarded port: one, and eight at once
// of an eighth.
func forward(ctx context.Context, w *world) ([]figure, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go pour(l)
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)

	bare, err := relay(ctx)
	if err != nil {
		return nil, fmt.Errorf("bare relay: %w", err)
	}
	near := filepath.Join(w.dir, "near")
	ours, err := w.through(ctx, near, w.main, "connect", "-N", "-L", near+":"+port, w.node)
	if err != nil {
		return nil, fmt.Errorf("forward: %w", err)
	}
	perByte := func(d time.Duration, n int) float64 { return d.Seconds() / float64(n) }
	said := func(d time.Duration) string { return fmt.Sprintf("%.0f MB/s", forwarded/1e6/d.Seconds()) }
	figures := make([]figure, 0, 6)
	for i, what := range []string{"forwarded port, one stream of 1 GiB", "forwarded port, eight of 128 MiB"} {
		figures = append(figures, figure{what, said(ours[i]), rate(bare) + " (bare TLS relay)",
			fmt.Sprintf("%.2f", perByte(bare, bulkBytes)/perByte(ours[i], forwarded)), ">= 0.6"})
	}
	floor, err := w.floor(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	for i, what := range []string{"the same, one stream", "the same, eight"} {
		figures = append(figures, figure{what, said(ours[i]), said(floor) + " (its hops, bare)", ratio(floor, ours[i]), "for scale"})
	}
	ssh, missing := w.ssh(ctx)
	if missing != nil {
		return figures, nil
	}
	near = filepath.Join(w.dir, "near-ssh")
	theirs, err := w.through(ctx, near, "ssh", "-F", ssh[2], "-N", "-L", near+":127.0.0.1:"+port, "far")
	if err != nil {
		return nil, fmt.Errorf("forward through ssh: %w", err)
	}
	for i, what := range []string{"the same, one stream", "the same, eight"} {
		figures = append(figures, figure{what, said(ours[i]), said(theirs[i]) + " (ssh -J -L)", ratio(theirs[i], ours[i]), ">= 1"})
	}
	return figures, nil
}

// pour serves each connection as many bytes as it asks for: a line with a number.
func pour(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var n int
			if _, err := fmt.Fscanln(c, &n); err != nil {
				return
			}
			b := make([]byte, 64<<10)
			for n > 0 {
				if _, err := c.Write(b[:min(n, len(b))]); err != nil {
					return
				}
				n -= len(b)
			}
		}()
	}
}

// through measures downloads through the socket that a command opens at near,
// by one connection and by eight.
func (w *world) through(ctx context.Context, near string, command ...string) (took [2]time.Duration, err error) {
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	if err := c.Start(); err != nil {
		return took, err
	}
	defer func() {
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
	}()
	if err := eventually(ctx, "the port opens", func() bool {
		_, err := os.Stat(near)
		return err == nil
	}); err != nil {
		return took, err
	}
	if _, err := download(near, 1, 1<<20); err != nil { // warm, and connected
		return took, err
	}
	for i, streams := range []int{1, 8} {
		if took[i], err = download(near, streams, forwarded/streams); err != nil {
			return took, err
		}
	}
	return took, nil
}

// download reads size bytes by each of several connections at once.
func download(near string, streams, size int) (time.Duration, error) {
	began := time.Now()
	errs := make([]error, streams)
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			c, err := net.Dial("unix", near)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			fmt.Fprintln(c, size)
			if n, err := io.Copy(io.Discard, c); err != nil || n != int64(size) {
				errs[i] = fmt.Errorf("%d bytes of %d came: %w", n, size, err)
			}
		})
	}
	all.Wait()
	return time.Since(began), errors.Join(errs...)
}

const (
	talkers  = 200
	talkedBy = 400 // lines of each, ten a second
	rising   = 8   // shells that start at once: a profile may take all of a processor
)

// talk measures a keystroke's echo while many shells say ten lines a second,
// and that each line arrives once and in its turn.
func talk(ctx context.Context, w *world) ([]figure, error) {
	alone, err := w.keystrokes(ctx, w.connect())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var talking, begun sync.WaitGroup
	begun.Add(talkers)
	starting, all := make(chan struct{}, rising), make(chan struct{})
	for range talkers {
		talking.Go(func() {
			starting <- struct{}{}
			begin := sync.OnceFunc(func() { <-starting; begun.Done() })
			defer begin()
			if err := w.talker(ctx, begin, all); err != nil {
				cancel(err)
			}
		})
	}
	begun.Wait()
	close(all)
	among, err := w.keystrokes(ctx, w.connect())
	talking.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	a, b := percentile(among[0], 99), percentile(alone[0], 99)
	return []figure{
		{fmt.Sprintf("echo among %d talking shells, p99", talkers), us(a), us(b) + " (alone)", ratio(a, b), "< 3"},
		{fmt.Sprintf("lines of theirs, of %d", talkers*talkedBy), strconv.Itoa(talkers * talkedBy), "-", "-", "all"},
	}, nil
}

var numbered = regexp.MustCompile(`n-([0-9]+)\.`)

// talker runs one shell, which says a line when it is ready, whereupon begin is
// called, and then, from when all is closed, numbered lines. It checks them.
func (w *world) talker(ctx context.Context, begin func(), all <-chan struct{}) error {
	inv, err := w.client.StartSession(ctx, client.StartSession{Target: w.node})
	if err != nil {
		return err
	}
	in, typed := io.Pipe()
	out, said := io.Pipe()
	defer typed.Close()
	s := &client.Session{Client: w.client, Invitation: inv, Stdin: in, Stdout: said, Stderr: io.Discard}
	var ending client.Ending
	ended := make(chan error, 1)
	go func() {
		var err error
		ending, err = s.Run(ctx)
		said.Close()
		ended <- err
	}()
	go fmt.Fprint(typed, "echo n-$((0)).\r")
	var heard []byte
	b := make([]byte, 4096)
	for ready := false; err == nil; {
		var n int
		n, err = out.Read(b)
		heard = append(heard, b[:n]...)
		if !ready && numbered.Match(heard) {
			ready = true
			begin()
			go func() {
				<-all
				if pause(ctx, rand.N(time.Second/10)) != nil { // people are not in step
					return
				}
				fmt.Fprintf(typed, "i=0; while [ $i -lt %d ]; do echo n-$((i+=1)).; read -rt 0.1 _; done; exit 0\r", talkedBy)
			}()
		}
	}
	if err := <-ended; err != nil {
		return err
	}
	got := numbered.FindAllSubmatch(heard, -1)
	for i, m := range got {
		if string(m[1]) != strconv.Itoa(i) {
			return fmt.Errorf("line %s of a talking shell is where line %d should be", m[1], i)
		}
	}
	if len(got) != talkedBy+1 {
		return fmt.Errorf("of %d lines of a talking shell %d came: %s", talkedBy, max(len(got)-1, 0), ending.Output)
	}
	return nil
}
