package iam

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/store"
)

// isBuiltin reports whether an ARN is of a policy of AWS's own, here or not.
func isBuiltin(arn string) bool {
	return strings.HasPrefix(arn, "arn:"+sallyport.Partition+":iam::aws:")
}

// checkOwn refuses every caller that wants to change a policy of AWS's own.
func checkOwn(arn string) error {
	if isBuiltin(arn) {
		return sallyport.Errorf(sallyport.AccessDeniedException, "Policy %s is one of AWS's own, which no caller can change. Create a policy of your own from its document.", arn)
	}
	return nil
}

// findPolicy returns a managed policy, ours or AWS's own, or NoSuchEntity.
func findPolicy(ctx context.Context, c *api.Call, arn string) (*sallyport.Policy, error) {
	if p, ok := api.Builtin(arn); ok {
		return &p, nil
	}
	return c.Server.Store.IAM().Policy(ctx, arn)
}

// listedPolicy is a policy as lists have it: without tags and description.
func listedPolicy(p *sallyport.Policy, uses store.Uses) Policy {
	return Policy{
		Arn: &p.ARN, PolicyName: &p.Name, PolicyId: &p.ID, Path: &p.Path, DefaultVersionId: &p.Default,
		AttachmentCount: new(int32(uses.Attachments)), PermissionsBoundaryUsageCount: new(int32(uses.Boundaries)),
		IsAttachable: new(true), CreateDate: &p.Created, UpdateDate: &p.Updated,
	}
}

func wholePolicy(p *sallyport.Policy, uses store.Uses) *Policy {
	out := listedPolicy(p, uses)
	out.Description, out.Tags = some(p.Description), writeTags(p.Tags)
	return &out
}

func checkManaged(text string) error {
	if _, err := policy.ParseManaged(text); err != nil {
		return err
	}
	if policy.Size(text) > policy.ManagedQuota {
		return sallyport.Errorf(sallyport.LimitExceeded, "Cannot exceed quota for PolicySize: %d", policy.ManagedQuota)
	}
	return nil
}

func createPolicy(ctx context.Context, c *api.Call, in *CreatePolicyInput) (*CreatePolicyOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if err := checkManaged(in.PolicyDocument); err != nil {
		return nil, err
	}
	p := sallyport.Policy{
		ARN: c.Server.Realm.ManagedPolicy(or(in.Path, "/"), in.PolicyName), Name: in.PolicyName, Path: or(in.Path, "/"), ID: sallyport.EntityID("ANPA"),
		Description: val(in.Description), Created: c.At, Updated: c.At, Tags: tags, Default: "v1", Document: in.PolicyDocument,
	}
	if err := c.Server.Store.IAM().CreatePolicy(ctx, p); err != nil {
		return nil, err
	}
	out := wholePolicy(&p, store.Uses{})
	out.Description = nil // as in AWS, whose GetPolicy alone has it
	return &CreatePolicyOutput{Policy: out}, nil
}

func getPolicy(ctx context.Context, c *api.Call, in *GetPolicyInput) (*GetPolicyOutput, error) {
	p, err := findPolicy(ctx, c, in.PolicyArn)
	if err != nil {
		return nil, err
	}
	uses, err := c.Server.Store.IAM().PolicyUses(ctx, []string{p.ARN})
	if err != nil {
		return nil, err
	}
	out := wholePolicy(p, uses[p.ARN])
	if out.Tags == nil {
		out.Tags = []Tag{} // its element is there, as in AWS
	}
	return &GetPolicyOutput{Policy: out}, nil
}

// The markers of ListPolicies say which half of the list they are in: AWS's own
// policies come first, then ours.
const (
	afterBuiltin = "aws/"   // and the name of one
	afterOwn     = "local/" // and a cursor of the store's
)

