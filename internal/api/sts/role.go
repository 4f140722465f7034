package sts

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
)

// denied is the one answer to a caller that may not assume a role: it does not say
// which of the role, its trust and the caller's own rights is missing.
func denied(c *api.Call, action, role string) error {
	return sallyport.Errorf(sallyport.AccessDeniedException, "%s", refusal(c, action, role))
}

func refusal(c *api.Call, action, role string) string {
	return fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s", c.Who.ARN, action, role)
}

var keys = []string{"sts:RoleSessionName", "sts:ExternalId", "sts:SourceIdentity", "iam:ResourceTag/"}

var onRole = func() api.Asks {
	a := api.By(decideRole,
		api.Resource("role", keys...), api.Sometimes(api.Also("sts:TagSession", "role", keys...)), api.Sometimes(api.Also("sts:SetSourceIdentity", "role", keys...)))
	a.Terse = true
	return a
}()

// decideRole decides whether the caller may assume the role. Two have a say, the
// role's trust policy and the caller's own, and not simply both: a role that
// trusts the caller by name needs no more. So it is decided here, and there is
// no question left. (IAM User Guide, "Cross-account policy evaluation logic" and
// "Evaluating identity-based policies with resource-based policies".)
func decideRole(ctx context.Context, c *api.Call, in *AssumeRoleInput) ([]api.Question, error) {
	r, err := findRole(ctx, c, in.RoleArn)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, denied(c, "sts:AssumeRole", in.RoleArn)
	}
	trust, err := policy.ParseTrust(r.Trust)
	if err != nil {
		return nil, api.UnreadTrust(r, err)
	}
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	actions := []string{"sts:AssumeRole"}
	if len(tags) > 0 || len(in.TransitiveTagKeys) > 0 {
		actions = append(actions, "sts:TagSession")
	}
	if sourceIdentity(c, in) != "" {
		actions = append(actions, "sts:SetSourceIdentity")
	}
	for _, action := range actions {
		q := question(c, in, r, tags)
		q.Action = action
		may, err := c.Trusts(ctx, q, policy.Named{Name: r.Name, Document: trust})
		if err != nil {
			return nil, err
		}
		if !may {
			return nil, denied(c, action, in.RoleArn)
		}
	}
	return nil, nil
}

// question is about the role, as AWS's condition keys for STS describe the
// request.
func question(c *api.Call, in *AssumeRoleInput, r *sallyport.Role, tags map[string]string) api.Question {
	q := api.Question{
		Resources: []string{c.Server.Realm.Role(r.Path, r.Name)}, Tags: r.Tags,
		RequestTags: tags, TagKeys: slices.Sorted(maps.Keys(tags)),
		Keys: map[string]string{"sts:RoleSessionName": in.RoleSessionName},
	}
	for k, v := range r.Tags {
		q.Keys["iam:ResourceTag/"+k] = v
	}
	if in.ExternalId != nil {
		q.Keys["sts:ExternalId"] = *in.ExternalId
	}
	if source := sourceIdentity(c, in); source != "" {
		q.Keys["sts:SourceIdentity"] = source
	}
	return q
}

// sourceIdentity is the one that the role's session is to have: the caller's, which
// stays what it is through a chain of roles, or the one that is asked for. Either
// needs sts:SetSourceIdentity. (IAM User Guide, "Monitor and control actions taken
// with assumed roles".)
func sourceIdentity(c *api.Call, in *AssumeRoleInput) string {
	if c.Who.SourceIdentity != "" || in.SourceIdentity == nil {
		return c.Who.SourceIdentity
	}
	return *in.SourceIdentity
}

// findRole returns the role that an ARN names, to the letter, or nil.
func findRole(ctx context.Context, c *api.Call, arn string) (*sallyport.Role, error) {
	r, err := c.Server.Store.IAM().Role(ctx, arn[strings.LastIndexByte(arn, '/')+1:])
	if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
		return nil, nil
	}
	if err != nil || c.Server.Realm.Role(r.Path, r.Name) != arn {
		return nil, err
	}
	return r, nil
}

const (
	defaultRoleSession = time.Hour
	maxChained         = time.Hour
)

