package iam

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

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
func listedPolicy(p *sallyport.Policy, uses store.Uses) types.Policy {
	return types.Policy{
		Arn: &p.ARN, PolicyName: &p.Name, PolicyId: &p.ID, Path: &p.Path, DefaultVersionId: &p.Default,
		AttachmentCount: new(int32(uses.Attachments)), PermissionsBoundaryUsageCount: new(int32(uses.Boundaries)),
		IsAttachable: true, CreateDate: &p.Created, UpdateDate: &p.Updated,
	}
}

func wholePolicy(p *sallyport.Policy, uses store.Uses) *types.Policy {
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

func createPolicy(ctx context.Context, c *api.Call, in *iam.CreatePolicyInput) (*iam.CreatePolicyOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if err := checkManaged(*in.PolicyDocument); err != nil {
		return nil, err
	}
	p := sallyport.Policy{
		ARN: c.Server.Realm.ManagedPolicy(path(in), *in.PolicyName), Name: *in.PolicyName, Path: path(in), ID: sallyport.EntityID("ANPA"),
		Description: val(in.Description), Created: c.At, Updated: c.At, Tags: tags, Default: "v1", Document: *in.PolicyDocument,
	}
	if err := c.Server.Store.IAM().CreatePolicy(ctx, p); err != nil {
		return nil, err
	}
	return &iam.CreatePolicyOutput{Policy: wholePolicy(&p, store.Uses{})}, nil
}

func getPolicy(ctx context.Context, c *api.Call, in *iam.GetPolicyInput) (*iam.GetPolicyOutput, error) {
	p, err := findPolicy(ctx, c, *in.PolicyArn)
	if err != nil {
		return nil, err
	}
	uses, err := c.Server.Store.IAM().PolicyUses(ctx, []string{p.ARN})
	if err != nil {
		return nil, err
	}
	return &iam.GetPolicyOutput{Policy: wholePolicy(p, uses[p.ARN])}, nil
}

// The markers of ListPolicies say which half of the list they are in: AWS's own
// policies come first, then ours.
const (
	afterBuiltin = "aws/"   // and the name of one
	afterOwn     = "local/" // and a cursor of the store's
)

// listPolicies may answer fewer than it was asked for though there are more,
// where a filter took some away; IAM's may too.
func listPolicies(ctx context.Context, c *api.Call, in *iam.ListPoliciesInput) (*iam.ListPoliciesOutput, error) {
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
	if in.Scope != types.PolicyScopeTypeLocal && !inOwn {
		list = builtinsAfter(name, val(in.PathPrefix))
		if len(list) > most {
			list = list[:most]
			next = afterBuiltin + list[most-1].Name
		}
	}
	if in.Scope != types.PolicyScopeTypeAws && next == "" {
		if len(list) == most {
			next = afterOwn
		} else {
			own, after, err := c.Server.Store.IAM().Policies(ctx, val(in.PathPrefix), in.OnlyAttached, store.Page{After: store.Cursor(cursor), Limit: most - len(list)})
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
		return in.OnlyAttached && u.Attachments == 0 ||
			in.PolicyUsageFilter == types.PolicyUsageTypePermissionsPolicy && u.Attachments == 0 ||
			in.PolicyUsageFilter == types.PolicyUsageTypePermissionsBoundary && u.Boundaries == 0
	})
	return &iam.ListPoliciesOutput{
		Policies:    each(list, func(p *sallyport.Policy) types.Policy { return listedPolicy(p, uses[p.ARN]) }),
		IsTruncated: next != "", Marker: some(next),
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

func deletePolicy(ctx context.Context, c *api.Call, in *iam.DeletePolicyInput) (*iam.DeletePolicyOutput, error) {
	if err := checkOwn(*in.PolicyArn); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().DeletePolicy(ctx, *in.PolicyArn); err != nil {
		return nil, err
	}
	return &iam.DeletePolicyOutput{}, nil
}

// aVersion is a version as lists have it: without its document.
func aVersion(v sallyport.PolicyVersion) types.PolicyVersion {
	return types.PolicyVersion{VersionId: &v.ID, IsDefaultVersion: v.Default, CreateDate: &v.Created}
}

// versions are those of a policy, newest first. AWS's own have one each.
func versions(ctx context.Context, c *api.Call, arn string) ([]sallyport.PolicyVersion, error) {
	if p, ok := api.Builtin(arn); ok {
		return []sallyport.PolicyVersion{{ID: p.Default, Document: p.Document, Default: true, Created: p.Created}}, nil
	}
	return c.Server.Store.IAM().PolicyVersions(ctx, arn)
}

func createPolicyVersion(ctx context.Context, c *api.Call, in *iam.CreatePolicyVersionInput) (*iam.CreatePolicyVersionOutput, error) {
	if err := checkOwn(*in.PolicyArn); err != nil {
		return nil, err
	}
	if err := checkManaged(*in.PolicyDocument); err != nil {
		return nil, err
	}
	v, err := c.Server.Store.IAM().CreatePolicyVersion(ctx, *in.PolicyArn, *in.PolicyDocument, in.SetAsDefault, c.At)
	if err != nil {
		return nil, err
	}
	return &iam.CreatePolicyVersionOutput{PolicyVersion: new(aVersion(v))}, nil
}

func getPolicyVersion(ctx context.Context, c *api.Call, in *iam.GetPolicyVersionInput) (*iam.GetPolicyVersionOutput, error) {
	all, err := versions(ctx, c, *in.PolicyArn)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.ID == *in.VersionId {
			out := aVersion(v)
			out.Document = document(v.Document)
			return &iam.GetPolicyVersionOutput{PolicyVersion: &out}, nil
		}
	}
	return nil, sallyport.Errorf(sallyport.NoSuchEntity, "Policy %s version %s does not exist or is not attachable.", *in.PolicyArn, *in.VersionId)
}

func listPolicyVersions(ctx context.Context, c *api.Call, in *iam.ListPolicyVersionsInput) (*iam.ListPolicyVersionsOutput, error) {
	all, err := versions(ctx, c, *in.PolicyArn)
	if err != nil {
		return nil, err
	}
	all, next, err := window(all, func(v sallyport.PolicyVersion) string { return v.ID }, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &iam.ListPolicyVersionsOutput{Versions: each(all, aVersion), IsTruncated: next != "", Marker: some(next)}, nil
}

func setDefaultPolicyVersion(ctx context.Context, c *api.Call, in *iam.SetDefaultPolicyVersionInput) (*iam.SetDefaultPolicyVersionOutput, error) {
	if err := checkOwn(*in.PolicyArn); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().SetDefaultPolicyVersion(ctx, *in.PolicyArn, *in.VersionId, c.At); err != nil {
		return nil, err
	}
	return &iam.SetDefaultPolicyVersionOutput{}, nil
}

func deletePolicyVersion(ctx context.Context, c *api.Call, in *iam.DeletePolicyVersionInput) (*iam.DeletePolicyVersionOutput, error) {
	if err := checkOwn(*in.PolicyArn); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().DeletePolicyVersion(ctx, *in.PolicyArn, *in.VersionId); err != nil {
		return nil, err
	}
	return &iam.DeletePolicyVersionOutput{}, nil
}

// listEntitiesForPolicy may answer fewer than it was asked for, as
// [listPolicies] may.
func listEntitiesForPolicy(ctx context.Context, c *api.Call, in *iam.ListEntitiesForPolicyInput) (*iam.ListEntitiesForPolicyOutput, error) {
	if _, err := findPolicy(ctx, c, *in.PolicyArn); err != nil {
		return nil, err
	}
	kinds := map[types.EntityType]store.EntityKind{
		"": "", types.EntityTypeUser: store.User("").Kind, types.EntityTypeGroup: store.Group("").Kind, types.EntityTypeRole: store.Role("").Kind,
	}
	kind, ok := kinds[in.EntityFilter]
	if !ok {
		return nil, sallyport.Errorf(sallyport.InvalidInput, "A policy is not attached to policies. EntityFilter can be User, Group or Role.")
	}
	uses := map[types.PolicyUsageType]store.Use{
		"": store.AsPolicy | store.AsBoundary, types.PolicyUsageTypePermissionsPolicy: store.AsPolicy, types.PolicyUsageTypePermissionsBoundary: store.AsBoundary,
	}
	holders, next, err := c.Server.Store.IAM().HoldersAs(ctx, *in.PolicyArn, uses[in.PolicyUsageFilter], kind, page(in.Marker, in.MaxItems))
	if err != nil {
		return nil, marked(err)
	}
	out := &iam.ListEntitiesForPolicyOutput{
		PolicyGroups: []types.PolicyGroup{}, PolicyRoles: []types.PolicyRole{}, PolicyUsers: []types.PolicyUser{},
		IsTruncated: next != "", Marker: some(string(next)),
	}
	for _, h := range holders {
		if !strings.HasPrefix(h.Path, val(in.PathPrefix)) {
			continue
		}
		switch h.Entity {
		case store.Group(h.Name):
			out.PolicyGroups = append(out.PolicyGroups, types.PolicyGroup{GroupId: &h.ID, GroupName: &h.Name})
		case store.Role(h.Name):
			out.PolicyRoles = append(out.PolicyRoles, types.PolicyRole{RoleId: &h.ID, RoleName: &h.Name})
		case store.User(h.Name):
			out.PolicyUsers = append(out.PolicyUsers, types.PolicyUser{UserId: &h.ID, UserName: &h.Name})
		}
	}
	return out, nil
}
