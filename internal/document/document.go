// Package document answers what kind of session this is, and with which
// settings.
//
// A session document, which [Parse] reads, says how a session is started: its type, the preferences
// it brings, the parameters that its caller may give, and where their values
// go. This package reads one, checks the values, puts them in, and returns what
// an agent is told:
//
//	text, JSON or YAML ──Parse──▶ Document ──Fill(values, preferences)──▶ Session
//
// What the parts of a document are called, and what a session may have, is in
// AWS's user guide ("Session document schema"); what agents insist on in
// amazon-ssm-agent (agent/contracts/model.go, agent/session/contracts/model.go).
// The documents that are there from the start are in builtin.go.
//
// A command document says what is run on nodes. [ParseKind] reads it as far as it is
// kept and shown; see command.go.
//
// An agent is given a document that is filled already and has no parameters
// left: nothing that a person typed is put into anything there.
//
// The package knows nothing of sockets or of where documents are kept.
package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// The types of sessions there are.
const (
	Shell          = "Standard_Stream"
	Command        = "InteractiveCommands"
	NonInteractive = "NonInteractiveCommands"
	Port           = "Port"
)

// Types lists them.
func Types() []string { return []string{Shell, Command, NonInteractive, Port} }

// MaxSize is how long the text of a document may be. (API reference,
// MaxDocumentSizeExceeded.)
const MaxSize = 64 << 10

// A Format is how a document is written.
type Format string

// The formats there are. AWS's third, TEXT, is not for session documents.
const (
	JSON Format = "JSON"
	YAML Format = "YAML"
)

// A Document is one that makes sense.
type Document struct {
	Kind        Kind
	Schema      string // its schemaVersion
	Description string
	Type        string   // of a session: one of Types
	Platforms   []string // that it is for
	Parameters  map[string]Parameter

	// inputs and properties are as they are written, with references to
	// parameters in them.
	inputs     map[string]any
	properties any

	literal bool // values refer to nothing: what is typed is what runs

	tree map[string]any // all of it, for writing it in another format
}

// A Parameter declares a value that the caller of StartSession may give.
type Parameter struct {
	Type        string // String, StringList or Boolean; of a command document one of commandTypes
	Description string
	Default     []string // nil if it must be given; of a command document one text, as it is shown

	AllowedValues  []string
	AllowedPattern *regexp.Regexp
	MinChars       int
	MaxChars       int // 0 is no limit
	MinItems       int
	MaxItems       int // 0 is no limit
}

// invalid is what AWS calls a document that makes no sense.
func invalid(format string, args ...any) error {
	return sallyport.Errorf(sallyport.InvalidDocumentContent, format, args...)
}

func tooLong(text string) error {
	return sallyport.Errorf(sallyport.MaxDocumentSizeExceeded, "The document has %d bytes, and may have %d.", len(text), MaxSize)
}

// Parse reads a session document. What is wrong with it is an [sallyport.Error]:
// InvalidDocumentContent, InvalidDocumentSchemaVersion or
// MaxDocumentSizeExceeded.
func Parse(text string, f Format) (*Document, error) {
	if len(text) > MaxSize {
		return nil, tooLong(text)
	}
	tree, err := decode(text, f)
	if err != nil {
		hint := ""
		if f == JSON {
			if tree, yerr := decode(text, YAML); yerr == nil && len(tree) > 0 {
				hint = " It reads as YAML: give DocumentFormat YAML (--document-format YAML)."
			}
		}
		return nil, invalid("The document is not %s: %v.%s", f, err, hint)
	}
	if v, _ := tree["schemaVersion"].(string); v != "1.0" {
		return nil, sallyport.Errorf(sallyport.InvalidDocumentSchemaVersion, "schemaVersion is %s, and that of a session document is \"1.0\".", quote(tree["schemaVersion"]))
	}
	d := &Document{Kind: SessionKind, Schema: "1.0", Platforms: []string{Windows, Linux, MacOS}, tree: tree, Parameters: map[string]Parameter{}}
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		if err := d.member(key, tree[key]); err != nil {
			return nil, err
		}
	}
	if d.Type == "" {
		return nil, invalid("The document has no sessionType. It is one of %s.", strings.Join(Types(), ", "))
	}
	// With every parameter at its default, or at anything where it has none,
	// the rest shows what is wrong with it.
	if err := d.try(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Document) member(key string, v any) error {
	var ok bool
	switch key {
	case "schemaVersion":
	case "description":
		if d.Description, ok = v.(string); !ok {
			return invalid("description is %s, and has to be text.", quote(v))
		}
	case "sessionType":
		if d.Type, _ = v.(string); !slices.Contains(Types(), d.Type) {
			return invalid("sessionType is %s. It is one of %s.", quote(v), strings.Join(Types(), ", "))
		}
	case "inputs":
		if d.inputs, ok = v.(map[string]any); !ok && v != nil {
			return invalid("inputs is %s, and has to be an object.", quote(v))
		}
	case "properties":
		d.properties = v
	case "parameters":
		all, ok := v.(map[string]any)
		if !ok && v != nil {
			return invalid("parameters is %s, and has to be an object.", quote(v))
		}
		spent := 0
		for _, name := range slices.Sorted(maps.Keys(all)) {
			p, err := readParameter(name, all[name], &spent)
			if err != nil {
				return err
			}
			d.Parameters[name] = p
		}
	default:
		return invalid("A session document has no member %q. It has schemaVersion, description, sessionType, inputs, parameters and properties.", sallyport.Clip(key, 64))
	}
	return nil
}

