package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/retry"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// ignoredFirst are the signals that the parent process has this program ignore.
var ignoredFirst = slices.DeleteFunc(signals(), func(s os.Signal) bool { return !signal.Ignored(s) })

// clientID tells this process from others that may hold the same token.
var clientID = uuid.NewString()

// A Session is the person's end of one session. Set its fields before Run.
type Session struct {
	Client     *Client
	Invitation Invitation

	// The person. Where Stdin or Stdout is an *os.File that is a terminal, it
	// is used as one.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// Stock makes the session behave as AWS's plugin does where programs that
	// run the plugin count on it: all that the node sends goes to Stdout, the
	// end of a command with its status in words included; a signal that ends
	// the program leaves the session on, unless it forwards a port.
	Stock bool

	// HungUp is closed when the program that this one was started by has gone, which
	// is taken for SIGHUP. Nil is for a program of its own.
	HungUp <-chan struct{}

	// Silence is how long the node may say nothing, after the end of Stdin,
	// before the session is left. 0 is for as long as the session is on.
	Silence time.Duration

	// Window is how long to try to get a lost connection back. 0 is until the
	// control plane says that the session is over.
	Window time.Duration

	// Pipes says that the session is known to have no terminal at its other
	// end: it forwards a port, or runs a command with pipes. The person's is
	// then left alone, and nothing is sent before the handshake that such a
	// session begins with.
	Pipes bool

	// Forward is where the connections of a port session come from, if the
	// caller listens for them, who can then say that a port is taken before
	// there is a session. Run closes them. Such a session needs neither Stdin
	// nor Stdout, and is Apart.
	Forward []net.Listener

	// Apart leaves signals and the terminal to others. The session ends well
	// when Run's context does.
	Apart bool

	// Input says that a command without standard input is of no use, and fails
	// the session.
	Input bool

	// Notice is told what the person should know besides what the node says.
	// Nil writes it to Stderr.
	Notice func(text string)

	// Quiet leaves out that a connection was lost and is back: another session
	// says so.
	Quiet bool

	running atomic.Pointer[run]
}

// Say shows text to the person as the session itself does, which minds what is
// on the screen, while it runs.
func (s *Session) Say(text string) {
	if r := s.running.Load(); r != nil {
		r.notice(text)
		return
	}
	fmt.Fprintf(s.Stderr, "sallyport: %s\n", sallyport.Printable(text))
}

// A How is a way for a session to end.
type How uint8

const (
	Closed    How = iota + 1 // the control plane said that it is over
	Expired                  // likewise, when it was to be resumed: what the node said last may be lost
	Left                     // the person typed ~., or Ctrl-C to a port session
	Killed                   // a signal ended the program
	Deserted                 // Stdin ended, and the node had nothing more to say
	Drained                  // likewise, where Stdin is one end of a connection; or no process reads Stdout there
	Abandoned                // the person interrupted a command again whose end did not answer the first interrupt
)

// An Ending is how a session ended.
type Ending struct {
	How        How
	Output     string    // Closed, Expired: why, for the person; empty if the shell simply ended
	ExitStatus *int      // Closed, Expired: the shell's, where the node said
	Signal     os.Signal // Killed

	// MayBeOn says that the session was to end from here, and the control plane
	// could not be told: the shell may run on. The person has been told.
	MayBeOn bool
}

// ErrMayBeOn is an Ending's MayBeOn, for callers who return errors. The person has
// been told.
var ErrMayBeOn = errors.New("the session could not be ended, and may still be on")

// Status is what a shell says of a program that the signal ended. Ending.How is
// Killed.
func (e Ending) Status() int { return exitStatus(e.Signal) }

// over is an Ending as the cause of a context's.
type over struct{ Ending }

func (over) Error() string { return "the session is over" }

// Limits of patience.
const (
	resumeCall = 15 * time.Second // for one ResumeSession
	unheard    = 30 * time.Second // for a session that never said anything to be joined or resumed

	// Pings find a dead network within pingEvery+pingPatience, or once more
	// that if something else was heard just before.
	pingEvery    = 10 * time.Second
	pingPatience = 15 * time.Second

	// settled is how long a socket lasts that is not counted as another
	// failure. Two programs that take one session from each other would
	// otherwise do so as fast as they can.
	settled = 10 * time.Second

	tellAfter = 2 * time.Second // that the connection is lost
	lastWords = time.Second     // for output that Stdout has not taken, when the person leaves
	goodbye   = 5 * time.Second // for TerminateSession

	// After againAfter without an answer to TerminateSession it is sent on another
	// connection too: the first may be one that the network has forgotten.
	againAfter = 1250 * time.Millisecond

	echoSize = 512 // what a key may have shown, at most
)

