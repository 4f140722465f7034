package simulation

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/memnet"
)

var (
	seeds   = flag.Uint64("seeds", 0, "how many random runs; 0 is as many as a test may take")
	oneSeed = flag.Uint64("seed", 0, "run this seed alone, if it is not 0")
	from    = flag.Uint64("from", 1, "the first seed")
)

// TestSeeds runs random sessions under random faults. What fails prints its seed
// and its events; -seed runs that again.
func TestSeeds(t *testing.T) {
	first, n := *from, *seeds
	switch {
	case *oneSeed > 0:
		first, n = *oneSeed, 1
	case n == 0 && testing.Short():
		n = 6
	case n == 0:
		n = 80
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			plan := newPlan(seed)
			problems, log := inWorld(t, seed, plan.idle, plan.run)
			for _, p := range problems {
				t.Errorf("seed %d: %v", seed, p)
			}
			if t.Failed() {
				t.Logf("plan:\n%s\nevents:\n%s", plan, log)
			}
		})
	}
}

// A plan is what a seed decides: the sessions and the faults.
type plan struct {
	random *rand.Rand
	idle   time.Duration
	lives  []*life
	faults []fault
}

// A life is a session that is planned.
type life struct {
	kind     Kind
	name     string
	after    time.Duration // of the beginning
	long     time.Duration // of the program, with nothing in its way
	status   int
	steps    []Step
	input    []string // typed, a piece a while
	apart    time.Duration
	port     uint16
	conns    []connPlan
	terminal time.Duration // when an administrator ends it; 0 is never
}

// A connPlan is a connection through a port session.
type connPlan struct {
	after    time.Duration
	up, down int
}

// A fault is something that goes wrong.
type fault struct {
	at   time.Duration
	what string
	who  int // which of the sessions' clients, or -1: the agent
	long time.Duration
	then time.Duration
	free int64 // bytes, of a disk that fills up
}

func (f fault) String() string {
	who := "agent"
	if f.who >= 0 {
		who = fmt.Sprintf("client of session %d", f.who)
	}
	return fmt.Sprintf("%8v %s (%s), %v, then %v", f.at.Round(time.Millisecond), f.what, who, f.long.Round(time.Millisecond), f.then.Round(time.Millisecond))
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "idle %v\n", p.idle)
	for i, l := range p.lives {
		fmt.Fprintf(&b, "%8v session %d: %s/%s, %v, status %d, terminated at %v\n", l.after.Round(time.Millisecond), i, l.kind, l.name, l.long.Round(time.Millisecond), l.status, l.terminal)
	}
	for _, f := range p.faults {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// The faults, as often as they are to happen.
var faultKinds = []string{
	"cut", "cut", "cut and down", "cut and down", "stall", "stall", "stall", "stall and cut", "stall and cut",
	"lose", "lose", "slow", "control channel", "control channel",
	"restart server", "restart server", "crash server", "crash server", "power cut",
	"stop agent", "kill agent", "kill client", "full disk", "locked database", "stopped screen", "stopped screen",
}

func newPlan(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 10))
	p := &plan{random: r, idle: -1}
	if r.IntN(3) == 0 {
		p.idle = 5 * time.Minute
	}
	for i := range 1 + r.IntN(4) {
		p.lives = append(p.lives, p.newLife(i))
	}
	for range r.IntN(6) {
		p.faults = append(p.faults, p.newFault())
	}
	slices.SortFunc(p.faults, func(a, b fault) int { return int(a.at - b.at) })
	return p
}

func (p *plan) between(least, most time.Duration) time.Duration {
	return least + time.Duration(p.random.Int64N(int64(most-least)))
}

func (p *plan) newLife(i int) *life {
	r := p.random
	l := &life{kind: []Kind{Shell, Shell, Command, Command, Exec, Exec, Forward}[r.IntN(7)], name: fmt.Sprintf("p%d", i), after: p.between(0, 10*time.Second), status: r.IntN(200)}
	if l.kind == Forward {
		l.port = uint16(5000 + i)
		for range 1 + r.IntN(4) {
			c := connPlan{after: p.between(0, 8*time.Second), up: r.IntN(200 << 10), down: r.IntN(200 << 10)}
			l.long = max(l.long, c.after+time.Second)
			l.conns = append(l.conns, c)
		}
		return l
	}
	text := func(n int, letters string) string {
		b := make([]byte, 0, n)
		for len(b) < n {
			if len(b)%40 == 39 {
				b = append(b, letters[len(letters)-1])
				continue
			}
			b = append(b, letters[r.IntN(len(letters)-1)])
		}
		return string(b)
	}
	output := func(n int) Step { return Step{Print: text(n, "abcdefghijklmnopqrstuvwxyz 0123456789\n")} }
	for range r.IntN(6) {
		s := output(r.IntN(2000))
		s.Pause = p.between(0, 3*time.Second)
		if l.kind == Exec && r.IntN(3) == 0 {
			s.Errors = text(r.IntN(500), "ABCDEFGHIJKLMNOPQRSTUVWXYZ;")
		}
		l.long += s.Pause
		l.steps = append(l.steps, s)
	}
	switch r.IntN(8) {
	case 0, 1: // reads its input until that ends
		l.steps = append(l.steps, Step{Copy: true})
		l.apart = p.between(0, time.Second)
		for range 1 + r.IntN(6) {
			l.input = append(l.input, output(100 + r.IntN(3000)).Print[1:]+"\n")
			l.long += l.apart
		}
	case 2: // silent for long
		l.steps = append(l.steps, Step{Pause: 12 * time.Minute})
		if p.idle < 0 {
			l.terminal = p.between(time.Second, 30*time.Second)
		}
		l.long += 12 * time.Minute
	case 3: // ended by an administrator, often as it ends
		l.terminal = max(l.long+p.between(-2*time.Second, 2*time.Second), time.Millisecond)
	}
	last := output(r.IntN(500))
	if r.IntN(2) == 0 { // as most do
		last = output(1000 + r.IntN(40_000))
	}
	if r.IntN(12) == 0 { // more than is kept in memory anywhere
		last = Step{Print: strings.Repeat(last.Print+"\n", 1+3_000_000/(1+len(last.Print)))}
	}
	l.steps = append(l.steps, last)
	return l
}

