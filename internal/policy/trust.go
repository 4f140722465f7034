package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
)

// A Caller is a principal as a resource's policy sees it: by the names that a
// Principal may have for it.
type Caller struct {
	// Account is the caller's account: 12 digits. Empty for services and
	// federated identities, who are in none.
	Account string

	// Names is what else a principal of kind AWS may say and mean the caller:
	// the ARN; for a session of a role also the ARN of the role; the unique ID.
	Names []string

	Service   string // for a service: "ssm.amazonaws.com"
	Federated string // for whom an identity provider vouches: the provider
}

// DecideTrust says whether the role that trust is on trusts c to do what
// req.Action says: "sts:AssumeRole" and the like. If the decision is
// Delegated, c's own policies must allow it too; else they must not deny it.
func DecideTrust(req *Request, c *Caller, trust Named) Decision {
	return decideResource(req, c, Trust, trust)
}

// DecideResource says likewise whether the policy of a resource, such as a KMS
// key, allows c what req asks.
func DecideResource(req *Request, c *Caller, on Named) Decision {
	return decideResource(req, c, Resource, on)
}

func decideResource(req *Request, c *Caller, layer Layer, on Named) Decision {
	var q query
	q.init(req)
	q.caller = c

	for i, denies := 0, on.denies(); i < len(denies); i++ {
		if s := &denies[i]; s.principals.trust(c) != stranger && q.meets(s) {
			return s.decision(layer, on.Name)
		}
	}
	d := Decision{Layer: layer, Policy: on.Name}
	for i, allows := 0, on.allows(); i < len(allows); i++ {
		s := &allows[i]
		how := s.principals.trust(c)
		if how == stranger || d.Allowed && how == byAccount || !q.meets(s) {
			continue
		}
		d = s.decision(layer, on.Name)
		if how == byName {
			return d
		}
		d.Delegated = true // unless a later statement names the caller
	}
	return d
}

// principals is whom a statement of a resource's policy is about.
type principals struct {
	everyone  bool     // {"AWS": "*"}
	accounts  []string // 12 digits each
	names     []string // ARNs and unique IDs
	services  []string
	federated []string
}

// recognition is how a statement knows a caller.
type recognition uint8

const (
	stranger  recognition = iota // not at all
	byAccount                    // as one of an account, or of everyone
	byName
)

// trust says how p knows c. A nil p is an identity policy's, put where a trust
// policy belongs, and trusts no caller.
func (p *principals) trust(c *Caller) recognition {
	switch {
	case p == nil:
		return stranger
	case c.Service != "" && slices.Contains(p.services, c.Service),
		c.Federated != "" && slices.Contains(p.federated, c.Federated),
		slices.ContainsFunc(c.Names, func(n string) bool { return n != "" && slices.Contains(p.names, n) }):
		return byName
	case c.Account != "" && slices.Contains(p.accounts, c.Account):
		return byAccount
	case p.everyone:
		// AWS does not say whether everyone is meant by name. To ask their
		// own policies as well is the safer reading.
		return byAccount
	}
	return stranger
}

// trusted reads the Principal of a statement.
func trusted(raw *rawStatement, refuse refusal) (*principals, error) {
	switch {
	case raw.notPrincipal != nil && raw.effect == "Allow":
		return nil, refuse("Allow with NotPrincipal is not allowed.", "has NotPrincipal; name whom to trust in Principal")
	case raw.notPrincipal != nil:
		return nil, refuse("AssumeRole policy must not contain NotPrincipal field.", `has one; write Principal {"AWS": "*"} with the condition ArnNotEquals on aws:PrincipalArn`)
	case raw.principal == nil:
		return nil, refuse("Missing required field Principal", `has none; add one, as in {"Service": "ssm.amazonaws.com"}`)
	case len(raw.principal) == 0:
		return nil, refuse("Missing required field Principal cannot be empty!", `names no caller; write one, as in {"Service": "ssm.amazonaws.com"}`)
	}
	p := &principals{}
	for _, of := range raw.principal {
		if of.kind == "" {
			return nil, refuse("Principal must be a JSON object.", `has the Principal %q; write {"AWS": %[1]q}`, sallyport.Clip(of.names[0], 64))
		}
		if len(of.names) == 0 {
			return nil, refuse("Missing required field Principal cannot be empty!", "names no principal of kind %q; write one, or remove it", sallyport.Clip(of.kind, 32))
		}
		for _, name := range of.names {
			if hint := p.add(of.kind, name); hint != "" {
				return nil, refuse(fmt.Sprintf("Invalid principal in policy: %q:%q", sallyport.Clip(of.kind, 32), sallyport.Clip(name, 128)), "%s", hint)
			}
		}
	}
	return p, nil
}

// add adds one principal, or says how to write it instead.
func (p *principals) add(kind, name string) (hint string) {
	digits := func(s string) bool { return len(s) == 12 && strings.Trim(s, "0123456789") == "" }
	switch kind {
	case "AWS":
		if name == "*" {
			p.everyone = true
			return ""
		}
		if strings.ContainsAny(name, "*?") {
			return `has a wildcard in a principal, where none works; name each, or write "*" with the condition ArnLike on aws:PrincipalArn`
		}
		if digits(name) {
			p.accounts = append(p.accounts, name)
			return ""
		}
		arn := strings.SplitN(name, ":", 6)
		switch {
		case len(arn) == 1 && strings.HasPrefix(name, "AIDA"), len(arn) <= 2 && strings.HasPrefix(name, "AROA"):
			p.names = append(p.names, name) // what AWS makes of an ARN when it stores it; a role session's is AROA…:name
			return ""
		case len(arn) < 6 || arn[0] != "arn" || arn[1] != sallyport.Partition || arn[2] != "iam" && arn[2] != "sts" || arn[3] != "" || !digits(arn[4]):
			return "must name an account, or a user, a role or its session; write 12 digits or an ARN, as in arn:aws:iam::123456789012:user/alice"
		case arn[5] == "root":
			p.accounts = append(p.accounts, arn[4])
			return ""
		}
		kind, rest, _ := strings.Cut(arn[5], "/")
		if rest == "" || !slices.Contains([]string{"user", "role", "assumed-role", "federated-user"}, kind) {
			return "must name an account, or a user, a role or its session; groups and policies cannot assume roles"
		}
		p.names = append(p.names, name)
	case "Service":
		if !strings.Contains(name, ".") || strings.ContainsAny(name, "*? :/") {
			return "must name a service by its address, as in ssm.amazonaws.com"
		}
		p.services = append(p.services, name)
	case "Federated":
		if name == "" || strings.ContainsAny(name, "*? ") {
			return "must name an identity provider, as in arn:aws:iam::123456789012:saml-provider/example"
		}
		p.federated = append(p.federated, name)
	default:
		return "may name principals of the kinds AWS, Service and Federated"
	}
	return ""
}
