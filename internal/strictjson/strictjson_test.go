package strictjson

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

type inner struct {
	Key   string
	Value *string `json:"value"`
}

type outer struct {
	Tags    []inner
	Free    map[string]inner
	Any     any
	Raw     json.RawMessage
	Ignored string `json:"-"`
	inner
}

func TestUnmarshal(t *testing.T) {
	tests := []struct {
		name, text string
		wrong      string // "" if it may be read
	}{
		{"an object", `{"Tags":[{"Key":"a","value":null}],"Free":{"a":{},"A":{}},"Any":{"a":1,"A":2}}`, ""},
		{"a byte-order mark", "\ufeff{}", ""},
		{"two marks", "\ufeff\ufeff{}", "invalid character"},
		{"nothing", ``, "breaks off"},
		{"half of it", `{"Tags":[`, "breaks off"},
		{"something after it", `{} {}`, "follows its end"},
		{"a bracket after it", `{}]`, "follows its end"},
		{"no JSON", `{Tags:1}`, "invalid character"},
		{"a member twice", `{"Tags":[],"Tags":[]}`, `the member "Tags" twice`},
		{"a member twice, once escaped", `{"Tags":[],"\u0054ags":[]}`, `the member "Tags" twice`},
		{"two names that are no text", "{\"\xff\":1,\"\xfe\":2}", "twice"},
		{"a member twice that no field has", `{"x":1,"x":2}`, `the member "x" twice`},
		{"a field in two cases", `{"Tags":[],"tags":[]}`, `the member "tags" twice, in different case`},
		{"a field in two cases, by a letter of another alphabet", `{"Key":"a","` + "\u212a" + `ey":"b"}`, "in different case"},
		{"within a list", `{"Tags":[{"key":"a","KEY":"b"}]}`, "in different case"},
		{"within a map", `{"Free":{"a":{"value":"a","Value":"b"}}}`, "in different case"},
		{"within what takes anything", `{"Any":[{"a":1,"a":1}]}`, "twice"},
		{"within what is not read yet", `{"Raw":{"a":1,"a":1}}`, "twice"},
		{"of an embedded struct", `{"Key":"a","key":"b"}`, "in different case"},
		{"two that fill nothing, in different case", `{"ignored":1,"Ignored":2}`, ""},
		{"as deep as may be", strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), ""},
		{"deeper", strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1), "more than 64 deep"},
		{"deeper and without an end", strings.Repeat(`{"a":`, 100_000), "more than 64 deep"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v any = new(outer)
			if strings.HasPrefix(tt.text, "[") {
				v = new(any)
			}
			err := Unmarshal([]byte(tt.text), v)
			if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%v, want %q", err, tt.wrong)
			}
		})
	}
}

func TestMarshal(t *testing.T) {
	in := map[string]any{"a": "<&>\u2028\xff\"", "raw": json.RawMessage(`{"b": "<"}`)}
	b, err := Marshal(in)
	if want := `{"a":"<&>\u2028\ufffd\"","raw":{"b":"<"}}`; err != nil || string(b) != want {
		t.Errorf("%s, %v; want %s", b, err, want)
	}
	if _, err := Marshal(func() {}); err == nil {
		t.Error("a function was written")
	}
}

func TestUnmarshalExact(t *testing.T) {
	var v outer
	if err := UnmarshalExact([]byte(`{"tags":[]}`), &v); err == nil || !strings.Contains(err.Error(), `its member "tags" is spelt "Tags"`) {
		t.Error(err)
	}
	if err := UnmarshalExact([]byte(`{"Tags":[{"Value":"x"}]}`), &v); err == nil || !strings.Contains(err.Error(), `"value"`) {
		t.Error(err)
	}
	if err := UnmarshalExact([]byte(`{"Tags":[{"Key":"a"}],"unknown":1}`), &v); err != nil || v.Tags[0].Key != "a" {
		t.Errorf("%+v, %v", v, err)
	}
}

// What is accepted is read alike by this package and by encoding/json, into a
// struct and into a map: no member of the one is missing in the other.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{}`, `{"Tags":[{"Key":"a"}],"Tags":[{}]}`, `{"Free":{"a":{"Key":"k"}}}`, "\ufeff[1,\"a\",null]", `{"key":"x","Value":"y"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s outer
		if UnmarshalExact(b, &s) != nil {
			return
		}
		v, err := Decode(b)
		if err != nil {
			t.Fatalf("%q is read into a struct, and not into a map: %v", b, err)
		}
		var plain any
		d := json.NewDecoder(bytes.NewReader(TrimMark(b)))
		d.UseNumber()
		if err := d.Decode(&plain); err != nil || !reflect.DeepEqual(v, plain) {
			t.Fatalf("%q is %v, and to encoding/json %v, %v", b, v, plain, err)
		}
		tree, ok := v.(map[string]any)
		if !ok {
			return
		}
		list, _ := tree["Tags"].([]any)
		if len(list) != len(s.Tags) {
			t.Fatalf("%q has %d tags, or %d", b, len(list), len(s.Tags))
		}
		for i, e := range list {
			m, _ := e.(map[string]any)
			if key, _ := m["Key"].(string); key != s.Tags[i].Key {
				t.Fatalf("%q: tag %d has the key %q, or %q", b, i, key, s.Tags[i].Key)
			}
		}
	})
}
