package sallyport

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"time"
)

// A NodeID names one managed node: "mi-" and 17 hex digits for a machine that
// registered through an activation, "i-" and 8 or 17 for an EC2 instance. The
// zero NodeID names nothing.
type NodeID struct{ s string }

var nodeIDPattern = regexp.MustCompile(`^(mi-[0-9a-f]{17}|i-[0-9a-f]{8}|i-[0-9a-f]{17})$`)

// ParseNodeID is the only way to turn text into a NodeID, so one that is not
// zero is always well formed and may reach a path.
func ParseNodeID(s string) (NodeID, error) {
	if !nodeIDPattern.MatchString(s) {
		return NodeID{}, Errorf(InvalidInstanceID, "%q is not a node ID. They look like mi-0123456789abcdef0.", Clip(s, 64))
	}
	return NodeID{s}, nil
}

// NewNodeID makes the ID of a machine that has just registered.
func NewNodeID() NodeID { return NodeID{"mi-" + hex17()} }

func (id NodeID) String() string { return id.s }

// IsZero reports whether id names nothing.
func (id NodeID) IsZero() bool { return id.s == "" }

// MarshalText writes the ID.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.s), nil }

// UnmarshalText refuses what [ParseNodeID] refuses. Empty text is the zero ID.
func (id *NodeID) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*id = NodeID{}
		return nil
	}
	*id, err = ParseNodeID(string(b))
	return err
}

// hex17 returns 17 hex digits of which the first is 0, as AWS's are: 64 random
// bits.
func hex17() string {
	return "0" + hex.EncodeToString(randomBytes(8))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails, by its contract
	return b
}

// A Node is a machine that registered, and what we last heard from it.
type Node struct {
	ID         NodeID
	Name       string // its activation's DefaultInstanceName, with a number if the activation is for several
	Activation string // the ActivationId it registered with
	Role       string // the IAM role its credentials are for, to show: path without its leading slash, and name
	RoleID     string // which role that is; empty if it was gone when IDs were first kept
	Registered time.Time
	Tags       map[string]string

	PublicKey   []byte // PKIX DER; what RequestManagedInstanceRoleToken is verified with
	Fingerprint string // the machine's, as it registered

	Agent    Agent     // as of the last UpdateInstanceInformation; zero until the first
	LastPing time.Time // of the last call or socket that proved the node alive; zero if it never came
	Online   bool      // its control channel was open when this was last written
	Trouble  Trouble   // the last thing that went wrong for it, if anything has
}

// An Agent is what a node's agent says of itself and its machine. Everything
// in it came from outside.
type Agent struct {
	Name              string // "amazon-ssm-agent", for ours too: it is the protocol's name
	Version           string
	PlatformType      string // Linux, Windows or MacOS
	PlatformName      string
	PlatformVersion   string
	ComputerName      string
	IPAddress         string
	AvailabilityZone  string
	ConnectionChannel string // ssmmessages, ec2messages or ""
}

// Trouble is a failure the control plane saw a node have. It is kept so that a
// caller that asks why the node is not connected can be told.
type Trouble struct {
	At     time.Time
	Reason string // a sentence: "Its clock is 31 minutes slow."
}

// An Activation lets a number of machines register, for a time.
type Activation struct {
	ID          string // a UUID
	Code        SecretHash
	Description string
	Name        string // DefaultInstanceName
	Role        string // of the nodes that register, as it was given: "Nodes", or with its path, "service-role/Nodes"
	RoleID      string
	Limit       int // of registrations, 1 to 1000
	Count       int // of registrations so far
	Created     time.Time
	Expires     time.Time
	Tags        map[string]string // copied to the nodes that register
}

// Expired reports whether the activation's time is over at now.
func (a *Activation) Expired(now time.Time) bool { return !now.Before(a.Expires) }
