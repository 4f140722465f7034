package socket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/internal/need"
	"github.com/sallyport/sallyport/internal/wire"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "dead-peer" {
		if err := giveUpOnDeadPeer(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ok")
		return
	}
	os.Exit(m.Run())
}

// A peer that takes nothing, and whose system answers, is waited for as long as that
// takes, where one is given up that has to answer pings; and then it has all that
// was sent.
func TestKeepAliveSlow(t *testing.T) {
	const frames = 200
	server, client := pair(t)
	go server.ReadFrame(t.Context())
	wrote, kept := make(chan error, 1), make(chan error, 1)
	go func() {
		for range frames {
			if err := server.WriteFrame(t.Context(), make([]byte, wire.MaxFrame)); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	go func() { kept <- server.KeepAliveSlow(t.Context(), 10*time.Millisecond, 200*time.Millisecond) }()

	for range 3 { // which takes several times as long as the patience above
		other, _ := pair(t)
		go other.ReadFrame(t.Context())
		if err := other.KeepAlive(t.Context(), 10*time.Millisecond, 500*time.Millisecond); !errors.Is(err, ErrSilent) {
			t.Fatalf("a peer that reads nothing has to answer pings: %v", err)
		}
	}
	select {
	case err := <-kept:
		t.Fatalf("a peer that reads nothing was given up: %v", err)
	case err := <-wrote:
		t.Fatalf("all was written to a peer that reads nothing: %v", err)
	default:
	}
	for range frames {
		if b, err := client.ReadFrame(t.Context()); err != nil || len(b) != wire.MaxFrame {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	client.Drop()
	if err := <-kept; err == nil {
		t.Error("a peer that has gone was not noticed")
	}
}

// A peer whose system does not answer is given up. The network of a child of ours
// goes down under it.
func TestKeepAliveSlowOfDeadPeer(t *testing.T) {
	if out := need.Namespace(t, `exec unshare -n "$0" dead-peer`); out != "ok\n" {
		t.Errorf("child: %s", out)
	}
}

func giveUpOnDeadPeer() error {
	if err := setLoopback(true); err != nil {
		return err
	}
	accepted := make(chan *Conn, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r)
		if err != nil {
			fmt.Println(err)
		}
		accepted <- c
	}))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, _, err := Dial(ctx, new(http.Transport), s.URL, nil)
	if err != nil {
		return err
	}
	go client.ReadFrame(ctx)
	server := <-accepted
	go server.ReadFrame(ctx)
	kept := make(chan error, 1)
	go func() { kept <- server.KeepAliveSlow(ctx, 20*time.Millisecond, 500*time.Millisecond) }()
	if err := setLoopback(false); err != nil {
		return err
	}
	if err := <-kept; err == nil || ctx.Err() != nil {
		return fmt.Errorf("a peer that is dead was not given up: %w", err)
	}
	return nil
}

// setLoopback has this process's loopback interface up or down.
func setLoopback(up bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if up {
		lo.SetUint16(unix.IFF_UP)
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
