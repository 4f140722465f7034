package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

// How large policies may be, as [Size] counts. (IAM User Guide, "IAM and AWS
// STS quotas".) The first three are for all inline policies of one user, group
// or role together: the store, which has the others, compares. Past them AWS answers
// LimitExceeded.
const (
	UserQuota    = 2048
	GroupQuota   = 5120
	RoleQuota    = 10240
	ManagedQuota = 6144 // each version of a managed policy
	TrustQuota   = 2048 // the trust policy of a role
	SessionQuota = 2048 // what is given with a session
)

// No document may be longer than this, white space and all: it is how long AWS
// lets the parameter be. (botocore, iam/2010-05-08/service-2.json, policyDocumentType.)
const maxDocument = 131072

// Size is how long AWS takes doc to be: white space does not count.
func Size(doc string) int {
	n := utf8.RuneCountInString(doc)
	for _, space := range []string{" ", "\t", "\r", "\n"} {
		n -= strings.Count(doc, space)
	}
	return n
}

// Parse reads an inline policy, or one given with a session. An error is a
// *[sallyport.Error] for the caller that sent the document, and nearly always
// MalformedPolicyDocument.
func Parse(doc string) (*Document, error) { return parse(doc, inline) }

// ParseManaged reads a managed policy. These must be of version 2012-10-17.
func ParseManaged(doc string) (*Document, error) { return parse(doc, managed) }

// ParseTrust reads the trust policy of a role: every statement has a
// Principal, none has a Resource, and all are about assuming the role.
func ParseTrust(doc string) (*Document, error) { return parse(doc, trust) }

// ParseKey reads the policy of a KMS key: every statement has a Principal, and
// its actions are KMS's. The Resource is "*", which means the key, or its ARN.
// It may have KeyQuota bytes. (KMS Developer Guide, "Key policies".)
func ParseKey(doc string) (*Document, error) { return parse(doc, key) }

// KeyQuota is how long the policy of a KMS key may be, in bytes. (KMS Developer
// Guide, "Resource quotas".)
const KeyQuota = 32 << 10

// kind is what a document is to be, which decides what it may say.
type kind uint8

const (
	inline kind = iota
	managed
	trust
	key
)

// ofResource reports whether documents of the kind hang on a resource, and so
// say whom they are about.
func (k kind) ofResource() bool { return k == trust || k == key }

// AWS's sentences that we answer in more than one place. Trust policies have
// their own. We have them second-hand, from moto
// (tests/test_iam/test_iam_policies.py) and versitygw (iamapi/policy).
const (
	awsSyntax      = "Syntax errors in policy."
	awsTrustJSON   = "This policy contains invalid Json"
	awsTrustSyntax = "Syntax error in policy."
	awsLegacy      = "The policy failed legacy parsing"
	awsVendor      = "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."
)

// malformed is AWS's sentence, and then one of ours.
func malformed(aws, format string, args ...any) error {
	if !strings.HasSuffix(aws, ".") && !strings.HasSuffix(aws, "!") {
		aws += "."
	}
	return sallyport.Errorf(sallyport.MalformedPolicyDocument, "%s %s.", aws, fmt.Sprintf(format, args...))
}

// syntax is AWS's word for what has the wrong shape.
func (k kind) syntax() string {
	if k == trust {
		return awsTrustSyntax
	}
	return awsSyntax
}

// parse works in two steps, so that errors come in the order AWS has them: the
// shape of the whole document first, then what each statement says.
func parse(doc string, k kind) (*Document, error) {
	if len(doc) > maxDocument {
		return nil, sallyport.Errorf(sallyport.LimitExceeded, "The policy document is %d bytes long, and %d is the most; write a shorter one.", len(doc), maxDocument)
	}
	if k == key && len(doc) > KeyQuota {
		return nil, sallyport.Errorf(sallyport.LimitExceeded, "The key policy is %d bytes long, and %d is the most; write a shorter one.", len(doc), KeyQuota)
	}
	if n := Size(doc); k != key && n > RoleQuota {
		return nil, sallyport.Errorf(sallyport.LimitExceeded, "The policy document has %d characters besides white space, and no policy may have more than %d; write several policies.", n, RoleQuota)
	}
	doc = trimMark(doc)
	r := &reader{kind: k, doc: doc, dec: json.NewDecoder(strings.NewReader(doc))}
	r.dec.UseNumber()
	raw, err := r.document()
	if err != nil {
		return nil, err
	}
	return k.compile(raw)
}

