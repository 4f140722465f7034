package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/store"
)

// A Question is one thing policy is asked: may this action be taken on this
// resource?
type Question struct {
	Action    string   // "ssm:StartSession"
	Resources []string // every name of the one thing, as ARNs; none is "*"

	// Name is what a refusal calls the thing, if an ARN would tell those who
	// may not know whether it exists: IAM's hold a path that was looked up.
	// Empty is the first ARN.
	Name string

	// Tags are the resource's, asked about as aws:ResourceTag/… and, in
	// Systems Manager, ssm:resourceTag/….
	Tags map[string]string

	// RequestTags are the tags the request would set, and TagKeys the keys it
	// names.
	RequestTags map[string]string
	TagKeys     []string

	// Keys are conditions that only this action has.
	Keys map[string]string

	// ContextKeys are the keys of a request's encryption context, asked about
	// as kms:EncryptionContextKeys.
	ContextKeys []string

	// Policy is the resource's own, of a resource that has one: a KMS key. It
	// has to allow the action, by itself where it names the caller and with the
	// caller's own policies where it names their account.
	Policy policy.Named

	// Unread is why the resource's own policy cannot be read, and names the
	// resource. What it denied is not known, so only the account's root, who can
	// mend it, is allowed. Nil if it can be read, or if there is none.
	Unread error

	// Unnamed leaves out aws:username and aws:userid, so that a pattern made
	// of the caller's own name matches nothing. It is for what is not theirs
	// but has a name that begins like it: ann-marie's session, asked by ann.
	Unnamed bool
}

// called is what a refusal calls the thing that is asked about.
func (q Question) called() string {
	switch {
	case q.Name != "":
		return q.Name
	case len(q.Resources) > 0:
		return q.Resources[0]
	}
	return "*"
}

// Allow returns nil if the caller may do what q asks about, and otherwise an
// AccessDeniedException that names the action and the resource; and the
// statement, for a caller who may see policies.
func (c *Call) Allow(ctx context.Context, q Question) error {
	if len(q.Resources) > 0 { // the log may say what a refusal must not
		store.CallOn(ctx, q.Resources[0])
	}
	return c.Server.allow(ctx, c.Who, c.Request, q)
}

// A Decision is policy's answer to a [Question].
type Decision = policy.Decision

// SessionPolicies is the Layer of a Decision that says no because the policies
// given with the caller's credentials do not allow it.
const SessionPolicies = policy.Session

// Decide is [Call.Allow] for those who need to know why.
func (c *Call) Decide(ctx context.Context, q Question) (Decision, error) {
	return c.Server.Decide(ctx, c.Who, c.Request, q)
}

func (s *Server) allow(ctx context.Context, who *sallyport.Principal, r *http.Request, q Question) error {
	d, err := s.Decide(ctx, who, r, q)
	if err != nil || d.Allowed {
		return err
	}
	resource := q.called()
	because := fmt.Sprintf("because no %s allows the %s action", layer(d), q.Action)
	if d.Explicit {
		article := "a"
		if strings.HasPrefix(layer(d), "i") {
			article = "an"
		}
		because = fmt.Sprintf("with an explicit deny in %s %s", article, layer(d))
	}
	if d.Statement > 0 { // which one is for those who may read policies
		may, err := s.Decide(ctx, who, r, Question{Action: "iam:SimulatePrincipalPolicy", Resources: []string{who.ARN}})
		if err == nil && may.Allowed {
			because += ": it is " + d.String()
		}
	}
	return sallyport.Errorf(sallyport.AccessDeniedException, "User: %s is not authorized to perform: %s on resource: %s %s",
		who.ARN, q.Action, resource, because)
}

func layer(d policy.Decision) string {
	if d.Layer == 0 {
		return policy.Identity.String()
	}
	return d.Layer.String()
}

// Trusts asks a role's trust policy whether it lets the caller do what q asks
// about, and whether the caller's own policies have nothing against it, or are
// for it where they must be.
func (c *Call) Trusts(ctx context.Context, q Question, trust policy.Named) (bool, error) {
	req := policy.Request{Action: q.Action, Resources: q.Resources}
	c.Server.describe(&req.Context, c.Who, c.Request, q)
	t := policy.DecideTrust(&req, c.Server.caller(c.Who), trust)
	if !t.Allowed {
		return false, nil
	}
	own, err := c.Decide(ctx, q)
	return weigh(c.Who, own, t).Allowed, err
}

