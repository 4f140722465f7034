package api

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/sigv4"
)

// authenticate finds out who made a call, if the operation wants to know.
func (s *Server) authenticate(c *Call, op *Op) error {
	if op.Admits == WithoutSignature {
		return s.limits.mayRegister(c.Request, c.At)
	}
	err := func() (err error) {
		if op.Admits == ByNodeKey {
			c.Node, err = s.nodeByKey(c)
		} else {
			if err = c.unclaimed; err == nil {
				c.Who, err = s.principal(c.Request, c.claim, c.Service, c.hash, c.At)
			}
		}
		return err
	}()
	switch {
	case err != nil && sallyport.CodeOf(err) != "": // the caller's doing, not ours
		return s.limits.failed(c.Request, c.At, err)
	case err != nil:
		return err
	case op.Admits == ByNodeKey:
		return nil
	case op.Admits == ByNode && c.Who.Node.IsZero():
		return sallyport.Errorf(sallyport.AccessDeniedException,
			"%s is answered to the agent on a managed node alone, with the node's own credentials.", c.Operation)
	case c.Service.SecondFactor && c.Who.SessionToken && c.Who.MFA.IsZero():
		return sallyport.Errorf(sallyport.UnrecognizedClientException,
			"The security token included in the request is invalid: credentials from GetSessionToken that were got without a second factor do not call this service. Use the access key, or assume a role.")
	}
	for _, r := range op.Refuses {
		if r.Is(c.Who) {
			return sallyport.Errorf(sallyport.AccessDeniedException, "%s", r.Says(c))
		}
	}
	return nil
}

// principal verifies a request's signature and says who made it.
func (s *Server) principal(r *http.Request, claim *sigv4.Claim, service *Service, body sigv4.Hash, now time.Time) (*sallyport.Principal, error) {
	if claim.Service != service.Name {
		return nil, sallyport.Errorf(sallyport.InvalidSignatureException,
			"Credential should be scoped to correct service: '%s'.", service.Name)
	}
	if claim.Region != s.Realm.Region && !(service.Global && claim.Region == "us-east-1") {
		return nil, sallyport.Errorf(sallyport.InvalidSignatureException,
			"Credential should be scoped to a valid region: this server's is '%s'. Set AWS_REGION, or pass --region %s.", s.Realm.Region, s.Realm.Region)
	}
	found, missing := s.credentials(r.Context(), claim, now)
	if missing != nil && sallyport.CodeOf(missing) == "" {
		return nil, missing
	}
	if missing != nil {
		found.secret = decoy // so that a key that is not there takes as long as one that is
	}
	err := claim.Verify(r, body, found.secret, now)
	if _, tooFar := claim.SkewOf(now); missing == nil && tooFar && !found.who.Node.IsZero() &&
		claim.Verify(r, body, found.secret, claim.Time) == nil {
		s.clockTrouble(r.Context(), found.who.Node, claim, now)
	}
	switch {
	case missing != nil:
		return nil, missing
	case err != nil:
		return nil, err
	}
	if found.key != "" {
		s.Store.TouchAccessKey(r.Context(), found.key, service.Name, now)
	}
	return found.who, nil
}

// decoy is a secret that no access key has.
var decoy = sallyport.GenerateSecret()

// found is what an access key leads to.
type found struct {
	secret sallyport.Secret
	who    *sallyport.Principal
	key    string // a long-lived key's ID
}

func unknownKey() error {
	return sallyport.Errorf(sallyport.UnrecognizedClientException, "The security token included in the request is invalid: there is no such access key here, or it is not active.")
}

// credentials finds the secret that a claim must have been signed with, and
// whose it is. Nothing of what it returns may be used before the signature is
// verified.
func (s *Server) credentials(ctx context.Context, claim *sigv4.Claim, now time.Time) (found, error) {
	if !claim.Token.Empty() {
		return s.temporary(ctx, claim, now)
	}
	c, err := s.credential(ctx, claim.AccessKeyID)
	switch {
	case sallyport.CodeOf(err) == sallyport.NoSuchEntity:
		return found{}, unknownKey()
	case err != nil:
		return found{}, err
	case !c.Key.Active:
		return found{}, unknownKey()
	}
	who := s.Root()
	who.Basis = []string{c.Key.ID}
	if c.User != nil {
		who = s.userPrincipal(c.User)
		who.Basis = []string{c.Key.ID, c.User.ID}
	}
	who.AccessKeyID = c.Key.ID
	return found{c.Secret, who, c.Key.ID}, nil
}

