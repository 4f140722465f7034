// Package ssm answers Systems Manager: sessions, managed nodes, activations,
// tags, and what agents say of themselves.
//
// Public operations have the types of AWS's model. Those that agents alone call are
// in no public model; theirs are read off amazon-ssm-agent.
//
// What belongs to a node's credentials is decided by them: an InstanceId in a
// request must be the caller's own, even if its role allows more.
package ssm

import (
	"context"
	"errors"
	"strings"
	"time"

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
	onDocument := api.On(func(ctx context.Context, c *api.Call) ([]api.Question, error) {
		return s.onDocument(ctx, c, documentName(new(c.Text("Name"))))
	},
		api.Resource("document", documentType))
	onNode := api.On(func(ctx context.Context, c *api.Call) ([]api.Question, error) {
		return s.askNode(ctx, c, c.Text("InstanceId"))
	},
		api.Resource("managed-instance"))
	onTagged := api.On(s.askTagged, api.Resource("managed-instance, document", documentType))
	passRole := api.Also("iam:PassRole", "role", "iam:PassedToService")
	return &api.Service{
		Name:  "ssm",
		Door:  api.JSON{Target: "AmazonSSM"},
		Model: model,
		Ops: map[string]api.Op{
			"StartSession": api.Write(s.startSession, api.By(s.askStartSession,
				api.Resource("managed-instance", accessCheck), api.Sometimes(api.Resource("document", accessCheck))),
				api.Answers(sallyport.InvalidParameters, sallyport.InvalidDocumentContent)),
			"ResumeSession":       api.Write(s.resumeSession, api.On(s.askResumeSession, api.Resource("session"))),
			"TerminateSession":    api.Write(s.terminateSession, api.On(s.askTerminateSession, api.Resource("session"))),
			"DescribeSessions":    api.List(s.describeSessions, api.Anything),
			"GetConnectionStatus": api.Read(s.getConnectionStatus, api.By(s.askConnectionStatus, api.Resource("managed-instance"))),

			"DescribeInstanceInformation": api.Read(s.describeInstanceInformation, api.Anything),
			"DescribeInstanceProperties":  api.Read(s.describeInstanceProperties, api.Anything),
			"DeregisterManagedInstance":   api.Write(s.deregister, onNode),
			"UpdateManagedInstanceRole":   api.Write(s.updateRole, api.By(s.askUpdateRole, api.Resource("managed-instance"), passRole)),

			"CreateActivation":    api.Write(s.createActivation, api.By(s.askCreateActivation, api.Resource(""), passRole), api.Secrets("ActivationCode")),
			"DescribeActivations": api.List(s.describeActivations, api.Anything),
			"DeleteActivation":    api.Write(s.deleteActivation, api.Anything),

			"CreateDocument":               api.Write(s.createDocument, api.By(s.askCreateDocument, api.Resource("document", documentType))),
			"GetDocument":                  api.Read(s.getDocument, onDocument, api.Answers(sallyport.InvalidDocumentContent)), // of one that was stored by an earlier version
			"UpdateDocument":               api.Write(s.updateDocument, onDocument),
			"UpdateDocumentDefaultVersion": api.Write(s.updateDocumentDefaultVersion, onDocument),
			"DescribeDocument":             api.Read(s.describeDocumentCall, onDocument),
			"DeleteDocument":               api.Write(s.deleteDocument, onDocument),
			"ListDocuments":                api.List(s.listDocuments, api.Anything),
			"ListDocumentVersions":         api.List(s.listDocumentVersions, onDocument),
			"DescribeDocumentPermission":   api.Read(s.describeDocumentPermission, onDocument),
			"ModifyDocumentPermission":     api.Permissions(s.modifyDocumentPermission, onDocument),

			"AddTagsToResource":      api.Tagging(s.addTags, api.By(s.askAddTags, api.Resource("managed-instance, document", documentType))),
			"RemoveTagsFromResource": api.Tagging(s.removeTags, api.By(s.askRemoveTags, api.Resource("managed-instance, document", documentType))),
			"ListTagsForResource":    api.Read(s.listTags, onTagged),

			"ListAssociations": api.List(s.listAssociations, api.Anything),

			"RegisterManagedInstance":         api.Write(s.register, api.Nothing("the activation code admits"), api.Unsigned, api.Answers(sallyport.InvalidActivation, sallyport.InvalidActivationID)),
			"RequestManagedInstanceRoleToken": api.Write(s.roleToken, api.Nothing("the node's key admits"), api.NodeKey, api.Quiet, api.Answers(sallyport.MachineFingerprintDoesNotMatch)),
			"UpdateManagedInstancePublicKey":  api.Write(s.updatePublicKey, api.Nothing("the node's key admits"), api.NodeKey),
			"UpdateInstanceInformation":       api.Write(s.updateInstanceInformation, api.Nothing("a node that is refused sleeps, so it is parked instead"), api.Node, api.Quiet),
			"ListInstanceAssociations":        api.List(s.listInstanceAssociations, api.By(s.askInstanceAssociations, api.Resource("")), api.Node, api.Quiet),
		},
	}
}

// Condition keys of Systems Manager's own.
const (
	accessCheck  = "ssm:SessionDocumentAccessCheck"
	documentType = "ssm:DocumentType"
)

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
