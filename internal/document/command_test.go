package document

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
)

// What a command document lacks is said, and what it is for is known by its steps.
func TestCommandDocuments(t *testing.T) {
	for text, want := range map[string]string{
		`{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript","name":"a","inputs":{}}]}`:                                                        "Linux MacOS",
		`{"schemaVersion":"2.0","mainSteps":[{"action":"aws:runPowerShellScript","name":"a"}]}`:                                                               "Windows Linux MacOS",
		`{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript","name":"a"},{"action":"aws:psModule","name":"b"}]}`:                               "Windows Linux MacOS",
		`{"schemaVersion":"1.2","runtimeConfig":{"aws:applications":{"properties":[]}},"description":null,"parameters":null}`:                                 "Windows",
		`{"schemaVersion":"2.2","mainSteps":[{"action":"aws:newer","name":"a","precondition":{"StringEquals":["platformType","Linux"]},"timeoutSeconds":5}]}`: "Windows Linux MacOS",
		`{"schemaVersion":"0.3","mainSteps":[]}`:                                                                                                                                     "InvalidDocumentSchemaVersion",
		`{"schemaVersion":"1.0","sessionType":"Port"}`:                                                                                                                               "InvalidDocumentSchemaVersion",
		`{"schemaVersion":2.2}`:                                                                                                                                                      "InvalidDocumentSchemaVersion",
		`{"schemaVersion":"2.2"}`:                                                                                                                                                    "mainSteps is missing",
		`{"schemaVersion":"2.2","mainSteps":[]}`:                                                                                                                                     "has to be a list of steps",
		`{"schemaVersion":"2.2","mainSteps":["a"]}`:                                                                                                                                  "Step 1 is",
		`{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript"}]}`:                                                                                                      "name of step 1",
		`{"schemaVersion":"2.2","mainSteps":[{"action":"run","name":"a"}]}`:                                                                                                          "action of step 1",
		`{"schemaVersion":"2.2","mainSteps":[{"action":"aws:x","name":"a","inputs":[]}]}`:                                                                                            "inputs of step 1",
		`{"schemaVersion":"2.2","mainSteps":[{"action":"aws:x","name":"a"},{"action":"aws:x","name":"a"}]}`:                                                                          "Two steps have the name",
		`{"schemaVersion":"2.2","runtimeConfig":{},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                                                     `no member "runtimeConfig"`,
		`{"schemaVersion":"1.2","runtimeConfig":{}}`:                                                                                                                                 "runtimeConfig is",
		`{"schemaVersion":"1.2","runtimeConfig":{"x":{}}}`:                                                                                                                           "runtimeConfig has",
		`{"schemaVersion":"1.2","runtimeConfig":{"aws:x":1}}`:                                                                                                                        "runtimeConfig has",
		`{"schemaVersion":"2.2","description":1,"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                                                        "description is",
		`{"schemaVersion":"2.2","parameters":[],"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                                                        "parameters is",
		`{"schemaVersion":"2.2","parameters":{"a b":{"type":"String"}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                                 "no name for a parameter",
		`{"schemaVersion":"2.2","parameters":{"a":1},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                                                   "has to be an object",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"Colour"}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                                   "has to be one of",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"String","description":[]}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                  "has to be text",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"String","default":[]}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                      "has to be text",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"Integer","default":"x"}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                    "a whole number",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"Boolean","default":"perhaps"}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                              "true or false",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"StringList","default":[{}]}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                "a list of texts",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"StringMap","default":[]}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                   "an object",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"MapList","default":["a"]}},"mainSteps":[{"action":"aws:x","name":"a"}]}`:                                                  "a list of objects",
		`{"schemaVersion":"2.2","parameters":{"a":{"type":"StringList","default":[]},"b":{"type":"MapList","default":[]}},"mainSteps":[{"action":"aws:runShellScript","name":"a"}]}`: "Linux MacOS",
		strings.Repeat(" ", MaxSize+1):                                                                                                                                               "MaxDocumentSizeExceeded",
	} {
		d, err := ParseKind(CommandKind, text, JSON)
		switch {
		case err == nil && strings.Join(d.Platforms, " ") != want:
			t.Errorf("%s is for %v, want %s", text, d.Platforms, want)
		case err != nil && !strings.Contains(string(sallyport.CodeOf(err))+": "+err.Error(), want):
			t.Errorf("%s: %v, want %s", sallyport.Clip(text, 200), err, want)
		case err == nil && (d.Kind != CommandKind || !slices.Contains(commandSchemas, d.Schema) || KindOf(text, JSON) != CommandKind):
			t.Errorf("%s is %s, %s", text, d.Kind, d.Schema)
		}
	}
}

// Every text is refused, with a sentence for its author, or is a document that means
// the same when it is written again.
func FuzzParseCommand(f *testing.F) {
	for _, b := range Builtins() {
		f.Add(b.Content)
	}
	f.Add("schemaVersion: '2.2'\nmainSteps:\n- {action: aws:runShellScript, name: a}\nparameters: {a: {type: MapList, default: [{b: c}]}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []Format{JSON, YAML} {
			d, err := ParseKind(CommandKind, text, format)
			if err != nil {
				if sallyport.CodeOf(err) == "" {
					t.Fatalf("%v is no error for an author", err)
				}
				continue
			}
			again, err := d.Write(format)
			if err != nil {
				t.Fatal(err)
			}
			if len(again) > MaxSize {
				continue
			}
			if e, err := ParseKind(KindOf(again, format), again, format); err != nil || !slices.Equal(e.Platforms, d.Platforms) || len(e.Parameters) != len(d.Parameters) {
				t.Fatalf("written again as %s: %v", again, err)
			}
		}
	})
}