// decode reads text into maps, lists, strings, numbers and truths.
func decode(text string, f Format) (tree map[string]any, err error) {
	switch f {
	case JSON:
		v, err := strictjson.Decode([]byte(text))
		if err != nil {
			return nil, err
		}
		if tree, _ = v.(map[string]any); tree == nil && v != nil {
			return nil, fmt.Errorf("it is %s, and has to be an object", quote(v))
		}
	case YAML:
		d := yaml.NewDecoder(strings.NewReader(text))
		var node yaml.Node
		if err := d.Decode(&node); err != nil {
			return nil, err
		}
		size := 0
		if err := expand(&node, 0, &size); err != nil {
			return nil, err
		}
		if err := node.Decode(&tree); err != nil {
			return nil, err
		}
		var more any
		if err := d.Decode(&more); err != io.EOF {
			return nil, errors.New("something follows its end")
		}
		if err := plain(tree); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("there is no format %q", f)
	}
	if tree == nil {
		return nil, errors.New("it is empty")
	}
	return tree, nil
}

// maxExpanded bounds a YAML document with its aliases written out: in bytes of
// text, and one for each node.
const maxExpanded = 2 * MaxSize

// expand adds to size what a YAML node comes to with its aliases written out, and
// stops where that or the depth, 1 for the document's own object, is more than may be: an alias of a
// few bytes may stand for a text of 64 KiB, or for more aliases.
func expand(n *yaml.Node, depth int, size *int) error {
	if depth > strictjson.MaxDepth && n.Kind != yaml.ScalarNode {
		return fmt.Errorf("it is nested more than %d deep", strictjson.MaxDepth)
	}
	if n.Kind == yaml.AliasNode {
		return expand(n.Alias, depth, size)
	}
	if *size += len(n.Value) + 1; *size > maxExpanded {
		return fmt.Errorf("it has more than %d bytes with its aliases written out", maxExpanded)
	}
	for _, inner := range n.Content {
		if err := expand(inner, depth+1, size); err != nil {
			return err
		}
	}
	return nil
}

// plain reports whether v is something that JSON can say.
func plain(v any) error {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if err := plain(e); err != nil {
				return err
			}
		}
	case []any:
		for _, e := range v {
			if err := plain(e); err != nil {
				return err
			}
		}
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("JSON has no number %v", v)
		}
	case nil, string, bool, int, int64, uint64:
	default:
		return fmt.Errorf("%s is neither text, a number, true, false, a list nor an object with names", sallyport.Clip(fmt.Sprint(v), 100))
	}
	return nil
}

// Write writes the document in another format. Comments are lost, and members
// are in alphabetical order.
func (d *Document) Write(f Format) (string, error) {
	if f == YAML {
		var b bytes.Buffer
		e := yaml.NewEncoder(&b)
		e.SetIndent(2)
		err := e.Encode(numbers(d.tree))
		return b.String(), err
	}
	b, err := json.MarshalIndent(d.tree, "", "  ")
	return string(b), err
}

// numbers replaces JSON's numbers, which are text, by numbers.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = numbers(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = numbers(e)
		}
		return out
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return v
}

// quote returns a value as an error shows it.
func quote(v any) string {
	if v == nil {
		return "missing"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "no JSON"
	}
	return sallyport.Clip(string(b), 100)
}