// trimMark takes off the byte-order mark that Windows' editors begin a file with.
func trimMark(doc string) string { return strings.TrimPrefix(doc, "\ufeff") }

// rawDocument is a document of the right shape, whose text is yet to be
// understood. What was absent is nil.
type rawDocument struct {
	version    string
	statements []rawStatement
}

type rawStatement struct {
	sid, effect             string
	hasEffect               bool
	action, notAction       []string
	resource, notResource   []string
	principal, notPrincipal []rawPrincipal
	conditions              []rawCondition
}

type rawPrincipal struct {
	kind  string // AWS, Service, Federated; "" for a bare "*"
	names []string
}

type rawCondition struct {
	operator, key string
	values        []string
}

// A reader reads JSON a token at a time. It knows the shape it wants, so
// nothing nests deeper than a policy does, and no key is passed over.
type reader struct {
	kind kind
	doc  string
	dec  *json.Decoder
}

// fail says what has the wrong shape, and where the reader is.
func (r *reader) fail(format string, args ...any) error {
	return r.failAt(r.dec.InputOffset(), r.kind.syntax(), format, args...)
}

func (r *reader) failAt(offset int64, aws, format string, args ...any) error {
	before := r.doc[:min(int(offset), len(r.doc))]
	return malformed(aws, "Line %d: %s", 1+strings.Count(before, "\n"), fmt.Sprintf(format, args...))
}

func (r *reader) token() (json.Token, error) {
	t, err := r.dec.Token()
	if err == nil {
		return t, nil
	}
	aws := awsSyntax
	if r.kind == trust {
		aws = awsTrustJSON
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, r.failAt(max(r.dec.InputOffset(), syntax.Offset-1), aws, "this is not JSON: %s", sallyport.Clip(syntax.Error(), 96))
	}
	return nil, r.failAt(int64(len(r.doc)), aws, "the JSON breaks off before its end; close every brace, bracket and quotation mark")
}

// describe is what a token that is not wanted looks like.
func describe(t json.Token) string {
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return "an object"
		}
		return "a list"
	case string:
		return "a string"
	case nil:
		return "null"
	case bool:
		return "true or false"
	}
	return "a number"
}

// object reads an object, of which what is the name, after its first brace.
// each reads the value of a key.
func (r *reader) object(what string, each func(key string) error) error {
	seen := map[string]bool{}
	for r.dec.More() {
		t, err := r.token()
		if err != nil {
			return err
		}
		key := t.(string)
		if seen[key] {
			return r.fail("%s has %q twice; keep one", what, sallyport.Clip(key, 64))
		}
		seen[key] = true
		if err := each(key); err != nil {
			return err
		}
	}
	_, err := r.token()
	return err
}

// open reads the first brace of an object.
func (r *reader) open(what string) error {
	t, err := r.token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return r.fail("%s is %s; write an object, between braces", what, describe(t))
	}
	return nil
}

func (r *reader) text(what string) (string, error) {
	t, err := r.token()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", r.fail("%s is %s; write a string", what, describe(t))
	}
	return s, nil
}

