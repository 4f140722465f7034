package ssm

import (
	"context"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/store"
)

var nodeFilters = []string{"ActivationIds", "AgentVersion", "AssociationStatus", "IamRole", "InstanceIds", "PingStatus", "PlatformType", "PlatformTypes", "ResourceType", "SourceIds", "SourceTypes", "tag-key", "tag:<key>"}

// narrow adds one filter to f. None is true if nothing can match it.
func narrow(f *store.NodeFilter, key string, values []string) (none bool, err error) {
	switch {
	case key == "InstanceIds" || key == "SourceIds":
		for _, v := range values {
			id, err := sallyport.ParseNodeID(v)
			if err != nil {
				return false, err
			}
			f.IDs = append(f.IDs, id)
		}
	case key == "AgentVersion":
		f.AgentVersions = append(f.AgentVersions, values...)
	case key == "PingStatus":
		f.PingStatuses = append(f.PingStatuses, values...)
	case key == "PlatformTypes" || key == "PlatformType":
		f.PlatformTypes = append(f.PlatformTypes, values...)
	case key == "ActivationIds":
		f.Activations = append(f.Activations, values...)
	case key == "IamRole":
		f.Roles = append(f.Roles, values...)
	case key == "ResourceType":
		f.ResourceTypes = append(f.ResourceTypes, values...)
	case key == "SourceTypes":
		return !contains(values, string(SourceTypeAwsSsmManagedInstance)), nil
	case key == "AssociationStatus" || key == "DocumentName":
		return true, nil // no node has an association
	case key == "tag-key":
		for _, v := range values {
			f.Tags = append(f.Tags, store.TagFilter{Name: v})
		}
	case strings.HasPrefix(key, "tag:"):
		f.Tags = append(f.Tags, store.TagFilter{Name: strings.TrimPrefix(key, "tag:"), Values: values})
	default:
		return false, unknownFilter(key, nodeFilters...)
	}
	return false, nil
}

func contains(values []string, want string) bool {
	for _, v := range values {
		if v == want {
			return true
		}
	}
	return false
}

func (s *Server) describeInstanceInformation(ctx context.Context, _ *api.Call, in *DescribeInstanceInformationInput) (*DescribeInstanceInformationOutput, error) {
	if len(in.Filters) > 0 && len(in.InstanceInformationFilterList) > 0 {
		return nil, sallyport.Errorf(sallyport.InvalidInstanceInformationFilterValue, "Filters and InstanceInformationFilterList are two forms of one thing. Use Filters alone.")
	}
	var f store.NodeFilter
	none := false
	for _, filter := range in.Filters {
		n, err := narrow(&f, filter.Key, filter.Values)
		if err != nil {
			return nil, err
		}
		none = none || n
	}
	for _, filter := range in.InstanceInformationFilterList {
		n, err := narrow(&f, string(filter.Key), filter.ValueSet)
		if err != nil {
			return nil, err
		}
		none = none || n
	}
	out := &DescribeInstanceInformationOutput{InstanceInformationList: []InstanceInformation{}}
	if none {
		return out, nil
	}
	nodes, cursor, err := s.db().Nodes().List(ctx, f, page(in.NextToken, in.MaxResults, 50))
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		out.InstanceInformationList = append(out.InstanceInformationList, s.information(n))
	}
	out.NextToken = next(cursor)
	return out, nil
}

