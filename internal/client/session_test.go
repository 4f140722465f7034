package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// A joined session runs, and says how it ended.
type joined struct {
	*plane
	keyboard    *io.PipeWriter // unless its session has another Stdin
	out, errOut *screen
	done        chan struct{}
	ending      Ending
	err         error
}

// join runs a session on the plane, in a bubble.
func join(p *plane, c *Client, change func(*Session)) *joined {
	in, keyboard := io.Pipe()
	j := &joined{plane: p, keyboard: keyboard, out: newScreen(), errOut: newScreen(), done: make(chan struct{})}
	s := &Session{Client: c, Invitation: p.invitation(), Stdin: in, Stdout: j.out, Stderr: j.errOut}
	if change != nil {
		change(s)
	}
	go func() {
		defer close(j.done)
		j.ending, j.err = s.Run(p.t.Context())
		in.Close()
	}()
	p.t.Cleanup(func() { in.Close(); <-j.done })
	return j
}

func (j *joined) wait() (Ending, error) {
	j.t.Helper()
	select {
	case <-j.done:
	case <-time.After(24 * time.Hour):
		j.t.Fatal("the session goes on and on")
	}
	return j.ending, j.err
}

func (j *joined) want(how How) Ending {
	j.t.Helper()
	end, err := j.wait()
	if err != nil || end.How != how {
		j.t.Fatalf("Run = %+v, %v; want %d\nstderr: %s", end, err, how, j.errOut)
	}
	return end
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// What the control plane has to say while the session goes on is said beside
// what the node shows.
func TestNotice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		j := join(p, p.serve(nil), nil)
		p.waitSockets(1)
		p.show("$ ")
		p.mu.Lock()
		last := p.last
		p.mu.Unlock()
		last(wire.SallyportNotice{Text: "this session ends in 1m0s"}.Frame(time.Now()))
		p.show("still on")
		p.end("", nil)
		j.want(Closed)
		if j.errOut.String() != "sallyport: this session ends in 1m0s\n" || j.out.String() != "$ still on" {
			t.Errorf("shown %q and %q", j.out, j.errOut)
		}
	})
}

func TestSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		j := join(p, p.serve(nil), nil)
		p.waitSockets(1)
		open := p.opens[0]
		if open.ClientVersion != sallyport.WirePluginVersion || open.ClientId == "" || open.MessageSchemaVersion != "1.0" || open.RequestId == "" {
			t.Errorf("opened with %+v", open)
		}
		if want := append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapNotices, wire.CapEnd); !slices.Equal(open.Capabilities, want) {
			t.Errorf("announced %q, want %q", open.Capabilities, want)
		}
		if !p.signed[0] {
			t.Error("the socket's request is not signed")
		}
		p.show("$ ")
		j.keyboard.Write([]byte("date\r"))
		p.typed("date\r")
		p.show("Monday\r\n")
		status := 3
		p.end("", &status)
		end := j.want(Closed)
		if end.ExitStatus == nil || *end.ExitStatus != 3 || j.out.String() != "$ Monday\r\n" {
			t.Errorf("ended %+v, shown %q", end, j.out)
		}
		if j.errOut.String() != "" || p.called("TerminateSession") != 0 {
			t.Errorf("stderr %q, %d terminations", j.errOut, p.called("TerminateSession"))
		}
	})
}

