// Package api answers AWS's APIs: it finds out what a caller wants, and whether
// the caller may. [Server.ServeHTTP] answers one request.
//
// A request passes these steps, in this order, and is answered at the first it
// cannot pass:
//
//	service    for whom is it?          a [Door], by the request's headers and path
//	body       read, within bounds      as long as the service allows
//	operation  what is asked for?       a row of the service: [Op]
//	signature  who is asking?           sigv4, and the keys in the store
//	input      does it make sense?      shape, by AWS's own models
//	policy     may they?                policy, and the documents in the store
//	operation  it is done
//
// One folder beside this file is one service, one file in it one operation or a
// family of them. An operation is one row of [Service.Ops], which says all there
// is to know of it but how it is done. What a request names is, from the first time
// it is looked up, one thing with one ID: policy is asked about it and the
// operation acts on it, even if the name is given to another meanwhile
// ([store.ResolveOnce]). Only this package asks policy; the console and the
// sockets of the gateway come through it too ([Server.AdmitSocket]).
//
// It knows nothing of sockets.
package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/shape"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/store"
)

// DefaultMaxBody bounds the body of a request, which is read whole before
// anything else is done with it: AWS's own limit on a request to Systems
// Manager, and enough for the largest policy, escaped.
const DefaultMaxBody = 256 << 10

// A Server answers API requests. Its fields are set before it first serves.
type Server struct {
	Realm    sallyport.Realm
	Store    *store.DB
	Keys     *keyring.Keyring
	Log      *slog.Logger
	Services []*Service

	// Undeclared is told, in tests, of what an operation does and its row does not
	// say: a code that it answers, a condition key that it sets. Nil is nothing.
	Undeclared func(what string)

	limits  limits
	bodies  bodies
	bearers bearers
	grants  grants
}

// A Service is one of AWS's, as we answer it.
type Service struct {
	Name  string // as signatures are scoped to it: "ssm"
	Door  Door   // how it is spoken to
	Model *shape.Model

	// MaxBody is how many bytes a request may have; [DefaultMaxBody] if 0.
	MaxBody int64

	// Global services have no region. Their clients sign for the partition's
	// own, us-east-1, or for the region they are configured with.
	Global bool

	// SecondFactor refuses credentials of GetSessionToken that were got without
	// a second factor. (STS API Reference, "GetSessionToken": it is so of IAM.)
	SecondFactor bool

	Ops map[string]Op // by name
}

func (s *Service) maxBody() int64 { return cmp.Or(s.MaxBody, DefaultMaxBody) }

// A Call is one request, once it is known what is asked and by whom.
type Call struct {
	Service   *Service
	Operation string
	Who       *sallyport.Principal // nil if the operation is unsigned
	Node      *sallyport.Node      // who signed with a node's key
	Body      []byte
	Request   *http.Request
	ID        string    // x-amzn-RequestId
	At        time.Time // when it arrived

	Server *Server

	// Subject is what the path named, in a service told by paths.
	Subject string

	// Stream is the body of an operation that streams it. Reading it fails at its
	// end if it is not the body that was signed.
	Stream io.Reader

	claim     *sigv4.Claim // what the request says of its signature
	unclaimed error        // why it says nothing, or nothing that can be read
	hash      sigv4.Hash   // of the body
	input     shape.Value  // what was checked
}

// Input is what was read and checked.
func (c *Call) Input() shape.Value { return c.input }

// Text returns a member of the input that is text and not within another; "" if there
// is none. Name is what the member is called on the wire.
func (c *Call) Text(name string) string { return c.input.Member(name) }

// Action is what policies call the operation.
func (c *Call) Action() string { return c.Service.Name + ":" + c.Operation }

// ServeHTTP answers one request. In all of its context a name means one thing,
// so that what policy was asked about is what is acted on.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(store.ResolveOnce(r.Context()))
	c := &Call{Request: r, ID: uuid.NewString(), At: time.Now(), Server: s}
	w.Header().Set("x-amzn-RequestId", c.ID)
	w.Header().Set("Cache-Control", "no-store")
	s.route(c)
	release, err := s.readBody(w, c)
	if err != nil {
		s.fail(w, c, err)
		return
	}
	defer release()
	if err := s.answer(r.Context(), w, c); err != nil {
		s.fail(w, c, err)
	}
}