// list reads a string or a list of strings. Among the values of conditions,
// numbers and booleans may go without quotation marks. It never returns nil.
func (r *reader) list(what string, bare bool) ([]string, error) {
	t, err := r.token()
	if err != nil {
		return nil, err
	}
	item := func(t json.Token) (string, error) {
		switch t := t.(type) {
		case string:
			return t, nil
		case bool:
			if bare {
				return fmt.Sprint(t), nil
			}
		case json.Number:
			if bare {
				return t.String(), nil
			}
		}
		return "", r.fail("%s is or contains %s; write a string, or a list of strings", what, describe(t))
	}
	if t != json.Delim('[') {
		s, err := item(t)
		return []string{s}, err
	}
	all := []string{}
	for r.dec.More() {
		if t, err = r.token(); err != nil {
			return nil, err
		}
		s, err := item(t)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	_, err = r.token()
	return all, err
}

// unknown refuses a key, and says which it may have been meant to be.
func (r *reader) unknown(what, key string, known ...string) error {
	for _, k := range known {
		if strings.EqualFold(k, key) || strings.EqualFold(k+"s", key) {
			return r.fail("%q is not an element of %s; write %s", sallyport.Clip(key, 64), what, k)
		}
	}
	return r.fail("%q is not an element of %s; it may have %s", sallyport.Clip(key, 64), what, strings.Join(known, ", "))
}

func (r *reader) document() (*rawDocument, error) {
	if !utf8.ValidString(r.doc) {
		return nil, malformed(r.kind.syntax(), "The document is not UTF-8; save it as UTF-8")
	}
	d := &rawDocument{version: "2008-10-17"}
	if err := r.open("the document"); err != nil {
		return nil, err
	}
	found := false
	err := r.object("the document", func(key string) (err error) {
		switch key {
		case "Version":
			if d.version, err = r.text("Version"); err != nil {
				return err
			}
			if d.version != "2008-10-17" && d.version != "2012-10-17" {
				aws := awsSyntax
				if r.kind == trust {
					aws = "The policy must contain a valid version string"
				}
				return r.failAt(r.dec.InputOffset(), aws, "Version is the language's, not yours; write 2012-10-17")
			}
			return nil
		case "Id":
			_, err = r.text("Id")
			return err
		case "Statement":
			found = true
			return r.statements(d)
		}
		return r.unknown("a policy", key, "Version", "Id", "Statement")
	})
	if err != nil {
		return nil, err
	}
	if _, err := r.dec.Token(); err != io.EOF {
		return nil, r.fail("something follows the document; end with its closing brace")
	}
	if !found || len(d.statements) == 0 {
		aws := awsSyntax
		if r.kind == trust {
			aws = "Could not parse the policy: Statement is empty!"
		}
		return nil, malformed(aws, "The policy has no statement; add at least one to Statement")
	}
	return d, nil
}

func (r *reader) statements(d *rawDocument) error {
	t, err := r.token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		return r.statement(d)
	case json.Delim('['):
		for r.dec.More() {
			if err := r.open("a statement"); err != nil {
				return err
			}
			if err := r.statement(d); err != nil {
				return err
			}
		}
		_, err := r.token()
		return err
	}
	return r.fail("Statement is %s; write an object, or a list of them", describe(t))
}

