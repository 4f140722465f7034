package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/client"
)

// restarted is how many shells talk while the server is killed.
const restarted = 50

// restart measures how long live shells take to flow again after the server was
// killed with -9 and another answers.
func restart(ctx context.Context, w *world) ([]figure, error) {
	base, err := url.Parse(w.admit.Endpoint)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	heard := make([]atomic.Int64, restarted) // when the shell was heard last, in ns
	starting := make(chan struct{}, rising)
	for i := range restarted {
		select {
		case starting <- struct{}{}:
		case <-time.After(time.Minute):
			return nil, errors.New("the shells do not start")
		}
		inv, err := w.client.StartSession(ctx, client.StartSession{Target: w.node})
		if err != nil {
			return nil, err
		}
		in, typed := io.Pipe()
		out, said := io.Pipe()
		s := &client.Session{Client: w.client, Invitation: inv, Stdin: in, Stdout: said, Stderr: io.Discard}
		all.Go(func() {
			defer in.Close()
			defer said.Close()
			s.Run(ctx)
		})
		all.Go(func() { fmt.Fprint(typed, "while :; do read -rt .05 _; echo n-$((i+=1)).; done\r") })
		all.Go(func() {
			talks := sync.OnceFunc(func() { <-starting })
			defer talks()
			b := make([]byte, 4096)
			for {
				n, err := out.Read(b)
				if err != nil {
					return
				}
				if numbered.Match(b[:n]) { // which the echo of what was typed does not
					heard[i].Store(time.Now().UnixNano())
					talks()
				}
			}
		})
	}
	flowing := func(since time.Time) bool {
		for i := range heard {
			if heard[i].Load() <= since.UnixNano() {
				return false
			}
		}
		return true
	}
	began := time.Now()
	if err := eventually(ctx, "all shells talk", func() bool { return flowing(began) }); err != nil {
		return nil, err
	}
	w.server.Process.Kill()
	w.server.Wait()
	if err := w.startServer(ctx, base.Host); err != nil {
		return nil, err
	}
	answers := time.Now()
	took := make([]time.Duration, restarted)
	if err := eventually(ctx, "all shells talk again", func() bool {
		for i := range heard {
			if at := heard[i].Load(); took[i] == 0 && at > answers.UnixNano() {
				took[i] = time.Duration(at - answers.UnixNano())
			}
		}
		return !slices.Contains(took, 0)
	}); err != nil {
		return nil, err
	}
	slices.Sort(took)
	return []figure{{
		fmt.Sprintf("%d shells flow again after kill -9, p50 / last", restarted),
		fmt.Sprintf("%d / %d ms", took[restarted/2].Milliseconds(), took[restarted-1].Milliseconds()), "-", "-", "< 1000 ms",
	}}, nil
}
