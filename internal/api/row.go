package api

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/shape"
)

// An Op is one operation: a row of its service's table. It is declared with
// [List], [Read], [Write], [Tagging] or [Permissions], which is the operation's
// access level in AWS's Service Authorization Reference, and its columns are
// that reference's:
//
//	"GetRole": api.Read(getRole, onRole),
//	    │            │      │       └ what policy is asked, with which condition keys
//	    │            │      └ what is done; its input and output
//	    │            └ the access level, which says of which kind its event is
//	    └ the operation, and the action that policies allow
//
// What most rows have in common is not written: any principal may call, errors
// are those of AWS's model, bodies are as long as the service allows. [Option]s
// say what is different. Documentation, the authorization matrix and the
// conformance test are made from rows.
type Op struct {
	Level  Level
	Admits Admission
	Asks   Asks

	// Codes are those that it may answer beyond the ones that any operation may, and
	// those of AWS's model.
	Codes []sallyport.Code

	// Refuses are the kinds of callers that it is not for, though policy allow them.
	Refuses []Refusal

	// Secret are the paths of members, of input and output, that no event and no log
	// may hold, beyond those of AWS's model.
	Secret []string

	Event Event // the kind of a call's event

	// Stream is set if the body is not read before the operation begins: it reads
	// [Call.Stream].
	Stream bool

	in, out reflect.Type
	run     func(context.Context, *Call, shape.Value) (shape.Output, error)
}

// Input is the type that the operation takes.
func (o *Op) Input() reflect.Type { return o.in }

// A Level is an operation's access level. (Service Authorization Reference, "Access
// levels".)
type Level string

const (
	ListLevel        Level = "List"
	ReadLevel        Level = "Read"
	WriteLevel       Level = "Write"
	TaggingLevel     Level = "Tagging"
	PermissionsLevel Level = "Permissions management"
)

// An Event is the kind of a call's event. The event log has the calls of kind write
// that changed what is stored, and no others.
type Event string

const (
	NoEvent    Event = "none" // heartbeats, and what agents poll
	ReadEvent  Event = "read"
	WriteEvent Event = "write"
)

// An Admission says whose call an operation takes.
type Admission uint8

const (
	Signed           Admission = iota // any principal's, signed with an access key
	WithoutSignature                  // anyone's: the body proves who asks; it is counted by address
	ByNodeKey                         // a node's, signed with its own RSA key
	ByNode                            // a node's, signed with its credentials
)

func (a Admission) String() string {
	return [...]string{"signed", "no signature", "a node's key", "a node"}[a]
}

// A Refusal is a kind of caller that an operation is not for, and what such a
// caller is told, with AccessDeniedException. Says is given the call.
type Refusal struct {
	Who  string // "the account's root"
	Is   func(*sallyport.Principal) bool
	Says func(*Call) string
}

// An Option says how a row is different from others.
type Option func(*Op)

// Answers adds codes that AWS's model of the operation does not have. Say beside it
// where they were learnt.
func Answers(codes ...sallyport.Code) Option {
	return func(o *Op) { o.Codes = append(o.Codes, codes...) }
}

// Unsigned makes a row one that needs no signature. They are few.
func Unsigned(o *Op) { o.Admits = WithoutSignature }

// NodeKey makes a row one that a node signs with its own key, before it has
// credentials.
func NodeKey(o *Op) { o.Admits = ByNodeKey }

// Node makes a row one that is answered to nodes alone, even where policies allow it
// to other callers.
func Node(o *Op) { o.Admits = ByNode }

// NotFor refuses kinds of callers.
func NotFor(kinds ...Refusal) Option {
	return func(o *Op) { o.Refuses = append(o.Refuses, kinds...) }
}

// Secrets adds paths of members that are secrets.
func Secrets(paths ...string) Option {
	return func(o *Op) { o.Secret = append(o.Secret, paths...) }
}

// Quiet makes a row one whose calls leave no event: heartbeats, and what agents
// poll.
func Quiet(o *Op) { o.Event = NoEvent }

