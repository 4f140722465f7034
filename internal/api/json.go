package api

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	ssmschemas "github.com/aws/aws-sdk-go-v2/service/ssm/schemas"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/aws/smithy-go/transport/http/protocol/awsjson"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// The shapes of public operations are the SDK's own, and so is the codec: the
// SDK reads and writes by schema, and what a client writes a server reads. Two
// things are turned about here: an input, which the SDK only writes, is read
// ([readSDK]), and an output, which it only reads, is written.
var json11 = awsjson.New11(ssmschemas.AmazonSSM)

// maxJSONDepth bounds nesting before anything walks the value.
const maxJSONDepth = 32

// SDK declares an operation of a JSON service whose shapes are the SDK's. On
// says what has to be allowed, knowing the input; do does it.
func SDK[In, Out any, OutP interface {
	*Out
	smithy.Serializable
}](schema *smithy.Schema,
	on func(context.Context, *Call, *In) ([]Question, error),
	do func(context.Context, *Call, *In) (*Out, error),
) Op {
	return Op{run: func(ctx context.Context, c *Call) ([]byte, error) {
		if err := checkJSON(c); err != nil {
			return nil, err
		}
		in := new(In)
		if err := readSDK(schema, c.Body, in); err != nil {
			return nil, sallyport.Errorf(sallyport.SerializationException, "The request is not what %s takes: %v.", c.Operation, err)
		}
		out, err := authorizeAndDo(ctx, c, in, on, do)
		if err != nil {
			return nil, err
		}
		return writeSDK(OutP(out))
	}}
}

// Plain declares an operation that is in no public model: those that agents
// alone call. Its shapes are structs that encoding/json reads and writes.
func Plain[In, Out any](
	on func(context.Context, *Call, *In) ([]Question, error),
	do func(context.Context, *Call, *In) (*Out, error),
) Op {
	return Op{run: func(ctx context.Context, c *Call) ([]byte, error) {
		if err := checkJSON(c); err != nil {
			return nil, err
		}
		in := new(In)
		if err := strictjson.UnmarshalExact(orEmpty(c.Body), in); err != nil {
			if e, ok := errors.AsType[*sallyport.Error](err); ok {
				return nil, e // one of our own types refused its text
			}
			return nil, sallyport.Errorf(sallyport.SerializationException, "The request is not what %s takes: %v.", c.Operation, err)
		}
		out, err := authorizeAndDo(ctx, c, in, on, do)
		if err != nil {
			return nil, err
		}
		return json.Marshal(out)
	}}
}

// XML declares an operation of a service told by paths: JSON in, one XML
// element of text members out. (amazon-ssm-agent, agent/session/service.)
func XML[In, Out any](
	on func(context.Context, *Call, *In) ([]Question, error),
	do func(context.Context, *Call, *In) (*Out, error),
) Op {
	plain := Plain(on, func(ctx context.Context, c *Call, in *In) (*xmlOut, error) {
		out, err := do(ctx, c, in)
		return &xmlOut{out}, err
	})
	return Op{run: func(ctx context.Context, c *Call) ([]byte, error) {
		b, err := plain.run(ctx, c)
		if err != nil {
			return nil, err
		}
		var text string
		err = json.Unmarshal(b, &text)
		return []byte(text), err
	}}
}

// An xmlOut is written as XML, within JSON's quotes.
type xmlOut struct{ v any }

func (x xmlOut) MarshalText() ([]byte, error) { return xml.Marshal(x.v) }

func authorizeAndDo[In, Out any](ctx context.Context, c *Call, in *In,
	on func(context.Context, *Call, *In) ([]Question, error),
	do func(context.Context, *Call, *In) (*Out, error),
) (*Out, error) {
	questions, err := on(ctx, c, in)
	if err != nil {
		return nil, err
	}
	for _, q := range questions {
		if err := c.Allow(ctx, q); err != nil {
			return nil, err
		}
	}
	out, err := do(ctx, c, in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Operation, err)
	}
	return out, nil
}

func orEmpty(body []byte) []byte {
	if len(bytes.TrimSpace(body)) == 0 {
		return []byte("{}")
	}
	return body
}

// checkJSON reads the body as any JSON object and holds it to the model. No member
// is there twice, so what is read into the input afterwards is what was checked.
func checkJSON(c *Call) error {
	c.Body = strictjson.TrimMark(c.Body)
	if err := shallow(c.Body); err != nil {
		return err
	}
	v, err := strictjson.Decode(orEmpty(c.Body))
	if err != nil {
		return sallyport.Errorf(sallyport.SerializationException, "The request body is not a JSON object: %v.", err)
	}
	input, ok := v.(map[string]any)
	if !ok && v != nil {
		return sallyport.Errorf(sallyport.SerializationException, "The request body is not a JSON object: it is a list, text or a number.")
	}
	return check(c.Service.Name, c.Operation, input)
}

