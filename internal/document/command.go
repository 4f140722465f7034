package document

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
)

// A Kind is what a document is for: AWS's DocumentType.
type Kind string

// The kinds there are. Documents of kind CommandKind are kept and shown; none is run
// yet.
const (
	SessionKind Kind = "Session"
	CommandKind Kind = "Command"
)

// Platforms that a document is for.
const (
	Windows = "Windows"
	Linux   = "Linux"
	MacOS   = "MacOS"
)

// commandSchemas are the versions of a command document. (User guide, "Schemas,
// features, and examples".)
var commandSchemas = []string{"1.2", "2.0", "2.2"}

// commandTypes are the types of a command document's parameters, as they are
// written. (User guide, "Data elements and parameters".)
var commandTypes = []string{"String", "StringList", "Integer", "Boolean", "MapList", "StringMap"}

// ParseKind reads a document of a kind. What is wrong with it is an
// [sallyport.Error]: InvalidDocumentContent, InvalidDocumentSchemaVersion or
// MaxDocumentSizeExceeded.
func ParseKind(kind Kind, text string, f Format) (*Document, error) {
	if kind == CommandKind {
		return parseCommand(text, f)
	}
	return Parse(text, f)
}

// KindOf is what a text that was stored is for: its schemaVersion says. A text that
// cannot be read is a session's.
func KindOf(text string, f Format) Kind {
	tree, err := decode(text, f)
	if err != nil {
		return SessionKind
	}
	if v, _ := tree["schemaVersion"].(string); slices.Contains(commandSchemas, v) {
		return CommandKind
	}
	return SessionKind
}

// parseCommand reads a command document: what it has to say is there, and is of the
// right type. What its steps take is for running them.
func parseCommand(text string, f Format) (*Document, error) {
	if len(text) > MaxSize {
		return nil, tooLong(text)
	}
	tree, err := decode(text, f)
	if err != nil {
		return nil, invalid("The document is not %s: %v.", f, err)
	}
	d := &Document{Kind: CommandKind, tree: tree, Parameters: map[string]Parameter{}}
	d.Schema, _ = tree["schemaVersion"].(string)
	if !slices.Contains(commandSchemas, d.Schema) {
		return nil, sallyport.Errorf(sallyport.InvalidDocumentSchemaVersion,
			"schemaVersion is %s, and that of a command document is one of \"1.2\", \"2.0\" and \"2.2\". A session document's is \"1.0\": create it with the document type Session.", quote(tree["schemaVersion"]))
	}
	steps := "mainSteps"
	if d.Schema == "1.2" {
		steps = "runtimeConfig"
	}
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		v := tree[key]
		switch key {
		case "schemaVersion", steps:
		case "description":
			if text, ok := v.(string); ok || v == nil {
				d.Description = text
			} else {
				return nil, invalid("description is %s, and has to be text.", quote(v))
			}
		case "parameters":
			if err := d.commandParameters(v); err != nil {
				return nil, err
			}
		default:
			return nil, invalid("A command document of version %s has no member %q. It has schemaVersion, description, parameters and %s.", d.Schema, sallyport.Clip(key, 64), steps)
		}
	}
	var actions []string
	if d.Schema == "1.2" {
		actions, err = plugins(tree[steps])
	} else {
		actions, err = stepActions(tree[steps])
	}
	d.Platforms = platformsOf(actions)
	return d, err
}

// plugins are what a document of version 1.2 runs.
func plugins(v any) (actions []string, err error) {
	all, ok := v.(map[string]any)
	if !ok || len(all) == 0 {
		return nil, invalid("runtimeConfig is %s, and has to be an object of plugins, such as aws:runShellScript.", quote(v))
	}
	for _, action := range slices.Sorted(maps.Keys(all)) {
		if _, ok := all[action].(map[string]any); !ok || !isAction(action) {
			return nil, invalid("runtimeConfig has %q with %s. It has plugins, such as aws:runShellScript, with an object each.", sallyport.Clip(action, 64), quote(all[action]))
		}
		actions = append(actions, action)
	}
	return actions, nil
}