// Run joins the session and stays until it has ended, the person leaves, the
// connection is lost for good, or ctx is done. An error is for when it never
// was a session, or it is not known how it ended.
//
// The terminal is then as it was, and what Run started has stopped, save for a
// read of a Stdin that cannot be interrupted, because it is no file or is on
// Windows, and a write to a Stdout that no process reads.
//
// While it runs, SIGINT, SIGQUIT and SIGTSTP are keys, and SIGTERM and SIGHUP
// end the session. Where there is no terminal at the other end, SIGINT and
// SIGQUIT are signals to the command there, and end a port session. One to a
// command whose end did not acknowledge the last, which the person was told, ends
// the session: Abandoned.
func (s *Session) Run(ctx context.Context) (Ending, error) {
	r := &run{
		Session: s,
		term:    newTerminal(s.Stdin, s.Stdout, s.Stderr),
		opened:  make(chan struct{}),
		known:   make(chan struct{}),
		ready:   make(chan struct{}),
		keys:    make(chan []byte, 64),
		urgent:  make(chan byte, 16),
		resized: make(chan struct{}, 1),
	}
	r.stream = &datachannel.Stream{Sends: wire.TypeInputStreamData, Control: r.control}
	r.stream.Direct = r.showNow
	r.behind.Store(1)
	r.started = time.Now()
	if r.apart() {
		r.term = newTerminal(nil, nil, nil)
	}
	s.running.Store(r)
	defer s.running.Store(nil)
	return r.run(ctx)
}

// A far is what is at the other end of a session.
type far int32

const (
	farShell   far = iota // a terminal; also what is not known yet
	farCommand            // a command with pipes
	farStream             // one connection, whose other end are Stdin and Stdout
	farForward            // as many as are made to a listener here
)

// A run is a Session while it runs.
type run struct {
	*Session
	term    *terminal
	stream  *datachannel.Stream
	started time.Time

	finish context.CancelCauseFunc // ends everything; the first cause counts
	over   <-chan struct{}         // closed by then
	others sync.WaitGroup

	opened  chan struct{} // closed when the first socket is open
	known   chan struct{} // closed when far is more than a guess
	learnt  sync.Once     // closes known
	ready   chan struct{} // closed when the node may be sent what is typed
	once    sync.Once     // closes ready
	keys    chan []byte   // what was typed and is to be sent: at most 64 reads
	urgent  chan byte     // signals, which go first
	resized chan struct{} // the terminal may have another size: holds one token

	interrupts interrupts // of a command with pipes

	behind atomic.Int64 // how much of keys typist has yet to send, and 1 more until it has begun
	line   atomic.Bool  // what was sent last ended a line

	display *display    // nil unless Stdout is a terminal that can be written without waiting
	begun   atomic.Bool // output has shown something, and may be passed by

	shook   bool                // there was a handshake; output owns it
	cipher  *datachannel.Cipher // of an encrypted session; likewise
	shaking atomic.Bool         // there is one, and it is not complete
	far     atomic.Int32        // a far
	stdin   atomic.Bool         // the command there has a standard input
	shown   atomic.Int64        // when output was last shown, since started

	port     *port       // of a port session; set before far is; the agent's version is there before ready is closed
	parting  sync.Once   // for Ctrl-C, in a port session
	released atomic.Bool // the node was told that it is over, and heard it

	// Of carry.
	answered bool // a frame has come on some socket
	reused   bool // the socket was opened with the token of the last
	spent    bool // and the control plane would not have it

	mu      sync.Mutex
	ending  Ending // of a stream that channel_closed has closed
	exit    *int   // from an EXIT_CODE message
	leaving error  // why leave was called
	ended   bool   // nothing more is started

	say sync.Mutex // one notice at a time
}

