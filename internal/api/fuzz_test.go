package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmsschemas "github.com/aws/aws-sdk-go-v2/service/kms/schemas"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmschemas "github.com/aws/aws-sdk-go-v2/service/ssm/schemas"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// errRead is what operations under test end with when their input was read.
var errRead = errors.New("read")

// A jsonOp is an operation of a JSON service that reads its input and does
// nothing with it but keep it.
type jsonOp struct {
	service, name string
	op            Op
	in            *any
}

func sdkOp[In any, OutP interface {
	*In
	smithy.Serializable
}](service, name string, schema *smithy.Schema) jsonOp {
	o := jsonOp{service: service, name: name, in: new(any)}
	o.op = SDK[In, In, OutP](schema, func(_ context.Context, _ *Call, in *In) ([]Question, error) {
		*o.in = in
		return nil, errRead
	}, nil)
	return o
}

func jsonOps() []jsonOp {
	return []jsonOp{
		sdkOp[ssm.StartSessionInput]("ssm", "StartSession", ssmschemas.StartSessionRequest),
		sdkOp[ssm.DescribeSessionsInput]("ssm", "DescribeSessions", ssmschemas.DescribeSessionsRequest),
		sdkOp[ssm.CreateActivationInput]("ssm", "CreateActivation", ssmschemas.CreateActivationRequest),
		sdkOp[ssm.CreateDocumentInput]("ssm", "CreateDocument", ssmschemas.CreateDocumentRequest),
		sdkOp[ssm.DescribeInstanceInformationInput]("ssm", "DescribeInstanceInformation", ssmschemas.DescribeInstanceInformationRequest),
		sdkOp[kms.EncryptInput]("kms", "Encrypt", kmsschemas.EncryptRequest),
		sdkOp[kms.CreateKeyInput]("kms", "CreateKey", kmsschemas.CreateKeyRequest),
	}
}

// No body panics, and what an operation is given is what was held to the model:
// written again, it satisfies the model again.
func FuzzJSON(f *testing.F) {
	ops := jsonOps()
	for _, body := range []string{
		`{}`, "\ufeff{}", ` `, `null`, `[]`, `{"Target":"mi-0123456789abcdef0","Parameters":{"command":["ls"]}}`,
		`{"State":"Active","Filters":[{"key":"Owner","value":"x"}],"MaxResults":5,"NextToken":null}`,
		`{"IamRole":"x","Tags":[{}],"Tags":[{"Key":"a","Value":"b"}]}`, `{"IamRole":"x","Tags":[{"Key":"a","Value":"b"}],"ExpirationDate":1.5e9}`,
		`{"KeyId":"x","Plaintext":"AAAA","EncryptionContext":{"a":"b"}}`, `{"Name":"x","Content":"{}","DocumentType":"Session","Requires":[{"Name":"y"}]}`,
	} {
		for i := range ops {
			f.Add(uint8(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		o := ops[int(which)%len(ops)]
		c := &Call{Service: &Service{Name: o.service}, Operation: o.name, Body: body}
		if _, err := o.op.run(t.Context(), c); err != errRead {
			return
		}
		b, err := writeSDK((*o.in).(smithy.Serializable))
		if err != nil {
			t.Fatalf("%q was read and cannot be written: %v", body, err)
		}
		var tree map[string]any
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber()
		if err := d.Decode(&tree); err != nil {
			t.Fatalf("%q became %q: %v", body, b, err)
		}
		if err := check(o.service, o.name, tree); err != nil {
			t.Fatalf("%q passed, and became %q, which does not: %v", body, b, err)
		}
	})
}

// A formOp is the same of a query service.
func formOp[In any](in *any) Op {
	return Query[In, In](func(_ context.Context, _ *Call, read *In) ([]Question, error) {
		*in = read
		return nil, errRead
	}, nil)
}

// No form panics, is read in one way today and another tomorrow, or reaches an
// operation with what the model forbids.
func FuzzForm(f *testing.F) {
	var in any
	ops := []struct {
		service, name string
		op            Op
	}{
		{"iam", "CreateRole", formOp[iam.CreateRoleInput](&in)},
		{"iam", "TagRole", formOp[iam.TagRoleInput](&in)},
		{"iam", "SimulateCustomPolicy", formOp[iam.SimulateCustomPolicyInput](&in)},
		{"iam", "ListUsers", formOp[iam.ListUsersInput](&in)},
		{"sts", "AssumeRole", formOp[sts.AssumeRoleInput](&in)},
		{"sts", "GetSessionToken", formOp[sts.GetSessionTokenInput](&in)},
	}
	for _, form := range []string{
		"", "RoleName=x&AssumeRolePolicyDocument=%7B%7D&Tags.member.1.Key=a&Tags.member.1.Value=b", "RoleName=a&RoleName=b",
		"RoleName=x&Tags=&Tags.member.1.Key=a", "RoleName=x&Tags.member.1.Key=a&Tags.member.01.Key=b&Tags.member.1.Value=", "RoleName=x&Tags.member.9999999999999999999.Key=a",
		"PolicyInputList.member.1=x&ActionNames.member.1=y&ContextEntries.member.1.ContextKeyValues.member.2=z", "MaxItems=5&Marker=x", "RoleArn=x&RoleSessionName=y&DurationSeconds=900&PolicyArns.member.1.arn=z",
		".=x", "..=", "a.member=1&a.member.1=2", "noSmithyDocumentSerde.x=1",
	} {
		for i := range ops {
			f.Add(uint8(i), form)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		o := ops[int(which)%len(ops)]
		form, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		var first any
		for try := range 3 { // maps are walked in another order each time
			tree, err := parseForm(maps.Clone(form))
			if err == nil {
				c := &Call{Service: &Service{Name: o.service}, Operation: o.name, form: tree}
				_, err = o.op.run(t.Context(), c)
			}
			var got any = fmt.Sprint(err)
			if err == errRead {
				got = in
			} else if strings.Contains(got.(string), "twice") || strings.Contains(got.(string), "nested") {
				got = "refused" // at whichever name came first
			}
			if try == 0 {
				first = got
			} else if !reflect.DeepEqual(got, first) {
				t.Fatalf("%q is %+v, and then %+v", text, first, got)
			}
		}
		if _, refused := first.(string); refused {
			return
		}
		if err := check(o.service, o.name, treeOf(reflect.ValueOf(first).Elem())); err != nil {
			t.Fatalf("%q passed, and became %+v, which does not: %v", text, first, err)
		}
	})
}

// treeOf is the tree that would be read into a struct of the SDK's.
func treeOf(v reflect.Value) map[string]any {
	tree := map[string]any{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		e := v.Field(i)
		if !f.IsExported() || e.IsZero() {
			continue
		}
		tree[f.Name] = valueOf(e)
	}
	return tree
}

func valueOf(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.Pointer:
		return valueOf(v.Elem())
	case v.Kind() == reflect.Struct && v.Type() != timeType:
		return treeOf(v)
	case v.Kind() == reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = valueOf(v.Index(i))
		}
		return list
	}
	return fmt.Sprint(v.Interface())
}

