// Package ssm answers Systems Manager: sessions, managed nodes, activations,
// tags, and what agents say of themselves.
//
// Public operations have the SDK's shapes. Those that agents alone call are in
// no model; theirs are read off amazon-ssm-agent.
//
// What belongs to a node's credentials is decided by them: an InstanceId in a
// request must be the caller's own, even if its role allows more.
package ssm

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/schemas"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/store"
)

// A Server answers Systems Manager's operations. Its fields are set before
// [Server.Service] is called.
type Server struct {
	API    *api.Server
	Broker *broker.Broker
	Bus    route.Bus

	// StreamHost is the host, and the port if it is not 443, that clients are
	// told to open their sockets to.
	StreamHost string

	// Started is when the server began to answer. Nodes that were connected to the
	// one before it are on their way back then. The zero time waits for none.
	Started time.Time
}

// Service lists the operations.
func (s *Server) Service() *api.Service {
	return &api.Service{
		Name:   "ssm",
		Target: "AmazonSSM",
		Ops: map[string]api.Op{
			"StartSession":        api.SDK(schemas.StartSessionRequest, s.startSessionOn, s.startSession),
			"ResumeSession":       api.SDK(schemas.ResumeSessionRequest, s.resumeSessionOn, s.resumeSession),
			"TerminateSession":    api.SDK(schemas.TerminateSessionRequest, s.terminateSessionOn, s.terminateSession),
			"DescribeSessions":    api.SDK(schemas.DescribeSessionsRequest, api.OnAnything, s.describeSessions),
			"GetConnectionStatus": api.SDK(schemas.GetConnectionStatusRequest, s.getConnectionStatusOn, s.getConnectionStatus),

			"DescribeInstanceInformation": api.SDK(schemas.DescribeInstanceInformationRequest, api.OnAnything, s.describeInstanceInformation),
			"DescribeInstanceProperties":  api.SDK(schemas.DescribeInstancePropertiesRequest, api.OnAnything, s.describeInstanceProperties),
			"DeregisterManagedInstance":   api.SDK(schemas.DeregisterManagedInstanceRequest, s.deregisterOn, s.deregister),
			"UpdateManagedInstanceRole":   api.SDK(schemas.UpdateManagedInstanceRoleRequest, s.updateRoleOn, s.updateRole),

			"CreateActivation":    api.SDK(schemas.CreateActivationRequest, s.createActivationOn, s.createActivation),
			"DescribeActivations": api.SDK(schemas.DescribeActivationsRequest, api.OnAnything, s.describeActivations),
			"DeleteActivation":    api.SDK(schemas.DeleteActivationRequest, api.OnAnything, s.deleteActivation),

			"CreateDocument":               api.SDK(schemas.CreateDocumentRequest, s.createDocumentOn, s.createDocument),
			"GetDocument":                  api.SDK(schemas.GetDocumentRequest, on(s, func(in *ssm.GetDocumentInput) *string { return in.Name }), s.getDocument),
			"UpdateDocument":               api.SDK(schemas.UpdateDocumentRequest, on(s, func(in *ssm.UpdateDocumentInput) *string { return in.Name }), s.updateDocument),
			"UpdateDocumentDefaultVersion": api.SDK(schemas.UpdateDocumentDefaultVersionRequest, on(s, func(in *ssm.UpdateDocumentDefaultVersionInput) *string { return in.Name }), s.updateDocumentDefaultVersion),
			"DescribeDocument":             api.SDK(schemas.DescribeDocumentRequest, on(s, func(in *ssm.DescribeDocumentInput) *string { return in.Name }), s.describeDocumentCall),
			"DeleteDocument":               api.SDK(schemas.DeleteDocumentRequest, on(s, func(in *ssm.DeleteDocumentInput) *string { return in.Name }), s.deleteDocument),
			"ListDocuments":                api.SDK(schemas.ListDocumentsRequest, api.OnAnything, s.listDocuments),
			"ListDocumentVersions":         api.SDK(schemas.ListDocumentVersionsRequest, on(s, func(in *ssm.ListDocumentVersionsInput) *string { return in.Name }), s.listDocumentVersions),
			"DescribeDocumentPermission":   api.SDK(schemas.DescribeDocumentPermissionRequest, on(s, func(in *ssm.DescribeDocumentPermissionInput) *string { return in.Name }), s.describeDocumentPermission),
			"ModifyDocumentPermission":     api.SDK(schemas.ModifyDocumentPermissionRequest, on(s, func(in *ssm.ModifyDocumentPermissionInput) *string { return in.Name }), s.modifyDocumentPermission),

			"AddTagsToResource":      api.SDK(schemas.AddTagsToResourceRequest, s.addTagsOn, s.addTags),
			"RemoveTagsFromResource": api.SDK(schemas.RemoveTagsFromResourceRequest, s.removeTagsOn, s.removeTags),
			"ListTagsForResource":    api.SDK(schemas.ListTagsForResourceRequest, s.listTagsOn, s.listTags),

			"ListAssociations": api.SDK(schemas.ListAssociationsRequest, api.OnAnything, s.listAssociations),

			"RegisterManagedInstance":         api.Unsigned(api.Plain(api.OnNothing, s.register)),              // the activation code admits
			"RequestManagedInstanceRoleToken": api.NodeKey(api.Plain(api.OnNothing, s.roleToken)),              // the node's key does
			"UpdateManagedInstancePublicKey":  api.NodeKey(api.Plain(api.OnNothing, s.updatePublicKey)),        // likewise
			"UpdateInstanceInformation":       api.Node(api.Plain(api.OnNothing, s.updateInstanceInformation)), // checked, and parked, within
			"ListInstanceAssociations":        api.Node(api.Plain(s.listInstanceAssociationsOn, s.listInstanceAssociations)),
		},
	}
}