func (r *run) run(ctx context.Context) (Ending, error) {
	asked := ctx
	if r.apart() {
		ctx = context.WithoutCancel(ctx) // the node is told first
	}
	ctx, r.finish = context.WithCancelCause(ctx)
	r.over = ctx.Done()
	defer r.finish(nil)
	defer func() {
		for _, l := range r.Forward {
			l.Close()
		}
	}()

	reader := func() {}
	if r.apart() {
		r.start(func() {
			select {
			case <-asked.Done():
				r.leave(ctx, over{Ending{How: Left}})
			case <-ctx.Done():
			}
		})
	} else {
		caught := make(chan os.Signal, 16)
		signal.Notify(caught, signals()...)
		defer signal.Stop(caught) // last, when the terminal is as it was
		defer r.term.restore()

		// Before anything else is sent, so that the agent knows the size before
		// the first prompt.
		last := wire.Size{}
		if !r.Pipes {
			last = r.sendSize(ctx, last)
			r.display = openDisplay(r.term.out)
		}
		r.start(func() { r.signals(ctx, caught) })
		r.start(func() { r.resize(ctx, last) })
	}
	if r.Forward == nil {
		r.start(func() { r.typist(ctx) })
		reader = r.startReader(ctx)
	}
	r.start(func() { r.carry(ctx) })
	output := make(chan struct{})
	go r.guard(func() {
		defer close(output)
		r.output(ctx)
	})

	<-ctx.Done()
	r.stream.Close()
	reader()
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.others.Wait()
	select {
	case <-output:
	case <-time.After(lastWords):
	}
	r.display.close()
	r.term.restore()

	cause := context.Cause(ctx)
	var o over
	if !errors.As(cause, &o) {
		select {
		case <-r.opened:
		default:
			if !r.Stock {
				r.terminate(context.WithoutCancel(ctx), false) // no client will join it
			}
		}
		return Ending{}, cause
	}
	if o.How != Closed && o.How != Expired && !(o.How == Killed && r.Stock && r.where() != farForward) && !r.released.Load() {
		o.MayBeOn = !r.terminate(context.WithoutCancel(ctx), true)
	}
	return o.Ending, nil
}

// start runs f, which ends with ctx, and which Run waits for. It reports false,
// and does not, if Run waits already.
func (r *run) start(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.others.Go(func() { r.guard(f) })
	}
	return !r.ended
}

// later runs f after lastWords, unless the run is over by then.
func (r *run) later(f func()) {
	r.start(func() {
		timer := time.NewTimer(lastWords)
		defer timer.Stop()
		select {
		case <-timer.C:
			f()
		case <-r.over:
		}
	})
}

// guard has a panic in f find the terminal as it was, so that it can be read
// and the shell it returns to can be used.
func (r *run) guard(f func()) {
	defer func() {
		if p := recover(); p != nil {
			r.term.restore()
			panic(p)
		}
	}()
	f()
}

// terminate ends the session at the control plane, so that no shell is left behind
// by a closed window, and reports whether it could. If the network is gone the
// session waits for its owner, as long as the server lets it.
//
// A call that fails for a while, or is not answered, is repeated on another
// connection; they have no longer than goodbye together. Ending a session twice
// does no harm.
func (r *run) terminate(ctx context.Context, complain bool) bool {
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	answers := make(chan error)
	call := func() {
		calls.Go(func() {
			err := r.Client.TerminateSession(ctx, r.Invitation.SessionID)
			select {
			case answers <- err:
			case <-ctx.Done():
			}
		})
	}
	call()
	again := time.NewTimer(againAfter)
	defer again.Stop()
	var last error
	wait := firstPause
	for {
		select {
		case err := <-answers:
			if err == nil {
				return true
			}
			if last = err; !lasting(err) {
				again.Reset(wait)
				wait = min(2*wait, againAfter)
				continue
			}
		case <-again.C:
			r.Client.api.HTTP.CloseIdleConnections() // one may be dead; Close does not touch those in use
			call()
			again.Reset(againAfter)
			continue
		case <-ctx.Done():
			if last == nil {
				last = fmt.Errorf("no answer came in %v", goodbye)
			}
		}
		if complain {
			r.notice(ErrMayBeOn.Error() + ": " + Explain(last))
		}
		return false
	}
}