// Root is the account's root.
func (s *Server) Root() *sallyport.Principal {
	return &sallyport.Principal{Kind: sallyport.Root, ARN: s.Realm.Root(), ID: s.Realm.Account, Root: s.Realm.Account, Name: "root"}
}

func (s *Server) userPrincipal(u *sallyport.User) *sallyport.Principal {
	return &sallyport.Principal{Kind: sallyport.UserKind, ARN: s.Realm.User(u.Path, u.Name), ID: u.ID, Root: u.ID, Name: u.Name, Path: u.Path, Tags: u.Tags}
}

// A bearer is what a session token says, under seal. Tokens are not stored: a
// request that has one has all that is known of it, and what it may do is
// looked up anew each time, so that rights that are taken away are gone at once.
// Users and roles are looked up by ID, so that a namesake of one that was
// deleted is another.
type bearer struct {
	Key     string `json:"k"` // ASIA…
	Secret  string `json:"s"`
	Issued  int64  `json:"i"` // Unix seconds
	Expires int64  `json:"e"`
	MFA     int64  `json:"m,omitempty"`

	// Exactly one of these says whose it is; none is the account itself.
	User string `json:"u,omitempty"` // the user's name when the token was issued; ID says which
	Role string `json:"r,omitempty"` // likewise the role's
	Node string `json:"n,omitempty"`

	ID      string            `json:"d,omitempty"` // of the user or role
	Root    string            `json:"o,omitempty"` // [sallyport.Principal.Root]
	Basis   []string          `json:"b,omitempty"` // [sallyport.Principal.Basis]
	Got     bool              `json:"g,omitempty"` // from GetSessionToken
	Session string            `json:"x,omitempty"` // the role session's name
	Tags    map[string]string `json:"t,omitempty"` // session tags
	Policy  []string          `json:"p,omitempty"` // session policies
	Source  string            `json:"q,omitempty"` // [sallyport.Principal.SourceIdentity]
}

// bearers seals and opens session tokens.
type bearers struct {
	once sync.Once
	box  *keyring.Box
}

func (s *Server) tokens() *keyring.Box {
	s.bearers.once.Do(func() { s.bearers.box = s.Keys.For("session-token") })
	return s.bearers.box
}

// A Grant says whose short-lived credentials are wanted.
type Grant struct {
	// Who is whom the credentials are for: Root, UserKind, AssumedRole or
	// NodeKind. Root, Basis, SourceIdentity, and the ID of a user or role, are taken
	// from it.
	Who *sallyport.Principal

	SessionToken bool // they are asked for by GetSessionToken

	For      time.Duration
	MFA      time.Time         // when a second factor was shown
	Tags     map[string]string // session tags
	Policies []string          // session policies
}

// Temporary is a set of short-lived credentials.
type Temporary struct {
	AccessKeyID string
	Secret      sallyport.Secret
	Token       sallyport.Secret
	Expires     time.Time
}

// Issue makes short-lived credentials.
func (s *Server) Issue(g Grant, now time.Time) (Temporary, error) {
	t := Temporary{AccessKeyID: sallyport.EntityID("ASIA"), Secret: sallyport.GenerateSecretKey(), Expires: now.Add(g.For).Truncate(time.Second)}
	b := bearer{
		Key: t.AccessKeyID, Secret: t.Secret.Reveal(), Issued: now.Unix(), Expires: t.Expires.Unix(),
		Root: g.Who.Root, Basis: g.Who.Basis, Got: g.SessionToken, Tags: g.Tags, Policy: g.Policies, Source: g.Who.SourceIdentity,
	}
	if !g.MFA.IsZero() {
		b.MFA = g.MFA.Unix()
	}
	switch g.Who.Kind {
	case sallyport.UserKind:
		b.User, b.ID = g.Who.Name, g.Who.EntityID()
	case sallyport.AssumedRole:
		b.Role, b.ID, b.Session = g.Who.Role, g.Who.EntityID(), g.Who.Name
	case sallyport.NodeKind:
		b.Node = g.Who.Node.String()
	}
	text, err := json.Marshal(b)
	if err != nil {
		return Temporary{}, fmt.Errorf("issue credentials: %w", err)
	}
	t.Token = sallyport.NewSecret(base64.StdEncoding.EncodeToString(s.tokens().Seal(text, []byte(b.Key))))
	return t, nil
}