// stepActions are what a document of version 2.x runs.
func stepActions(v any) (actions []string, err error) {
	all, ok := v.([]any)
	if !ok || len(all) == 0 {
		return nil, invalid("mainSteps is %s, and has to be a list of steps.", quote(v))
	}
	names := map[string]bool{}
	for i, v := range all {
		step, ok := v.(map[string]any)
		if !ok {
			return nil, invalid("Step %d is %s, and has to be an object.", i+1, quote(v))
		}
		action, _ := step["action"].(string)
		name, _ := step["name"].(string)
		_, inputs := step["inputs"].(map[string]any)
		switch {
		case !isAction(action):
			return nil, invalid("action of step %d is %s, and has to be a plugin, such as aws:runShellScript.", i+1, quote(step["action"]))
		case name == "":
			return nil, invalid("name of step %d is %s, and has to be text.", i+1, quote(step["name"]))
		case names[name]:
			return nil, invalid("Two steps have the name %q.", sallyport.Clip(name, 64))
		case !inputs && step["inputs"] != nil:
			return nil, invalid("inputs of step %d is %s, and has to be an object.", i+1, quote(step["inputs"]))
		}
		names[name] = true
		actions = append(actions, action)
	}
	return actions, nil
}

func isAction(name string) bool { return strings.HasPrefix(name, "aws:") && len(name) > len("aws:") }

// platformsOf are those on which one of the actions can be run.
func platformsOf(actions []string) []string {
	of := map[string][]string{
		"aws:runShellScript": {Linux, MacOS}, "aws:domainJoin": {Windows, Linux}, "aws:applications": {Windows}, "aws:cloudWatch": {Windows},
		"aws:psModule": {Windows}, "aws:updateAgent": {Windows},
	}
	found := map[string]bool{}
	for _, action := range actions {
		on, ok := of[action]
		if !ok {
			on = []string{Windows, Linux, MacOS}
		}
		for _, p := range on {
			found[p] = true
		}
	}
	return slices.DeleteFunc([]string{Windows, Linux, MacOS}, func(p string) bool { return !found[p] })
}

// commandParameters reads what parameters a command document declares, as far as
// they are shown. Values are held to the rest when it is run.
func (d *Document) commandParameters(v any) error {
	all, ok := v.(map[string]any)
	if !ok && v != nil {
		return invalid("parameters is %s, and has to be an object.", quote(v))
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		members, ok := all[name].(map[string]any)
		switch {
		case !parameterName.MatchString(name):
			return invalid("%q is no name for a parameter: letters and digits only.", sallyport.Clip(name, 64))
		case !ok:
			return invalid("The parameter %s is %s, and has to be an object.", name, quote(all[name]))
		}
		var p Parameter
		if p.Type, _ = members["type"].(string); !slices.Contains(commandTypes, p.Type) {
			return invalid("type of the parameter %s is %s, and has to be one of %s.", name, quote(members["type"]), strings.Join(commandTypes, ", "))
		}
		if p.Description, ok = members["description"].(string); !ok && members["description"] != nil {
			return invalid("description of the parameter %s is %s, and has to be text.", name, quote(members["description"]))
		}
		if v := members["default"]; v != nil {
			shown, err := shownDefault(p.Type, v)
			if err != nil {
				return invalid("default of the parameter %s is %s, and has to be %s.", name, quote(v), err)
			}
			p.Default = []string{shown}
		}
		d.Parameters[name] = p
	}
	return nil
}

// A shape says what a default has to be.
type shape string

func (s shape) Error() string { return string(s) }

// shownDefault is a default as DescribeDocument has it: text, or the JSON of a list
// or object.
func shownDefault(kind string, v any) (string, error) {
	plainText, isPlain := text(v)
	list, isList := v.([]any)
	_, isMap := v.(map[string]any)
	switch kind {
	case "String":
		if isPlain {
			return plainText, nil
		}
		return "", shape("text")
	case "Integer":
		if _, ok := whole(v); ok {
			return plainText, nil
		}
		return "", shape("a whole number")
	case "Boolean":
		if isPlain && (strings.EqualFold(plainText, "true") || strings.EqualFold(plainText, "false")) {
			return plainText, nil
		}
		return "", shape("true or false")
	case "StringMap":
		if !isMap {
			return "", shape("an object")
		}
	case "StringList":
		if _, ok := texts(list); !isList || !ok && len(list) > 0 {
			return "", shape("a list of texts")
		}
	case "MapList":
		if !isList || slices.ContainsFunc(list, func(e any) bool { _, ok := e.(map[string]any); return !ok }) {
			return "", shape("a list of objects")
		}
	}
	b, err := json.Marshal(v)
	return string(b), err
}