// notice says something to the person, beside the session's output.
func (r *run) notice(text string) {
	text = sallyport.Printable(text) // some of it is a server's or a node's
	if r.Notice != nil {
		r.Notice(text)
		return
	}
	r.say.Lock()
	defer r.say.Unlock()
	text = "sallyport: " + text + "\n"
	if r.term.isRaw() && r.term.errOut {
		// The cursor is where the node's program left it, and a line feed is
		// no more than that.
		text = "\r\n" + strings.ReplaceAll(text, "\n", "\r\n")
	}
	io.WriteString(r.Stderr, text)
}

// signals owns the signals that arrive.
func (r *run) signals(ctx context.Context, caught <-chan os.Signal) {
	for {
		var s os.Signal
		hungUp := false
		select {
		case s = <-caught:
		case <-r.HungUp:
			s, hungUp = syscall.SIGHUP, true
		case <-ctx.Done():
			return
		}
		if continued(s) {
			r.term.rawAgain()
		}
		if resized(s) {
			token(r.resized)
		}
		if hungUp || fatal(s) {
			// ssh ends its ProxyCommand so, whenever it is done. For the record
			// that is the session's own end, and not a termination.
			killed := over{Ending{How: Killed, Signal: s}}
			if at := r.where(); at == farForward || at == farStream && !r.Stock {
				r.parting.Do(func() { r.start(func() { r.leave(ctx, killed) }) })
			} else {
				r.finish(killed)
			}
			return
		}
		if key, ok := typed(s); ok {
			r.press(ctx, s, key)
		}
	}
}

// press acts on a signal that on a terminal would be a key.
func (r *run) press(ctx context.Context, s os.Signal, key byte) {
	there := r.opened
	if r.Pipes {
		there = r.ready
	}
	// sftp has its ssh, and so us, ignore what is meant for itself. The aws CLI
	// does so too; there it is a plugin with one connection that leaves it so.
	ignored := slices.Contains(ignoredFirst, s)
	select {
	case <-there:
	default: // there is no program yet to pass it on to
		if !ignored || r.Stock {
			r.finish(over{Ending{How: Killed, Signal: s}})
		}
		return
	}
	switch at := r.where(); at {
	case farStream:
		if !ignored {
			r.finish(over{Ending{How: Killed, Signal: s}})
		}
	case farForward:
		r.interrupted(ctx)
	default:
		if at == farCommand && suspends(s) { // there is no job there to be stopped
			if !ignored {
				suspend()
			}
			return
		}
		if at == farCommand {
			r.interrupt(ctx, key)
			return
		}
		select {
		case r.urgent <- key:
		default: // as many wait already; the terminal's own queue drops more too
		}
	}
}

func (s *Session) apart() bool { return s.Apart || s.Forward != nil }

func (r *run) where() far { return far(r.far.Load()) }

// takesInput reports whether what is typed is of use there.
func (r *run) takesInput() bool {
	switch r.where() {
	case farForward:
		return false
	case farCommand:
		return r.stdin.Load()
	}
	return true
}

// leave ends a session from here, once the node has heard of it, or cannot be
// told. AWS's agent ends a port session so since 2.3.722; others know nothing
// of it, and are left to TerminateSession.
func (r *run) leave(ctx context.Context, cause error) {
	r.mu.Lock()
	r.leaving = cause
	r.mu.Unlock()
	select {
	case <-r.ready:
		if p := r.port; p != nil && p.agentAfter("2.3.722.0") {
			told, cancel := context.WithTimeout(ctx, lastWords)
			defer cancel()
			err := r.stream.SendMessage(told, wire.KindFlag, wire.FlagTerminateSession.Payload())
			if err == nil && r.stream.Flush(told) == nil {
				r.released.Store(true)
				<-told.Done() // the node has last words too, and waits for us to have heard them
			}
		}
		if _, ok := errors.AsType[over](cause); !ok && !r.released.Load() {
			r.terminate(ctx, false)
		}
	default:
	}
	r.finish(cause)
}

// closed is for when the control plane has ended the session. If that is how it
// answers to the node's being told to, it is no news.
func (r *run) closed(ending Ending) {
	r.mu.Lock()
	cause := r.leaving
	r.mu.Unlock()
	if cause == nil {
		cause = over{ending}
	} else {
		r.released.Store(true)
	}
	r.finish(cause)
}