// newFault is a fault at a time when a session begins or ends, most often.
func (p *plan) newFault() fault {
	r := p.random
	l := p.lives[r.IntN(len(p.lives))]
	ends := l.after + l.long
	if l.terminal > 0 {
		ends = l.after + l.terminal
	}
	f := fault{what: faultKinds[r.IntN(len(faultKinds))], who: r.IntN(len(p.lives)+1+len(p.lives)) - len(p.lives) - 1, then: p.between(0, 5*time.Second), free: r.Int64N(4096)}
	if f.who < 0 {
		f.who = -1
	}
	f.long = p.between(0, 20*time.Second)
	if r.IntN(2) == 0 {
		f.long = p.between(0, 4*time.Second)
	}
	switch r.IntN(5) {
	case 0:
		f.at = l.after + p.between(-500*time.Millisecond, 2*time.Second)
	case 1, 2, 3:
		f.at = ends + p.between(-1500*time.Millisecond, 3*time.Second)
		if r.IntN(3) == 0 {
			f.at = ends + p.between(-50*time.Millisecond, 100*time.Millisecond)
		}
	case 4:
		f.at = p.between(0, min(ends, 30*time.Second)+2*time.Second)
	}
	f.at = max(f.at, 0)
	return f
}

// A turn is held by the one that starts and stops processes: a lock that a
// bubble's clock goes on under.
type turn chan struct{}

func (t turn) do(f func()) {
	t <- struct{}{}
	defer func() { <-t }()
	f()
}

// run plays the plan, and returns what is wrong afterwards.
func (p *plan) run(w *World) (problems []Problem) {
	var mu sync.Mutex
	bad := func(i Invariant, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		problems = append(problems, Problem{i, fmt.Sprintf(format, args...)})
	}
	hosts := make([]*Process, len(p.lives))
	for i := range hosts {
		hosts[i] = w.NewClient()
	}
	var lives, faults sync.WaitGroup
	sessions := make([]*Session, len(p.lives))
	for i, l := range p.lives {
		lives.Go(func() {
			time.Sleep(l.after)
			s := p.begin(w, l, hosts[i])
			if s == nil {
				return
			}
			mu.Lock()
			sessions[i] = s
			mu.Unlock()
			p.live(w, l, s, bad)
		})
	}
	session := func(i int) *Session {
		mu.Lock()
		defer mu.Unlock()
		return sessions[i]
	}
	server, agent := make(turn, 1), make(turn, 1)
	for _, f := range p.faults {
		faults.Go(func() {
			time.Sleep(f.at)
			p.fault(w, f, hosts, session, server, agent)
		})
	}
	faults.Wait()
	lives.Wait()
	w.Settle(40 * time.Minute)
	return append(problems, w.CheckAll()...)
}