// caller is who, by what a resource's policy calls them: the ID of the user or
// role, and that of the role's session. See [Server.BindPrincipals].
func (s *Server) caller(who *sallyport.Principal) *policy.Caller {
	return &policy.Caller{Account: s.Realm.Account, Names: []string{who.ID, who.EntityID()}}
}

// weigh says what a caller's own policies and a resource's amount to. (IAM User
// Guide, "Identity-based policies and resource-based policies".)
func weigh(who *sallyport.Principal, own, resource policy.Decision) policy.Decision {
	switch {
	case own.Explicit:
		return own
	case !resource.Allowed:
		return resource
	case own.Allowed, resource.Delegated:
		return own
	case who.Role != "" && own.Layer != policy.Identity:
		// The role that the caller is in was named. That gives what its own
		// policies need not, but its boundary and session policies still limit
		// it; they do not limit a user who was named.
		return own
	}
	return resource
}

// Decide asks policy whether who may do what q asks about. No policy binds the
// account's root.
func (s *Server) Decide(ctx context.Context, who *sallyport.Principal, r *http.Request, q Question) (policy.Decision, error) {
	if who == nil {
		return policy.Decision{}, errors.New("policy was asked about no principal")
	}
	if who.Powerless != "" {
		return policy.Decision{Layer: policy.Identity}, nil
	}
	if who.Kind == sallyport.Root {
		return policy.Decision{Allowed: true, Policy: "the account's root, whom no policy binds"}, nil
	}
	if q.Unread != nil {
		s.Log.ErrorContext(ctx, "stored policy cannot be read", sallyport.LogWho, who.ARN, sallyport.LogErr, q.Unread)
		return policy.Decision{}, sallyport.Errorf(sallyport.AccessDeniedException, "The policy of %s cannot be read, so nothing is allowed. The server's log says why; the account's root can change it.", q.called())
	}
	p, err := s.policies(ctx, who)
	if sallyport.CodeOf(err) == sallyport.MalformedPolicyDocument {
		// It was taken once, by rules that were less strict. What it denied is not
		// known, so nothing is allowed.
		s.Log.ErrorContext(ctx, "stored policy cannot be read", sallyport.LogWho, who.ARN, sallyport.LogErr, err)
		err = sallyport.Errorf(sallyport.AccessDeniedException, "A policy that binds %s cannot be read, so nothing is allowed. The server's log says which policy that is, and why; the account's root can change it.", who.ARN)
	}
	if err != nil {
		return policy.Decision{}, err
	}
	req := policy.Request{Action: q.Action, Resources: q.Resources}
	s.describe(&req.Context, who, r, q)
	own := policy.Decide(&req, p)
	if q.Policy.Document == nil {
		return own, nil
	}
	return weigh(who, own, policy.DecideResource(&req, s.caller(who), q.Policy)), nil
}