func (s *Server) realm() sallyport.Realm { return s.API.Realm }
func (s *Server) db() *store.DB          { return s.API.Store }

// node returns a node, or nil if there is none of that ID: for questions, which
// are asked before the caller learns what exists.
func (s *Server) node(ctx context.Context, id sallyport.NodeID) (*sallyport.Node, error) {
	n, err := s.db().Nodes().Get(ctx, id)
	if sallyport.CodeOf(err) == sallyport.InvalidInstanceID {
		return nil, nil
	}
	return n, err
}

// onNode asks whether the caller may take the call's action on a node.
func (s *Server) onNode(ctx context.Context, c *api.Call, text string) (api.Question, error) {
	id, err := sallyport.ParseNodeID(text)
	if err != nil {
		return api.Question{}, err
	}
	q := api.Question{Action: c.Action(), Resources: []string{s.realm().Node(id)}}
	n, err := s.node(ctx, id)
	if n != nil {
		q.Tags = n.Tags
	}
	return q, err
}

// passRole asks whether the caller may hand a role to nodes. Without it, a caller
// who may create an activation could do what any role may do. The role is asked
// about by its own ARN, however it was named. One that is not there is asked
// about by what its ARN would be, so that only a caller who may hand it out hears
// that it is not.
func (s *Server) passRole(ctx context.Context, role string) (api.Question, error) {
	path, name := "/", api.RoleName(role)
	if i := strings.LastIndexByte(role, '/'); i >= 0 {
		path = "/" + strings.Trim(role[:i], "/") + "/"
	}
	q := api.Question{
		Action:    "iam:PassRole",
		Resources: []string{s.realm().Role(path, name)},
		Name:      "role " + sallyport.Clip(role, 64),
		Keys:      map[string]string{"iam:PassedToService": "ssm.amazonaws.com"},
	}
	r, err := s.API.FindRole(ctx, role)
	if r != nil {
		q.Resources = []string{s.realm().Role(r.Path, r.Name)} // its tags are no condition, as in AWS
	}
	return q, err
}

// own checks that a node, whose call it is, speaks of itself.
func own(c *api.Call, instance string) (sallyport.NodeID, error) {
	if instance != c.Who.Node.String() {
		return sallyport.NodeID{}, sallyport.Errorf(sallyport.AccessDeniedException,
			"These credentials are %s's, and are good for it alone.", c.Who.Node)
	}
	return c.Who.Node, nil
}

// notFound turns the store's word that a node is not there into another code.
func notFound(err error, code sallyport.Code) error {
	if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Code == sallyport.InvalidInstanceID {
		return sallyport.Errorf(code, "%s", e.Message)
	}
	return err
}

// page makes a store's page of what a request says.
func page(token *string, max *int32, otherwise int) store.Page {
	p := store.Page{Limit: otherwise}
	if token != nil {
		p.After = store.Cursor(*token)
	}
	if max != nil {
		p.Limit = int(*max)
	}
	return p
}

// next is the token of the next page; nil if there is none.
func next(c store.Cursor) *string {
	if c == "" {
		return nil
	}
	text := string(c)
	return &text
}

func unknownFilter(key string, known ...string) error {
	return sallyport.Errorf(sallyport.InvalidFilterKey, "%q is not a filter of this operation. They are %s.", sallyport.Clip(key, 64), strings.Join(known, ", "))
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// some is a pointer to text, or nil for none: members that are empty are left
// out of answers.
func some(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