// What was typed and what was shown arrive whole over a network that loses
// connections.
func TestCutNetwork(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 7))
				bytesOf := func(n int) []byte {
					b := make([]byte, n)
					for i := range b {
						b[i] = byte(rng.Uint32())
					}
					return b
				}
				typed, shown := bytesOf(200<<10), bytesOf(300<<10)
				p := newPlane(t)
				var mu sync.Mutex
				p.wrap = func(n int, c datachannel.Conn) datachannel.Conn {
					mu.Lock()
					defer mu.Unlock()
					if n >= 8 {
						return c
					}
					f := &fragile{Conn: c}
					f.left.Store(10 + rng.Int64N(100))
					return f
				}
				j := join(p, p.serve(nil), nil)

				p.show(">")
				var nodeHad bytes.Buffer
				heard := make(chan struct{})
				go func() {
					defer close(heard)
					for nodeHad.Len() < len(typed) {
						m, err := p.node.Receive(t.Context())
						if err != nil {
							return
						}
						nodeHad.Write(m.Payload)
					}
				}()
				go func() {
					for b := range slices.Chunk(typed, 700) {
						j.keyboard.Write(b)
					}
				}()
				for b := range slices.Chunk(shown, 900) {
					p.show(string(b))
				}
				<-heard
				p.end("", nil)
				j.want(Closed)
				if !bytes.Equal(nodeHad.Bytes(), typed) {
					t.Errorf("the node had %d bytes, not the %d that were typed", nodeHad.Len(), len(typed))
				}
				if got := j.out.String(); got != ">"+string(shown) {
					t.Errorf("the person had %d bytes, not the %d that were shown", len(got)-1, len(shown))
				}
				if n := p.called("ResumeSession"); n < 3 {
					t.Errorf("resumed %d times: the network was hardly cut", n)
				}
			})
		})
	}
}

// A fragile conn breaks after so many frames either way, and may lose the last.
type fragile struct {
	datachannel.Conn
	left atomic.Int64
}

var errCut = errors.New("cut")

func (f *fragile) ReadFrame(ctx context.Context) ([]byte, error) {
	b, err := f.Conn.ReadFrame(ctx)
	if err == nil && f.left.Add(-1) < 0 {
		return nil, errCut
	}
	return b, err
}

func (f *fragile) WriteFrame(ctx context.Context, b []byte) error {
	if f.left.Add(-1) < 0 {
		return errCut
	}
	return f.Conn.WriteFrame(ctx, b)
}

// A network that is simply gone, with no word about it, is noticed.
func TestDeadNetwork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		var mu sync.Mutex
		var conns []*hole
		c := p.serve(func(c net.Conn) net.Conn {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, &hole{Conn: c, dead: make(chan struct{}), gone: make(chan struct{})})
			return conns[len(conns)-1]
		})
		j := join(p, c, nil)
		p.show("$ ")
		j.out.wait(t, "$ ")
		time.Sleep(10*time.Minute + 3*time.Second)
		if n := p.called("ResumeSession"); n != 0 {
			t.Fatalf("a quiet session was resumed %d times", n)
		}
		mu.Lock()
		for _, c := range conns {
			close(c.dead)
		}
		mu.Unlock()
		died := time.Now()
		p.waitSockets(2)
		if took := time.Since(died); took > 40*time.Second {
			t.Errorf("it took %v to notice", took)
		}
		p.show("still here")
		p.end("", nil)
		j.want(Closed)
		if j.out.String() != "$ still here" {
			t.Errorf("shown %q", j.out)
		}
	})
}

// A hole is a connection whose other end can be made to vanish.
type hole struct {
	net.Conn
	dead, gone chan struct{}
	once       sync.Once
}

