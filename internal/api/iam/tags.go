package iam

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// readTags reads the tags of a request. Their keys keep their case and are
// told apart without it. (IAM User Guide, "Rules for tagging in IAM and AWS
// STS".)
func readTags(list []Tag) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	tags, seen := map[string]string{}, map[string]bool{}
	for _, t := range list {
		key := t.Key
		folded := strings.ToLower(key)
		if strings.HasPrefix(folded, "aws:") {
			return nil, sallyport.Errorf(sallyport.InvalidInput, "The tag key %s begins with aws:, which is reserved for AWS. Choose another.", sallyport.Clip(key, 128))
		}
		if seen[folded] {
			return nil, sallyport.Errorf(sallyport.InvalidInput, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		tags[key], seen[folded] = t.Value, true
	}
	return tags, nil
}

// writeTags is nil without tags, so that the answer does not mention them.
func writeTags(tags map[string]string) []Tag {
	var list []Tag
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, Tag{Key: k, Value: tags[k]})
	}
	return list
}

func pageOfTags(tags map[string]string, marker *string, maxItems *int32) ([]Tag, string, error) {
	list := append([]Tag{}, writeTags(tags)...)
	return window(list, func(t Tag) string { return t.Key }, marker, maxItems)
}

func tagUser(ctx context.Context, c *api.Call, in *TagUserInput) (*TagUserOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().Tag(ctx, store.User(in.UserName), tags); err != nil {
		return nil, err
	}
	return &TagUserOutput{}, nil
}

func untagUser(ctx context.Context, c *api.Call, in *UntagUserInput) (*UntagUserOutput, error) {
	if err := c.Server.Store.IAM().Untag(ctx, store.User(in.UserName), in.TagKeys); err != nil {
		return nil, err
	}
	return &UntagUserOutput{}, nil
}

func listUserTags(ctx context.Context, c *api.Call, in *ListUserTagsInput) (*ListUserTagsOutput, error) {
	u, err := c.Server.Store.IAM().User(ctx, in.UserName)
	if err != nil {
		return nil, err
	}
	tags, next, err := pageOfTags(u.Tags, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListUserTagsOutput{Tags: tags, IsTruncated: new(next != ""), Marker: some(next)}, nil
}

func tagRole(ctx context.Context, c *api.Call, in *TagRoleInput) (*TagRoleOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().Tag(ctx, store.Role(in.RoleName), tags); err != nil {
		return nil, err
	}
	return &TagRoleOutput{}, nil
}

func untagRole(ctx context.Context, c *api.Call, in *UntagRoleInput) (*UntagRoleOutput, error) {
	if err := c.Server.Store.IAM().Untag(ctx, store.Role(in.RoleName), in.TagKeys); err != nil {
		return nil, err
	}
	return &UntagRoleOutput{}, nil
}

func listRoleTags(ctx context.Context, c *api.Call, in *ListRoleTagsInput) (*ListRoleTagsOutput, error) {
	r, err := c.Server.Store.IAM().Role(ctx, in.RoleName)
	if err != nil {
		return nil, err
	}
	tags, next, err := pageOfTags(r.Tags, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListRoleTagsOutput{Tags: tags, IsTruncated: new(next != ""), Marker: some(next)}, nil
}

func tagPolicy(ctx context.Context, c *api.Call, in *TagPolicyInput) (*TagPolicyOutput, error) {
	if err := checkOwn(in.PolicyArn); err != nil {
		return nil, err
	}
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().TagPolicy(ctx, in.PolicyArn, tags); err != nil {
		return nil, err
	}
	return &TagPolicyOutput{}, nil
}

func untagPolicy(ctx context.Context, c *api.Call, in *UntagPolicyInput) (*UntagPolicyOutput, error) {
	if err := checkOwn(in.PolicyArn); err != nil {
		return nil, err
	}
	if err := c.Server.Store.IAM().UntagPolicy(ctx, in.PolicyArn, in.TagKeys); err != nil {
		return nil, err
	}
	return &UntagPolicyOutput{}, nil
}

func listPolicyTags(ctx context.Context, c *api.Call, in *ListPolicyTagsInput) (*ListPolicyTagsOutput, error) {
	p, err := findPolicy(ctx, c, in.PolicyArn)
	if err != nil {
		return nil, err
	}
	tags, next, err := pageOfTags(p.Tags, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	return &ListPolicyTagsOutput{Tags: tags, IsTruncated: new(next != ""), Marker: some(next)}, nil
}