// begin asks for a session until there is one, or gives up.
func (p *plan) begin(w *World, l *life, host *Process) *Session {
	for try := range 40 {
		var program *Program
		if l.kind != Forward {
			program = &Program{Name: fmt.Sprintf("%s-%d", l.name, try), Steps: l.steps, Status: l.status}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		s, err := w.Ask(ctx, host, l.kind, program, l.port)
		cancel()
		if err == nil {
			s.Join()
			return s
		}
		w.Log.Add(l.name, "not started: %v", err)
		time.Sleep(time.Second)
	}
	return nil
}

// live does what the person at a session does, until it is over.
func (p *plan) live(w *World, l *life, s *Session, bad func(Invariant, string, ...any)) {
	var doing sync.WaitGroup
	if l.terminal > 0 {
		doing.Go(func() {
			time.Sleep(l.terminal)
			w.Terminate(w.NewClient(), s)
		})
	}
	switch {
	case l.kind == Forward:
		service := w.Machine.Listen(l.port)
		w.all.Go(func() { serveDigests(service) })
		defer service.Close()
		var conns sync.WaitGroup
		for _, c := range l.conns {
			conns.Go(func() {
				time.Sleep(c.after)
				if err := c.use(s); err != nil && !s.Wait(5*time.Second) {
					bad(Complete, "%s: a connection failed, and the session is on: %v", s.name(), err)
				}
			})
		}
		conns.Wait()
		if !s.Wait(0) {
			s.Leave()
		}
	case l.input != nil:
		doing.Go(func() {
			for _, piece := range l.input {
				time.Sleep(l.apart)
				s.Type(piece)
			}
			s.EndInput()
		})
	}
	if !s.Wait(45 * time.Minute) {
		bad(Told, "%s: the client is not told of the end", s.name())
		s.Kill()
		s.Wait(time.Minute)
	}
	doing.Wait()
}

func (p *plan) fault(w *World, f fault, hosts []*Process, session func(int) *Session, server, agent turn) {
	host := func() *memnet.Host {
		if f.who < 0 {
			return w.AgentHost()
		}
		return hosts[f.who].Host
	}
	h := host()
	began := time.Now()
	unreachable := func(long time.Duration) { w.Trouble(h.Name(), long) }
	switch f.what {
	case "cut":
		unreachable(0)
		h.Cut(time.Time{})
	case "cut and down":
		unreachable(f.long)
		h.Refuse(true)
		h.Cut(time.Time{})
		time.Sleep(f.long)
		h.Refuse(false)
	case "stall", "stall and cut":
		unreachable(f.long)
		h.Stall(true)
		time.Sleep(f.long)
		if f.what == "stall and cut" {
			h.Cut(time.Time{})
		}
		h.Stall(false)
	case "lose":
		unreachable(50 * time.Second) // until pings find out
		h.Lose(time.Time{})
	case "slow":
		unreachable(f.then)
		h.Slow(time.Duration(f.long.Milliseconds()/20) * time.Millisecond)
		time.Sleep(f.then)
		h.Slow(10 * time.Millisecond)
	case "control channel":
		h = w.AgentHost()
		unreachable(f.long)
		before := began
		if s := session(max(f.who, 0)); s != nil {
			before = s.Began
		}
		h.Refuse(true)
		h.Cut(before)
		time.Sleep(f.long)
		h.Refuse(false)
	case "restart server", "crash server", "power cut":
		server.do(func() {
			began := time.Now()
			defer func() { w.noteTrouble(trouble{"server", began, time.Now()}) }()
			if f.what == "restart server" {
				w.RestartServer(f.then)
			} else {
				w.CrashServer(f.what == "power cut", f.then)
			}
		})
	case "stop agent", "kill agent":
		agent.do(func() {
			if f.what == "stop agent" {
				w.StopAgent()
			} else {
				w.KillAgent()
			}
			time.Sleep(f.long)
			w.StartAgent()
		})
	case "locked database":
		f.long = min(f.long, 8*time.Second)
		w.Trouble("server", f.long)
		unlock := w.LockDatabase()
		time.Sleep(f.long)
		unlock()
	case "stopped screen":
		if s := session(max(f.who, 0)); s != nil {
			s.Out.Stop(true)
			time.Sleep(f.long)
			s.Out.Stop(false)
		}
	case "kill client":
		if s := session(max(f.who, 0)); s != nil {
			s.Kill()
		}
	case "full disk":
		w.fact(full, nil)
		w.Disk.Fill(f.free)
		time.Sleep(f.long)
		w.Disk.Fill(-1)
		w.fact(full, nil)
	}
}

// serveDigests answers every connection with as many bytes as it is asked for,
// and the digest of what it was sent.
func serveDigests(l *memnet.Local) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			head := make([]byte, 8)
			if _, err := io.ReadFull(c, head); err != nil {
				return
			}
			var down int
			fmt.Sscanf(string(head), "%d", &down)
			hash := sha256.New()
			if _, err := io.Copy(hash, c); err != nil {
				return
			}
			c.Write(pattern(down, 7))
			c.Write(hash.Sum(nil))
		}()
	}
}

func pattern(n, salt int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*i>>3 + i*salt)
	}
	return b
}

// use sends and receives what the connection is for.
func (c connPlan) use(s *Session) error {
	conn, err := s.Connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := pattern(c.up, 3)
	var sending sync.WaitGroup
	sending.Go(func() {
		fmt.Fprintf(conn, "%8d", c.down)
		conn.Write(sent)
		conn.(interface{ CloseWrite() error }).CloseWrite()
	})
	got, err := io.ReadAll(conn)
	conn.Close()
	sending.Wait()
	sum := sha256.Sum256(sent)
	want := append(pattern(c.down, 7), sum[:]...)
	if string(got) == string(want) {
		return nil
	}
	if !strings.HasPrefix(string(want), string(got)) {
		s.w.fail("forward", fmt.Errorf("%s: %s", s.name(), difference(got, want)))
	}
	return fmt.Errorf("received %d of %d bytes: %w", len(got), len(want), err)
}

var _ net.Conn = (*memnet.Conn)(nil)