// listPolicies may answer fewer than it was asked for though there are more,
// where a filter took some away; IAM's may too.
func listPolicies(ctx context.Context, c *api.Call, in *ListPoliciesInput) (*ListPoliciesOutput, error) {
	marker, most := val(in.Marker), int(or(in.MaxItems, defaultMaxItems))
	name, inBuiltin := strings.CutPrefix(marker, afterBuiltin)
	cursor, inOwn := strings.CutPrefix(marker, afterOwn)
	if marker != "" && !inBuiltin && !inOwn {
		return nil, badMarker()
	}
	if !inOwn {
		cursor = ""
	}
	var list []*sallyport.Policy
	next := ""
	if in.Scope != PolicyScopeTypeLocal && !inOwn {
		list = builtinsAfter(name, val(in.PathPrefix))
		if len(list) > most {
			list = list[:most]
			next = afterBuiltin + list[most-1].Name
		}
	}
	if in.Scope != PolicyScopeTypeAws && next == "" {
		if len(list) == most {
			next = afterOwn
		} else {
			own, after, err := c.Server.Store.IAM().Policies(ctx, val(in.PathPrefix), val(in.OnlyAttached), store.Page{After: store.Cursor(cursor), Limit: most - len(list)})
			if err != nil {
				return nil, marked(err)
			}
			list = append(list, own...)
			if after != "" {
				next = afterOwn + string(after)
			}
		}
	}
	uses, err := c.Server.Store.IAM().PolicyUses(ctx, each(list, func(p *sallyport.Policy) string { return p.ARN }))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(p *sallyport.Policy) bool {
		u := uses[p.ARN]
		return val(in.OnlyAttached) && u.Attachments == 0 ||
			in.PolicyUsageFilter == PolicyUsageTypePermissionsPolicy && u.Attachments == 0 ||
			in.PolicyUsageFilter == PolicyUsageTypePermissionsBoundary && u.Boundaries == 0
	})
	return &ListPoliciesOutput{
		Policies:    each(list, func(p *sallyport.Policy) Policy { return listedPolicy(p, uses[p.ARN]) }),
		IsTruncated: new(next != ""), Marker: some(next),
	}, nil
}

