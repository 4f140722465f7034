package ssm

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

// How long an activation is good for. (User guide, "Create a hybrid
// activation".)
const (
	activationLife    = 24 * time.Hour
	maxActivationLife = 30 * 24 * time.Hour
)

func (s *Server) askCreateActivation(ctx context.Context, c *api.Call, in *CreateActivationInput) ([]api.Question, error) {
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	pass, err := s.passRole(ctx, in.IamRole)
	return []api.Question{{Action: c.Action(), RequestTags: tags, TagKeys: keysOf(tags)}, pass}, err
}

func (s *Server) createActivation(ctx context.Context, c *api.Call, in *CreateActivationInput) (*CreateActivationOutput, error) {
	role, err := s.API.NodeRole(ctx, in.IamRole)
	if err != nil {
		return nil, err
	}
	tags, err := readTags(in.Tags)
	if err != nil {
		return nil, err
	}
	code := sallyport.GenerateSecret()
	a := sallyport.Activation{
		ID: uuid.NewString(), Code: code.Hash(), Role: in.IamRole, RoleID: role.ID, Description: deref(in.Description), Name: deref(in.DefaultInstanceName),
		Limit: 1, Created: c.At, Expires: c.At.Add(activationLife), Tags: tags,
	}
	if in.RegistrationLimit != nil {
		a.Limit = int(*in.RegistrationLimit)
	}
	if in.ExpirationDate != nil {
		a.Expires = *in.ExpirationDate
		if !a.Expires.After(c.At) || a.Expires.After(c.At.Add(maxActivationLife)) {
			return nil, sallyport.Errorf(sallyport.InvalidParameters, "ExpirationDate is %s. It must be in the future, and no more than 30 days ahead.", a.Expires.UTC().Format(time.RFC3339))
		}
	}
	if err := s.db().Activations().Create(ctx, a); err != nil {
		return nil, err
	}
	return &CreateActivationOutput{ActivationId: &a.ID, ActivationCode: some(code.Reveal())}, nil
}

func (s *Server) describeActivations(ctx context.Context, c *api.Call, in *DescribeActivationsInput) (*DescribeActivationsOutput, error) {
	var f store.ActivationFilter
	for _, filter := range in.Filters {
		switch filter.FilterKey {
		case DescribeActivationsFilterKeysActivationIds:
			f.IDs = append(f.IDs, filter.FilterValues...)
		case DescribeActivationsFilterKeysDefaultInstanceName:
			f.Names = append(f.Names, filter.FilterValues...)
		case DescribeActivationsFilterKeysIamRole:
			f.Roles = append(f.Roles, filter.FilterValues...)
		default:
			return nil, sallyport.Errorf(sallyport.InvalidFilter, "%q is not a filter of this operation. They are ActivationIds, DefaultInstanceName, IamRole.", sallyport.Clip(string(filter.FilterKey), 64))
		}
	}
	list, cursor, err := s.db().Activations().List(ctx, f, page(in.NextToken, in.MaxResults, 50))
	if err != nil {
		return nil, err
	}
	out := &DescribeActivationsOutput{ActivationList: []Activation{}, NextToken: next(cursor)}
	for _, a := range list {
		limit, count := int32(a.Limit), int32(a.Count)
		out.ActivationList = append(out.ActivationList, Activation{
			ActivationId: &a.ID, Description: some(a.Description), DefaultInstanceName: some(a.Name), IamRole: some(a.Role),
			RegistrationLimit: &limit, RegistrationsCount: &count, ExpirationDate: &a.Expires, Expired: new(a.Expired(c.At)),
			CreatedDate: &a.Created, Tags: writeTags(a.Tags),
		})
	}
	return out, nil
}

func (s *Server) deleteActivation(ctx context.Context, _ *api.Call, in *DeleteActivationInput) (*DeleteActivationOutput, error) {
	return &DeleteActivationOutput{}, s.db().Activations().Delete(ctx, in.ActivationId)
}
