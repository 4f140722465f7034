package iam

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
)

// A subject is the user, group or role that a simulation is about.
type subject struct {
	entity   store.Entity
	arn      string // as it is; the caller's must be the same to the letter
	context  policy.Context
	question api.Question // whether the caller may simulate it
	found    bool
}

var entityARN = regexp.MustCompile(`^arn:aws:iam::[0-9]{12}:(user|group|role)/(?:[!-~]+/)?([\w+=,.@-]{1,128})$`)

// findSubject finds what an ARN names. One that is not quite the ARN of what has
// the name in it names nothing.
func findSubject(ctx context.Context, c *api.Call, arn string) (*subject, error) {
	parts := entityARN.FindStringSubmatch(arn)
	if parts == nil {
		return nil, sallyport.Errorf(sallyport.InvalidInput, "Invalid Entity Arn: %s does not clearly define entity type and name.", sallyport.Clip(arn, 200))
	}
	s := new(subject)
	set := s.context.Set
	name := parts[2]
	var err error
	switch parts[1] {
	case "user":
		var u *sallyport.User
		if s.question, u, err = aboutUser(ctx, c, name); u != nil {
			s.entity, s.arn = store.User(name), s.question.Resources[0]
			set("aws:username", u.Name)
			set("aws:userid", u.ID)
			set("aws:PrincipalType", "User")
			s.context.SetTags("aws:PrincipalTag/", u.Tags)
		}
	case "role":
		var r *sallyport.Role
		if s.question, r, err = aboutRole(ctx, c, name); r != nil {
			s.entity, s.arn = store.Role(name), s.question.Resources[0]
			set("aws:PrincipalType", "AssumedRole")
			s.context.SetTags("aws:PrincipalTag/", r.Tags)
		}
	case "group":
		var g *sallyport.Group
		if s.question, g, err = aboutGroup(ctx, c, name); g != nil {
			s.entity, s.arn = store.Group(name), s.question.Resources[0]
		}
	}
	if err != nil {
		return nil, err
	}
	if s.found = s.arn == arn; !s.found {
		s.question.Tags, s.question.Keys = nil, nil
	}
	s.question.Resources, s.question.Name = []string{arn}, ""
	set("aws:PrincipalArn", arn)
	set("aws:PrincipalAccount", c.Server.Realm.Account)
	return s, nil
}

// askSimulated asks about the source of the policies, and about whom they are
// tried on: what they are tried on shows through.
func askSimulated(ctx context.Context, c *api.Call, in *SimulatePrincipalPolicyInput) ([]api.Question, error) {
	var all []api.Question
	for _, arn := range []*string{&in.PolicySourceArn, in.CallerArn} {
		if arn == nil {
			continue
		}
		s, err := findSubject(ctx, c, *arn)
		if err != nil {
			return nil, err
		}
		q, err := ask(c, s.question)
		if err != nil {
			return nil, err
		}
		all = append(all, q...)
	}
	return all, nil
}

// A simulation is the policies to try, and how answers name them.
type simulation struct {
	policies policy.Policies
	sources  map[string]Statement // by the Name of a policy.Named
	context  policy.Context
}

// simulatePrincipalPolicy decides what the policies of a user, group or role
// would allow, by the code that decides requests. Positions in documents and
// context keys that are missing are not reported.
func simulatePrincipalPolicy(ctx context.Context, c *api.Call, in *SimulatePrincipalPolicyInput) (*SimulatePrincipalPolicyOutput, error) {
	_, excludes := c.Input().Fields().Optional("PolicyExclusionList") // which the models of newer SDKs have
	if in.ResourcePolicy != nil || excludes {
		return nil, sallyport.Errorf(sallyport.InvalidInput, "ResourcePolicy and PolicyExclusionList are not simulated here. Leave them out.")
	}
	for _, action := range in.ActionNames {
		if !actionName.MatchString(action) {
			return nil, sallyport.Errorf(sallyport.InvalidInput, "Invalid action %s. Name a service and an operation, as in ssm:StartSession, without wildcards.", sallyport.Clip(action, 128))
		}
	}
	s, err := newSimulation(ctx, c, in)
	if err != nil {
		return nil, err
	}
	resources := in.ResourceArns
	if len(resources) == 0 {
		resources = []string{"*"}
	}

	// Every action is tried on every resource, so a marker is a number, and
	// only a page of them is worked out.
	start, total := 0, len(in.ActionNames)*len(resources)
	if in.Marker != nil {
		if start, err = strconv.Atoi(*in.Marker); err != nil || start < 0 || start > total {
			return nil, badMarker()
		}
	}
	end := min(total, start+int(or(in.MaxItems, defaultMaxItems)))
	out := &SimulatePrincipalPolicyOutput{EvaluationResults: []EvaluationResult{}}
	for i := start; i < end; i++ {
		out.EvaluationResults = append(out.EvaluationResults, s.evaluate(in.ActionNames[i/len(resources)], resources[i%len(resources)]))
	}
	if end < total {
		out.IsTruncated, out.Marker = new(true), new(strconv.Itoa(end))
	}
	return out, nil
}

var actionName = regexp.MustCompile(`^[A-Za-z0-9-]+:[A-Za-z0-9]+$`)