// route finds the service that a request is for, and the operation, as far as
// they are known without its body.
func (s *Server) route(c *Call) {
	scope := ""
	c.claim, c.unclaimed = sigv4.Read(c.Request)
	if c.unclaimed == nil {
		scope = c.claim.Service
	}
	for _, service := range s.Services {
		if service.Door.Claims(service, c.Request, scope) {
			c.Service = service
			c.Operation, c.Subject = service.Door.Name(c.Request)
			return
		}
	}
}

// answer does what a request asks for, and answers it. A panic is an error, of this
// request alone: doors write nothing before they have all that they write.
func (s *Server) answer(ctx context.Context, w http.ResponseWriter, c *Call) (err error) {
	defer panics.Recover(&err)
	if c.Service == nil {
		if err := s.findForm(c); err != nil {
			return err
		}
	}
	var input shape.Value
	parsed := c.Operation == "" // the body says which it is, and is not read before for strangers
	if parsed {
		if input, err = c.Service.Door.Parse(c); err != nil {
			return err
		}
	}
	op, ok := c.Service.Ops[c.Operation]
	if !ok {
		return c.unknown()
	}
	if err := s.authenticate(c, &op); err != nil {
		return err
	}
	if !parsed {
		if input, err = c.Service.Door.Parse(c); err != nil {
			return err
		}
	}
	out, err := op.run(c.noted(ctx, &op), c, input)
	if err != nil {
		return err
	}
	c.Service.Door.Answer(w, c, out)
	return nil
}

// noted returns a context in which the change that a call makes leaves an event,
// if the row says that it leaves one. What a node registers with leaves one of its
// own.
func (c *Call) noted(ctx context.Context, op *Op) context.Context {
	if op.Event != WriteEvent {
		return ctx
	}
	e := store.Event{At: c.At, Kind: store.CallEvent, Name: c.Action(), Request: c.ID, Source: Remote(c.Request)}
	switch {
	case c.Who != nil:
		e.Actor, e.ActorID = c.Who.ARN, c.Who.Root
	case c.Node != nil:
		e.Actor, e.ActorID = c.Server.Realm.Node(c.Node.ID), c.Node.ID.String()
	default:
		return ctx
	}
	ctx, _ = store.WithCall(ctx, e)
	return ctx
}

// unknown is the error for an operation that the service does not have.
func (c *Call) unknown() error {
	if d, ok := c.Service.Door.(Query); ok {
		return unknownAction(c.Operation, d.Version)
	}
	return sallyport.Errorf(sallyport.UnknownOperationException, "%q is not an operation that is answered here.",
		sallyport.Clip(cmp.Or(c.Request.Header.Get("X-Amz-Target"), c.Operation), 100))
}

// findForm finds the service of a form that is not signed for any here: by its
// version.
func (s *Server) findForm(c *Call) error {
	if target := c.Request.Header.Get("X-Amz-Target"); target != "" {
		return sallyport.Errorf(sallyport.UnknownOperationException, "%q is not an operation that is answered here.", sallyport.Clip(target, 100))
	}
	if isForm(c.Request) && c.Request.URL.Path == "/" {
		form, err := c.form()
		if err != nil {
			return err
		}
		for _, service := range s.Services {
			if d, ok := service.Door.(Query); ok && d.Version == form.Get("Version") {
				c.Service = service
				return nil
			}
		}
		if form.Get("Action") != "" {
			c.Service = &Service{Door: Query{}} // which says so in the form its clients read
			return unknownAction(form.Get("Action"), form.Get("Version"))
		}
	}
	return sallyport.Errorf(sallyport.UnknownOperationException, "The request names no operation: it has neither X-Amz-Target nor Action and Version.")
}

// fail answers with an error, in the form the service's clients read.
func (s *Server) fail(w http.ResponseWriter, c *Call, err error) {
	e := sallyport.Public(err)
	if errors.Is(err, store.ErrFull) || errors.Is(err, syscall.ENOSPC) { // the database, or a session's log
		e = sallyport.Errorf(sallyport.InternalServerError, "The server's disk is full, so nothing can be changed. Its operator has to make room.")
	}
	if e.Code == sallyport.InternalServerError && c.Request.Context().Err() == nil {
		s.Log.ErrorContext(c.Request.Context(), "request failed", sallyport.LogTarget, c.Operation, sallyport.LogRequest, c.ID, sallyport.LogErr, err, panics.Stack(err))
	}
	c.checkCode(e.Code)
	if c.Service == nil {
		JSON{}.Fail(w, c, e)
		return
	}
	c.Service.Door.Fail(w, c, e)
}