// describe sets every condition key that is known of a request. (IAM User
// Guide, "AWS global condition context keys".)
func (s *Server) describe(c *policy.Context, who *sallyport.Principal, r *http.Request, q Question) {
	now := time.Now().UTC()
	c.Set("aws:CurrentTime", now.Format(time.RFC3339))
	c.Set("aws:EpochTime", strconv.FormatInt(now.Unix(), 10))
	c.Set("aws:RequestedRegion", s.Realm.Region)
	c.Set("aws:PrincipalAccount", s.Realm.Account)
	c.Set("aws:PrincipalIsAWSService", "false")
	if !q.Unnamed {
		c.Set("aws:userid", who.ID)
		if name := who.UserName(); name != "" {
			c.Set("aws:username", name)
		}
	}
	if who.Kind == sallyport.UserKind {
		c.Set("aws:PrincipalArn", who.ARN)
		c.Set("aws:PrincipalType", "User")
	} else {
		c.Set("aws:PrincipalArn", s.Realm.Role(who.Path, who.Role))
		c.Set("aws:PrincipalType", "AssumedRole")
	}
	if who.Temporary() { // long-lived keys have no such key at all, as in AWS
		c.Set("aws:TokenIssueTime", who.TokenIssued.UTC().Format(time.RFC3339))
		c.Set("aws:MultiFactorAuthPresent", strconv.FormatBool(!who.MFA.IsZero()))
	}
	if !who.MFA.IsZero() {
		c.Set("aws:MultiFactorAuthAge", strconv.Itoa(int(now.Sub(who.MFA).Seconds())))
	}
	if !who.Node.IsZero() {
		c.Set("ssm:SourceInstanceARN", s.Realm.Node(who.Node))
		c.Set("ec2:SourceInstanceARN", s.Realm.Node(who.Node))
	}
	if who.SourceIdentity != "" {
		c.Set("aws:SourceIdentity", who.SourceIdentity)
	}
	c.SetTags("aws:PrincipalTag/", who.Tags)
	if r != nil {
		c.Set("aws:SecureTransport", strconv.FormatBool(r.TLS != nil))
		c.Set("aws:SourceIp", Remote(r))
		if agent := r.UserAgent(); agent != "" {
			c.Set("aws:UserAgent", agent)
		}
	}
	c.SetTags("aws:ResourceTag/", q.Tags)
	if strings.HasPrefix(q.Action, "ssm:") {
		c.SetTags("ssm:resourceTag/", q.Tags)
	}
	c.SetTags("aws:RequestTag/", q.RequestTags)
	if len(q.TagKeys) > 0 {
		c.SetAll("aws:TagKeys", q.TagKeys)
	}
	if len(q.ContextKeys) > 0 {
		c.SetAll("kms:EncryptionContextKeys", q.ContextKeys)
	}
	for key, value := range q.Keys {
		c.Set(key, value)
	}
}

// maxCached bounds the policies that are kept parsed, and the answers about
// what credentials rest on. It is as many as a few thousand callers need.
const maxCached = 4096

// grants keeps what IAM says of callers, until anything in IAM changes.
type grants struct {
	mu       sync.Mutex
	revision uint64
	parsed   map[string]*policy.Policies  // by the ID of the user or role
	gone     map[string]string            // of [Server.gone], by what it was asked
	keys     map[string]*store.Credential // by access key; the database has their secrets sealed
}

// fresh empties what is kept if it is older than the revision, or has too many
// entries. The caller holds mu.
func (g *grants) fresh(revision uint64) {
	if g.parsed == nil || g.revision != revision || len(g.parsed)+len(g.gone)+len(g.keys) >= maxCached {
		g.revision, g.parsed, g.gone, g.keys = revision, map[string]*policy.Policies{}, map[string]string{}, map[string]*store.Credential{}
	}
}

// gone returns the first of the identities that credentials rest on which is
// not in force any more; "" if all are.
func (s *Server) gone(ctx context.Context, basis []string) (string, error) {
	if len(basis) == 0 {
		return "", nil
	}
	key := strings.Join(basis, " ")
	revision := s.Store.IAM().Revision() // before reading, so that a change while we read is seen next time
	s.grants.mu.Lock()
	s.grants.fresh(revision)
	id, known := s.grants.gone[key]
	s.grants.mu.Unlock()
	if known {
		return id, nil
	}
	id, err := s.Store.IAM().Gone(ctx, basis)
	if err != nil {
		return "", err
	}
	s.grants.mu.Lock()
	defer s.grants.mu.Unlock()
	if s.grants.revision == revision {
		s.grants.gone[key] = id
	}
	return id, nil
}

// credential returns an access key that is there, active or not, with its secret.
func (s *Server) credential(ctx context.Context, id string) (*store.Credential, error) {
	revision := s.Store.IAM().Revision() // before reading, so that a change while we read is seen next time
	s.grants.mu.Lock()
	s.grants.fresh(revision)
	c := s.grants.keys[id]
	s.grants.mu.Unlock()
	if c != nil {
		c.Resolve(ctx)
		return c, nil
	}
	c, err := s.Store.IAM().Credential(ctx, id)
	if err != nil {
		return nil, err
	}
	s.grants.mu.Lock()
	defer s.grants.mu.Unlock()
	if s.grants.revision == revision {
		s.grants.keys[id] = c
	}
	return c, nil
}