func (r *reader) statement(d *rawDocument) error {
	var s rawStatement
	err := r.object("a statement", func(key string) (err error) {
		switch key {
		case "Sid":
			s.sid, err = r.text(key)
		case "Effect":
			s.hasEffect = true
			s.effect, err = r.text(key)
		case "Action":
			s.action, err = r.list(key, false)
		case "NotAction":
			s.notAction, err = r.list(key, false)
		case "Resource":
			s.resource, err = r.list(key, false)
		case "NotResource":
			s.notResource, err = r.list(key, false)
		case "Principal":
			s.principal, err = r.principal(key)
		case "NotPrincipal":
			s.notPrincipal, err = r.principal(key)
		case "Condition":
			err = r.condition(&s)
		default:
			err = r.unknown("a statement", key, "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition", "Principal")
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, both := range []struct {
		a, b bool
		name string
	}{
		{s.action != nil, s.notAction != nil, "Action"},
		{s.resource != nil, s.notResource != nil, "Resource"},
		{s.principal != nil, s.notPrincipal != nil, "Principal"},
	} {
		if both.a && both.b {
			return r.fail("the statement has both %[1]s and Not%[1]s; keep one, and put the other in a statement of its own", both.name)
		}
	}
	d.statements = append(d.statements, s)
	return nil
}

func (r *reader) principal(what string) ([]rawPrincipal, error) {
	t, err := r.token()
	if err != nil {
		return nil, err
	}
	if s, ok := t.(string); ok {
		return []rawPrincipal{{names: []string{s}}}, nil
	}
	if t != json.Delim('{') {
		return nil, r.fail(`%s is %s; write an object, as in {"AWS": "arn:aws:iam::123456789012:root"}`, what, describe(t))
	}
	all := []rawPrincipal{}
	err = r.object(what, func(key string) error {
		names, err := r.list(what, false)
		all = append(all, rawPrincipal{key, names})
		return err
	})
	return all, err
}

func (r *reader) condition(s *rawStatement) error {
	if err := r.open("Condition"); err != nil {
		return err
	}
	return r.object("Condition", func(operator string) error {
		if _, _, err := parseOperator(operator); err != nil {
			return r.fail("%v", err)
		}
		if err := r.open(operator); err != nil {
			return err
		}
		first := len(s.conditions)
		return r.object(operator, func(key string) error {
			for _, c := range s.conditions[first:] {
				if equalFold(c.key, key) {
					return r.fail("%s has the key %s twice, since case does not matter; keep one, with a list of values", operator, sallyport.Clip(key, 64))
				}
			}
			values, err := r.list(operator, true)
			if err == nil && len(values) == 0 {
				err = r.fail("%s has no value for %s, which would decide nothing; add one, or remove the key", operator, sallyport.Clip(key, 64))
			}
			s.conditions = append(s.conditions, rawCondition{operator, key, values})
			return err
		})
	})
}

// compile understands what the document says.
func (k kind) compile(raw *rawDocument) (*Document, error) {
	if k == managed && raw.version != "2012-10-17" {
		return nil, malformed("Policy document must be version 2012-10-17 or greater.", `Write "Version": "2012-10-17" before Statement`)
	}
	y := syntax{variables: raw.version == "2012-10-17"}

	d := &Document{}
	sids := map[string]int{}
	for i := range raw.statements {
		rs := &raw.statements[i]
		s, err := k.statement(y, rs, i+1)
		if err != nil {
			return nil, err
		}
		if first := sids[s.sid]; first > 0 && s.sid != "" {
			aws := "Statement IDs (SID) in a single policy must be unique."
			if k == trust {
				aws = "The Statement Ids in the policy are not unique"
			}
			return nil, malformed(aws, "Statements %d and %d are both %q; rename one", first, i+1, s.sid)
		}
		sids[s.sid] = i + 1
		if s.allow {
			d.allows = append(d.allows, s)
		} else {
			d.denies = append(d.denies, s)
		}
	}
	return d, nil
}

func (k kind) statement(y syntax, raw *rawStatement, number int) (s statement, err error) {
	refuse := func(aws, format string, args ...any) error {
		return malformed(aws, "Statement %d %s", number, fmt.Sprintf(format, args...))
	}
	s = statement{number: number, sid: raw.sid, allow: raw.effect == "Allow"}

	// The order of what follows is the order of AWS's complaints.
	switch {
	case raw.effect == "Allow" || raw.effect == "Deny":
	case !raw.hasEffect && k == trust:
		return s, refuse("Missing required field Effect", "has no Effect; add one, Allow or Deny")
	case !raw.hasEffect:
		return s, refuse(awsSyntax, "has no Effect; add one, Allow or Deny")
	case k == trust:
		return s, refuse("Invalid effect: "+sallyport.Clip(raw.effect, 32), "may have the effect Allow or Deny")
	case strings.EqualFold(raw.effect, "Allow") || strings.EqualFold(raw.effect, "Deny"):
		return s, refuse(awsLegacy, "has the effect %s; case matters: write Allow or Deny", raw.effect)
	default:
		return s, refuse(awsSyntax, "has the effect %q; write Allow or Deny", sallyport.Clip(raw.effect, 32))
	}

	if k.ofResource() {
		if s.principals, err = trusted(raw, refuse); err != nil {
			return s, err
		}
	} else if raw.principal != nil || raw.notPrincipal != nil {
		return s, refuse("Policy document should not specify a principal.", "names one; remove it: the policy is about whomever it is attached to")
	}

	if s.conditions, err = k.conditions(y, s.allow, raw.conditions, refuse); err != nil {
		return s, err
	}
	if k != key && strings.ContainsFunc(raw.sid, func(c rune) bool { // a key's may have spaces
		return !('0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z')
	}) {
		return s, refuse("Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*", "has the Sid %q; keep to letters and digits", sallyport.Clip(raw.sid, 64))
	}
	if err := k.actions(&s, raw, refuse); err != nil {
		return s, err
	}
	return s, k.resources(y, &s, raw, refuse)
}

// refusal makes an error about the statement at hand: AWS's sentence, then
// ours, of which "Statement 2" is the beginning.
type refusal func(aws, format string, args ...any) error

func (k kind) actions(s *statement, raw *rawStatement, refuse refusal) error {
	all, element := raw.action, "Action"
	if s.notAction = raw.notAction != nil; s.notAction {
		all, element = raw.notAction, "NotAction"
	}
	if len(all) == 0 {
		aws := "Policy statement must contain actions."
		if k == trust {
			aws = "Missing required field Action"
		}
		return refuse(aws, "has none; add Action, as in \"ssm:StartSession\"")
	}
	for _, action := range all {
		quoted := sallyport.Clip(action, 64)
		vendor, name, colon := strings.Cut(action, ":")
		switch {
		case k == trust && !equalFold(vendor, "sts"):
			return refuse("AssumeRole policy may only specify STS AssumeRole actions.", "has the %s %q; write sts:AssumeRole", element, quoted)
		case k == key && action != "*" && !equalFold(vendor, "kms"):
			return refuse(awsSyntax, "has the %s %q; a key's policy is about KMS alone: write kms:Decrypt or the like", element, quoted)
		case action == "*":
		case !colon:
			return refuse(awsVendor, "has the %s %q; write the service before it, as in ssm:StartSession", element, quoted)
		case strings.Contains(name, ":"):
			return refuse("Actions/Condition can contain only one colon.", "has the %s %q; write service:Action", element, quoted)
		case vendor == "" || strings.Trim(vendor, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") != "":
			return refuse(fmt.Sprintf("Vendor %s is not valid", sallyport.Clip(vendor, 64)), "has the %s %q; wildcards may stand after the colon only", element, quoted)
		case name == "":
			return refuse(awsVendor, "has the %s %q, which names no action; write %s:* for all of the service's", element, quoted, vendor)
		}
		p, err := syntax{wildcards: true}.compile(action)
		if err != nil {
			return refuse(awsSyntax, "has the %s %q, which %v", element, quoted, err)
		}
		s.actions = append(s.actions, p)
	}
	return nil
}

func (k kind) resources(y syntax, s *statement, raw *rawStatement, refuse refusal) error {
	if k == trust {
		switch {
		case raw.resource != nil:
			return refuse("Has prohibited field Resource", "has one; remove it: a trust policy is about the role it is on")
		case raw.notResource != nil:
			return refuse("AssumeRole policy must not contain resources.", "has NotResource; remove it: a trust policy is about the role it is on")
		}
		return nil
	}
	all := raw.resource
	if s.notResource = raw.notResource != nil; s.notResource {
		all = raw.notResource
	}
	if len(all) == 0 {
		return refuse("Policy statement must contain resources.", `has none; add Resource, an ARN or "*"`)
	}
	for _, r := range all {
		p, err := y.resource(r, refuse)
		if err != nil {
			return err
		}
		s.resources = append(s.resources, p)
	}
	return nil
}

// iamPaths is what the resources of IAM may begin with, as AWS lists them.
var iamPaths = []string{
	"user/", "federated-user/", "role/", "group/", "instance-profile/", "mfa/", "server-certificate/",
	"policy/", "sms-mfa/", "saml-provider/", "oidc-provider/", "report/", "access-report/",
}

// s3Regional is what the resources of S3 begin with that are in a region, and may
// name it. (Service Authorization Reference, "Resource types defined by Amazon
// S3".)
var s3Regional = []string{"accesspoint/", "job/", "storage-lens/", "storage-lens-group/", "async-request/", "access-grants/"}

// resource reads a Resource. AWS fills one that breaks off early, as in
// arn:aws:s3:*, with stars; we do too.
func (y syntax) resource(text string, refuse refusal) (pattern, error) {
	y.wildcards = true
	quoted := sallyport.Clip(text, 128)
	if text == "*" {
		return y.compile(text)
	}
	arn := strings.SplitN(text, ":", 6)
	if len(arn) == 1 {
		return pattern{}, refuse(fmt.Sprintf(`Resource %s must be in ARN format or "*".`, quoted), `has a Resource that is neither; write one like "arn:aws:ssm:*:*:document/*"`)
	}
	given := len(arn)
	for len(arn) < 6 {
		arn = append(arn, "*")
	}
	partition, service, region, path := arn[1], arn[2], arn[3], arn[5]
	switch {
	case arn[0] != "arn" || partition != sallyport.Partition && partition != "*":
		return pattern{}, refuse(fmt.Sprintf("Partition %q is not valid for resource %q.", sallyport.Clip(partition, 32), sallyport.Clip("arn:"+strings.Join(arn[1:], ":"), 128)),
			"has the Resource %q; begin it with arn:aws:", quoted)
	case given < 6 && strings.Contains(text, "::"):
		return pattern{}, refuse(awsLegacy, "has the Resource %q, an ARN of %d parts; write six: arn:aws:service:region:account:resource, any of which may be empty", quoted, given)
	case given == 2:
		return pattern{}, refuse("Resource vendor must be fully qualified and cannot contain regexes.", "has the Resource %q, which names no service; write one, as in arn:aws:ssm:*:*:*", quoted)
	case service == "":
		return pattern{}, refuse(awsLegacy, "has the Resource %q, which names no service; write one after arn:aws:", quoted)
	case strings.ContainsAny(service, "*?$"):
		return pattern{}, refuse("Resource vendor must be fully qualified and cannot contain regexes.", "has the Resource %q; name one service after arn:aws:", quoted)
	case service == "iam" && given > 3 && region != "" && region != "*":
		return pattern{}, refuse(fmt.Sprintf("IAM resource %s cannot contain region information.", quoted), "may name IAM resources of all regions only; leave the region empty, as in arn:aws:iam::123456789012:user/*")
	case service == "s3" && given > 3 && region != "" && region != "*" && !slices.ContainsFunc(s3Regional, func(p string) bool { return strings.HasPrefix(path, p) }):
		return pattern{}, refuse(fmt.Sprintf("Resource %s can not contain region information.", quoted), "names a region, which buckets and their objects have none of; leave the region empty")
	case service == "iam" && path != "*" && !slices.ContainsFunc(iamPaths, func(p string) bool { return strings.HasPrefix(path, p) }):
		return pattern{}, refuse(fmt.Sprintf(`IAM resource path must either be "*" or start with %s.`, strings.Join(iamPaths, ", ")), "has the Resource %q; name the kind of the resource, as in user/*", quoted)
	case y.variables && strings.Contains(strings.Join(arn[:5], ":"), "${"):
		// AWS takes these, and fills nothing in: the statement never applies.
		return pattern{}, refuse(awsSyntax, "has the Resource %q with a policy variable before the fifth colon, where none is filled in; write a * there", quoted)
	}
	p, err := y.compile(strings.Join(arn, ":"))
	if err != nil {
		return p, refuse(awsSyntax, "has the Resource %q, which %v", quoted, err)
	}
	return p, nil
}

func (k kind) conditions(y syntax, allow bool, raw []rawCondition, refuse refusal) ([]condition, error) {
	var all []condition
	for _, rc := range raw {
		c, op, err := parseOperator(rc.operator)
		if err != nil {
			return nil, refuse(k.syntax(), "has a condition that is none: %v", err)
		}
		if !hasVendor(rc.key) {
			return nil, refuse(awsVendor, "has the condition key %q, which no request has; write one with its service, as in aws:username", sallyport.Clip(rc.key, 64))
		}
		c.key, c.deny = rc.key, !allow
		if c.test, err = op.compile(y, rc.values); err != nil {
			aws := k.syntax()
			if strings.HasPrefix(rc.operator, "Date") || strings.Contains(rc.operator, ":Date") {
				aws = awsLegacy
			}
			return nil, refuse(aws, "has in %s, for %s, a mistake: %v", rc.operator, sallyport.Clip(rc.key, 64), err)
		}
		all = append(all, c)
	}
	return all, nil
}
