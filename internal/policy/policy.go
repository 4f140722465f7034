// Package policy answers one question: may they, and why?
//
// It reads documents in AWS's IAM policy language once, and then decides
// requests by them as often as it is asked:
//
//	document ──Parse──▶ *Document ─┐
//	document ──Parse──▶ *Document ─┤
//	                               ├──Decide──▶ Decision: yes or no, which
//	     action, resource, context ┘            statement, of which policy
//
// The order is AWS's (IAM User Guide, "Policy evaluation logic"):
//
//  1. A statement that denies, in any policy, decides: no.
//  2. A permissions boundary, if there is one, must allow.
//  3. Session policies, if there are any: one of them must allow.
//  4. A policy of the identity must allow. Otherwise: no.
//
// # The language
//
// Versions 2008-10-17 and 2012-10-17; Id, Sid, Effect, Action and NotAction,
// Resource and NotResource, Condition, and in the trust policy of a role or the
// policy of a KMS key, Principal. Wildcards, every condition operator with IfExists, ForAllValues
// and ForAnyValue, and in version 2012-10-17 policy variables with defaults:
//
//	arn:aws:ssm:*:*:session/${aws:username}-*
//	arn:aws:ssm:*:*:document/${aws:PrincipalTag/team, 'everyone'}-*
//
// A variable's value stands for itself. A user named * matches no more than an
// asterisk.
//
// What cannot be known grants nothing: a variable without a value matches
// nothing; a key without a value fails every condition but those that AWS says
// it meets (negated ones, IfExists, ForAllValues).
//
// A document AWS would refuse is refused, with AWS's error and then what to do
// about it. So are documents that AWS takes and that then never do what they
// seem to say, such as a number that is not one or a condition key with no
// vendor; DESIGN.md lists them.
//
// # What it leaves to others
//
// Which policies bind whom, where documents are kept, and which keys a request
// has. No policy binds the account's root: do not ask about it.
package policy

import "strconv"

// A Document is a policy that has been read and found well formed. It does not
// change, so any number of goroutines may decide by it. A nil Document allows
// nothing and denies nothing.
type Document struct {
	denies []statement
	allows []statement
}

// statement is one of a document's. Every list in it is alternatives.
type statement struct {
	number int // 1 for the document's first
	sid    string
	allow  bool

	actions   []pattern
	notAction bool

	resources   []pattern // none in a trust policy
	notResource bool

	conditions []condition // all of which must hold
	principals *principals // of a resource's policy; else nil
}

// Named is a Document and what to call it when it is the reason: the ARN of a
// managed policy, the name of an inline one.
type Named struct {
	Name string
	*Document
}

// Policies is everything that has a say in what one principal may do.
type Policies struct {
	// Identity is what is attached to the user, to the user's groups, or to
	// the role.
	Identity []Named

	// Boundary is the permissions boundary; nil if there is none.
	Boundary *Named

	// Session is what was given with the session when its role was assumed;
	// empty if nothing was. What one of them allows is allowed.
	Session []Named
}

// A Request is an action that a principal wants to do on a resource.
type Request struct {
	Action string // "ssm:StartSession"; case does not matter

	// Resources is every name of the one thing it is to be done to, as ARNs.
	// A pattern that matches any of the names matches the thing, to allow and
	// to deny: a session is both session/<user name>-… and session/<user ID>-….
	// Two things are two requests. None is "*", for actions on nothing in
	// particular: only the pattern "*" matches it.
	Resources []string

	// Context is what is known of the request and of who makes it.
	Context Context
}

// A Layer is a kind of policy, by the part it has in a decision.
type Layer uint8

const (
	Identity Layer = iota + 1 // attached to a user, group or role
	Boundary                  // a permissions boundary
	Session                   // given with a session
	Trust                     // says who may assume a role
	Resource                  // on what it is to be done to
)

// String is what AWS calls policies of the layer when it denies access.
func (l Layer) String() string {
	switch l {
	case Identity:
		return "identity-based policy"
	case Boundary:
		return "permissions boundary"
	case Session:
		return "session policy"
	case Trust:
		return "role trust policy"
	case Resource:
		return "resource-based policy"
	}
	return "Layer(" + strconv.Itoa(int(l)) + ")"
}

// A Decision is yes or no, and why. The zero Decision is no.
type Decision struct {
	Allowed  bool
	Explicit bool // a statement denies it; otherwise a no means that none allows it

	// Layer is whose statement it was or, where there was none, the first
	// layer that had to allow and did not.
	Layer Layer

	Policy    string // whose statement it was, or the only policy of a layer that does not allow
	Statement int    // 1 for the policy's first; 0 where no statement decided
	Sid       string // of the statement, if it has one

	// Delegated is set when a resource's policy allows because it names the
	// caller's whole account, or everyone, rather than the caller by name.
	// Then the caller's own policies must allow it as well.
	Delegated bool
}