// A form that is refused is refused in every order its members are walked in.
func TestFormsWithTwoMeanings(t *testing.T) {
	for _, text := range []string{
		"Name=a&Name=b", "Tags=a&Tags.member.1=b", "Tags.member=a&Tags.member.1.Key=b", "Action=a&Action=b",
	} {
		form, err := url.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if tree, err := parseForm(form); err == nil || !strings.Contains(err.Error(), "twice") {
				t.Errorf("%s is %v, %v", text, tree, err)
			}
		}
	}
	form := url.Values{"Tags.member.1": {"a"}, "Tags.member.01": {"b"}, "Tags.member.2": {"c"}}
	tree, err := parseForm(form)
	if _, list := tree["Tags"].([]any); list || err != nil {
		t.Errorf("%v, %v", tree, err)
	}
	delete(form, "Tags.member.01")
	if tree, err := parseForm(form); err != nil || !slices.Equal(tree["Tags"].([]any), []any{"a", "c"}) {
		t.Errorf("%v, %v", tree, err)
	}
}

// The tree that a form describes has bounds.
func TestFormBounds(t *testing.T) {
	form := url.Values{}
	for i := range maxFormPairs {
		form.Set(fmt.Sprint("Tags.member.", i+1), "x")
	}
	if tree, err := parseForm(form); err != nil || len(tree["Tags"].([]any)) != maxFormPairs {
		t.Errorf("as many as there may be: %v", err)
	}
	form.Set("RoleName", "x")
	if _, err := parseForm(form); err == nil || !strings.Contains(err.Error(), "more than 4000 parameters") {
		t.Errorf("one more: %v", err)
	}
	name := "a" + strings.Repeat(".b", maxFormDepth-1)
	if _, err := parseForm(url.Values{name: {"x"}}); err != nil {
		t.Errorf("as deep as may be: %v", err)
	}
	if _, err := parseForm(url.Values{name + ".b": {"x"}}); err == nil || !strings.Contains(err.Error(), "nested too deeply") {
		t.Errorf("deeper: %v", err)
	}
}
