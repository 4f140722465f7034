package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// IAM and STS speak AWS's query protocol: a form in, XML out. Their shapes are
// the SDK's Go types, and their members are named as the fields are, so both
// directions are read off the types. (smithy.io, "AWS query protocol".)

// Query declares an operation of a query service whose shapes are the SDK's.
// On says what has to be allowed, knowing the input; do does it.
func Query[In, Out any](
	on func(context.Context, *Call, *In) ([]Question, error),
	do func(context.Context, *Call, *In) (*Out, error),
) Op {
	return Op{run: func(ctx context.Context, c *Call) ([]byte, error) {
		if err := check(c.Service.Name, c.Operation, c.form); err != nil {
			return nil, err
		}
		in := new(In)
		if err := readForm(c.form, reflect.ValueOf(in).Elem()); err != nil {
			return nil, sallyport.Errorf(sallyport.ValidationException, "The request is not what %s takes: %v.", c.Operation, err)
		}
		out, err := authorizeAndDo(ctx, c, in, on, do)
		if err != nil {
			return nil, err
		}
		return writeXML(c, out), nil
	}}
}

// findQuery says which query operation is asked for. It reports false if the
// request is not of that protocol at all.
func (s *Server) findQuery(c *Call) (op Op, ok bool, err error) {
	r := c.Request
	raw := r.URL.RawQuery
	if r.Method == http.MethodPost {
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if kind != "application/x-www-form-urlencoded" {
			return Op{}, false, nil
		}
		raw = string(c.Body)
	} else if r.Method != http.MethodGet {
		return Op{}, false, nil
	}
	form, err := url.ParseQuery(raw)
	if err != nil || r.URL.Path != "/" {
		return Op{}, false, nil
	}
	action, version := form.Get("Action"), form.Get("Version")
	if action == "" {
		return Op{}, false, nil
	}
	for _, service := range s.Services {
		if service.Version == "" || service.Version != version {
			continue
		}
		c.Service, c.Operation = service, action
		op, ok := service.Ops[action]
		if !ok {
			break
		}
		c.form, err = parseForm(form)
		return op, true, err
	}
	return Op{}, true, sallyport.Errorf(sallyport.UnknownOperationException, "%s, version %s, is not an operation that is answered here.", sallyport.Clip(action, 100), sallyport.Clip(version, 20))
}

// Bounds of a form: without them a stranger could have the server build a tree of
// any size.
const (
	maxFormPairs = 4000
	maxFormDepth = 12
)

// parseForm turns the flat names of a form, such as Tags.member.2.Key, into the
// tree they describe: maps, lists and text. A name that is there twice, or is both
// text and has names below it, would mean what comes last or first, and is
// refused.
func parseForm(form url.Values) (map[string]any, error) {
	if len(form) > maxFormPairs {
		return nil, sallyport.Errorf(sallyport.ValidationException, "The request has more than %d parameters.", maxFormPairs)
	}
	root := map[string]any{}
	for name, values := range form {
		twice := func() error {
			return sallyport.Errorf(sallyport.ValidationException, "The request has the parameter %s twice.", sallyport.Clip(name, 80))
		}
		if len(values) > 1 {
			return nil, twice()
		}
		if name == "Action" || name == "Version" || strings.HasPrefix(name, "X-Amz-") {
			continue
		}
		parts := strings.Split(name, ".")
		if len(parts) > maxFormDepth {
			return nil, sallyport.Errorf(sallyport.ValidationException, "The parameter %s is nested too deeply.", sallyport.Clip(name, 80))
		}
		at := root
		for _, p := range parts[:len(parts)-1] {
			next, ok := at[p].(map[string]any)
			switch {
			case at[p] == nil:
				next = map[string]any{}
				at[p] = next
			case !ok:
				return nil, twice()
			}
			at = next
		}
		last := parts[len(parts)-1]
		if at[last] != nil {
			return nil, twice()
		}
		at[last] = values[0]
	}
	tree, _ := listed(root).(map[string]any)
	return tree, nil
}

// listed turns {"member": {"1": …, "2": …}} into a list, at every depth. Lists
// that are sent empty, as botocore sends them, are empty text: nothing.
func listed(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	if members, ok := m["member"].(map[string]any); ok && len(m) == 1 {
		numbers := make([]int, 0, len(members))
		for k := range members {
			n, err := strconv.Atoi(k)
			if err != nil || strconv.Itoa(n) != k { // 01 is not another 1
				return m
			}
			numbers = append(numbers, n)
		}
		slices.Sort(numbers)
		list := make([]any, len(numbers))
		for i, n := range numbers {
			list[i] = listed(members[strconv.Itoa(n)])
		}
		return list
	}
	for k, e := range m {
		m[k] = listed(e)
	}
	return m
}

