package api

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/shape"
)

// A Door is how a service is spoken to: [JSON], [Query] or [Paths].
type Door interface {
	// Claims reports whether a request is for the service, by what comes before its
	// body. Scope is the service that its signature is for; "" if it is not signed.
	Claims(s *Service, r *http.Request, scope string) bool

	// Name returns the operation that a claimed request asks for, and what its path
	// names, if that is known without its body; "" if not.
	Name(r *http.Request) (operation, subject string)

	// Parse returns the input of a request, whose body has been read, and sets
	// [Call.Operation] if Name did not. The operation may not exist.
	Parse(c *Call) (shape.Value, error)

	// Answer writes what an operation answers; Fail writes an error.
	Answer(w http.ResponseWriter, c *Call, out shape.Output)
	Fail(w http.ResponseWriter, c *Call, e *sallyport.Error)
}

// JSON is the door of services that speak AWS's JSON 1.1: ssm, kms, logs.
type JSON struct {
	Target string // what X-Amz-Target begins with: "AmazonSSM"
}

const jsonType = "application/x-amz-json-1.1"

func (d JSON) Claims(_ *Service, r *http.Request, _ string) bool {
	prefix, _, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	return prefix == d.Target && r.Method == http.MethodPost && r.URL.Path == "/"
}

func (d JSON) Name(r *http.Request) (operation, subject string) {
	_, operation, _ = strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	return operation, ""
}

func (d JSON) Parse(c *Call) (shape.Value, error) { return shape.ParseJSON(c.Body) }

func (d JSON) Answer(w http.ResponseWriter, _ *Call, out shape.Output) {
	var b shape.JSON
	out.Write(&b)
	w.Header().Set("Content-Type", jsonType)
	w.Write(b.Bytes()) // the client has gone if this fails
}

// Fail writes the code where each client looks for it: botocore reads message before
// Message, stock agents read __type alone, and the SDK for Go the header first.
func (d JSON) Fail(w http.ResponseWriter, c *Call, e *sallyport.Error) {
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("x-amzn-ErrorType", string(e.Code))
	w.WriteHeader(c.Service.statusOf(e.Code))
	json.NewEncoder(w).Encode(struct {
		Type    sallyport.Code `json:"__type"`
		Message string         `json:"message"`
	}{e.Code, e.Message})
}

// Query is the door of services that speak AWS's query protocol, a form in and
// XML out: iam and sts, and, with EC2's differences, ec2. (smithy.io, "AWS query
// protocol" and "EC2 query protocol".)
type Query struct {
	Version   string // "2010-05-08"
	Namespace string // of the XML of answers
	EC2       bool
}

// Claims goes by the signature, and by the version of a request whose form is in its
// query. A request that is not signed is for the service that its body names:
// see [Server.findForm].
func (d Query) Claims(s *Service, r *http.Request, scope string) bool {
	if r.URL.Path != "/" || r.Header.Get("X-Amz-Target") != "" {
		return false
	}
	if r.Method == http.MethodGet {
		q := r.URL.Query()
		return q.Get("Version") == d.Version && q.Get("Action") != ""
	}
	return isForm(r) && scope == s.Name
}

// isForm reports whether a request's body is a form.
func isForm(r *http.Request) bool {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return r.Method == http.MethodPost && kind == "application/x-www-form-urlencoded"
}

func (d Query) Name(r *http.Request) (operation, subject string) {
	if r.Method == http.MethodGet {
		return r.URL.Query().Get("Action"), ""
	}
	return "", ""
}

// form returns the parameters of a query request.
func (c *Call) form() (url.Values, error) {
	raw := c.Request.URL.RawQuery
	if c.Request.Method == http.MethodPost {
		raw = string(c.Body)
	}
	form, err := url.ParseQuery(raw)
	if err != nil {
		return nil, sallyport.Errorf(sallyport.SerializationException, "The request's parameters cannot be read: it is not a form.")
	}
	return form, nil
}

func (d Query) Parse(c *Call) (shape.Value, error) {
	form, err := c.form()
	if err != nil {
		return shape.Value{}, err
	}
	c.Operation = form.Get("Action")
	if version := form.Get("Version"); version != d.Version { // signed for one service, and named like another's
		i := slices.IndexFunc(c.Server.Services, func(s *Service) bool {
			other, ok := s.Door.(Query)
			return ok && other.Version == version
		})
		if i < 0 {
			return shape.Value{}, unknownAction(c.Operation, version)
		}
		c.Service = c.Server.Services[i]
	}
	return shape.ParseForm(form, d.EC2)
}

func unknownAction(action, version string) error {
	return sallyport.Errorf(sallyport.UnknownOperationException, "%s, version %s, is not an operation that is answered here.", sallyport.Clip(action, 100), sallyport.Clip(version, 20))
}