// assumeRole makes credentials for a session of the role. TransitiveTagKeys are
// taken and do nothing: a role assumed from the session does not inherit its
// tags.
func assumeRole(ctx context.Context, c *api.Call, in *AssumeRoleInput) (*AssumeRoleOutput, error) {
	if err := checkMFA(in.SerialNumber, in.TokenCode); err != nil {
		return nil, err
	}
	if len(in.ProvidedContexts) > 0 {
		return nil, sallyport.Errorf(sallyport.ValidationException, "ProvidedContexts are not kept here. Leave them out.")
	}
	source := sourceIdentity(c, in)
	if in.SourceIdentity != nil && *in.SourceIdentity != source {
		return nil, denied(c, "sts:SetSourceIdentity", in.RoleArn) // it cannot be changed
	}
	if strings.HasPrefix(strings.ToLower(source), "aws:") {
		return nil, sallyport.Errorf(sallyport.ValidationException, "The source identity %s begins with aws:, which is reserved for AWS. Choose another.", source)
	}
	r, err := findRole(ctx, c, in.RoleArn)
	if err != nil {
		return nil, err
	}
	if r == nil { // any more
		return nil, denied(c, "sts:AssumeRole", in.RoleArn)
	}
	length := seconds(in.DurationSeconds, defaultRoleSession)
	switch {
	case c.Who.Kind == sallyport.AssumedRole && length > maxChained:
		return nil, sallyport.Errorf(sallyport.ValidationException, "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining")
	case length > r.MaxSession:
		return nil, sallyport.Errorf(sallyport.ValidationException, "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	for _, key := range in.TransitiveTagKeys {
		if _, ok := tags[key]; !ok {
			return nil, sallyport.Errorf(sallyport.ValidationException, "The transitive tag key %s is not among the tags of the request.", sallyport.Clip(key, 128))
		}
	}
	policies, packed, err := sessionPolicies(ctx, c, in)
	if err != nil {
		return nil, err
	}
	session := in.RoleSessionName
	t, err := c.Server.Issue(api.Grant{
		Who: &sallyport.Principal{
			Kind: sallyport.AssumedRole, Role: r.Name, ID: r.ID + ":" + session, Name: session,
			Root: c.Who.Root, Basis: append(slices.Clone(c.Who.Basis), r.ID), SourceIdentity: source,
		},
		For: length, Tags: tags, Policies: policies,
	}, c.At)
	if err != nil {
		return nil, err
	}
	return &AssumeRoleOutput{
		AssumedRoleUser: &AssumedRoleUser{
			Arn: new(c.Server.Realm.AssumedRole(r.Name, session)), AssumedRoleId: new(r.ID + ":" + session),
		},
		Credentials:      credentials(t),
		PackedPolicySize: packed, SourceIdentity: some(source),
	}, nil
}

// some is s as a member of an answer, where an empty one is left out.
func some(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// sessionARN is a managed policy of ours or of AWS's own.
var sessionARN = regexp.MustCompile(`^arn:aws:iam::(?:aws|[0-9]{12}):policy/`)

const maxSessionARNs = 10 // (STS API Reference, AssumeRole)

// sessionPolicies are those that limit the session: the document given, and the
// ARNs of managed policies, which are looked up whenever the session is used.
// It also returns how much of what a session may carry they use, in percent.
func sessionPolicies(ctx context.Context, c *api.Call, in *AssumeRoleInput) (all []string, packed *int32, err error) {
	size := 0
	if in.Policy != nil {
		if _, err := policy.Parse(*in.Policy); err != nil {
			return nil, nil, err
		}
		all, size = append(all, *in.Policy), policy.Size(*in.Policy)
	}
	if len(in.PolicyArns) > maxSessionARNs {
		return nil, nil, sallyport.Errorf(sallyport.ValidationException, "PolicyArns has %d policies, and %d is the most.", len(in.PolicyArns), maxSessionARNs)
	}
	for _, p := range in.PolicyArns {
		arn := ""
		if p.Arn != nil {
			arn = *p.Arn
		}
		if !sessionARN.MatchString(arn) {
			return nil, nil, sallyport.Errorf(sallyport.ValidationException, "ARN %s is not valid.", sallyport.Clip(arn, 200))
		}
		kept := arn
		if _, ok := api.Builtin(arn); !ok {
			own, err := c.Server.Store.IAM().Policy(ctx, arn)
			if sallyport.CodeOf(err) == sallyport.NoSuchEntity {
				return nil, nil, sallyport.Errorf(sallyport.ValidationException, "Policy %s was not found.", arn)
			} else if err != nil {
				return nil, nil, err
			}
			kept = api.SessionPolicy(own)
		}
		all, size = append(all, kept), size+len(arn)
	}
	if size == 0 {
		return nil, nil, nil
	}
	percent := (100*size + policy.SessionQuota - 1) / policy.SessionQuota
	if percent > 100 {
		return nil, nil, sallyport.Errorf(sallyport.PackedPolicyTooLarge, "Packed policy consumes %d%% of allotted space, please use smaller policy.", percent)
	}
	return all, new(int32(percent)), nil
}

// readTags reads session tags, by the rules of IAM's tags.
func readTags(list []Tag) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	tags, seen := map[string]string{}, map[string]bool{}
	for _, t := range list {
		key, value := t.Key, t.Value
		folded := strings.ToLower(key)
		if strings.HasPrefix(folded, "aws:") {
			return nil, sallyport.Errorf(sallyport.ValidationException, "The tag key %s begins with aws:, which is reserved for AWS. Choose another.", sallyport.Clip(key, 128))
		}
		if seen[folded] {
			return nil, sallyport.Errorf(sallyport.ValidationException, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		tags[key], seen[folded] = value, true
	}
	return tags, nil
}