// String is the reason: `allowed by statement 1 ("Connect") of policy
// developers`.
func (d Decision) String() string {
	policy := "policy"
	switch d.Layer {
	case Boundary:
		policy = "permissions boundary"
	case Session:
		policy = "session policy"
	case Trust:
		policy = "trust policy"
	case Resource:
		policy = "key policy"
	}
	switch {
	case d.Statement != 0:
		verb := "denied"
		if d.Allowed {
			verb = "allowed"
		}
		s := verb + " by statement " + strconv.Itoa(d.Statement)
		if d.Sid != "" {
			s += ` ("` + d.Sid + `")`
		}
		return s + " of " + policy + " " + d.Policy
	case d.Layer > Identity && d.Policy != "":
		return policy + " " + d.Policy + " does not allow it"
	case d.Layer > Identity:
		return "no " + policy + " allows it"
	}
	return "nothing allows it"
}

// Decide says whether p lets its principal do what req asks. A user with ten
// policies is answered within 20 µs, without an allocation.
//
// Where several statements would do as the reason, it is the first, in the
// order in which p has them.
func Decide(req *Request, p *Policies) Decision {
	var q query
	q.init(req)

	// An explicit deny wins wherever it is.
	if d, denied := q.denied(Identity, p.Identity); denied {
		return d
	}
	if p.Boundary != nil {
		if s := q.find(p.Boundary.denies()); s != nil {
			return s.decision(Boundary, p.Boundary.Name)
		}
	}
	if d, denied := q.denied(Session, p.Session); denied {
		return d
	}

	// A boundary and session policies take away; only the identity's own
	// policies give.
	if p.Boundary != nil && q.find(p.Boundary.allows()) == nil {
		return Decision{Layer: Boundary, Policy: p.Boundary.Name}
	}
	if len(p.Session) > 0 {
		if d := q.allowed(Session, p.Session); !d.Allowed {
			if len(p.Session) == 1 {
				d.Policy = p.Session[0].Name
			}
			return d
		}
	}
	return q.allowed(Identity, p.Identity)
}

// The methods of Named that Decide walks by, so that a Named whose document
// could not be had is one that allows nothing.
func (n *Named) denies() []statement {
	if n.Document == nil {
		return nil
	}
	return n.Document.denies
}

func (n *Named) allows() []statement {
	if n.Document == nil {
		return nil
	}
	return n.Document.allows
}

func (s *statement) decision(l Layer, policy string) Decision {
	return Decision{Allowed: s.allow, Explicit: !s.allow, Layer: l, Policy: policy, Statement: s.number, Sid: s.sid}
}

// query is a request being decided: the request, and what every statement
// would otherwise work out anew.
type query struct {
	action    string
	resources []string
	bounds    [4]int // of the first resources: see [bound]
	context   *Context
	caller    *Caller // for a resource's policy; else nil
}

var anything = []string{"*"}

func (q *query) init(req *Request) {
	q.action, q.resources, q.context = req.Action, req.Resources, &req.Context
	if len(q.resources) == 0 {
		q.resources = anything
	}
	for i, r := range q.resources[:min(len(q.resources), len(q.bounds))] {
		q.bounds[i] = bound(r)
	}
}

func (q *query) bound(i int) int {
	if i < len(q.bounds) {
		return q.bounds[i]
	}
	return bound(q.resources[i])
}

// denied looks for the first statement of set that denies.
func (q *query) denied(l Layer, set []Named) (Decision, bool) {
	for i := range set {
		if s := q.find(set[i].denies()); s != nil {
			return s.decision(l, set[i].Name), true
		}
	}
	return Decision{}, false
}

// allowed looks for the first statement of set that allows.
func (q *query) allowed(l Layer, set []Named) Decision {
	for i := range set {
		if s := q.find(set[i].allows()); s != nil {
			return s.decision(l, set[i].Name)
		}
	}
	return Decision{Layer: l}
}

// find returns the first of the statements that is about the request.
func (q *query) find(statements []statement) *statement {
	for i := range statements {
		if s := &statements[i]; q.meets(s) {
			return s
		}
	}
	return nil
}

// meets reports whether s is about the request: the cheapest test first, and
// the one that rules out most.
func (q *query) meets(s *statement) bool {
	return q.meetsAction(s) && q.meetsResource(s) && q.meetsConditions(s)
}

func (q *query) meetsAction(s *statement) bool {
	for i := range s.actions {
		if match(s.actions[i].parts, q.action, 0, true) {
			return !s.notAction
		}
	}
	return s.notAction
}

func (q *query) meetsResource(s *statement) bool {
	if s.principals != nil && q.caller == nil {
		return false // a resource's policy, put where an identity's belongs
	}
	if s.principals != nil && len(s.resources) == 0 {
		return true // a trust policy is about the role it is on, and about nothing else
	}
	for i := range s.resources {
		p := &s.resources[i]
		for j, r := range q.resources {
			if b := q.bound(j); p.all || b > 0 && p.matches(q.context, r, b) {
				return !s.notResource
			}
		}
		// "Everything but ${x}", with no x, would be everything. AWS leaves
		// open what it is; here it may deny everything, and allows nothing.
		if s.notResource && s.allow && p.unresolved(q.context) {
			return false
		}
	}
	return s.notResource
}

func (q *query) meetsConditions(s *statement) bool {
	for i := range s.conditions {
		if !s.conditions[i].holds(q.context) {
			return false
		}
	}
	return true
}
