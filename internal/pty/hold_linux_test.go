package pty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// takeUp holds a terminal and takes it up as another program in this process
// would, by numbers alone.
func takeUp(t *testing.T, old *Terminal) *Terminal {
	t.Helper()
	old.Hold()
	h, err := old.Held()
	if err != nil {
		t.Fatal(err)
	}
	if h.FD, err = unix.FcntlInt(uintptr(h.FD), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	term, err := TakeUp(h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the old one finds nothing left to do
		term.Close()
		old.Close()
	})
	return term
}

// What a program writes and reads while its terminal is taken up again and again is
// written and read once.
func TestHold(t *testing.T) {
	term := sh(t, `stty -echo -onlcr; echo ready; while read x; do echo "<$x>"; [ "$x" = last ] && exit 7; done`)
	await(t, term, "ready\n")
	var input, want, said strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&input, "%d\n", i)
		fmt.Fprintf(&want, "<%d>\n", i)
	}
	input.WriteString("last\n")
	want.WriteString("<last>\n")
	typed := []byte(input.String())

	for round := 0; ; round++ {
		var both sync.WaitGroup
		both.Go(func() {
			n, err := term.Write(typed)
			if typed = typed[n:]; err != nil && !errors.Is(err, ErrHeld) {
				t.Errorf("write: %v", err)
			}
		})
		ended := false
		both.Go(func() {
			b := make([]byte, 50)
			for range 1 + round%20 { // then hold, here by not reading; the writer is stopped wherever it is
				n, err := term.Read(b)
				said.Write(b[:n])
				if ended = err == io.EOF; err != nil {
					break
				}
			}
			if !ended {
				term.Hold()
				if _, err := term.Read(b); !errors.Is(err, ErrHeld) {
					t.Errorf("read while held: %v", err)
				}
			}
		})
		both.Wait()
		if ended {
			if round < 10 {
				t.Errorf("held %d times", round)
			}
			break
		}
		if round%3 == 0 {
			term.Release()
			continue
		}
		term = takeUp(t, term)
	}
	if status := term.Wait(); status != 7 {
		t.Errorf("status %d", status)
	}
	if said.String() != want.String() {
		t.Errorf("it said %d bytes, want %d: the same so far: %v", said.Len(), want.Len(), strings.HasPrefix(want.String(), said.String()))
	}
}

// A program that ends while its terminal is held is found to have ended, with
// its status and its output, when the terminal is taken up.
func TestEndWhileHeld(t *testing.T) {
	for _, again := range []bool{false, true} {
		term := sh(t, "read x; echo bye; exit 5")
		term.Hold()
		term.WriteNow([]byte("\n"))
		waitForZombie(t, term.leader)
		select {
		case <-term.Exited():
			t.Fatal("it was noticed")
		default:
		}
		if again {
			term = takeUp(t, term)
		}
		term.Release()
		if got := rest(t, term); !strings.HasSuffix(got, "bye\r\n") {
			t.Errorf("it said %q", got)
		}
		if status := term.Wait(); status != 5 {
			t.Errorf("status %d", status)
		}
		if !again {
			continue
		}
		last := takeUp(t, term) // after its end
		if got, status := rest(t, last), last.Wait(); got != "" || status != 5 {
			t.Errorf("then %q, %d", got, status)
		}
	}
}

// waitForZombie waits until a child has ended, and leaves it unreaped.
func waitForZombie(t *testing.T, pid int) {
	t.Helper()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

func TestTakeUpFails(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fd, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []Held{{FD: fd, Leader: os.Getpid()}, {FD: 1, Leader: os.Getpid()}, {FD: fd}} {
		if _, err := TakeUp(h); err == nil {
			t.Errorf("took up %+v", h)
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
		t.Error("what is no terminal is open still")
	}
}
