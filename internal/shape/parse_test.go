package shape

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

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
			if v, err := ParseForm(form, false); err == nil || !strings.Contains(err.Error(), "twice") {
				t.Errorf("%s is %v, %v", text, v.Tree(), err)
			}
		}
	}
}

func TestLists(t *testing.T) {
	for _, tt := range []struct {
		claim string
		form  string
		flat  bool
		want  map[string]any
	}{
		{"go by number", "Tags.member.1=a&Tags.member.10=c&Tags.member.2=b", false, map[string]any{"Tags": []any{"a", "b", "c"}}},
		{"have no 01", "Tags.member.1=a&Tags.member.01=b", false, map[string]any{"Tags": map[string]any{"member": map[string]any{"1": "a", "01": "b"}}}},
		{"are of structures", "F.member.1.N=a&F.member.1.V.member.1=b", false, map[string]any{"F": []any{map[string]any{"N": "a", "V": []any{"b"}}}}},
		{"are flat in EC2", "Filter.1.Name=a&Filter.1.Value.1=b", true, map[string]any{"Filter": []any{map[string]any{"Name": "a", "Value": []any{"b"}}}}},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			form, err := url.ParseQuery(tt.form)
			if err != nil {
				t.Fatal(err)
			}
			if v, err := ParseForm(form, tt.flat); err != nil || !reflect.DeepEqual(v.Tree(), any(tt.want)) {
				t.Errorf("%v, %v", v.Tree(), err)
			}
		})
	}
}

// The tree that a form describes has bounds, and so has one of JSON.
func TestBounds(t *testing.T) {
	form := url.Values{}
	for i := range maxFormPairs {
		form.Set(fmt.Sprint("Tags.member.", i+1), "x")
	}
	if v, err := ParseForm(form, false); err != nil || len(v.Tree().(map[string]any)["Tags"].([]any)) != maxFormPairs {
		t.Errorf("as many as there may be: %v", err)
	}
	form.Set("RoleName", "x")
	if _, err := ParseForm(form, false); err == nil || !strings.Contains(err.Error(), "more than 4000 parameters") {
		t.Errorf("one more: %v", err)
	}
	name := "a" + strings.Repeat(".b", maxFormDepth-1)
	if _, err := ParseForm(url.Values{name: {"x"}}, false); err != nil {
		t.Errorf("as deep as may be: %v", err)
	}
	if _, err := ParseForm(url.Values{name + ".b": {"x"}}, false); err == nil || !strings.Contains(err.Error(), "nested too deeply") {
		t.Errorf("deeper: %v", err)
	}
	deep := func(n int) []byte { return []byte(strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n)) }
	if _, err := ParseJSON(deep(maxJSONDepth)); err != nil {
		t.Errorf("JSON as deep as may be: %v", err)
	}
	if _, err := ParseJSON(deep(maxJSONDepth + 1)); err == nil || !strings.Contains(err.Error(), "nested more than 32 deep") {
		t.Errorf("deeper JSON: %v", err)
	}
}

// All that is wrong with an input is said at once, up to ten things.
func TestViolations(t *testing.T) {
	v, err := ParseJSON([]byte(`{"Name":"","Tags":[{"Key":7},null],"Days":40,"Map":{"":"x"}}`))
	if err != nil {
		t.Fatal(err)
	}
	f := v.Fields()
	name, _ := f.Required("Name")
	name.Text(&Text{Min: 1, Pattern: &Pattern{Text: `[a-z]+`}})
	f.Required("Content")
	tags, _ := f.Optional("Tags")
	List(tags, Size{Max: 1}, func(e Value) string { k, _ := e.Fields().Required("Key"); return k.Text(nil) })
	days, _ := f.Optional("Days")
	days.Int(Range{Min: 7, Max: 30})
	of, _ := f.Optional("Map")
	Map(of, Size{}, &Text{Min: 1}, func(e Value) string { return e.Text(nil) })
	got := strings.ReplaceAll(v.Err().Error(), "; ", "\n")
	want := strings.TrimSpace(`
ValidationException: 8 validation errors detected: Value '' at 'name' failed to satisfy constraint: Member must have length greater than or equal to 1
Value '' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-z]+
Value null at 'content' failed to satisfy constraint: Member must not be null
Value '[2 members]' at 'tags' failed to satisfy constraint: Member must have length less than or equal to 1
Value '7' at 'tags.1.member.key' failed to satisfy constraint: Member must be a string
Value null at 'tags.2.member' failed to satisfy constraint: Member must not be null
Value '40' at 'days' failed to satisfy constraint: Member must have value less than or equal to 30
Value '' at 'map.key' failed to satisfy constraint: Member must have length greater than or equal to 1`)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// writeAll writes one of everything.
func writeAll(w Writer) {
	w.Text("Text", "a\"\\<é\x01")
	w.Int("Int", -5)
	w.Bool("Bool", false)
	w.Double("Double", 1.5)
	w.Time("Time", time.Unix(1_700_000_000, 5e8))
	w.Blob("Blob", []byte("blob"))
	w.List("None")
	w.End()
	w.List("List")
	w.Struct("")
	w.Text("K", "v")
	w.End()
	w.Struct("")
	w.End()
	w.End()
	w.Map("Map")
	w.List("a<")
	w.Text("", "x")
	w.Text("", "y")
	w.End()
	w.Text("b", "z")
	w.End()
}

func TestJSON(t *testing.T) {
	var w JSON
	writeAll(&w)
	want := `{"Text":"a\"\\\u003cé\u0001","Int":-5,"Bool":false,"Double":1.5,"Time":1700000000.5,"Blob":"YmxvYg==","None":[],"List":[{"K":"v"},{}],"Map":{"a<":["x","y"],"b":"z"}}`
	if got := string(w.Bytes()); got != want || !json.Valid(w.Bytes()) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := string(new(JSON).Bytes()); got != "{}" {
		t.Errorf("nothing is %s", got)
	}
}

func TestXML(t *testing.T) {
	var w XML
	writeAll(&w)
	want := `<Text>a&#34;\&lt;é` + "\uFFFD" + `</Text><Int>-5</Int><Bool>false</Bool><Double>1.5</Double><Time>2023-11-14T22:13:20Z</Time><Blob>YmxvYg==</Blob><None></None>` +
		`<List><member><K>v</K></member><member></member></List>` +
		`<Map><entry><key>a&lt;</key><value><member>x</member><member>y</member></value></entry><entry><key>b</key><value>z</value></entry></Map>`
	if got := string(w.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	w = XML{Item: "item"}
	w.List("L")
	w.Int("", 1)
	w.End()
	if !bytes.Equal(w.Bytes(), []byte("<L><item>1</item></L>")) {
		t.Errorf("EC2's: %s", w.Bytes())
	}
}
