package api_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/api/iam"
	"github.com/sallyport/sallyport/internal/api/kms"
	"github.com/sallyport/sallyport/internal/api/ssm"
	"github.com/sallyport/sallyport/internal/api/sts"
	"github.com/sallyport/sallyport/internal/shape"
)

// A modelShape is a type as internal/api/models has it.
type modelShape struct {
	Type               string
	Members            map[string]modelRef
	Required           []string
	Member, Key, Value *modelRef
	Min, Max           *float64
	Pattern            string
	Enum               []string
}

type modelRef struct{ Shape, Wire, Form string }

// A serviceModel is a file of internal/api/models.
type serviceModel struct {
	Service    string
	Operations map[string]struct{ Input, Output string }
	Shapes     map[string]modelShape

	form bool // inputs are forms
}

func readModel(t testing.TB, name string) *serviceModel {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("models", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	m := new(serviceModel)
	if err := json.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	m.form = name == "iam" || name == "sts"
	return m
}

// conforms reports whether a tree is what a shape of the model allows. It is written
// apart from what tools/apigen makes of the same models, to be compared with it.
func (m *serviceModel) conforms(name string, v any) bool {
	s := m.Shapes[name]
	within := func(n int) bool {
		return (s.Min == nil || float64(n) >= *s.Min) && (s.Max == nil || float64(n) <= *s.Max)
	}
	text, isText := v.(string)
	switch s.Type {
	case "structure":
		tree, ok := v.(map[string]any)
		for _, r := range s.Required {
			wire := r
			if w := s.Members[r].Wire; w != "" {
				wire = w
			}
			ok = ok && tree[wire] != nil
		}
		for member, ref := range s.Members {
			wire := member
			if ref.Wire != "" {
				wire = ref.Wire
			}
			ok = ok && (tree[wire] == nil || m.conforms(ref.Shape, tree[wire]))
		}
		return ok
	case "list":
		list, ok := v.([]any)
		if !ok {
			return m.form && v == "" && within(0)
		}
		for _, e := range list {
			ok = ok && e != nil && m.conforms(s.Member.Shape, e)
		}
		return ok && within(len(list))
	case "map":
		tree, ok := v.(map[string]any)
		for k, e := range tree {
			ok = ok && e != nil && m.conforms(s.Key.Shape, k) && m.conforms(s.Value.Shape, e)
		}
		return ok && within(len(tree))
	case "string":
		return isText && within(utf8.RuneCountInString(text)) && (len(s.Enum) == 0 || slices.Contains(s.Enum, text)) &&
			(s.Pattern == "" || regexp.MustCompile(`^(?:`+s.Pattern+`)$`).MatchString(text))
	case "blob":
		b, err := base64.StdEncoding.DecodeString(text)
		return isText && err == nil && within(len(b))
	case "boolean":
		_, ok := v.(bool)
		return ok || m.form && (v == "true" || v == "false")
	case "integer", "long":
		number, ok := v.(json.Number)
		n, err := strconv.ParseInt(string(number)+map[bool]string{true: text}[m.form], 10, map[string]int{"integer": 32, "long": 64}[s.Type])
		return (ok || m.form && isText) && err == nil && (s.Min == nil || float64(n) >= *s.Min) && (s.Max == nil || float64(n) <= *s.Max)
	case "timestamp":
		if m.form {
			_, err := time.Parse(time.RFC3339, text)
			return isText && err == nil
		}
		number, ok := v.(json.Number)
		f, err := number.Float64()
		return ok && err == nil && math.Abs(f) <= 253402300799
	}
	panic(s.Type)
}

// services are those whose inputs are fuzzed, by their models' names.
func services(t testing.TB) (all []fuzzed) {
	for name, s := range map[string]*api.Service{
		"ssm": (&ssm.Server{}).Service(), "kms": (&kms.Server{}).Service(), "iam": iam.Service(), "sts": sts.Service(),
	} {
		m := readModel(t, name)
		for operation := range m.Operations {
			all = append(all, fuzzed{m, operation, s.Ops[operation]})
		}
	}
	slices.SortFunc(all, func(a, b fuzzed) int { return strings.Compare(a.model.Service+a.name, b.model.Service+b.name) })
	return all
}

type fuzzed struct {
	model *serviceModel
	name  string
	op    api.Op
}

// check reads one input twice, and compares what is said of it with the model.
func (f fuzzed) check(t *testing.T, tree any, parse func() (shape.Value, error)) {
	t.Helper()
	read := func() (any, error) {
		v, err := parse()
		if err != nil {
			t.Fatal(err)
		}
		return f.op.ReadInput(v)
	}
	first, err := read()
	again, errAgain := read()
	if !reflect.DeepEqual(first, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
		t.Fatalf("%s reads %v as %+v, %v, and then as %+v, %v", f.name, tree, first, err, again, errAgain)
	}
	if want := f.model.conforms(f.model.Operations[f.name].Input, tree); want != (err == nil) {
		t.Fatalf("%s:%s of %q: %v, and the model says %v", f.model.Service, f.name, tree, err, want)
	}
}

// No body panics, and an operation is given what AWS's model allows and nothing else.
func FuzzJSON(f *testing.F) {
	var ops []fuzzed
	for _, o := range services(f) {
		if !o.model.form {
			ops = append(ops, o)
		}
	}
	for _, body := range []string{
		`{}`, "\ufeff{}", ` `, `null`, `[]`, `{"Target":"mi-0123456789abcdef0","Parameters":{"command":["ls"]}}`,
		`{"State":"Active","Filters":[{"key":"Owner","value":"x"}],"MaxResults":5,"NextToken":null}`,
		`{"IamRole":"x","Tags":[{}],"Tags":[{"Key":"a","Value":"b"}]}`, `{"IamRole":"x","Tags":[{"Key":"a","Value":"b"}],"ExpirationDate":1.5e9}`,
		`{"KeyId":"x","Plaintext":"AAAA","EncryptionContext":{"a":"b"}}`, `{"KeyId":"x","Plaintext":""}`, `{"KeyId":"x","PendingWindowInDays":"7"}`,
		`{"Name":"x","Content":"{}","DocumentType":"Session","Requires":[{"Name":"y"}]}`, `{"ExpirationDate":1e400,"IamRole":7}`, `{"Tags":[null],"Filters":{}}`,
	} {
		for i := range ops {
			f.Add(uint8(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		v, err := shape.ParseJSON(body)
		if err != nil {
			return
		}
		ops[int(which)%len(ops)].check(t, v.Tree(), func() (shape.Value, error) { return shape.ParseJSON(body) })
	})
}

// No form panics, is read in one way today and another tomorrow, or reaches an
// operation with what the model forbids.
func FuzzForm(f *testing.F) {
	var ops []fuzzed
	for _, o := range services(f) {
		if o.model.form {
			ops = append(ops, o)
		}
	}
	for _, form := range []string{
		"", "RoleName=x&AssumeRolePolicyDocument=%7B%7D&Tags.member.1.Key=a&Tags.member.1.Value=b", "RoleName=a&RoleName=b",
		"RoleName=x&Tags=&Tags.member.1.Key=a", "RoleName=x&Tags.member.1.Key=a&Tags.member.01.Key=b&Tags.member.1.Value=", "RoleName=x&Tags.member.9999999999999999999.Key=a",
		"PolicySourceArn=x&ActionNames.member.1=y&ContextEntries.member.1.ContextKeyValues.member.2=z", "MaxItems=5&Marker=x", "RoleArn=x&RoleSessionName=y&DurationSeconds=900&PolicyArns.member.1.arn=z",
		".=x", "..=", "a.member=1&a.member.1=2", "OnlyAttached=yes", "MaxItems=1.0", "UserName=&Tags=",
	} {
		for i := range ops {
			f.Add(uint8(i), form)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		form, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		parse := func() (shape.Value, error) { return shape.ParseForm(maps.Clone(form), false) } // walked in another order each time
		v, err := parse()
		for range 3 {
			if _, again := parse(); (again == nil) != (err == nil) {
				t.Fatalf("%q is %v, and then %v", text, err, again)
			}
		}
		if err != nil {
			return
		}
		ops[int(which)%len(ops)].check(t, v.Tree(), parse)
	})
}