func (d Query) Answer(w http.ResponseWriter, c *Call, out shape.Output) {
	x := shape.XML{}
	if d.EC2 {
		x.Item = "item"
	}
	out.Write(&x)
	var b bytes.Buffer
	fmt.Fprintf(&b, "<%sResponse xmlns=%q>", c.Operation, d.Namespace)
	switch m := c.Service.Model.Operation(c.Operation); {
	case d.EC2:
		fmt.Fprintf(&b, "<requestId>%s</requestId>", c.ID)
		b.Write(x.Bytes())
	case m == nil || !m.Silent:
		fmt.Fprintf(&b, "<%sResult>%s</%[1]sResult>", c.Operation, x.Bytes())
	}
	if !d.EC2 {
		fmt.Fprintf(&b, "<ResponseMetadata><RequestId>%s</RequestId></ResponseMetadata>", c.ID)
	}
	fmt.Fprintf(&b, "</%sResponse>", c.Operation)
	w.Header().Set("Content-Type", "text/xml")
	w.Write(b.Bytes())
}

// queryCodes are the errors whose names differ in the query protocol.
// (boto3 and the SDKs branch on these.)
var queryCodes = map[sallyport.Code]string{
	sallyport.AccessDeniedException:        "AccessDenied",
	sallyport.ExpiredTokenException:        "ExpiredToken",
	sallyport.IncompleteSignatureException: "IncompleteSignature",
	sallyport.InvalidSignatureException:    "SignatureDoesNotMatch",
	sallyport.MissingAuthenticationToken:   "MissingAuthenticationToken",
	sallyport.ThrottlingException:          "Throttling",
	sallyport.UnknownOperationException:    "InvalidAction",
	sallyport.UnrecognizedClientException:  string(sallyport.InvalidClientTokenID),
	sallyport.ValidationException:          "ValidationError",
	sallyport.InternalServerError:          "ServiceFailure",
	sallyport.ServiceUnavailableException:  "ServiceUnavailable",
}

// forbidden are the errors that the query protocol sends with status 403.
var forbidden = map[sallyport.Code]bool{
	sallyport.AccessDeniedException: true, sallyport.ExpiredTokenException: true, sallyport.InvalidSignatureException: true,
	sallyport.MissingAuthenticationToken: true, sallyport.UnrecognizedClientException: true, sallyport.InvalidClientTokenID: true,
}

func (d Query) Fail(w http.ResponseWriter, c *Call, e *sallyport.Error) {
	code, ok := queryCodes[e.Code]
	if !ok {
		code = string(e.Code)
	}
	status := c.Service.statusOf(e.Code)
	if forbidden[e.Code] {
		status = http.StatusForbidden
	}
	kind := "Sender"
	if status >= 500 {
		kind = "Receiver"
	}
	message := escape(e.Message)
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	if d.EC2 {
		fmt.Fprintf(w, "<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>%s</RequestID></Response>", code, message, c.ID)
		return
	}
	fmt.Fprintf(w, "<ErrorResponse xmlns=%q><Error><Type>%s</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>%s</RequestId></ErrorResponse>",
		d.Namespace, kind, code, message, c.ID)
}

func escape(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes all
	return b.String()
}

// Paths is the door of ssmmessages, whose operations are told by their paths: JSON
// in, one XML element out, with status 201. (amazon-ssm-agent,
// agent/session/service.)
type Paths struct {
	// Find says which operation a path asks for, and about what; "" if it is none of
	// the service's.
	Find func(method, path string) (operation, subject string)
}

func (d Paths) Claims(_ *Service, r *http.Request, _ string) bool {
	name, _ := d.Find(r.Method, r.URL.Path)
	return name != ""
}

func (d Paths) Name(r *http.Request) (operation, subject string) {
	return d.Find(r.Method, r.URL.Path)
}

func (d Paths) Parse(c *Call) (shape.Value, error) { return shape.ParseJSON(c.Body) }

func (d Paths) Answer(w http.ResponseWriter, c *Call, out shape.Output) {
	var x shape.XML
	out.Write(&x)
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "<%sResponse>%s</%[1]sResponse>", c.Operation, x.Bytes())
}

// Fail answers an agent. It looks for the code as an element, and for sentences
// it knows. (amazon-ssm-agent, agent/session/controlchannel.)
func (d Paths) Fail(w http.ResponseWriter, c *Call, e *sallyport.Error) {
	status := c.Service.statusOf(e.Code)
	if e.Code == sallyport.AccessDeniedException {
		status = http.StatusForbidden
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<%s><Message>%s</Message></%[1]s>", e.Code, escape(e.Message))
}