// builtinsAfter are AWS's own policies whose names come after name, in order.
func builtinsAfter(name, prefix string) []*sallyport.Policy {
	var list []*sallyport.Policy
	for _, p := range api.Builtins() {
		if p.Name > name && strings.HasPrefix(p.Path, prefix) {
			list = append(list, &p)
		}
	}
	slices.SortFunc(list, func(a, b *sallyport.Policy) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func deletePolicy(ctx context.Context, c *api.Call, in *DeletePolicyInput) (*DeletePolicyOutput, error) {
	if err := checkOwn(in.PolicyArn); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().DeletePolicy(ctx, in.PolicyArn); err != nil {
		return nil, err
	}
	return &DeletePolicyOutput{}, nil
}

// policyVersionOutput is a version as lists have it: without its document.
func policyVersionOutput(v sallyport.PolicyVersion) PolicyVersion {
	return PolicyVersion{VersionId: &v.ID, IsDefaultVersion: &v.Default, CreateDate: &v.Created}
}

// versions are those of a policy, newest first. AWS's own have one each.
func versions(ctx context.Context, c *api.Call, arn string) ([]sallyport.PolicyVersion, error) {
	if p, ok := api.Builtin(arn); ok {
		return []sallyport.PolicyVersion{{ID: p.Default, Document: p.Document, Default: true, Created: p.Created}}, nil
	}
	return c.Server.Store.IAM().PolicyVersions(ctx, arn)
}

func createPolicyVersion(ctx context.Context, c *api.Call, in *CreatePolicyVersionInput) (*CreatePolicyVersionOutput, error) {
	if err := checkOwn(in.PolicyArn); err != nil {
		return nil, err
	}
	if err := checkManaged(in.PolicyDocument); err != nil {
		return nil, err
	}
	v, err := c.Server.Store.IAM().CreatePolicyVersion(ctx, in.PolicyArn, in.PolicyDocument, val(in.SetAsDefault), c.At)
	if err != nil {
		return nil, err
	}
	return &CreatePolicyVersionOutput{PolicyVersion: new(policyVersionOutput(v))}, nil
}

func getPolicyVersion(ctx context.Context, c *api.Call, in *GetPolicyVersionInput) (*GetPolicyVersionOutput, error) {
	all, err := versions(ctx, c, in.PolicyArn)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.ID == in.VersionId {
			out := policyVersionOutput(v)
			out.Document = document(v.Document)
			return &GetPolicyVersionOutput{PolicyVersion: &out}, nil
		}
	}
	return nil, sallyport.Errorf(sallyport.NoSuchEntity, "Policy %s version %s does not exist or is not attachable.", in.PolicyArn, in.VersionId)
}

func listPolicyVersions(ctx context.Context, c *api.Call, in *ListPolicyVersionsInput) (*ListPolicyVersionsOutput, error) {
	all, err := versions(ctx, c, in.PolicyArn)
	if err != nil {
		return nil, err
	}
	all, next, err := window(all, func(v sallyport.PolicyVersion) string { return v.ID }, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListPolicyVersionsOutput{Versions: each(all, policyVersionOutput), IsTruncated: new(next != ""), Marker: some(next)}, nil
}

func setDefaultPolicyVersion(ctx context.Context, c *api.Call, in *SetDefaultPolicyVersionInput) (*SetDefaultPolicyVersionOutput, error) {
	if err := checkOwn(in.PolicyArn); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().SetDefaultPolicyVersion(ctx, in.PolicyArn, in.VersionId, c.At); err != nil {
		return nil, err
	}
	return &SetDefaultPolicyVersionOutput{}, nil
}

func deletePolicyVersion(ctx context.Context, c *api.Call, in *DeletePolicyVersionInput) (*DeletePolicyVersionOutput, error) {
	if err := checkOwn(in.PolicyArn); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().DeletePolicyVersion(ctx, in.PolicyArn, in.VersionId); err != nil {
		return nil, err
	}
	return &DeletePolicyVersionOutput{}, nil
}

// listEntitiesForPolicy may answer fewer than it was asked for, as
// [listPolicies] may.
func listEntitiesForPolicy(ctx context.Context, c *api.Call, in *ListEntitiesForPolicyInput) (*ListEntitiesForPolicyOutput, error) {
	if _, err := findPolicy(ctx, c, in.PolicyArn); err != nil {
		return nil, err
	}
	kinds := map[EntityType]store.EntityKind{
		"": "", EntityTypeUser: store.User("").Kind, EntityTypeGroup: store.Group("").Kind, EntityTypeRole: store.Role("").Kind,
	}
	kind, ok := kinds[in.EntityFilter]
	if !ok {
		return nil, sallyport.Errorf(sallyport.InvalidInput, "A policy is not attached to policies. EntityFilter can be User, Group or Role.")
	}
	uses := map[PolicyUsageType]store.Use{
		"": store.AsPolicy | store.AsBoundary, PolicyUsageTypePermissionsPolicy: store.AsPolicy, PolicyUsageTypePermissionsBoundary: store.AsBoundary,
	}
	holders, next, err := c.Server.Store.IAM().HoldersAs(ctx, in.PolicyArn, uses[in.PolicyUsageFilter], kind, page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	out := &ListEntitiesForPolicyOutput{
		PolicyGroups: []PolicyGroup{}, PolicyRoles: []PolicyRole{}, PolicyUsers: []PolicyUser{},
		IsTruncated: new(next != ""), Marker: some(string(next)),
	}
	for _, h := range holders {
		if !strings.HasPrefix(h.Path, val(in.PathPrefix)) {
			continue
		}
		switch h.Entity {
		case store.Group(h.Name):
			out.PolicyGroups = append(out.PolicyGroups, PolicyGroup{GroupId: &h.ID, GroupName: &h.Name})
		case store.Role(h.Name):
			out.PolicyRoles = append(out.PolicyRoles, PolicyRole{RoleId: &h.ID, RoleName: &h.Name})
		case store.User(h.Name):
			out.PolicyUsers = append(out.PolicyUsers, PolicyUser{UserId: &h.ID, UserName: &h.Name})
		}
	}
	return out, nil
}
