package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/internal/rawio"
	"github.com/sallyport/sallyport/internal/socket"
)

// The floor of a forwarded port is its hops with nothing on them: what a port
// says goes into messages of a WebSocket over TLS in one process, from one such
// socket to another in a second, and out to a Unix socket in a third. There are
// no numbers, acknowledgements, windows, connections or people in it. Bench runs
// itself for the three.
const floorPart = "SALLYPORT_BENCH_FLOOR"

// atFloor plays the part this process was started for, if it was.
func atFloor(ctx context.Context) (played bool, err error) {
	args := os.Args[1:]
	switch os.Getenv(floorPart) {
	case "agent":
		return true, floorAgent(ctx, args[0], args[1], args[2])
	case "server":
		return true, floorServer(ctx, args[0], args[1])
	case "client":
		return true, floorClient(ctx, args[0], args[1], args[2])
	}
	return false, nil
}

// floorServer listens on a TLS port, and passes on to the connection at /client what
// the connection at /agent sends.
func floorServer(ctx context.Context, addr, cert string) error {
	pair, err := tls.LoadX509KeyPair(cert, cert)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	agent, client := make(chan *socket.Conn, 1), make(chan *socket.Conn, 1)
	go http.Serve(tls.NewListener(rawio.Listen(l), &tls.Config{Certificates: []tls.Certificate{pair}}), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := socket.Accept(w, r)
		switch {
		case err != nil:
		case r.URL.Path == "/agent":
			agent <- c
		default:
			client <- c
		}
	}))
	from, to := <-agent, <-client
	var b []byte
	for {
		if b, err = from.AppendFrame(ctx, b[:0]); err != nil {
			to.Close("over")
			return nil
		}
		if err := to.WriteFrame(ctx, b); err != nil {
			return err
		}
	}
}

// floorDial opens a socket of the server's, once there is one.
func floorDial(ctx context.Context, addr, path, cert string) (c *socket.Conn, err error) {
	text, err := os.ReadFile(cert)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	err = eventually(ctx, "the floor's server answers", func() bool {
		c, _, err = socket.Dial(ctx, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, "https://"+addr+path, nil)
		return err == nil
	})
	return c, err
}

func floorAgent(ctx context.Context, addr, cert, port string) error {
	to, err := floorDial(ctx, addr, "/agent", cert)
	if err != nil {
		return err
	}
	from, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	fmt.Fprintln(from, forwarded)
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if err := to.WriteFrame(ctx, b[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			to.Close("over")
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func floorClient(ctx context.Context, addr, cert, near string) error {
	l, err := net.Listen("unix", near)
	if err != nil {
		return err
	}
	defer l.Close()
	to, err := l.Accept()
	if err != nil {
		return err
	}
	defer to.Close()
	from, err := floorDial(ctx, addr, "/client", cert)
	if err != nil {
		return err
	}
	for {
		b, err := from.ReadFrame(ctx)
		if err != nil {
			return nil
		}
		if _, err := to.Write(b); err != nil {
			return err
		}
	}
}

// floor measures it: how long one download of what forward downloads takes.
func (w *world) floor(ctx context.Context, port string) (took time.Duration, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr := l.Addr().String()
	l.Close()
	cert, near := filepath.Join(w.dir, "floor.pem"), filepath.Join(w.dir, "floor")
	if err := writeCertificate(cert); err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	for part, args := range map[string][]string{"server": {addr, cert}, "agent": {addr, cert, port}, "client": {addr, cert, near}} {
		c := exec.CommandContext(ctx, self, args...)
		c.Env, c.Stderr = append(os.Environ(), floorPart+"="+part), os.Stderr
		if err := c.Start(); err != nil {
			return 0, err
		}
		defer func() {
			c.Process.Kill()
			c.Wait()
		}()
	}
	if err := eventually(ctx, "the floor's client listens", func() bool {
		_, err := os.Stat(near)
		return err == nil
	}); err != nil {
		return 0, err
	}
	c, err := net.Dial("unix", near)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	one := make([]byte, 1) // all three are there when it comes
	if _, err := io.ReadFull(c, one); err != nil {
		return 0, err
	}
	began := time.Now()
	if n, err := io.Copy(io.Discard, c); err != nil || n != forwarded-1 {
		return 0, errors.Join(fmt.Errorf("%d bytes of %d came", n+1, forwarded), err)
	}
	return time.Since(began), nil
}