func (h *hole) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	select {
	case <-h.dead:
		<-h.gone
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (h *hole) Write(b []byte) (int, error) {
	select {
	case <-h.dead:
		return len(b), nil
	default:
		return h.Conn.Write(b)
	}
}

// SetReadDeadline is how a read that waits is given up.
func (h *hole) SetReadDeadline(at time.Time) error {
	if !at.IsZero() && !at.After(time.Now()) {
		h.once.Do(func() { close(h.gone) })
	}
	return h.Conn.SetReadDeadline(at)
}

func (h *hole) Close() error {
	h.once.Do(func() { close(h.gone) })
	return h.Conn.Close()
}

func TestLostConnection(t *testing.T) {
	t.Run("a short loss is not mentioned", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), nil)
			p.show("a")
			j.out.wait(t, "a")
			p.cut()
			p.waitSockets(2)
			p.show("b")
			p.end("", nil)
			j.want(Closed)
			if j.out.String() != "ab" || j.errOut.String() != "" {
				t.Errorf("shown %q, said %q", j.out, j.errOut)
			}
			if a, b := p.opens[0], p.opens[1]; a.ClientId != b.ClientId || a.RequestId == b.RequestId || b.TokenValue.Reveal() != "token-1" {
				t.Errorf("opened as %+v, then as %+v", a, b)
			}
		})
	})
	t.Run("a long one is, with its reason, and that it is over", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			var down atomic.Bool
			p.answer = func(string) (int, string) {
				if down.Load() {
					return 503, "try later"
				}
				return 0, ""
			}
			j := join(p, p.serve(nil), nil)
			p.show("a")
			j.out.wait(t, "a")
			down.Store(true)
			p.cut()
			time.Sleep(1900 * time.Millisecond)
			if j.errOut.String() != "" {
				t.Errorf("it said %q too soon", j.errOut)
			}
			time.Sleep(3 * time.Hour)
			if said := j.errOut.String(); !strings.HasPrefix(said, "sallyport: the connection is lost, reconnecting…: ") || !strings.Contains(said, "503") {
				t.Errorf("it said %q", said)
			}
			if n := strings.Count(j.errOut.String(), "\n"); n > 3 {
				t.Errorf("it said so %d times", n)
			}
			if n := p.called("ResumeSession"); n > 3*3600/2 {
				t.Errorf("it asked %d times in three hours", n)
			}
			down.Store(false)
			p.waitSockets(2)
			j.errOut.wait(t, "sallyport: connected again\n")
			p.end("", nil)
			j.want(Closed)
		})
	})
	t.Run("a session that is over is not resumed", func(t *testing.T) {
		for _, refusal := range []string{"", `{"__type":"DoesNotExistException","message":"No."}`} {
			bubble(t, func(t *testing.T) {
				p := newPlane(t)
				p.answer = func(string) (int, string) {
					if refusal != "" {
						return 400, refusal
					}
					return 0, ""
				}
				j := join(p, p.serve(nil), nil)
				p.show("a")
				j.out.wait(t, "a")
				p.mu.Lock()
				p.over = true
				p.mu.Unlock()
				p.cut()
				j.want(Expired)
			})
		}
	})
	t.Run("a window ends the trying", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			p.answer = func(string) (int, string) { return 503, "" }
			j := join(p, p.serve(nil), func(s *Session) { s.Window = time.Minute })
			p.show("a")
			j.out.wait(t, "a")
			start := time.Now()
			p.cut()
			_, err := j.wait()
			if err == nil || time.Since(start) > 70*time.Second {
				t.Errorf("Run = %v after %v", err, time.Since(start))
			}
			if p.called("TerminateSession") != 0 {
				t.Error("a lost network ended the session")
			}
		})
	})
	t.Run("keys that expired do not end it, since the token is good", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			p.answer = func(string) (int, string) {
				return 400, `{"__type":"ExpiredTokenException","message":"The security token has expired."}`
			}
			p.refuse = func(n int, w http.ResponseWriter) bool {
				if n != 1 {
					return false // the first, and the unsigned one
				}
				w.WriteHeader(403)
				io.WriteString(w, `{"__type":"ExpiredTokenException","message":"The security token has expired."}`)
				return true
			}
			j := join(p, p.serve(nil), nil)
			p.show("a")
			j.out.wait(t, "a")
			p.cut()
			p.waitSockets(2)
			if !slices.Equal(p.signed, []bool{true, true, false}) || p.opens[1].TokenValue.Reveal() != "token-0" {
				t.Errorf("signed: %v", p.signed)
			}
			p.show("b")
			p.end("", nil)
			j.want(Closed)
		})
	})
	t.Run("a token that is no good is not tried for ever", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			p.answer = func(string) (int, string) {
				return 400, `{"__type":"ExpiredTokenException","message":"The security token has expired."}`
			}
			j := join(p, p.serve(nil), func(s *Session) { s.Window = time.Minute })
			p.show("a")
			j.out.wait(t, "a")
			p.mu.Lock()
			p.token = "another"
			p.mu.Unlock()
			p.cut()
			_, err := j.wait()
			if sallyport.CodeOf(err) != sallyport.ExpiredTokenException {
				t.Errorf("Run: %v", err)
			}
			if n := len(p.opens); n > 3 {
				t.Errorf("it was tried %d times", n-1)
			}
		})
	})
	t.Run("the stream may move to another address of the same host", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), nil)
			p.show("a")
			j.out.wait(t, "a")
			p.mu.Lock()
			p.url = "ws://localhost:81"
			p.mu.Unlock()
			p.cut()
			p.waitSockets(2)
			p.end("", nil)
			j.want(Closed)
		})
	})
	t.Run("and to no other host", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), func(s *Session) { s.Window = time.Minute })
			p.show("a")
			j.out.wait(t, "a")
			p.mu.Lock()
			p.url = "wss://evil.example.com"
			p.mu.Unlock()
			p.cut()
			if _, err := j.wait(); err == nil || !strings.Contains(err.Error(), "evil.example.com") {
				t.Errorf("Run: %v", err)
			}
		})
	})
}

