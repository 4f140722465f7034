package ssm

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
)

// maxTags is how many tags a resource may have. (API reference,
// AddTagsToResource.)
const maxTags = 50

func readTags(list []Tag) (map[string]string, error) {
	tags := map[string]string{}
	for _, t := range list {
		key := t.Key
		if strings.HasPrefix(strings.ToLower(key), "aws:") {
			return nil, sallyport.Errorf(sallyport.ValidationException, "The tag %q begins with aws:, which is reserved.", sallyport.Clip(key, 128))
		}
		if _, twice := tags[key]; twice {
			return nil, sallyport.Errorf(sallyport.ValidationException, "The tag %q is given twice.", sallyport.Clip(key, 128))
		}
		tags[key] = t.Value
	}
	if len(tags) > maxTags {
		return nil, sallyport.Errorf(sallyport.TooManyTagsError, "There are %d tags, and a resource may have %d.", len(tags), maxTags)
	}
	return tags, sallyport.CheckTags(nil, tags)
}

func writeTags(tags map[string]string) []Tag {
	out := []Tag{}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		value := tags[key]
		out = append(out, Tag{Key: key, Value: value})
	}
	return out
}

func keysOf(tags map[string]string) []string { return slices.Sorted(maps.Keys(tags)) }

// tagged asks about the resource a tag operation names. Nodes and documents have
// tags; activations are tagged when they are created, and not after.
func (s *Server) tagged(ctx context.Context, c *api.Call, kind ResourceTypeForTagging, resource string) (api.Question, error) {
	switch kind {
	case ResourceTypeForTaggingManagedInstance:
	case ResourceTypeForTaggingDocument:
		return s.taggedDocument(ctx, c, resource)
	default:
		return api.Question{}, sallyport.Errorf(sallyport.InvalidResourceType, "Resources of type %s have no tags here. ManagedInstance and Document have.", sallyport.Clip(string(kind), 64))
	}
	q, err := s.onNode(ctx, c, resource)
	return q, notFound(err, sallyport.InvalidResourceID)
}

func (s *Server) askAddTags(ctx context.Context, c *api.Call, in *AddTagsToResourceInput) ([]api.Question, error) {
	q, err := s.tagged(ctx, c, in.ResourceType, in.ResourceId)
	if err != nil {
		return nil, err
	}
	q.RequestTags, err = readTags(in.Tags)
	q.TagKeys = keysOf(q.RequestTags)
	return []api.Question{q}, err
}

func (s *Server) addTags(ctx context.Context, _ *api.Call, in *AddTagsToResourceInput) (*AddTagsToResourceOutput, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	if in.ResourceType == ResourceTypeForTaggingDocument {
		return &AddTagsToResourceOutput{}, noSuchResource(s.db().Documents().Tag(ctx, documentName(&in.ResourceId), tags, maxTags))
	}
	id, err := sallyport.ParseNodeID(in.ResourceId)
	if err != nil {
		return nil, notFound(err, sallyport.InvalidResourceID)
	}
	return &AddTagsToResourceOutput{}, notFound(s.db().Nodes().Tag(ctx, id, tags), sallyport.InvalidResourceID)
}

func (s *Server) askRemoveTags(ctx context.Context, c *api.Call, in *RemoveTagsFromResourceInput) ([]api.Question, error) {
	q, err := s.tagged(ctx, c, in.ResourceType, in.ResourceId)
	q.TagKeys = in.TagKeys
	return []api.Question{q}, err
}

func (s *Server) removeTags(ctx context.Context, _ *api.Call, in *RemoveTagsFromResourceInput) (*RemoveTagsFromResourceOutput, error) {
	if in.ResourceType == ResourceTypeForTaggingDocument {
		return &RemoveTagsFromResourceOutput{}, noSuchResource(s.db().Documents().Untag(ctx, documentName(&in.ResourceId), in.TagKeys))
	}
	id, err := sallyport.ParseNodeID(in.ResourceId)
	if err != nil {
		return nil, notFound(err, sallyport.InvalidResourceID)
	}
	return &RemoveTagsFromResourceOutput{}, notFound(s.db().Nodes().Untag(ctx, id, in.TagKeys), sallyport.InvalidResourceID)
}

func (s *Server) askTagged(ctx context.Context, c *api.Call) ([]api.Question, error) {
	q, err := s.tagged(ctx, c, ResourceTypeForTagging(c.Text("ResourceType")), c.Text("ResourceId"))
	return []api.Question{q}, err
}

func (s *Server) listTags(ctx context.Context, _ *api.Call, in *ListTagsForResourceInput) (*ListTagsForResourceOutput, error) {
	if in.ResourceType == ResourceTypeForTaggingDocument {
		d, err := s.db().Documents().Get(ctx, documentName(&in.ResourceId))
		if err != nil {
			return nil, noSuchResource(err)
		}
		return &ListTagsForResourceOutput{TagList: writeTags(d.Tags)}, nil
	}
	id, err := sallyport.ParseNodeID(in.ResourceId)
	if err != nil {
		return nil, notFound(err, sallyport.InvalidResourceID)
	}
	n, err := s.db().Nodes().Get(ctx, id)
	if err != nil {
		return nil, notFound(err, sallyport.InvalidResourceID)
	}
	return &ListTagsForResourceOutput{TagList: writeTags(n.Tags)}, nil
}
