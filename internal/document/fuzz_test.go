package document

import (
	"reflect"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/wire"
)

// No document and no value panics. A document that makes sense can be filled, or
// says what does not fit; what it makes can be written for an agent and read
// there; and it means the same in the other format.
func FuzzDocument(f *testing.F) {
	for _, b := range Builtins() {
		text, err := b.Doc.Write(JSON)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, false, "22")
		yaml, err := b.Doc.Write(YAML)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(yaml, true, "x")
	}
	f.Add("\ufeff"+`{"schemaVersion":"1.0","sessionType":"Standard_Stream"}`, false, "")
	f.Add(`{"schemaVersion":"1.0","sessionType":"Standard_Stream","sessionType":"Port"}`, false, "")
	f.Add(`{"schemaVersion":"1.0","sessionType":"InteractiveCommands","parameters":{"a":{"type":"StringList","default":[],"minItems":3},"b":{"type":"Boolean"}},"properties":{"linux":{"commands":["x {{ a }}","{{b}}"]}}}`, false, "true")
	f.Add("schemaVersion: '1.0'\nsessionType: Standard_Stream\ninputs: &a {shellProfile: {linux: [*a, .nan]}}\n", true, "")
	f.Add("a: &a [&b {}, *b]\n? [x]\n: y\n", true, "")
	preferences, err := Parse(`{"schemaVersion":"1.0","sessionType":"Standard_Stream","inputs":{"idleSessionTimeout":"5","runAsEnabled":true,"shellProfile":{"linux":"ls"}}}`, JSON)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string, yaml bool, value string) {
		format, other := JSON, YAML
		if yaml {
			format, other = YAML, JSON
		}
		d, err := Parse(text, format)
		if err != nil {
			if sallyport.CodeOf(err) == "" {
				t.Fatalf("%q: %v is not for its author", text, err)
			}
			return
		}
		given := map[string][]string{}
		for name := range d.Parameters {
			given[name] = []string{value}
		}
		for _, values := range []map[string][]string{nil, given} {
			for _, p := range []*Document{nil, preferences, d} {
				s, err := d.Fill(values, p)
				if err != nil {
					if sallyport.CodeOf(err) == "" {
						t.Fatalf("%q filled with %q: %v is not for the caller", text, values, err)
					}
					continue
				}
				frame, err := wire.AgentTaskPayload{DocumentContent: s.Document}.Frame(time.Now())
				if err != nil {
					t.Fatalf("%q filled with %q cannot be written: %v", text, values, err)
				}
				if _, err := wire.ReadAgentTask(frame.Payload); err != nil {
					t.Fatalf("%q filled with %q cannot be read by an agent: %v", text, values, err)
				}
			}
		}
		again, err := d.Write(other)
		if err != nil {
			t.Fatalf("%q cannot be written as %s: %v", text, other, err)
		}
		if len(again) > MaxSize || !utf8.ValidString(text) {
			return
		}
		d2, err := Parse(again, other)
		if err != nil {
			t.Fatalf("%q became %q, which is none: %v", text, again, err)
		}
		if s, err := d.Fill(nil, nil); err == nil {
			if s2, err := d2.Fill(nil, nil); err != nil || !reflect.DeepEqual(s, s2) {
				t.Fatalf("%q became %q, which is filled otherwise: %+v, %+v, %v", text, again, s, s2, err)
			}
		}
	})
}