func badToken() error {
	return sallyport.Errorf(sallyport.UnrecognizedClientException, "The security token included in the request is invalid.")
}

// temporary opens the session token of a claim and finds whose it is today.
func (s *Server) temporary(ctx context.Context, claim *sigv4.Claim, now time.Time) (found, error) {
	sealed, err := base64.StdEncoding.DecodeString(claim.Token.Reveal())
	if err != nil {
		return found{}, badToken()
	}
	text, err := s.tokens().Open(sealed, []byte(claim.AccessKeyID))
	if err != nil {
		return found{}, badToken()
	}
	var b bearer
	if err := json.Unmarshal(text, &b); err != nil {
		return found{}, badToken()
	}
	if expires := time.Unix(b.Expires, 0); !now.Before(expires) {
		return found{}, sallyport.Errorf(sallyport.ExpiredTokenException,
			"The security token included in the request expired at %s. Get new credentials and try again.", expires.UTC().Format(time.RFC3339))
	}
	who, err := s.bearerPrincipal(ctx, &b)
	if err != nil {
		return found{}, err
	}
	who.AccessKeyID, who.TokenIssued = b.Key, time.Unix(b.Issued, 0)
	if b.MFA != 0 {
		who.MFA = time.Unix(b.MFA, 0)
	}
	who.SessionPolicies, who.SessionToken, who.SourceIdentity = b.Policy, b.Got, b.Source
	return found{sallyport.NewSecret(b.Secret), who, ""}, nil
}

// bearerPrincipal finds whose a session token is. All that it rests on has to be
// in force still.
func (s *Server) bearerPrincipal(ctx context.Context, b *bearer) (*sallyport.Principal, error) {
	who, err := s.bearerOwner(ctx, b)
	if err != nil || who.Kind == sallyport.NodeKind {
		return who, err
	}
	id, err := s.gone(ctx, b.Basis)
	switch {
	case err != nil:
		return nil, err
	case id != "":
		return nil, badToken()
	}
	who.Basis = b.Basis
	if b.Root != "" { // a token of an earlier version says none
		who.Root = b.Root
	}
	return who, nil
}

func (s *Server) bearerOwner(ctx context.Context, b *bearer) (*sallyport.Principal, error) {
	gone := func(err error) error {
		if sallyport.CodeOf(err) != "" {
			return badToken() // whose it was is no longer there
		}
		return err
	}
	switch {
	case b.Node != "":
		id, err := sallyport.ParseNodeID(b.Node)
		if err != nil {
			return nil, badToken()
		}
		node, err := s.Store.Nodes().Get(ctx, id)
		if err != nil {
			return nil, gone(err)
		}
		return s.nodePrincipal(ctx, node)
	case b.User != "":
		u, err := s.Store.IAM().UserByID(ctx, b.ID, b.User)
		if err != nil {
			return nil, gone(err)
		}
		return s.userPrincipal(u), nil
	case b.Role != "":
		r, err := s.Store.IAM().RoleByID(ctx, b.ID, b.Role)
		if err != nil {
			return nil, gone(err)
		}
		return s.rolePrincipal(r, b.Session, b.Tags), nil
	}
	return s.Root(), nil
}

func (s *Server) rolePrincipal(r *sallyport.Role, session string, tags map[string]string) *sallyport.Principal {
	all := map[string]string{}
	given := map[string]bool{}
	for k, v := range tags {
		all[k], given[strings.ToLower(k)] = v, true
	}
	for k, v := range r.Tags { // a session's tag wins over its role's, however it is spelt
		if !given[strings.ToLower(k)] {
			all[k] = v
		}
	}
	id := r.ID + ":" + session
	return &sallyport.Principal{
		Kind: sallyport.AssumedRole, ARN: s.Realm.AssumedRole(r.Name, session), ID: id, Root: id,
		Name: session, Path: r.Path, Role: r.Name, Tags: all, SessionTags: tags,
	}
}

// RoleName is the name within a node's role, which may have a path:
// "service-role/Nodes".
func RoleName(role string) string { return role[strings.LastIndexByte(role, '/')+1:] }