// resize tells the node of every change of the terminal's size.
func (r *run) resize(ctx context.Context, last wire.Size) {
	if r.term.in != nil || r.term.out != nil {
		r.start(func() { pollSize(ctx, func() { token(r.resized) }) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.resized:
			last = r.sendSize(ctx, last)
		}
	}
}

// sendSize sends the terminal's size unless it is still last, and returns it.
func (r *run) sendSize(ctx context.Context, last wire.Size) wire.Size {
	size, ok := r.term.size()
	if !ok || size == last {
		return last
	}
	payload := fmt.Appendf(nil, `{"cols":%d,"rows":%d}`, size.Cols, size.Rows)
	if r.stream.SendMessage(ctx, wire.KindSize, payload) != nil {
		return last
	}
	return size
}

// control hears what is not of the stream. It must not wait.
func (r *run) control(f wire.Frame) {
	switch f.Type {
	case wire.TypeSallyportNotice:
		var n wire.SallyportNotice
		if f.Unmarshal(&n) == nil {
			r.start(func() { r.notice(sallyport.Clip(n.Text, 500)) })
		}
		return
	case wire.TypeChannelClosed:
	default:
		return
	}
	// A payload that cannot be read is an end without a reason, as it is to
	// AWS's plugin.
	var msg wire.ChannelClosed
	f.Unmarshal(&msg)
	ending := r.end(Ending{How: Closed, Output: msg.Output, ExitStatus: msg.ExitStatus})
	r.stream.Close() // output goes on until all that had come is shown
	if r.where() == farForward {
		r.later(func() { r.closed(ending) }) // also if Stdout takes nothing
	}
}

// end notes how the session ended, unless that is known, and returns it.
func (r *run) end(e Ending) Ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending.How == 0 {
		e.Output = sallyport.Printable(e.Output)
		r.ending = e
	}
	return r.ending
}

// hearEnd notes the node's last message. All before it has been shown. The
// control plane answers its acknowledgement with channel_closed; if that is lost,
// the session is over all the same.
func (r *run) hearEnd(payload []byte) {
	var msg wire.End
	if strictjson.Unmarshal(payload, &msg) != nil {
		return // channel_closed says it too
	}
	e := Ending{How: Closed, ExitStatus: msg.ExitStatus}
	if msg.Failed {
		e.Output = msg.Output
	}
	r.end(e)
	r.later(r.stream.Close)
}

// output owns Stdout.
func (r *run) output(ctx context.Context) {
	for first := true; ; first = false {
		m, err := r.stream.Receive(ctx)
		if first && err == nil && r.where() == farShell && !r.Pipes {
			// A stock agent takes a size that came before its terminal was
			// there, and does nothing with it. Now that something was shown
			// the terminal is there; to one of ours the size is no news.
			r.sendSize(ctx, wire.Size{})
		}
		if err == nil && m.Kind == wire.KindEnd {
			r.hearEnd(m.Payload)
			continue
		}
		if err == io.EOF {
			r.mu.Lock()
			ending := r.ending
			if ending.ExitStatus == nil && ending.Output == "" { // an end for another cause has none, also if the program reported one
				ending.ExitStatus = r.exit
			}
			r.mu.Unlock()
			if ending.How != 0 {
				r.closed(ending)
			}
			return
		}
		if errors.Is(err, datachannel.ErrSealed) {
			r.finish(err)
			return
		}
		if err != nil {
			return
		}
		if err := r.message(ctx, m); err != nil {
			switch {
			case !errors.Is(err, syscall.EPIPE):
			case r.where() == farStream: // ssh has gone
				err = over{Ending{How: Drained}}
			default: // as any program whose reader has gone
				err = over{Ending{How: Killed, Signal: syscall.SIGPIPE}}
			}
			r.finish(err)
			return
		}
		r.learnt.Do(func() { close(r.known) })
		r.begun.Store(m.Kind == wire.KindOutput && r.where() != farForward)
	}
}

// showNow shows what the terminal takes at once. What is long is not a key's
// echo, and waits better elsewhere.
func (r *run) showNow(m datachannel.Message) int {
	if m.Kind != wire.KindOutput || len(m.Payload) > echoSize || r.shaking.Load() || !r.begun.Load() {
		return 0
	}
	n := r.display.writeNow(m.Payload)
	if n > 0 {
		r.shown.Store(int64(time.Since(r.started)))
	}
	return n
}