// policies returns what binds who.
func (s *Server) policies(ctx context.Context, who *sallyport.Principal) (*policy.Policies, error) {
	id := who.EntityID()
	revision := s.Store.IAM().Revision() // before reading, so that a change while we read is seen next time
	s.grants.mu.Lock()
	s.grants.fresh(revision)
	p := s.grants.parsed[id]
	s.grants.mu.Unlock()
	if p == nil {
		var err error
		if p, err = s.parsePolicies(ctx, id); err != nil {
			return nil, err
		}
		s.grants.mu.Lock()
		if s.grants.revision == revision {
			s.grants.parsed[id] = p
		}
		s.grants.mu.Unlock()
	}
	if len(who.SessionPolicies) == 0 {
		return p, nil
	}
	limited := *p
	for i, text := range who.SessionPolicies {
		named, err := s.sessionPolicy(ctx, i+1, text)
		if err != nil {
			return nil, err
		}
		if named.Document == nil { // what it denied is not known any more, so nothing is allowed
			limited.Session = []policy.Named{named}
			break
		}
		limited.Session = append(limited.Session, named)
	}
	return &limited, nil
}

// SessionPolicy is how credentials keep a managed policy that limits them: its
// ARN, and its ID, since another may have the ARN later.
func SessionPolicy(p *sallyport.Policy) string { return p.ARN + "#" + p.ID }

// sessionPolicy reads the nth policy of a session: a document, the ARN of a
// policy of AWS's own, or a [SessionPolicy], which is looked up each time. One
// that has been deleted is named and has no document.
func (s *Server) sessionPolicy(ctx context.Context, n int, text string) (policy.Named, error) {
	named := policy.Named{Name: "session policy " + strconv.Itoa(n)}
	if strings.HasPrefix(text, "arn:") {
		arn, id, _ := strings.Cut(text, "#")
		named.Name = arn
		p, ok := Builtin(arn)
		if !ok {
			own, err := s.Store.IAM().Policy(ctx, arn)
			if sallyport.CodeOf(err) == sallyport.NoSuchEntity || err == nil && own.ID != id {
				return named, nil
			}
			if err != nil {
				return named, err
			}
			p = *own
		}
		text = p.Document
	}
	doc, err := policy.Parse(text)
	if err != nil {
		return named, fmt.Errorf("%s: %w", named.Name, err)
	}
	named.Document = doc
	return named, nil
}

// parsePolicies reads what binds the user or role with an ID. One that was
// deleted may do nothing.
func (s *Server) parsePolicies(ctx context.Context, id string) (*policy.Policies, error) {
	g, err := s.Store.IAM().GrantsOf(ctx, id)
	if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
		return &policy.Policies{}, nil
	}
	if err != nil {
		return nil, err
	}
	var p policy.Policies
	for _, grant := range g.Policies {
		named, err := parseGrant(grant)
		if err != nil {
			return nil, err
		}
		p.Identity = append(p.Identity, named)
	}
	if g.Boundary != nil {
		named, err := parseGrant(*g.Boundary)
		if err != nil {
			return nil, err
		}
		p.Boundary = &named
	}
	return &p, nil
}

func parseGrant(g store.Grant) (policy.Named, error) {
	text := g.Document
	if text == "" {
		b, ok := Builtin(g.Name)
		if !ok {
			return policy.Named{}, fmt.Errorf("policy %s is attached to %s %s and is nowhere to be found", g.Name, g.From.Kind, g.From.Name)
		}
		text = b.Document
	}
	doc, err := policy.Parse(text) // it was stored by the stricter rules of its kind
	if err != nil {
		return policy.Named{}, fmt.Errorf("policy %s: %w", g.Name, err)
	}
	return policy.Named{Name: g.Name, Document: doc}, nil
}

// AdmitSocket returns the principal that signed the request which opens a WebSocket:
// nil if it is not signed, as old clients of AWS's send it. On names the resource
// for that principal.
//
// Policy's answer is denied: nil, or why not. A node must be allowed the
// action. For a person only an explicit deny counts, because AWS's sample
// policies do not all mention it.
func (s *Server) AdmitSocket(r *http.Request, action string, on func(who *sallyport.Principal) []string) (who *sallyport.Principal, denied, err error) {
	if !sigv4.Signed(r) {
		return nil, nil, nil
	}
	now := time.Now()
	claim, err := sigv4.Read(r)
	if err == nil {
		who, err = s.principal(r, claim, &Service{Name: "ssmmessages"}, sigv4.EmptyBody, now)
	}
	if err != nil {
		if sallyport.CodeOf(err) != "" {
			err = s.limits.failed(r, now, err)
		}
		return nil, nil, err
	}
	q := Question{Action: action, Resources: on(who)}
	d, err := s.Decide(r.Context(), who, r, q)
	switch {
	case err != nil:
		return nil, nil, err
	case d.Allowed, !d.Explicit && who.Node.IsZero():
		return who, nil, nil
	}
	return who, s.allow(r.Context(), who, r, q), nil
}

