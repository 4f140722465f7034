package clientcmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/client"
)

// A forward is what one -L asks for: connections to a port or a socket here
// are made by the node.
type forward struct {
	text string // as it was typed

	bind, port string // listened on; see client.Listen
	socket     string // or this
	host       string // connected to by the node; "" is the node itself
	to         string // its port

	listeners []net.Listener // once open
}

const forwardForms = "port:hostport, port:host:hostport, bind:port:host:hostport, or a socket's path for bind:port"

// parseForward reads
//
//	8080:80              port 8080 of this machine's loopback, to port 80 of the node
//	8080:db:5432         to port 5432 of db, as the node sees it
//	0.0.0.0:8080:db:5432 on another address of this machine
//	./db.sock:db:5432    on a Unix socket, whose path has a slash in it
//
// IPv6 addresses are in brackets. Port 0 is any that is free.
func parseForward(text string) (*forward, error) {
	bad := func(why string) error { return fmt.Errorf("%q is no forward: %s; it is %s", text, why, forwardForms) }
	fields, err := splitForward(text)
	if err != nil {
		return nil, bad(err.Error())
	}
	parts := len(fields)
	f := &forward{text: text}
	switch {
	case strings.Contains(fields[0], "/"):
		f.socket, fields = fields[0], fields[1:]
	case len(fields) == 2, len(fields) == 3 && isNumber(fields[0]):
		f.port, fields = fields[0], fields[1:]
	case len(fields) == 3, len(fields) == 4:
		f.bind, f.port, fields = fields[0], fields[1], fields[2:]
		switch f.bind {
		case "": // as to ssh
			f.bind = "*"
		case "localhost":
			f.bind = ""
		}
	default:
		return nil, bad(fmt.Sprintf("it has %d parts", parts))
	}
	switch len(fields) {
	case 1:
		f.to = fields[0]
	case 2:
		f.host, f.to = fields[0], fields[1]
		if f.host == "" || strings.ContainsAny(f.host, " \t\r\n\x00") {
			return nil, bad(fmt.Sprintf("%q is no host", f.host))
		}
		if f.host == "localhost" {
			f.host = ""
		}
	default:
		return nil, bad(fmt.Sprintf("it has %d parts", parts))
	}
	if n, err := strconv.ParseUint(f.port, 10, 16); f.socket == "" && (err != nil || !isNumber(f.port)) {
		return nil, bad(fmt.Sprintf("%q is no port", f.port))
	} else if f.socket == "" {
		f.port = strconv.FormatUint(n, 10)
	}
	n, err := strconv.ParseUint(f.to, 10, 16)
	if err != nil || n == 0 || !isNumber(f.to) {
		return nil, bad(fmt.Sprintf("%q is no port", f.to))
	}
	f.to = strconv.FormatUint(n, 10) // the documents' pattern has no leading zeros
	return f, nil
}

// splitForward cuts text at colons, but not in brackets, which it takes off.
func splitForward(text string) (fields []string, err error) {
	for rest, more := text, true; more; {
		field := ""
		if inside, ok := strings.CutPrefix(rest, "["); ok {
			closed := false
			if field, rest, closed = strings.Cut(inside, "]"); !closed || rest != "" && rest[0] != ':' {
				return nil, errors.New("a bracket is open")
			}
			if net.ParseIP(field) == nil {
				return nil, fmt.Errorf("%q is no address", field)
			}
			rest, more = strings.CutPrefix(rest, ":")
		} else {
			field, rest, more = strings.Cut(rest, ":")
		}
		fields = append(fields, field)
	}
	return fields, nil
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// open begins to listen. Connections wait until there is a session.
func (f *forward) open() (err error) {
	if f.socket != "" {
		l, err := client.ListenUnix(f.socket)
		if err != nil {
			return err
		}
		f.listeners = []net.Listener{l}
		return nil
	}
	f.listeners, err = client.Listen(f.bind, f.port)
	return err
}

func (f *forward) close() {
	for _, l := range f.listeners {
		l.Close()
	}
}

// String is where the forward leads from, and to.
func (f *forward) String() string {
	to := "port " + f.to + " of the node"
	if f.host != "" {
		to = net.JoinHostPort(f.host, f.to)
	}
	if len(f.listeners) == 0 {
		return f.text
	}
	return fmt.Sprintf("%v to %s", f.listeners[0].Addr(), to)
}

func (f *forward) request(node, reason string) client.StartSession {
	in := client.StartSession{Target: node, DocumentName: client.DocumentPort, Reason: reason, Parameters: map[string][]string{"portNumber": {f.to}}}
	if f.socket == "" {
		_, port, _ := net.SplitHostPort(f.listeners[0].Addr().String())
		in.Parameters["localPortNumber"] = []string{port}
	}
	if f.host != "" {
		in.DocumentName = client.DocumentPortRemote
		in.Parameters["host"] = []string{f.host}
	}
	return in
}

// run forwards until ctx ends, which is success.
func (f *forward) run(ctx context.Context, node, reason string, s *client.Session) error {
	defer f.close()
	inv, err := s.Client.StartSession(ctx, f.request(node, reason))
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return errors.New(client.Explain(err))
	}
	s.Invitation, s.Forward = inv, f.listeners
	end, err := s.Run(ctx)
	switch {
	case err != nil:
		return errors.New(client.Explain(err))
	case end.MayBeOn:
		return client.ErrMayBeOn
	case end.How == client.Left:
		return nil
	case end.How == client.Expired:
		return errors.New(overBefore(inv.SessionID, end))
	case end.Output != "":
		return fmt.Errorf("session %s ended: %s", inv.SessionID, end.Output)
	}
	return fmt.Errorf("session %s ended", inv.SessionID)
}

// forwards are all that -L asked for. It is a flag's value.
type forwards []*forward

func (fs *forwards) String() string {
	var all []string
	for _, f := range *fs {
		all = append(all, f.text)
	}
	return strings.Join(all, " ")
}

func (fs *forwards) Type() string { return "forward" }

func (fs *forwards) Set(text string) error {
	f, err := parseForward(text)
	if err != nil {
		return err
	}
	*fs = append(*fs, f)
	return nil
}

// open begins to listen for all of them, or for none.
func (fs forwards) open() error {
	for i, f := range fs {
		if err := f.open(); err != nil {
			fs[:i].close()
			return fmt.Errorf("-L %s: %w", f.text, err)
		}
	}
	return nil
}

func (fs forwards) close() {
	for _, f := range fs {
		f.close()
	}
}

// start begins sessions for all of them, each made by session, and returns a
// function that waits until they are over and says how many failed, and whether
// one of them may still be on. say is told why one did.
func (fs forwards) start(ctx context.Context, node, reason string, say func(string), session func() *client.Session) (wait func() (failed int, mayBeOn bool)) {
	var (
		all sync.WaitGroup
		mu  sync.Mutex
		n   int
		on  bool
	)
	for _, f := range fs {
		all.Go(func() {
			s := session()
			s.Notice = func(text string) { say("-L " + f.text + ": " + text) }
			if err := f.run(ctx, node, reason, s); err != nil {
				said := errors.Is(err, client.ErrMayBeOn) // by the session
				if !said {
					s.Notice(err.Error())
				}
				mu.Lock()
				defer mu.Unlock()
				n++
				on = on || said
			}
		})
	}
	return func() (int, bool) { all.Wait(); return n, on }
}