// Streams makes a row one that reads its body itself.
func Streams(o *Op) { o.Stream = true }

// List declares an operation that lists resources.
func List[In, Out any, I input[In], O output[Out]](do func(context.Context, *Call, *In) (*Out, error), asks Asks, options ...Option) Op {
	return row[In, Out, I, O](ListLevel, ReadEvent, do, asks, options)
}

// Read declares an operation that reads a resource.
func Read[In, Out any, I input[In], O output[Out]](do func(context.Context, *Call, *In) (*Out, error), asks Asks, options ...Option) Op {
	return row[In, Out, I, O](ReadLevel, ReadEvent, do, asks, options)
}

// Write declares an operation that creates, changes or deletes a resource, or acts
// on one.
func Write[In, Out any, I input[In], O output[Out]](do func(context.Context, *Call, *In) (*Out, error), asks Asks, options ...Option) Op {
	return row[In, Out, I, O](WriteLevel, WriteEvent, do, asks, options)
}

// Tagging declares an operation that changes a resource's tags alone.
func Tagging[In, Out any, I input[In], O output[Out]](do func(context.Context, *Call, *In) (*Out, error), asks Asks, options ...Option) Op {
	return row[In, Out, I, O](TaggingLevel, WriteEvent, do, asks, options)
}

// Permissions declares an operation that changes what someone may.
func Permissions[In, Out any, I input[In], O output[Out]](do func(context.Context, *Call, *In) (*Out, error), asks Asks, options ...Option) Op {
	return row[In, Out, I, O](PermissionsLevel, WriteEvent, do, asks, options)
}

type (
	input[T any] interface {
		*T
		shape.Input
	}
	output[T any] interface {
		*T
		shape.Output
	}
)

func row[In, Out any, I input[In], O output[Out]](level Level, event Event,
	do func(context.Context, *Call, *In) (*Out, error), asks Asks, options []Option,
) Op {
	op := Op{Level: level, Event: event, Asks: asks, in: reflect.TypeFor[In](), out: reflect.TypeFor[Out]()}
	for _, option := range options {
		option(&op)
	}
	if asks.in != nil && asks.in != op.in {
		panic(fmt.Sprintf("api: a question about %v is asked of %v", asks.in, op.in)) // a bug of the table, found by every test
	}
	op.run = func(ctx context.Context, c *Call, v shape.Value) (shape.Output, error) {
		in := new(In)
		I(in).Read(v)
		if err := v.Err(); err != nil {
			return nil, err
		}
		c.input = v
		questions, err := asks.ask(ctx, c, in)
		if err != nil {
			return nil, err
		}
		for _, q := range questions {
			c.checkKeys(asks, q)
			if err := c.Allow(ctx, q); err != nil {
				return nil, err
			}
		}
		out, err := do(ctx, c, in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Operation, err)
		}
		return O(out), nil
	}
	return op
}

// Asks says what policy is asked before an operation is done. None is made
// without saying so: see [Anything], [On], [By] and [Nothing].
type Asks struct {
	About []About

	// Why says why policy is asked nothing, if it is.
	Why string

	// Terse is set if a refusal names the action and not what denies it.
	Terse bool

	in  reflect.Type // the input that ask takes; nil for any
	ask func(context.Context, *Call, any) ([]Question, error)
}

// An About is one question that policy may be asked, as AWS's Service
// Authorization Reference describes it.
type About struct {
	Action   string   // "" is the operation's own
	Resource string   // the type of the resource: "role"; "" is "*"
	Keys     []string // condition keys beyond the global ones; one that ends in / or : is all that begin so
	Maybe    bool     // it is asked of some requests alone
}

// Resource is an [About] the operation's own action.
func Resource(kind string, keys ...string) About { return About{Resource: kind, Keys: keys} }

// Also is an [About] another action.
func Also(action, kind string, keys ...string) About {
	return About{Action: action, Resource: kind, Keys: keys}
}