// NodeLacks says, in a sentence, which of [NodeNeeds] the node with an ID lacks;
// "" if none.
func (s *Server) NodeLacks(ctx context.Context, id sallyport.NodeID) (string, error) {
	who, err := s.NodePrincipal(ctx, id)
	if err != nil {
		return "", err
	}
	if who.Powerless != "" {
		return who.Powerless, nil
	}
	for _, action := range NodeNeeds {
		d, err := s.Decide(ctx, who, nil, Question{Action: action})
		if err != nil {
			return "", err
		}
		if !d.Allowed {
			return Lacks(who.Role, action), nil
		}
	}
	return "", nil
}

// Lacks is the sentence for a node whose role does not allow an action.
func Lacks(role, action string) string {
	return fmt.Sprintf("Its role %s does not allow %s.", RoleName(role), action)
}

// NodeNeeds is what a node's role must allow before sessions can be started on
// the node.
var NodeNeeds = []string{
	"ssm:UpdateInstanceInformation",
	"ssmmessages:CreateControlChannel", "ssmmessages:OpenControlChannel",
	"ssmmessages:CreateDataChannel", "ssmmessages:OpenDataChannel",
}

// FindRole returns the role for nodes that is named by its name, or by its path
// and name; nil if there is none.
func (s *Server) FindRole(ctx context.Context, name string) (*sallyport.Role, error) {
	r, err := s.Store.IAM().Role(ctx, RoleName(name))
	switch {
	case sallyport.CodeOf(err) == sallyport.NoSuchEntity:
		return nil, nil
	case err != nil:
		return nil, err
	case strings.Contains(name, "/") && r.PathAndName() != strings.TrimPrefix(name, "/"):
		return nil, nil
	}
	return r, nil
}

// NodeRole is [Server.FindRole] for a role that nodes are to act in: it has to
// be there, and to trust them.
func (s *Server) NodeRole(ctx context.Context, name string) (*sallyport.Role, error) {
	r, err := s.FindRole(ctx, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, sallyport.Errorf(sallyport.ValidationException, "Nonexistent role or missing ssm service principal in trust policy: there is no role %s. Create it first (iam create-role).", sallyport.Clip(name, 64))
	}
	return r, s.TrustsNodes(r, sallyport.NodeID{})
}

// UnreadTrust is what a caller is told of a role whose trust policy was taken once,
// by rules that were less strict, and cannot be read any more.
func UnreadTrust(r *sallyport.Role, err error) error {
	why := err.Error()
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		why = e.Message
	}
	return sallyport.Errorf(sallyport.MalformedPolicyDocument,
		"The trust policy of role %s cannot be read, so it may not be assumed. %s Mend it (iam update-assume-role-policy).", r.Name, why)
}

// TrustsNodes returns nil if a role's trust policy lets Systems Manager act in
// it for a node; for any node, if it is zero. Conditions may be on
// aws:SourceAccount and aws:SourceArn. (Systems Manager user guide, "Create the
// IAM service role required for Systems Manager in hybrid environments".)
func (s *Server) TrustsNodes(r *sallyport.Role, node sallyport.NodeID) error {
	trust, err := policy.ParseTrust(r.Trust)
	if err != nil {
		return UnreadTrust(r, err)
	}
	req := &policy.Request{Action: "sts:AssumeRole"}
	req.Context.Set("aws:SourceAccount", s.Realm.Account)
	req.Context.Set("aws:SourceArn", s.Realm.Nodes())
	if !node.IsZero() {
		req.Context.Set("aws:SourceArn", s.Realm.Node(node))
	}
	if d := policy.DecideTrust(req, &policy.Caller{Service: "ssm.amazonaws.com"}, policy.Named{Name: r.Name, Document: trust}); !d.Allowed {
		return sallyport.Errorf(sallyport.ValidationException,
			"Nonexistent role or missing ssm service principal in trust policy: role %s does not trust ssm.amazonaws.com. Let its trust policy allow sts:AssumeRole to the service ssm.amazonaws.com.", r.Name)
	}
	return nil
}