// information is what AWS tells of a node. A time or a version it has not got
// is left out.
func (s *Server) information(n *sallyport.Node) InstanceInformation {
	latest := n.Agent.Version != "" && sallyport.CompareVersions(n.Agent.Version, sallyport.WireAgentVersion) >= 0
	out := InstanceInformation{
		InstanceId:       some(n.ID.String()),
		PingStatus:       s.pingStatus(n),
		AgentVersion:     some(n.Agent.Version),
		IsLatestVersion:  &latest,
		PlatformType:     PlatformType(n.Agent.PlatformType),
		PlatformName:     some(n.Agent.PlatformName),
		PlatformVersion:  some(n.Agent.PlatformVersion),
		ActivationId:     some(n.Activation),
		IamRole:          some(n.Role),
		RegistrationDate: &n.Registered,
		ResourceType:     resourceType(n.ID),
		Name:             some(n.Name),
		IPAddress:        some(n.Agent.IPAddress),
		ComputerName:     some(n.Agent.ComputerName),
		SourceId:         some(n.ID.String()),
		SourceType:       SourceTypeAwsSsmManagedInstance,
	}
	out.LastPingDateTime = timeOrNil(n.LastPing)
	return out
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func resourceType(id sallyport.NodeID) ResourceType {
	if strings.HasPrefix(id.String(), "i-") {
		return ResourceTypeEC2Instance
	}
	return ResourceTypeManagedInstance
}

func (s *Server) pingStatus(n *sallyport.Node) PingStatus {
	switch {
	case s.Bus.Online(n.ID):
		return PingStatusOnline
	case n.LastPing.IsZero():
		return PingStatusInactive
	}
	return PingStatusConnectionLost
}

func (s *Server) describeInstanceProperties(ctx context.Context, _ *api.Call, in *DescribeInstancePropertiesInput) (*DescribeInstancePropertiesOutput, error) {
	var f store.NodeFilter
	none := false
	for _, filter := range in.InstancePropertyFilterList {
		n, err := narrow(&f, string(filter.Key), filter.ValueSet)
		if err != nil {
			return nil, err
		}
		none = none || n
	}
	var rest []InstancePropertyStringFilter // those the store cannot apply
	for _, filter := range in.FiltersWithOperator {
		if filter.Operator == "" || filter.Operator == InstancePropertyFilterOperatorEqual {
			if n, err := narrow(&f, filter.Key, filter.Values); err == nil {
				none = none || n
				continue
			}
		}
		if _, ok := properties[filter.Key]; !ok {
			return nil, unknownFilter(filter.Key, append(nodeFilters, "ComputerName", "IPAddress", "Name", "PlatformName", "PlatformVersion")...)
		}
		rest = append(rest, filter)
	}
	out := &DescribeInstancePropertiesOutput{InstanceProperties: []InstanceProperty{}}
	if none {
		return out, nil
	}
	nodes, cursor, err := s.db().Nodes().List(ctx, f, page(in.NextToken, in.MaxResults, 50))
	if err != nil {
		return nil, err
	}
	for _, n := range nodes { // a page may hold fewer than asked for, and even none, and still have a next
		if matches(n, rest) {
			out.InstanceProperties = append(out.InstanceProperties, s.property(n))
		}
	}
	out.NextToken = next(cursor)
	return out, nil
}

// properties are what FiltersWithOperator compares.
var properties = map[string]func(*sallyport.Node) string{
	"ActivationIds":   func(n *sallyport.Node) string { return n.Activation },
	"AgentVersion":    func(n *sallyport.Node) string { return n.Agent.Version },
	"ComputerName":    func(n *sallyport.Node) string { return n.Agent.ComputerName },
	"IamRole":         func(n *sallyport.Node) string { return n.Role },
	"InstanceIds":     func(n *sallyport.Node) string { return n.ID.String() },
	"IPAddress":       func(n *sallyport.Node) string { return n.Agent.IPAddress },
	"Name":            func(n *sallyport.Node) string { return n.Name },
	"PlatformName":    func(n *sallyport.Node) string { return n.Agent.PlatformName },
	"PlatformTypes":   func(n *sallyport.Node) string { return n.Agent.PlatformType },
	"PlatformVersion": func(n *sallyport.Node) string { return n.Agent.PlatformVersion },
}

func matches(n *sallyport.Node, filters []InstancePropertyStringFilter) bool {
	for _, f := range filters {
		got := properties[f.Key](n)
		less := strings.Compare
		if f.Key == "AgentVersion" || f.Key == "PlatformVersion" {
			less = sallyport.CompareVersions
		}
		one := false
		for _, v := range f.Values {
			switch f.Operator {
			case InstancePropertyFilterOperatorNotEqual:
				one = one || got == v
			case InstancePropertyFilterOperatorBeginWith:
				one = one || strings.HasPrefix(got, v)
			case InstancePropertyFilterOperatorLessThan:
				one = one || less(got, v) < 0
			case InstancePropertyFilterOperatorGreaterThan:
				one = one || less(got, v) > 0
			default:
				one = one || got == v
			}
		}
		if one == (f.Operator == InstancePropertyFilterOperatorNotEqual) {
			return false
		}
	}
	return true
}

func (s *Server) property(n *sallyport.Node) InstanceProperty {
	i := s.information(n)
	return InstanceProperty{
		InstanceId: i.InstanceId, PingStatus: i.PingStatus, LastPingDateTime: i.LastPingDateTime, AgentVersion: i.AgentVersion,
		PlatformType: i.PlatformType, PlatformName: i.PlatformName, PlatformVersion: i.PlatformVersion,
		ActivationId: i.ActivationId, IamRole: i.IamRole, RegistrationDate: i.RegistrationDate,
		ResourceType: some(string(i.ResourceType)), Name: i.Name, IPAddress: i.IPAddress, ComputerName: i.ComputerName,
		SourceId: i.SourceId, SourceType: i.SourceType,
	}
}

func (s *Server) askNode(ctx context.Context, c *api.Call, text string) ([]api.Question, error) {
	q, err := s.onNode(ctx, c, text)
	return []api.Question{q}, err
}

func (s *Server) deregister(ctx context.Context, c *api.Call, in *DeregisterManagedInstanceInput) (*DeregisterManagedInstanceOutput, error) {
	id, err := sallyport.ParseNodeID(in.InstanceId)
	if err != nil {
		return nil, err
	}
	if err := s.db().Nodes().Deregister(ctx, id); err != nil {
		return nil, err
	}
	s.API.Log.InfoContext(ctx, "node deregistered", sallyport.LogNode, id, sallyport.LogWho, c.Who.ARN)
	s.Broker.EndNode(id, id.String()+" was deregistered.")
	return &DeregisterManagedInstanceOutput{}, nil
}

func (s *Server) askUpdateRole(ctx context.Context, c *api.Call, in *UpdateManagedInstanceRoleInput) ([]api.Question, error) {
	q, err := s.onNode(ctx, c, in.InstanceId)
	if err != nil {
		return nil, err
	}
	pass, err := s.passRole(ctx, in.IamRole)
	return []api.Question{q, pass}, err
}

func (s *Server) updateRole(ctx context.Context, _ *api.Call, in *UpdateManagedInstanceRoleInput) (*UpdateManagedInstanceRoleOutput, error) {
	id, err := sallyport.ParseNodeID(in.InstanceId)
	if err != nil {
		return nil, err
	}
	role, err := s.API.NodeRole(ctx, in.IamRole)
	if err != nil {
		return nil, err
	}
	return &UpdateManagedInstanceRoleOutput{}, s.db().Nodes().SetRole(ctx, id, role.PathAndName(), role.ID)
}