func newSimulation(ctx context.Context, c *api.Call, in *SimulatePrincipalPolicyInput) (*simulation, error) {
	source, err := findSubject(ctx, c, in.PolicySourceArn)
	if err != nil {
		return nil, err
	}
	caller := source
	if in.CallerArn != nil {
		if caller, err = findSubject(ctx, c, *in.CallerArn); err != nil {
			return nil, err
		}
	}
	for arn, s := range map[string]*subject{in.PolicySourceArn: source, val(in.CallerArn): caller} {
		if !s.found && arn != "" {
			return nil, sallyport.Errorf(sallyport.NoSuchEntity, "The entity with ARN %s cannot be found.", arn)
		}
	}
	grants, err := c.Server.Store.IAM().Grants(ctx, source.entity)
	if err != nil {
		return nil, err
	}
	s := &simulation{sources: map[string]Statement{}, context: caller.context}
	for _, g := range grants.Policies {
		if err := s.addGrant(g); err != nil {
			return nil, err
		}
	}
	for i, text := range in.PolicyInputList {
		named, err := s.input("PolicyInputList", i, text)
		if err != nil {
			return nil, err
		}
		s.policies.Identity = append(s.policies.Identity, named)
	}
	switch inputs := in.PermissionsBoundaryPolicyInputList; {
	case len(inputs) > 1:
		return nil, sallyport.Errorf(sallyport.InvalidInput, "PermissionsBoundaryPolicyInputList has %d policies. There can be one boundary.", len(inputs))
	case len(inputs) == 1:
		named, err := s.input("PermissionsBoundaryPolicyInputList", 0, inputs[0])
		if err != nil {
			return nil, err
		}
		s.policies.Boundary = &named
	case grants.Boundary != nil:
		named, err := s.grant(*grants.Boundary)
		if err != nil {
			return nil, err
		}
		s.policies.Boundary = &named
	}
	s.describe(c.At, in.ContextEntries)
	return s, nil
}

func (s *simulation) addGrant(g store.Grant) error {
	named, err := s.grant(g)
	s.policies.Identity = append(s.policies.Identity, named)
	return err
}

// grant reads a policy that applies to the principal. Managed ones go by their ARN, inline
// ones as user_alice_name, since a group's may have the same name.
func (s *simulation) grant(g store.Grant) (policy.Named, error) {
	name, kind, text := string(g.From.Kind)+"_"+g.From.Name+"_"+g.Name, PolicySourceType(g.From.Kind), g.Document
	if isARN(g.Name) {
		name, kind = g.Name, PolicySourceTypeUserManaged
	}
	if p, ok := api.Builtin(g.Name); ok {
		kind, text = PolicySourceTypeAwsManaged, p.Document
	}
	doc, err := policy.Parse(text)
	if err != nil {
		return policy.Named{}, fmt.Errorf("policy %s: %v", name, err) // it was taken once, so this is our fault
	}
	s.sources[name] = Statement{SourcePolicyId: &name, SourcePolicyType: kind}
	return policy.Named{Name: name, Document: doc}, nil
}

// input is a policy that the request brings.
func (s *simulation) input(list string, i int, text string) (policy.Named, error) {
	name := list + "." + strconv.Itoa(i+1)
	doc, err := policy.Parse(text)
	if err != nil {
		return policy.Named{}, sallyport.Errorf(sallyport.InvalidInput, "%s: %s", name, sallyport.Public(err).Message)
	}
	s.sources[name] = Statement{SourcePolicyId: &name, SourcePolicyType: PolicySourceTypeNone}
	return policy.Named{Name: name, Document: doc}, nil
}

// describe sets what is known of the simulated request: whose it is, when it
// is, and above all what the caller says.
func (s *simulation) describe(now time.Time, entries []ContextEntry) {
	s.context.Set("aws:CurrentTime", now.UTC().Format(time.RFC3339))
	s.context.Set("aws:EpochTime", strconv.FormatInt(now.Unix(), 10))
	for _, e := range entries {
		key, values := val(e.ContextKeyName), e.ContextKeyValues
		if len(values) == 1 && !strings.HasSuffix(string(e.ContextKeyType), "List") {
			s.context.Set(key, values[0])
		} else {
			s.context.SetAll(key, values)
		}
	}
}

func (s *simulation) evaluate(action, resource string) EvaluationResult {
	req := policy.Request{Action: action, Context: s.context}
	if resource != "*" {
		req.Resources = []string{resource}
	}
	d := policy.Decide(&req, &s.policies)
	out := EvaluationResult{
		EvalActionName: &action, EvalResourceName: &resource, EvalDecision: PolicyEvaluationDecisionTypeImplicitDeny,
		MatchedStatements: []Statement{}, MissingContextValues: []string{},
	}
	switch {
	case d.Allowed:
		out.EvalDecision = PolicyEvaluationDecisionTypeAllowed
	case d.Explicit:
		out.EvalDecision = PolicyEvaluationDecisionTypeExplicitDeny
	}
	if d.Statement > 0 {
		out.MatchedStatements = append(out.MatchedStatements, s.sources[d.Policy])
	}
	if b := s.policies.Boundary; b != nil {
		alone := policy.Decide(&req, &policy.Policies{Identity: []policy.Named{*b}})
		out.PermissionsBoundaryDecisionDetail = &PermissionsBoundaryDecisionDetail{AllowedByPermissionsBoundary: &alone.Allowed}
	}
	return out
}