// nodePrincipal is a node, acting in the role it has today, which is found by
// its ID. The node may do nothing if that role was deleted, or does not trust
// nodes: its trust is asked whenever the node's credentials are issued or used.
// Such a node gets credentials all the same, because a stock agent that is
// refused them sleeps for minutes to an hour.
func (s *Server) nodePrincipal(ctx context.Context, n *sallyport.Node) (*sallyport.Principal, error) {
	name := RoleName(n.Role)
	powerless := ""
	r, err := s.Store.IAM().RoleByID(ctx, n.RoleID, name)
	if err == nil {
		err = s.TrustsNodes(r, n.ID)
		if sallyport.CodeOf(err) != "" {
			powerless, err = fmt.Sprintf("Its role %s does not trust ssm.amazonaws.com any more. Let the role's trust policy allow sts:AssumeRole to that service, or give the node another role.", name), nil
		}
	} else if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
		powerless, err = fmt.Sprintf("Its role %s was deleted. Give the node another role; one made anew by that name is another role.", name), nil
		r = &sallyport.Role{Name: name, ID: cmp.Or(n.RoleID, "AROA")}
	}
	if err != nil {
		return nil, err
	}
	who := s.rolePrincipal(r, n.ID.String(), nil)
	who.Powerless = powerless
	who.Kind, who.Node, who.Root, who.Basis = sallyport.NodeKind, n.ID, n.ID.String(), []string{n.ID.String(), r.ID}
	return who, nil
}

// NodePrincipal is the node with an ID, acting in the role it has today.
func (s *Server) NodePrincipal(ctx context.Context, id sallyport.NodeID) (*sallyport.Principal, error) {
	n, err := s.Store.Nodes().Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.nodePrincipal(ctx, n)
}

// clockTrouble remembers that a node is kept out by its clock alone. The
// signature was right for the time it claims: otherwise every stranger could cause this.
func (s *Server) clockTrouble(ctx context.Context, id sallyport.NodeID, claim *sigv4.Claim, now time.Time) {
	s.Store.Trouble(ctx, id, sallyport.Trouble{At: now, Reason: sigv4.SkewText("Its", claim.Time, now)})
}

// nodeByKey verifies a request signed with a node's own key.
func (s *Server) nodeByKey(c *Call) (*sallyport.Node, error) {
	if c.unclaimed != nil {
		return nil, c.unclaimed
	}
	claim := c.claim
	id, err := sallyport.ParseNodeID(claim.AccessKeyID)
	if err != nil {
		return nil, unknownKey()
	}
	ctx := c.Request.Context()
	n, err := s.Store.Nodes().Get(ctx, id)
	if sallyport.CodeOf(err) == sallyport.InvalidInstanceID {
		return nil, sallyport.Errorf(sallyport.UnrecognizedClientException, "%s is not registered here, or no longer. Register the machine again.", id)
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(n.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", id, err)
	}
	err = claim.VerifyRSA(c.Request, c.hash, key, c.At)
	if _, tooFar := claim.SkewOf(c.At); tooFar && claim.VerifyRSA(c.Request, c.hash, key, claim.Time) == nil {
		s.clockTrouble(ctx, id, claim, c.At)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

func parseKey(der []byte) (*rsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	if key, ok := key.(*rsa.PublicKey); ok {
		return key, nil
	}
	return nil, errors.New("it is not an RSA key")
}

// ParsePublicKey reads a node's public key as agents send it: base64 of PKIX
// DER. Keys of less than 2048 bits are refused.
func ParsePublicKey(text, kind string) (der []byte, err error) {
	bad := func(what string) error {
		return sallyport.Errorf(sallyport.ValidationException, "The public key %s. It should be RSA, of 2048 to 8192 bits, as base64 of its PKIX form.", what)
	}
	if kind != "Rsa" {
		return nil, bad("is of type " + sallyport.Clip(kind, 16))
	}
	if der, err = base64.StdEncoding.DecodeString(text); err != nil {
		return nil, bad("is not base64")
	}
	key, err := parseKey(der)
	if err != nil {
		return nil, bad("cannot be read")
	}
	if bits := key.N.BitLen(); bits < 2048 || bits > 8192 {
		return nil, bad(fmt.Sprintf("has %d bits", bits))
	}
	return der, nil
}