func TestFirstConnection(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		after  time.Duration // when the client gives up, within 2 s
		err    string
		says   string
	}{
		{"a server that starts is waited for", 503, "", unheard, "503", "the session cannot be reached yet, trying again…"},
		{"a refusal is final", 403, `{"__type":"AccessDeniedException","message":"Not you."}`, 0, "Not you.", ""},
		{"another kind of server is no use", 404, "<html>", 0, "404", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPlane(t)
				p.refuse = func(n int, w http.ResponseWriter) bool {
					w.WriteHeader(tt.status)
					io.WriteString(w, tt.body)
					return true
				}
				began := time.Now()
				j := join(p, p.serve(nil), nil)
				_, err := j.wait()
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Run: %v", err)
				}
				if took := time.Since(began); took < tt.after || took > tt.after+2*time.Second {
					t.Errorf("it gave up after %v, want %v", took, tt.after)
				}
				if tt.after == 0 && len(p.signed) != 1 {
					t.Errorf("%d tries, want 1", len(p.signed))
				}
				if said := j.errOut.String(); strings.Count(said, tt.says) != 1 && tt.says != "" || tt.says == "" && said != "" {
					t.Errorf("it said %q, want %q", said, tt.says)
				}
				if p.called("TerminateSession") != 1 {
					t.Error("the session nobody joined was left on")
				}
			})
		})
	}
	t.Run("a passing fault passes", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			p.refuse = func(n int, w http.ResponseWriter) bool {
				if n < 3 {
					w.WriteHeader(502)
				}
				return n < 3
			}
			j := join(p, p.serve(nil), nil)
			p.show("a")
			p.end("", nil)
			j.want(Closed)
		})
	})
	t.Run("a server that takes its time is waited for, and that is said", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			p.refuse = func(int, http.ResponseWriter) bool {
				time.Sleep(5 * time.Second)
				return false
			}
			j := join(p, p.serve(nil), nil)
			p.show("a")
			p.end("", nil)
			j.want(Closed)
			if said := j.errOut.String(); !strings.Contains(said, "cannot be reached yet, trying again…: no answer has come") || !strings.Contains(said, "connected") {
				t.Errorf("it said %q", said)
			}
		})
	})
	t.Run("a session that never says a word is not resumed for ever", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			p.answer = func(string) (int, string) { return 400, `{"__type":"AccessDeniedException","message":"Not yours."}` }
			j := join(p, p.serve(nil), func(s *Session) { s.Invitation.Token = sallyport.NewSecret("forged") })
			start := time.Now()
			if _, err := j.wait(); err == nil || time.Since(start) > time.Minute {
				t.Errorf("Run: %v after %v", err, time.Since(start))
			}
		})
	})
	t.Run("without keys the socket is opened unsigned", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			c := p.serve(nil)
			c.api.Credentials = credentials(awsConfig())
			j := join(p, c, nil)
			p.show("a")
			p.end("", nil)
			j.want(Closed)
			if p.signed[0] {
				t.Error("it was signed")
			}
		})
	})
}

