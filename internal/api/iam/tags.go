package iam

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// readTags reads the tags of a request. Their keys keep their case and are
// told apart without it. (IAM User Guide, "Rules for tagging in IAM and AWS
// STS".)
func readTags(list []types.Tag) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	tags, seen := map[string]string{}, map[string]bool{}
	for _, t := range list {
		key := val(t.Key)
		folded := strings.ToLower(key)
		if strings.HasPrefix(folded, "aws:") {
			return nil, sallyport.Errorf(sallyport.InvalidInput, "The tag key %s begins with aws:, which is reserved for AWS. Choose another.", sallyport.Clip(key, 128))
		}
		if seen[folded] {
			return nil, sallyport.Errorf(sallyport.InvalidInput, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		tags[key], seen[folded] = val(t.Value), true
	}
	return tags, nil
}

// writeTags is nil without tags, so that the answer does not mention them.
func writeTags(tags map[string]string) []types.Tag {
	var list []types.Tag
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, types.Tag{Key: &k, Value: new(tags[k])})
	}
	return list
}

func pageOfTags(tags map[string]string, marker *string, maxItems *int32) ([]types.Tag, string, error) {
	list := append([]types.Tag{}, writeTags(tags)...)
	return window(list, func(t types.Tag) string { return *t.Key }, marker, maxItems)
}

func tagUser(ctx context.Context, c *api.Call, in *iam.TagUserInput) (*iam.TagUserOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().Tag(ctx, store.User(*in.UserName), tags); err != nil {
		return nil, err
	}
	return &iam.TagUserOutput{}, nil
}

func untagUser(ctx context.Context, c *api.Call, in *iam.UntagUserInput) (*iam.UntagUserOutput, error) {
	if err := c.Server.Store.IAM().Untag(ctx, store.User(*in.UserName), in.TagKeys); err != nil {
		return nil, err
	}
	return &iam.UntagUserOutput{}, nil
}

func listUserTags(ctx context.Context, c *api.Call, in *iam.ListUserTagsInput) (*iam.ListUserTagsOutput, error) {
	u, err := c.Server.Store.IAM().User(ctx, *in.UserName)
	if err != nil {
		return nil, err
	}
	tags, next, err := pageOfTags(u.Tags, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &iam.ListUserTagsOutput{Tags: tags, IsTruncated: next != "", Marker: some(next)}, nil
}

func tagRole(ctx context.Context, c *api.Call, in *iam.TagRoleInput) (*iam.TagRoleOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().Tag(ctx, store.Role(*in.RoleName), tags); err != nil {
		return nil, err
	}
	return &iam.TagRoleOutput{}, nil
}

func untagRole(ctx context.Context, c *api.Call, in *iam.UntagRoleInput) (*iam.UntagRoleOutput, error) {
	if err := c.Server.Store.IAM().Untag(ctx, store.Role(*in.RoleName), in.TagKeys); err != nil {
		return nil, err
	}
	return &iam.UntagRoleOutput{}, nil
}

func listRoleTags(ctx context.Context, c *api.Call, in *iam.ListRoleTagsInput) (*iam.ListRoleTagsOutput, error) {
	r, err := c.Server.Store.IAM().Role(ctx, *in.RoleName)
	if err != nil {
		return nil, err
	}
	tags, next, err := pageOfTags(r.Tags, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &iam.ListRoleTagsOutput{Tags: tags, IsTruncated: next != "", Marker: some(next)}, nil
}

func tagPolicy(ctx context.Context, c *api.Call, in *iam.TagPolicyInput) (*iam.TagPolicyOutput, error) {
	if err := checkOwn(*in.PolicyArn); err != nil {
		return nil, err
	}
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().TagPolicy(ctx, *in.PolicyArn, tags); err != nil {
		return nil, err
	}
	return &iam.TagPolicyOutput{}, nil
}

func untagPolicy(ctx context.Context, c *api.Call, in *iam.UntagPolicyInput) (*iam.UntagPolicyOutput, error) {
	if err := checkOwn(*in.PolicyArn); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().UntagPolicy(ctx, *in.PolicyArn, in.TagKeys); err != nil {
		return nil, err
	}
	return &iam.UntagPolicyOutput{}, nil
}

func listPolicyTags(ctx context.Context, c *api.Call, in *iam.ListPolicyTagsInput) (*iam.ListPolicyTagsOutput, error) {
	p, err := findPolicy(ctx, c, *in.PolicyArn)
	if err != nil {
		return nil, err
	}
	tags, next, err := pageOfTags(p.Tags, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &iam.ListPolicyTagsOutput{Tags: tags, IsTruncated: next != "", Marker: some(next)}, nil
}