// carry owns the sockets: one after another, until the stream is closed.
func (r *run) carry(ctx context.Context) {
	conn, err := r.connect(ctx)
	if err != nil {
		r.finish(err)
		return
	}
	if !r.Pipes && (r.term.in != nil || r.term.out != nil) {
		if err := r.term.raw(); err != nil {
			r.notice("the terminal cannot be made raw: " + err.Error())
		}
	}
	close(r.opened)
	wait := backoff()
	for {
		since := time.Now()
		silent, lost := r.ride(ctx, conn)
		if lost == nil || ctx.Err() != nil {
			return
		}
		if time.Since(since) > settled {
			wait.Reset()
		}
		r.spent = r.reused && silent
		if conn, err = r.reconnect(ctx, lost, &wait); err != nil {
			r.finish(err)
			return
		}
	}
}

// ride moves the stream over conn, and returns whether nothing was heard there,
// and why it came to an end, or nil if the stream is closed. A socket that is
// closed in due form, but without channel_closed before it, is lost like any
// other.
func (r *run) ride(ctx context.Context, conn conn) (silent bool, lost error) {
	defer conn.Drop() // a farewell would have to be waited for
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	heard := &listening{conn: conn, opened: time.Now()}

	done := make(chan struct{})
	go r.guard(func() {
		defer close(done)
		if err := heard.watch(ctx); err != nil {
			fail(err)
		}
	})
	lost = r.stream.Run(ctx, heard)
	if cause := context.Cause(ctx); lost != nil && cause != nil {
		lost = cause
	}
	fail(nil)
	<-done
	silent = heard.at.Load() == 0
	if !silent {
		r.answered = true
	}
	return silent, lost
}

// A conn is a *socket.Conn.
type conn interface {
	datachannel.Conn
	KeepAlive(ctx context.Context, interval, patience time.Duration) error
	Drop() error
}

// A listening conn knows when it last heard something.
type listening struct {
	conn
	opened time.Time
	at     atomic.Int64 // after opened; 0 if it has heard nothing
}

func (l *listening) ReadFrame(ctx context.Context) ([]byte, error) {
	b, err := l.conn.ReadFrame(ctx)
	if err == nil {
		l.at.Store(max(1, int64(time.Since(l.opened))))
	}
	return b, err
}

// watch returns an error when the peer has fallen silent. A ping that is stuck
// behind a long upload proves nothing while acknowledgements still come in.
func (l *listening) watch(ctx context.Context) error {
	for {
		err := l.KeepAlive(ctx, pingEvery, pingPatience)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(l.opened)-time.Duration(l.at.Load()) > pingEvery {
			return err
		}
	}
}

// errNoAnswer is why a session cannot be reached before an attempt has failed.
var errNoAnswer = errors.New("no answer has come")