func TestEndOfInput(t *testing.T) {
	t.Run("the shell is told by Ctrl-D, and its last words are shown", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), nil)
			p.show("$ ")
			j.keyboard.Write([]byte("date\n"))
			j.keyboard.Close()
			p.typed("date\n\x04")
			time.Sleep(10 * time.Minute) // a long date
			p.show("Monday\r\n")
			status := 0
			p.end("", &status)
			if end := j.want(Closed); j.out.String() != "$ Monday\r\n" || *end.ExitStatus != 0 {
				t.Errorf("shown %q, %+v", j.out, end)
			}
		})
	})
	t.Run("an unfinished line is handed over first", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), nil)
			p.show("$ ")
			j.keyboard.Write([]byte("exit"))
			j.keyboard.Close()
			p.typed("exit\x04\x04")
			p.end("", nil)
			j.want(Closed)
		})
	})
	t.Run("a Ctrl-D that a command took is made good at the next prompt", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), nil)
			p.show("$ ")
			j.keyboard.Write([]byte("cat\n"))
			j.keyboard.Close()
			p.typed("cat\n\x04")
			time.Sleep(time.Hour)
			p.show("$ ")
			p.typed("\x04")
			p.end("", nil)
			j.want(Closed)
		})
	})
	t.Run("but not without end", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), nil)
			p.show("$ ")
			j.keyboard.Close()
			got := 0
			for range 30 {
				time.Sleep(3 * time.Second)
				p.show("\a")
			}
			time.Sleep(3 * time.Second)
			p.end("", nil)
			j.want(Closed)
			p.node.Close()
			for {
				m, err := p.node.Receive(t.Context())
				if err != nil {
					break
				}
				got += len(m.Payload)
			}
			if got < 2 || got > 10 {
				t.Errorf("%d times Ctrl-D", got)
			}
		})
	})
	t.Run("with a limit, silence ends it", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p := newPlane(t)
			j := join(p, p.serve(nil), func(s *Session) { s.Silence = 30 * time.Second })
			p.show("$ ")
			j.keyboard.Close()
			time.Sleep(20 * time.Second)
			p.show("busy")
			start := time.Now()
			j.want(Deserted)
			if took := time.Since(start); took < 29*time.Second || took > 32*time.Second {
				t.Errorf("it took %v", took)
			}
			if p.called("TerminateSession") != 1 {
				t.Error("the session was left on")
			}
		})
	})
}

// Until the node has shown something nothing is typed to it, for a while.
func TestTypedAhead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		j := join(p, p.serve(nil), nil)
		start := time.Now()
		go j.keyboard.Write([]byte("ls\r"))
		p.typed("ls\r")
		if took := time.Since(start); took < hush || took > hush+time.Second {
			t.Errorf("typed after %v to a node that shows nothing", took)
		}
		p.end("", nil)
		j.want(Closed)
	})
}

// A pasted megabyte keeps its order, and is not kept here.
func TestPaste(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		j := join(p, p.serve(nil), nil)
		p.show("$ ")
		var want bytes.Buffer
		for i := range 1 << 18 {
			want.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		}
		var taken atomic.Int64
		go func() {
			for b := range slices.Chunk(want.Bytes(), 3000) {
				n, _ := j.keyboard.Write(b)
				taken.Add(int64(n))
			}
		}()
		var got bytes.Buffer
		for got.Len() < want.Len() {
			got.Write(p.next().Payload)
			if held := taken.Load() - int64(got.Len()); held > datachannel.DefaultSendBuffer+64*readSize+datachannel.DefaultReceiveBuffer*2 {
				t.Fatalf("%d bytes are held", held)
			}
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Error("the node has something else")
		}
		p.end("", nil)
		j.want(Closed)
	})
}

