package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
)

const (
	callers  = 8
	callsFor = 5 * time.Second
)

// calls measures how many signed calls are answered in a second, to a few callers at
// once on connections that stay open, beside requests that nothing is asked about;
// and how long the program takes to say what it can do.
func calls(ctx context.Context, w *world) ([]figure, error) {
	base, err := url.Parse(w.admit.Endpoint)
	if err != nil {
		return nil, err
	}
	var clients []*endpoint.Client
	for range callers {
		web, err := w.trust.HTTP()
		if err != nil {
			return nil, err
		}
		defer web.CloseIdleConnections()
		clients = append(clients, &endpoint.Client{Base: base, HTTP: web, Region: w.admit.Region,
			Credentials: func(context.Context) (endpoint.Credentials, error) {
				return endpoint.Credentials{AccessKeyID: w.admit.AccessKeyID, Secret: sallyport.NewSecret(w.admit.SecretAccessKey), Token: sallyport.NewSecret(w.admit.SessionToken)}, nil
			}})
	}
	signed, err := perSecond(ctx, clients, func(ctx context.Context, c *endpoint.Client) error {
		return c.Call(ctx, "ssm", "AmazonSSM.DescribeInstanceInformation", struct{}{}, nil)
	})
	if err != nil {
		return nil, err
	}
	bare, err := perSecond(ctx, clients, func(ctx context.Context, c *endpoint.Client) error {
		resp, err := c.HTTP.Get(w.admit.Endpoint + "/healthz")
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body) // so that the connection is used again
		return errors.Join(err, resp.Body.Close())
	})
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for range 50 {
		began := time.Now()
		if err := exec.CommandContext(ctx, w.main, "--help").Run(); err != nil {
			return nil, fmt.Errorf("sallyport --help: %w", err)
		}
		took = append(took, time.Since(began))
	}
	return []figure{
		{"signed DescribeInstanceInformation, caller and server on one machine", fmt.Sprintf("%.0f/s", signed), fmt.Sprintf("%.0f/s (GET /healthz)", bare), fmt.Sprintf("%.2f", bare/signed), ">= 5000/s"},
		{"sallyport --help, p50 of 50", ms(percentile(took, 50)), "-", "-", "< 15 ms"},
	}, nil
}

// perSecond has each client call in a loop of its own, and counts.
func perSecond(ctx context.Context, clients []*endpoint.Client, call func(context.Context, *endpoint.Client) error) (float64, error) {
	var n atomic.Int64
	began := time.Now()
	var g errgroup.Group
	for _, c := range clients {
		g.Go(func() error {
			for time.Since(began) < callsFor {
				if err := call(ctx, c); err != nil {
					return err
				}
				n.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(n.Load()) / time.Since(began).Seconds(), err
}