// connect opens the first socket. For as long as [unheard] it tries again what may
// be a passing fault, with the same token, which is good for as often as it takes:
// the session was started by a call that the server answered just before.
func (r *run) connect(ctx context.Context) (conn, error) {
	address, err := r.Client.checkStream(r.Invitation.StreamURL)
	if err != nil {
		return nil, err
	}
	r.Invitation.StreamURL = address
	began := time.Now()
	wait := backoff()
	told := newTold(r, "the session cannot be reached yet, trying again…", "connected", errNoAnswer)
	defer told.stop()
	for {
		conn, err := r.dial(ctx)
		if err == nil {
			told.back()
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if time.Since(began) > unheard || lasting(err) {
			return nil, fmt.Errorf("connect to the session: %w", err)
		}
		told.why(err)
		if err := wait.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// dial opens a socket and says who is there.
func (r *run) dial(ctx context.Context) (conn, error) {
	conn, err := r.Client.open(ctx, r.Invitation.StreamURL)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(wire.OpenDataChannel{
		MessageSchemaVersion: "1.0",
		RequestId:            uuid.NewString(),
		TokenValue:           wire.NewToken(r.Invitation.Token),
		ClientId:             clientID,
		ClientVersion:        sallyport.WirePluginVersion,
		Capabilities:         append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapNotices, wire.CapEnd),
	})
	if err != nil {
		conn.Drop()
		return nil, fmt.Errorf("write open message: %w", err)
	}
	if err := conn.WriteText(ctx, text); err != nil {
		conn.Drop()
		return nil, fmt.Errorf("write open message: %w", err)
	}
	return conn, nil
}

// reconnect gets the session another socket.
//
// ResumeSession mints a token for it. Where the caller's keys are good for
// nothing any more, which after an hour is usual, the token that was good for
// the last socket is good for the next: what the person may do was settled when
// the session began, and an administrator can still end it.
func (r *run) reconnect(ctx context.Context, lost error, wait *retry.Backoff) (conn, error) {
	began := time.Now()
	window := r.Window
	if !r.answered && (window == 0 || window > unheard) {
		window = unheard // it may never have been a session
	}
	r.Client.api.HTTP.CloseIdleConnections() // they were on the same network

	told := newTold(r, "the connection is lost, reconnecting…", "connected again", lost)
	defer told.stop()
	for {
		if err := wait.Wait(ctx); err != nil {
			return nil, err
		}
		conn, err := r.resumeOnce(ctx)
		if err == nil {
			told.back()
			return conn, nil
		}
		var o over
		if errors.As(err, &o) {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if window > 0 && time.Since(began) > window {
			return nil, fmt.Errorf("the connection was lost and did not come back in %v: %w", window, err)
		}
		told.why(err)
	}
}

// expired asks how a session ended that was over before the connection came
// back: the control plane says so to a client that joins it. What the node said
// last may be lost, which is how this differs from a session that ended here.
func (r *run) expired(ctx context.Context) error {
	ending := Ending{How: Expired}
	ctx, cancel := context.WithTimeout(ctx, resumeCall)
	defer cancel()
	conn, err := r.dial(ctx)
	if err != nil {
		return over{ending}
	}
	defer conn.Drop()
	for {
		b, err := conn.ReadFrame(ctx)
		if err != nil {
			return over{ending}
		}
		var closed wire.ChannelClosed
		if f, err := wire.Decode(b); err == nil && f.Type == wire.TypeChannelClosed {
			if f.Unmarshal(&closed) == nil {
				ending.Output, ending.ExitStatus = closed.Output, closed.ExitStatus
			}
			return over{ending}
		}
	}
}

func (r *run) resumeOnce(ctx context.Context) (conn, error) {
	call, cancel := context.WithTimeout(ctx, resumeCall)
	inv, err := r.Client.ResumeSession(call, r.Invitation.SessionID)
	cancel()
	switch {
	case err == nil && inv.Token.Empty():
		return nil, r.expired(ctx)
	case err == nil:
		r.Invitation.Token = inv.Token
		r.reused, r.spent = false, false
		if inv.StreamURL != "" {
			if r.Invitation.StreamURL, err = r.Client.checkStream(inv.StreamURL); err != nil {
				return nil, err
			}
		}
	case sallyport.CodeOf(err) == sallyport.DoesNotExistException:
		return nil, r.expired(ctx)
	case !staleKey(err) && sallyport.CodeOf(err) != sallyport.AccessDeniedException && r.Client.mayHaveKeys(ctx):
		return nil, err
	}
	if err != nil {
		if r.spent {
			return nil, err
		}
		r.reused = true
	}
	conn, derr := r.dial(ctx)
	if derr != nil && err != nil {
		return nil, err // the key is what the person can mend
	}
	return conn, derr
}

// told tells the person that there is no connection, why, and when there is one
// again. For the first tellAfter it says nothing.
type told struct {
	r     *run
	away  string // the notice while there is no connection
	again string // the notice when there is one again
	timer *time.Timer
	mu    sync.Mutex
	said  string // the last thing said; "" until the timer
	cause error
	over  bool
}

func newTold(r *run, away, again string, cause error) *told {
	t := &told{r: r, away: away, again: again, cause: cause, over: r.Quiet}
	t.timer = time.AfterFunc(tellAfter, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.over {
			t.tell(Explain(t.cause))
		}
	})
	return t
}

func (t *told) tell(said string) {
	hint := ""
	switch {
	case t.r.term.in == nil:
	case !t.r.Pipes:
		hint = " (~. to leave)"
	case t.r.where() == farCommand:
		hint = " (Ctrl-C twice to leave)"
	}
	t.said = said
	t.r.notice(t.away + hint + ": " + Explain(t.cause))
}

// why takes the latest reason, and passes it on if it is another than before.
func (t *told) why(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cause = err
	if text := Explain(err); t.said != "" && t.said != text {
		t.tell(text)
	}
}

func (t *told) back() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.said != "" {
		t.r.notice(t.again)
	}
}

func (t *told) stop() {
	t.timer.Stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
}

// token leaves a token in a channel that holds one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