// Sometimes makes an [About] one that is asked of some requests alone.
func Sometimes(a About) About {
	a.Maybe = true
	return a
}

// Anything asks whether the operation's own action is allowed on "*".
var Anything = Asks{
	About: []About{{}},
	ask: func(_ context.Context, c *Call, _ any) ([]Question, error) {
		return []Question{{Action: c.Action()}}, nil
	},
}

// Nothing asks nothing, for an operation that every caller it admits may call,
// or that is admitted by other means than policy. Why says why.
func Nothing(why string) Asks {
	return Asks{Why: why, ask: func(context.Context, *Call, any) ([]Question, error) { return nil, nil }}
}

// On asks about what a request names, which ask finds with [Call.Text].
func On(ask func(context.Context, *Call) ([]Question, error), about ...About) Asks {
	return Asks{About: about, ask: func(ctx context.Context, c *Call, _ any) ([]Question, error) { return ask(ctx, c) }}
}

// By asks what ask makes of an input.
func By[In any](ask func(context.Context, *Call, *In) ([]Question, error), about ...About) Asks {
	return Asks{
		About: about, in: reflect.TypeFor[In](),
		ask: func(ctx context.Context, c *Call, in any) ([]Question, error) { return ask(ctx, c, in.(*In)) },
	}
}

// checkKeys tells the tests of a condition key that is set and not declared.
func (c *Call) checkKeys(asks Asks, q Question) {
	if c.Server.Undeclared == nil {
		return
	}
	action := q.Action
	if action == c.Action() {
		action = ""
	}
	for key := range q.Keys {
		if !slices.ContainsFunc(asks.About, func(a About) bool {
			return a.Action == action && slices.ContainsFunc(a.Keys, func(k string) bool {
				return k == key || (strings.HasSuffix(k, "/") || strings.HasSuffix(k, ":")) && strings.HasPrefix(key, k)
			})
		}) {
			c.Server.Undeclared(fmt.Sprintf("%s sets the condition key %s of %s, which its row does not declare", c.Action(), key, q.Action))
		}
	}
}

// general are the codes that any operation may answer.
var general = map[sallyport.Code]bool{
	sallyport.AccessDeniedException: true, sallyport.ExpiredTokenException: true, sallyport.IncompleteSignatureException: true,
	sallyport.InternalServerError: true, sallyport.InvalidSignatureException: true, sallyport.MissingAuthenticationToken: true,
	sallyport.RequestEntityTooLarge: true, sallyport.SerializationException: true, sallyport.ServiceUnavailableException: true,
	sallyport.ThrottlingException: true, sallyport.UnknownOperationException: true, sallyport.UnrecognizedClientException: true,
	sallyport.ValidationException: true,
}

// checkCode tells the tests of a code that is answered and not declared.
func (c *Call) checkCode(code sallyport.Code) {
	if c.Server.Undeclared == nil || general[code] || c.Service == nil {
		return
	}
	op, ok := c.Service.Ops[c.Operation]
	if !ok || slices.Contains(op.Codes, code) {
		return
	}
	if m := c.Service.Model.Operation(c.Operation); m != nil && slices.Contains(m.Errors, string(code)) {
		return
	}
	c.Server.Undeclared(fmt.Sprintf("%s answers %s, which neither AWS's model nor its row declares", c.Action(), code))
}

// statusOf is the HTTP status of an error: what the service's model says, or AWS's
// JSON protocols, which send nearly all as 400.
func (s *Service) statusOf(code sallyport.Code) int {
	switch code {
	case sallyport.InternalServerError:
		return http.StatusInternalServerError
	case sallyport.ServiceUnavailableException:
		return http.StatusServiceUnavailable
	case sallyport.RequestEntityTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	if s != nil && s.Model != nil {
		for _, e := range s.Model.Errors {
			if e.Code == string(code) {
				return e.Status
			}
		}
	}
	return http.StatusBadRequest
}
