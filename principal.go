package sallyport

import (
	"strings"
	"time"
)

// A Kind says what sort of principal signed.
type Kind uint8

const (
	Root        Kind = iota + 1 // the account: the bootstrap administrator, whom no policy binds
	UserKind                    // an IAM user
	AssumedRole                 // a session of an IAM role
	NodeKind                    // a managed node, under the role it was given
)

// A Principal is the identity whose key signed a request.
type Principal struct {
	Kind Kind
	ARN  string

	// ID is ${aws:userid}: a user's ID; a role's ID, a colon and the session
	// name; the account ID for root.
	ID string

	// Name is a user's name, the session name of an assumed role, "root", or a
	// node's ID. Session IDs begin with it.
	Name string

	// Root is the ID of the identity at the root of the credentials, which
	// owns what it starts in every role it acts in: a user's ID, also behind a
	// role that the user assumed; the account's ID; a node's ID.
	Root string

	// Basis lists the IDs of all that the credentials rest on: the access key
	// and the user they were first got with, and every role assumed since; or a
	// node and its role. When one of them is deleted, or the key is deactivated,
	// the credentials are good for nothing. It is empty for the account's root
	// where it has no access key.
	Basis []string

	Path string // of the user or role
	Role string // the role's name, for AssumedRole and NodeKind

	// Node is the one node these credentials speak for; zero for people.
	Node NodeID

	// Powerless says why the principal may do nothing, also where policies allow it: a
	// sentence about a node, whose role was deleted or does not trust nodes. ""
	// if policies decide.
	Powerless string

	Tags        map[string]string // of the user, or of the role and its session
	SessionTags map[string]string // the part of Tags given with the session

	// SourceIdentity is who the person behind the role session is, as the first call
	// of AssumeRole in a chain said; "" if that was not said.
	SourceIdentity string

	// SessionPolicies were given with the session, and limit it: JSON.
	SessionPolicies []string

	// SessionToken reports that the credentials came from GetSessionToken: they
	// are a user's or the account's own, for a while.
	SessionToken bool

	AccessKeyID string    // what signed
	TokenIssued time.Time // for temporary credentials; zero for long-lived keys
	MFA         time.Time // when a second factor was shown; zero if none was
}

// UserName is ${aws:username}: set for IAM users alone, as in AWS.
func (p *Principal) UserName() string {
	if p.Kind == UserKind {
		return p.Name
	}
	return ""
}

// Temporary reports whether the credentials are short-lived.
func (p *Principal) Temporary() bool { return !p.TokenIssued.IsZero() }

// EntityID is the ID of the user or role whose policies bind p.
func (p *Principal) EntityID() string {
	id, _, _ := strings.Cut(p.ID, ":")
	return id
}

// Owns reports whether s was started by the identity at the root of p's
// credentials. IDs are compared, never names: a user owns their sessions after
// a change of name or path, and two users who act in one role, under one role
// session name, do not own each other's.
func (p *Principal) Owns(s *Session) bool { return p.Root != "" && s.Root == p.Root }

// A User is an IAM user.
type User struct {
	Name    string
	Path    string // "/" or "/team/"
	ID      string // AIDA…
	Created time.Time
	Tags    map[string]string
	Groups  []string // names, where the reader asked for them

	Boundary string // ARN of the permissions boundary; empty if there is none
}

// A Group is an IAM group.
type Group struct {
	Name    string
	Path    string
	ID      string // AGPA…
	Created time.Time
}

// A Role is an IAM role.
type Role struct {
	Name        string
	Path        string
	ID          string // AROA…
	Description string
	Trust       string        // AssumeRolePolicyDocument: JSON
	MaxSession  time.Duration // of its temporary credentials; AWS's default is an hour
	Created     time.Time
	Tags        map[string]string

	Boundary string // ARN of the permissions boundary; empty if there is none
}

// PathAndName is how nodes show their role: "service-role/Nodes".
func (r *Role) PathAndName() string { return strings.TrimPrefix(r.Path, "/") + r.Name }

// A Policy is a managed policy. Its ARN names it: AWS's own belong to account
// "aws" and cannot be changed.
type Policy struct {
	ARN         string
	Name        string
	Path        string
	ID          string // ANPA…
	Description string
	Created     time.Time
	Updated     time.Time
	Tags        map[string]string

	Default     string // the version in force: "v1"
	Document    string // of the version in force
	Attachments int    // to users, groups and roles, where the reader asked
}

// A PolicyVersion is one text a managed policy has had.
type PolicyVersion struct {
	ID       string // "v1"
	Document string
	Default  bool
	Created  time.Time
}

// An AccessKey is a user's long-lived key. Its secret is sealed in the store.
type AccessKey struct {
	ID          string // AKIA…
	User        string
	Active      bool
	Created     time.Time
	LastUsed    time.Time // zero if never; accurate to a minute
	LastService string
}

// EntityID makes the unique ID of an IAM entity or key: prefix and 17 random
// characters of base 32, as AIDA… has it.
func EntityID(prefix string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	var b strings.Builder
	b.WriteString(prefix)
	for _, c := range randomBytes(17) {
		b.WriteByte(alphabet[c%32])
	}
	return b.String()
}