func TestHandshake(t *testing.T) {
	sessionType := func(kind string) wire.RequestedClientAction {
		b, _ := json.Marshal(wire.SessionTypeRequest{SessionType: kind, Properties: json.RawMessage("{}")})
		return wire.RequestedClientAction{ActionType: wire.ActionSessionType, ActionParameters: b}
	}
	tests := []struct {
		name    string
		actions []wire.RequestedClientAction
		status  wire.ActionStatus
		err     string
	}{
		{"a shell", []wire.RequestedClientAction{sessionType("Standard_Stream")}, wire.ActionSuccess, ""},
		{"a command on a terminal", []wire.RequestedClientAction{sessionType("InteractiveCommands")}, wire.ActionSuccess, ""},
		{"a port that is none", []wire.RequestedClientAction{{ActionType: wire.ActionSessionType, ActionParameters: json.RawMessage(`{"SessionType":"Port","Properties":7}`)}}, wire.ActionFailed, "read the session's port"},
		{"a kind nobody knows", []wire.RequestedClientAction{sessionType("Telepathy")}, wire.ActionFailed, "Telepathy"},
		{"no kind", []wire.RequestedClientAction{{ActionType: wire.ActionSessionType, ActionParameters: json.RawMessage(`7`)}}, wire.ActionFailed, "kind of session"},
		{"encryption", []wire.RequestedClientAction{{ActionType: wire.ActionKMSEncryption, ActionParameters: json.RawMessage(`{}`)}}, wire.ActionFailed, "does not say with what key"},
		{"what is not invented yet", []wire.RequestedClientAction{{ActionType: "Dance", ActionParameters: json.RawMessage(`{}`)}}, wire.ActionUnsupported, "Dance"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPlane(t)
				j := join(p, p.serve(nil), nil)
				go j.keyboard.Write([]byte("typed ahead"))
				p.waitSockets(1)
				req, _ := json.Marshal(wire.HandshakeRequest{AgentVersion: "3.3.40.0", RequestedClientActions: tt.actions})
				if err := p.node.SendMessage(t.Context(), wire.KindHandshakeRequest, req); err != nil {
					t.Fatal(err)
				}
				m := p.next()
				var resp wire.HandshakeResponse
				if err := json.Unmarshal(m.Payload, &resp); m.Kind != wire.KindHandshakeResponse || err != nil {
					t.Fatalf("answered with %v %s: %v", m.Kind, m.Payload, err)
				}
				got := resp.ProcessedClientActions[0]
				if resp.ClientVersion != sallyport.WirePluginVersion || got.ActionStatus != tt.status || got.ActionType != tt.actions[0].ActionType || !strings.Contains(got.Error, tt.err) {
					t.Errorf("answered %+v", resp)
				}
				if tt.err != "" {
					if _, err := j.wait(); err == nil || !strings.Contains(err.Error(), tt.err) {
						t.Errorf("Run: %v", err)
					}
					return
				}
				time.Sleep(10 * time.Second) // nothing is typed before it is complete
				done, _ := json.Marshal(wire.HandshakeComplete{CustomerMessage: "mind the gap"})
				p.node.SendMessage(t.Context(), wire.KindHandshakeComplete, done)
				p.typed("typed ahead")
				p.node.SendMessage(t.Context(), wire.KindStdErr, []byte("oops"))
				p.node.SendMessage(t.Context(), wire.KindExitCode, []byte("EXIT_CODE: 9"))
				p.end("", nil)
				end := j.want(Closed)
				if end.ExitStatus == nil || *end.ExitStatus != 9 || j.errOut.String() != "sallyport: mind the gap\noops" || j.out.String() != "" {
					t.Errorf("ended %+v, shown %q and %q", end, j.out, j.errOut)
				}
			})
		})
	}
}

// A reader that is slow does not keep the person from leaving, nor the node
// from being heard later.
func TestStuckOutput(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		stuck, out := io.Pipe()
		j := join(p, p.serve(nil), func(s *Session) { s.Stdout, s.Silence = out, time.Second })
		p.show("$ ")
		j.keyboard.Close()
		j.want(Deserted)
		stuck.Close()
	})
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		gone, out := io.Pipe()
		gone.Close()
		j := join(p, p.serve(nil), func(s *Session) { s.Stdout = out })
		p.show("$ ")
		if _, err := j.wait(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Run: %v", err)
		}
	})
}