// readForm reads a tree into one of the SDK's inputs.
func readForm(tree map[string]any, v reflect.Value) error {
	for _, name := range slices.Sorted(maps.Keys(tree)) { // so that of two errors the same comes first
		e := tree[name]
		if name == "arn" && v.Type().Name() == "PolicyDescriptorType" {
			name = "Arn" // see writeXMLStruct; no other name may be bent, or check would be passed by
		}
		f := v.FieldByName(name)
		if !f.IsValid() || !f.CanSet() {
			continue // the SDK may know members that we do not; a stranger's are nothing
		}
		if err := readFormValue(e, f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func readFormValue(e any, f reflect.Value) error {
	if f.Kind() == reflect.Pointer {
		f.Set(reflect.New(f.Type().Elem()))
		f = f.Elem()
	}
	switch v := e.(type) {
	case map[string]any:
		if f.Kind() == reflect.Struct && f.Type() != timeType {
			return readForm(v, f)
		}
	case []any:
		if f.Kind() == reflect.Slice {
			f.Set(reflect.MakeSlice(f.Type(), len(v), len(v)))
			for i := range v {
				if err := readFormValue(v[i], f.Index(i)); err != nil {
					return err
				}
			}
			return nil
		}
	case string:
		switch {
		case f.Type() == timeType:
			t, err := time.Parse(time.RFC3339, v)
			f.Set(reflect.ValueOf(t))
			return err
		case f.Kind() == reflect.String:
			f.SetString(v)
			return nil
		case f.Kind() == reflect.Bool:
			b, err := strconv.ParseBool(v)
			f.SetBool(b)
			return err
		case f.CanInt():
			n, err := strconv.ParseInt(v, 10, f.Type().Bits())
			f.SetInt(n)
			return err
		case f.Kind() == reflect.Slice && v == "":
			f.Set(reflect.MakeSlice(f.Type(), 0, 0)) // a list of nothing, and not no list
			return nil
		}
	}
	return fmt.Errorf("it is not a %s", f.Kind())
}

// writeXML writes the answer of a query operation.
func writeXML(c *Call, out any) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "<%sResponse xmlns=%q>", c.Operation, c.Service.XMLNS)
	if v := reflect.ValueOf(out).Elem(); v.NumField() > 0 {
		fmt.Fprintf(&b, "<%sResult>", c.Operation)
		writeXMLStruct(&b, v)
		fmt.Fprintf(&b, "</%sResult>", c.Operation)
	}
	fmt.Fprintf(&b, "<ResponseMetadata><RequestId>%s</RequestId></ResponseMetadata></%sResponse>", c.ID, c.Operation)
	return b.Bytes()
}

func writeXMLStruct(b *bytes.Buffer, v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() || field.Name == "ResultMetadata" {
			continue
		}
		e := v.Field(i)
		switch e.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice:
			if e.IsNil() { // an empty list must be there, or botocore misses it; a nil one must not
				continue
			}
		case reflect.String:
			if e.Len() == 0 {
				continue
			}
		}
		name := field.Name
		if v.Type().Name() == "PolicyDescriptorType" && name == "Arn" {
			name = "arn" // the one member of both services that is spelt so
		}
		fmt.Fprintf(b, "<%s>", name)
		writeXMLValue(b, e)
		fmt.Fprintf(b, "</%s>", name)
	}
}

func writeXMLValue(b *bytes.Buffer, v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch {
	case v.Type() == timeType:
		b.WriteString(v.Interface().(time.Time).UTC().Format("2006-01-02T15:04:05Z"))
	case v.Kind() == reflect.Struct:
		writeXMLStruct(b, v)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		b.WriteString(base64.StdEncoding.EncodeToString(v.Bytes()))
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			b.WriteString("<member>")
			writeXMLValue(b, v.Index(i))
			b.WriteString("</member>")
		}
	case v.Kind() == reflect.Map:
		m := map[string]reflect.Value{}
		for _, k := range v.MapKeys() {
			m[k.String()] = v.MapIndex(k)
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			b.WriteString("<entry><key>")
			xml.EscapeText(b, []byte(k))
			b.WriteString("</key><value>")
			writeXMLValue(b, m[k])
			b.WriteString("</value></entry>")
		}
	default:
		xml.EscapeText(b, []byte(fmt.Sprint(v.Interface())))
	}
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

// queryStatus is the HTTP status of errors of the query protocol, where it is
// not 400. (The models' httpStatusCode.)
var queryStatus = map[string]int{
	"AccessDenied": 403, "ExpiredToken": 403, "SignatureDoesNotMatch": 403, "MissingAuthenticationToken": 403,
	"InvalidClientTokenId": 403, "ServiceFailure": 500, "ServiceUnavailable": 503,
	string(sallyport.NoSuchEntity): 404, string(sallyport.EntityAlreadyExists): 409,
	string(sallyport.DeleteConflict): 409, string(sallyport.LimitExceeded): 409,
}

func failQuery(w http.ResponseWriter, c *Call, e *sallyport.Error) {
	code, ok := queryCodes[e.Code]
	if !ok {
		code = string(e.Code)
	}
	status, ok := queryStatus[code]
	if !ok {
		status = http.StatusBadRequest
	}
	kind := "Sender"
	if status >= 500 {
		kind = "Receiver"
	}
	var message bytes.Buffer
	xml.EscapeText(&message, []byte(e.Message))
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<ErrorResponse xmlns=%q><Error><Type>%s</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>%s</RequestId></ErrorResponse>",
		c.Service.XMLNS, kind, code, message.String(), c.ID)
}

// failXML answers an agent on a path. It looks for the code as an element, and
// for sentences it knows. (amazon-ssm-agent, agent/session/controlchannel.)
func failXML(w http.ResponseWriter, e *sallyport.Error) {
	status := StatusOf(e.Code)
	if e.Code == sallyport.AccessDeniedException {
		status = http.StatusForbidden
	}
	var message bytes.Buffer
	xml.EscapeText(&message, []byte(e.Message))
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<%s><Message>%s</Message></%s>", e.Code, message.String(), e.Code)
}