// shallow refuses JSON that is nested too deeply, before a recursive reader
// sees it.
func shallow(body []byte) error {
	depth, inString, escaped := 0, false, false
	for _, b := range body {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped = b == '\\'
			inString = b != '"'
		case b == '"':
			inString = true
		case b == '{' || b == '[':
			if depth++; depth > maxJSONDepth {
				return sallyport.Errorf(sallyport.SerializationException, "The request body is nested more than %d deep.", maxJSONDepth)
			}
		case b == '}' || b == ']':
			depth--
		}
	}
	return nil
}

// writeSDK is what the SDK would send if out were an input.
func writeSDK(out smithy.Serializable) ([]byte, error) {
	schema := smithy.NewOperationSchema(ssmschemas.StartSessionResponse, ssmschemas.StartSessionResponse, ssmschemas.StartSessionResponse) // any will do: only its presence is looked at
	r := smithyhttp.NewStackRequest().(*smithyhttp.Request)
	if err := json11.SerializeRequest(context.Background(), schema, out, r); err != nil {
		return nil, err
	}
	return io.ReadAll(r.GetStream())
}

// readSDK reads body into in, one of the SDK's inputs.
func readSDK(schema *smithy.Schema, body []byte, in any) error {
	op := smithy.NewOperationSchema(schema, schema, schema)
	answer := &smithyhttp.Response{Response: &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body))}}
	return json11.DeserializeResponse(context.Background(), op, nil, answer, input{schema, in})
}

// An input makes one of the SDK's inputs readable. Outputs and the structures
// within have this from the SDK.
type input struct {
	schema *smithy.Schema
	v      any // a pointer to the struct
}

func (in input) Deserialize(d smithy.ShapeDeserializer) error {
	return readStruct(d, in.schema, reflect.ValueOf(in.v).Elem())
}

var (
	readable = reflect.TypeFor[smithy.Deserializable]()
	timeType = reflect.TypeFor[time.Time]()
)

func readStruct(d smithy.ShapeDeserializer, s *smithy.Schema, v reflect.Value) error {
	return smithy.ReadStruct(d, s, func(m *smithy.Schema) error {
		f := v.FieldByName(m.MemberName())
		if !f.IsValid() {
			return fmt.Errorf("it has no %s", m.MemberName())
		}
		return readValue(d, m, f)
	})
}

func readValue(d smithy.ShapeDeserializer, s *smithy.Schema, f reflect.Value) error {
	if f.Kind() == reflect.Pointer {
		f.Set(reflect.New(f.Type().Elem()))
		if f.Type().Implements(readable) {
			return f.Interface().(smithy.Deserializable).Deserialize(d)
		}
		f = f.Elem()
	} else if f.CanAddr() && f.Addr().Type().Implements(readable) {
		return f.Addr().Interface().(smithy.Deserializable).Deserialize(d)
	}
	switch {
	case f.Type() == timeType:
		return d.ReadTime(s, f.Addr().Interface().(*time.Time))
	case f.Kind() == reflect.String:
		var text string
		err := d.ReadString(s, &text)
		f.SetString(text)
		return err
	case f.Kind() == reflect.Bool:
		return d.ReadBool(s, f.Addr().Interface().(*bool))
	case f.Kind() == reflect.Int32:
		return d.ReadInt32(s, f.Addr().Interface().(*int32))
	case f.Kind() == reflect.Int64:
		return d.ReadInt64(s, f.Addr().Interface().(*int64))
	case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Uint8:
		return d.ReadBlob(s, f.Addr().Interface().(*[]byte))
	case f.Kind() == reflect.Slice:
		return smithy.ReadList(d, s, func() error {
			e := reflect.New(f.Type().Elem()).Elem()
			if err := readValue(d, s.ListMember(), e); err != nil {
				return err
			}
			f.Set(reflect.Append(f, e))
			return nil
		})
	case f.Kind() == reflect.Map:
		f.Set(reflect.MakeMap(f.Type()))
		return smithy.ReadMap(d, s, func(key string) error {
			e := reflect.New(f.Type().Elem()).Elem()
			if err := readValue(d, s.MapValue(), e); err != nil {
				return err
			}
			f.SetMapIndex(reflect.ValueOf(key).Convert(f.Type().Key()), e)
			return nil
		})
	}
	return fmt.Errorf("%s is of a type that this server does not read", s.MemberName())
}
