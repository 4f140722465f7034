// Package api is AWS's doors: it says what a caller wants, and whether they may.
//
// A request passes five doors, in this order, and is answered at the first it
// cannot pass:
//
//	operation  what do they ask for?    X-Amz-Target, Action and Version, or a path
//	signature  who is asking?           sigv4, and the keys in the store
//	input      does it make sense?      AWS's own models: constraints.json
//	policy     may they?                policy, and the documents in the store
//	operation  it is done
//
// One folder beside this file is one service, one file in it one operation or a
// family of them. An operation is declared with [SDK], [Plain] or [Query], each
// of which wants to know what policy must allow, so none can be added without
// saying so. What a request names is, from the first time it is looked up, one
// thing with one ID: policy is asked about it and the operation acts on it, even
// if the name is given to another meanwhile ([store.ResolveOnce]). Only this
// package asks policy; the console and the sockets of the gateway come through
// it too ([Server.AdmitSocket]).
//
// It knows nothing of sockets.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/store"
)

// Bodies are read whole before anything else is done with them, so their size
// is bounded: AWS's own limit on a request to Systems Manager, and enough for
// the largest policy, escaped.
const maxBody = 256 << 10

// A Server answers API requests. Its fields are set before it first serves.
type Server struct {
	Realm    sallyport.Realm
	Store    *store.DB
	Keys     *keyring.Keyring
	Log      *slog.Logger
	Services []*Service

	limits  limits
	bodies  bodies
	bearers bearers
	grants  grants
}

// A Service is one of AWS's, as we answer it.
type Service struct {
	Name    string // as signatures are scoped to it: "ssm"
	Target  string // what X-Amz-Target begins with, in a JSON service: "AmazonSSM"
	Version string // of the API, in a query service: "2010-05-08"
	XMLNS   string // of the answers of a query service

	// Global services have no region. Their clients sign for the partition's
	// own, us-east-1, or for the region they are configured with.
	Global bool

	// SecondFactor refuses credentials of GetSessionToken that were got without
	// a second factor. (STS API Reference, "GetSessionToken": it is so of IAM.)
	SecondFactor bool

	// Path says which operation a path asks for, and about what, in a service
	// told by paths; its answers are XML, with status 201. Nil in others.
	Path func(method, path string) (operation, subject string)

	Ops map[string]Op // by name
}

// An Op is an operation, declared.
type Op struct {
	// Admits says whose call the operation takes.
	Admits Admission

	run func(context.Context, *Call) ([]byte, error)
}

// An Admission says whose call an operation takes.
type Admission uint8

const (
	Signed           Admission = iota // any principal's, signed with an access key
	WithoutSignature                  // anyone's: the body proves who asks
	ByNodeKey                         // a node's, signed with its own RSA key
	ByNode                            // a node's, signed with its credentials
)

// Unsigned makes op one that needs no signature. They are few.
func Unsigned(op Op) Op {
	op.Admits = WithoutSignature
	return op
}

// NodeKey makes op one that a node signs with its own key, before it has
// credentials.
func NodeKey(op Op) Op {
	op.Admits = ByNodeKey
	return op
}

// Node makes op one that is answered to nodes alone, even where policies allow it
// to other callers.
func Node(op Op) Op {
	op.Admits = ByNode
	return op
}

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

	form map[string]any // of a query service
}

// Action is what policies call the operation.
func (c *Call) Action() string { return c.Service.Name + ":" + c.Operation }

// ServeHTTP answers one request. In all of its context a name means one thing,
// so that what policy was asked about is what is acted on.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(store.ResolveOnce(r.Context()))
	c := &Call{Request: r, ID: uuid.NewString(), At: time.Now(), Server: s}
	w.Header().Set("x-amzn-RequestId", c.ID)
	w.Header().Set("Cache-Control", "no-store")
	release, err := s.readBody(w, c)
	if err != nil {
		s.fail(w, c, err)
		return
	}
	defer release()
	out, err := s.answer(r.Context(), c)
	if err != nil {
		s.fail(w, c, err)
		return
	}
	switch {
	case c.Service.Path != nil:
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(http.StatusCreated)
	case c.Service.Version != "":
		w.Header().Set("Content-Type", "text/xml")
	default:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	}
	w.Write(out) // the client has gone if this fails
}

// answer does what a request asks for. A panic is an error, of this request
// alone.
func (s *Server) answer(ctx context.Context, c *Call) (out []byte, err error) {
	defer panics.Recover(&err)
	op, err := s.find(c)
	if err != nil {
		return nil, err
	}
	if err := s.authenticate(c, op.Admits); err != nil {
		return nil, err
	}
	if c.Who != nil && c.Who.Node.IsZero() { // what a node calls is a heartbeat; its changes of state are events of their own
		ctx, _ = store.WithCall(ctx, store.Event{
			At: c.At, Kind: store.CallEvent, Name: c.Action(), Actor: c.Who.ARN, ActorID: c.Who.Root, Request: c.ID, Source: Remote(c.Request),
		})
	}
	return op.run(ctx, c)
}

// find says which operation is asked for.
func (s *Server) find(c *Call) (Op, error) {
	r := c.Request
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		prefix, name, _ := strings.Cut(target, ".")
		for _, service := range s.Services {
			if service.Target == "" || service.Target != prefix {
				continue
			}
			c.Service, c.Operation = service, name
			if op, ok := service.Ops[name]; ok && r.Method == http.MethodPost && r.URL.Path == "/" {
				return op, nil
			}
		}
		return Op{}, sallyport.Errorf(sallyport.UnknownOperationException, "%q is not an operation that is answered here.", sallyport.Clip(target, 100))
	}
	for _, service := range s.Services {
		if service.Path == nil {
			continue
		}
		if name, subject := service.Path(r.Method, r.URL.Path); name != "" {
			c.Service, c.Operation, c.Subject = service, name, subject
			return service.Ops[name], nil
		}
	}
	if op, ok, err := s.findQuery(c); ok || err != nil {
		return op, err
	}
	return Op{}, sallyport.Errorf(sallyport.UnknownOperationException, "The request names no operation: it has neither X-Amz-Target nor Action and Version.")
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
	switch {
	case c.Service != nil && c.Service.Version != "":
		failQuery(w, c, e)
		return
	case c.Service != nil && c.Service.Path != nil:
		failXML(w, e)
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("x-amzn-ErrorType", string(e.Code))
	w.WriteHeader(StatusOf(e.Code))
	// botocore reads message before Message, stock agents read __type alone, and
	// the SDK for Go the header first: all are sent.
	json.NewEncoder(w).Encode(struct {
		Type    sallyport.Code `json:"__type"`
		Message string         `json:"message"`
	}{e.Code, e.Message})
}

// StatusOf is the HTTP status an error is sent with. AWS's JSON protocols send
// nearly all as 400.
func StatusOf(c sallyport.Code) int {
	switch c {
	case sallyport.InternalServerError:
		return http.StatusInternalServerError
	case sallyport.ServiceUnavailableException:
		return http.StatusServiceUnavailable
	case sallyport.RequestEntityTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}
