package sallyport

import (
	"fmt"
	"regexp"
	"strings"
)

// A Realm is the account and region that resources here say they are in. It
// makes their ARNs. One control plane is one realm.
type Realm struct {
	Account string // 12 digits
	Region  string // by default one that AWS does not have
}

// Partition is the first part of every ARN. Policies written for AWS name it,
// so it is AWS's.
const Partition = "aws"

var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	regionPattern  = regexp.MustCompile(`^[a-z][a-z0-9-]{1,30}[a-z0-9]$`)
)

// NewRealm checks account and region.
func NewRealm(account, region string) (Realm, error) {
	if !accountPattern.MatchString(account) {
		return Realm{}, fmt.Errorf("account ID %q is not 12 digits", account)
	}
	if !regionPattern.MatchString(region) {
		return Realm{}, fmt.Errorf("region %q is not a region's name: lower-case letters, digits and hyphens, as in home-1", region)
	}
	return Realm{account, region}, nil
}

func (r Realm) arn(service, resource string) string {
	return "arn:" + Partition + ":" + service + ":" + r.Region + ":" + r.Account + ":" + resource
}

func (r Realm) iam(resource string) string {
	return "arn:" + Partition + ":iam::" + r.Account + ":" + resource
}

// Node names a node as policies do: EC2's as instances, ours as managed
// instances.
func (r Realm) Node(id NodeID) string {
	if strings.HasPrefix(id.String(), "i-") {
		return r.arn("ec2", "instance/"+id.String())
	}
	return r.arn("ssm", "managed-instance/"+id.String())
}

// Nodes names every managed node of the account and region.
func (r Realm) Nodes() string { return r.arn("ssm", "managed-instance/*") }

// Session names a session.
func (r Realm) Session(id SessionID) string { return r.arn("ssm", "session/"+id.String()) }

// SessionNamed names the sessions whose ID would be name, whether or not one
// is. Policies write session/<user ID>-* though session IDs begin with the
// user's name; asking about both forms is how they come to match.
func (r Realm) SessionNamed(name string) string { return r.arn("ssm", "session/"+name) }

// Recording names the recording of a session, and RecordingNamed, as
// [Realm.SessionNamed] does, of those whose session's ID would be name. AWS has no
// such resource: they are of this program's own service.
func (r Realm) Recording(id SessionID) string     { return r.RecordingNamed(id.String()) }
func (r Realm) RecordingNamed(name string) string { return r.arn("sallyport", "recording/"+name) }

// Document names a session document. AWS's own belong to no account.
func (r Realm) Document(name string) string {
	if strings.HasPrefix(name, "AWS-") {
		return "arn:" + Partition + ":ssm:" + r.Region + "::document/" + name
	}
	return r.arn("ssm", "document/"+name)
}

// Key and Alias name a KMS key and another name of one: "alias/…".
func (r Realm) Key(id string) string     { return r.arn("kms", "key/"+id) }
func (r Realm) Alias(name string) string { return r.arn("kms", name) }

// Root is the account itself: the administrator no policy binds.
func (r Realm) Root() string { return r.iam("root") }

// User, Role, Group and ManagedPolicy name IAM's entities. A path begins and
// ends with a slash.
func (r Realm) User(path, name string) string          { return r.iam("user" + path + name) }
func (r Realm) Role(path, name string) string          { return r.iam("role" + path + name) }
func (r Realm) Group(path, name string) string         { return r.iam("group" + path + name) }
func (r Realm) ManagedPolicy(path, name string) string { return r.iam("policy" + path + name) }

// AssumedRole names one session of a role.
func (r Realm) AssumedRole(role, session string) string {
	return "arn:" + Partition + ":sts::" + r.Account + ":assumed-role/" + role + "/" + session
}
