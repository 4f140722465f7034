package document

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

var parameterName = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)

// readParameter reads one declaration. (User guide, "Session document schema";
// the API's own limits.) spent is that of [Parameter.check].
func readParameter(name string, v any, spent *int) (p Parameter, err error) {
	if !parameterName.MatchString(name) {
		return p, invalid("%q is no name for a parameter: letters and digits only.", sallyport.Clip(name, 64))
	}
	members, ok := v.(map[string]any)
	if !ok {
		return p, invalid("The parameter %s is %s, and has to be an object.", name, quote(v))
	}
	wrong := func(member, want string) error {
		return invalid("%s of the parameter %s is %s, and has to be %s.", member, name, quote(members[member]), want)
	}
	for _, member := range slices.Sorted(maps.Keys(members)) {
		v := members[member]
		switch member {
		case "type":
			text, _ := v.(string)
			switch strings.ToLower(text) { // lower case is seen too
			case "string":
				p.Type = "String"
			case "stringlist":
				p.Type = "StringList"
			case "boolean":
				p.Type = "Boolean"
			default:
				return p, wrong(member, "String, StringList or Boolean")
			}
		case "description":
			if p.Description, ok = v.(string); !ok {
				return p, wrong(member, "text")
			}
		case "default":
			if v == nil {
				continue
			}
			if p.Default, ok = texts(v); !ok {
				return p, wrong(member, "text or a list of texts")
			}
		case "allowedValues":
			if p.AllowedValues, ok = texts(v); !ok && v != nil {
				return p, wrong(member, "a list of texts")
			}
		case "allowedPattern":
			text, ok := v.(string)
			if !ok && v != nil {
				return p, wrong(member, "a regular expression")
			}
			if text == "" {
				continue
			}
			if !affordable(text) {
				return p, invalid("allowedPattern of the parameter %s is too large: it may have %d characters, and stand for an expression of %d, with what is repeated written out.", name, maxPattern, maxParts)
			}
			if p.AllowedPattern, err = regexp.Compile(text); err != nil {
				return p, invalid("allowedPattern of the parameter %s cannot be used: %v. Look-around and back-references are not to be had.", name, err)
			}
		case "minChars", "maxChars", "minItems", "maxItems":
			n, ok := whole(v)
			if !ok || n < 0 {
				return p, wrong(member, "a number")
			}
			switch member {
			case "minChars":
				p.MinChars = n
			case "maxChars":
				p.MaxChars = n
			case "minItems":
				p.MinItems = n
			default:
				p.MaxItems = n
			}
		case "displayType":
			if _, ok := v.(string); !ok && v != nil {
				return p, wrong(member, "text")
			}
		default:
			return p, invalid("The parameter %s has a member %q. It may have type, description, default, allowedPattern, allowedValues, minChars, maxChars, minItems and maxItems.", name, sallyport.Clip(member, 64))
		}
	}
	if p.Type == "" {
		return p, invalid("The parameter %s has no type. It is String, StringList or Boolean.", name)
	}
	if p.Default != nil {
		if err := p.check(name, p.Default, spent); err != nil {
			return p, invalid("The default of %s: %s", name, sallyport.Public(err).Message)
		}
	}
	return p, nil
}

// texts reads a text, number or truth, or a list of them.
func texts(v any) ([]string, bool) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	all := []string{}
	for _, e := range list {
		s, ok := text(e)
		if !ok {
			return nil, false
		}
		all = append(all, s)
	}
	return all, true
}

func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return v.String(), true
	case int, int64, uint64, float64:
		return fmt.Sprint(v), true
	}
	return "", false
}

func whole(v any) (int, bool) {
	s, ok := text(v)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// A wrong value is InvalidParameters. AWS's own code for it is in no document;
// its model of StartSession has none, and SendCommand's has this one.
func unfit(format string, args ...any) error {
	return sallyport.Errorf(sallyport.InvalidParameters, format, args...)
}

// storeReference finds what has AWS's agent ask Parameter Store.
// (amazon-ssm-agent agent/framework/docparser/parameterstore.)
var storeReference = regexp.MustCompile(`\{\{\s*ssm(-secure)?:[^{}]*\}\}`)

// check holds values to what the parameter allows. spent is how much matching the
// document's values have taken so far: see maxMatching.
func (p Parameter) check(name string, values []string, spent *int) error {
	if p.Type != "StringList" && len(values) != 1 {
		return unfit("The parameter %s takes one value, and has %d.", name, len(values))
	}
	if p.MinItems > 0 && len(values) < p.MinItems || p.MaxItems > 0 && len(values) > p.MaxItems {
		return unfit("The parameter %s has %d values, and takes %s.", name, len(values), between(p.MinItems, p.MaxItems))
	}
	parts := 0
	if p.AllowedPattern != nil {
		parts = partsOf(p.AllowedPattern.String())
	}
	for _, v := range values {
		if *spent += parts * len(v); *spent > maxMatching {
			return unfit("The parameter %s has %d characters, and its allowedPattern takes too long to hold them to. Shorten the value, or the pattern.", name, utf8.RuneCountInString(v))
		}
		switch n := utf8.RuneCountInString(v); {
		case strings.ContainsRune(v, 0) || !utf8.ValidString(v):
			return unfit("The parameter %s is not text.", name)
		case p.Type == "Boolean" && v != "true" && v != "false":
			return unfit("The parameter %s is %q, and has to be true or false.", name, sallyport.Clip(v, 100))
		case n < p.MinChars || p.MaxChars > 0 && n > p.MaxChars:
			return unfit("The parameter %s has %d characters, and takes %s.", name, n, between(p.MinChars, p.MaxChars))
		case len(p.AllowedValues) > 0 && !slices.Contains(p.AllowedValues, v):
			return unfit("The parameter %s is %q. It may be %s.", name, sallyport.Clip(v, 100), strings.Join(p.AllowedValues, ", "))
		case p.AllowedPattern != nil && !p.AllowedPattern.MatchString(v):
			return unfit("The parameter %s is %q, which does not match %s.", name, sallyport.Clip(v, 100), p.AllowedPattern)
		}
	}
	return nil
}

func between(least, most int) string {
	switch {
	case most == 0:
		return fmt.Sprintf("%d or more", least)
	case least == most:
		return strconv.Itoa(least)
	}
	return fmt.Sprintf("%d to %d", least, most)
}

// values are the parameters' for one session, those given and defaults.
func (d *Document) values(given map[string][]string) (map[string][]string, error) {
	all, spent := map[string][]string{}, 0
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := d.Parameters[name]; !ok {
			return nil, unfit("The document has no parameter %q. %s", sallyport.Clip(name, 64), d.names())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Parameters)) {
		p := d.Parameters[name]
		v, ok := given[name]
		switch {
		case ok:
			if err := p.check(name, v, &spent); err != nil {
				return nil, err
			}
		case p.Default != nil:
			v = p.Default
		default:
			return nil, unfit("The parameter %s is missing, and has no default.", name)
		}
		all[name] = v
	}
	return all, nil
}

func (d *Document) names() string {
	if len(d.Parameters) == 0 {
		return "It has none."
	}
	return "It has " + strings.Join(slices.Sorted(maps.Keys(d.Parameters)), ", ") + "."
}

// reference finds {{ name }}.
var reference = regexp.MustCompile(`\{\{\s*([^{}]*?)\s*\}\}`)

// maxFilled bounds the text of a document with its parameters filled in: twice
// what fits into a message to a node. It is looked at before anything is filled
// in, because a document may name one long value ten thousand times.
const maxFilled = 512 << 10

// filledSize is how many bytes the texts of v have at least once values are filled
// in.
func filledSize(v any, values map[string][]string) (n int) {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			n += filledSize(e, values)
		}
	case []any:
		for _, e := range v {
			n += filledSize(e, values)
		}
	case string:
		n = len(v)
		for _, m := range reference.FindAllStringSubmatch(v, -1) {
			for _, value := range values[m[1]] {
				n += len(value)
			}
		}
	}
	return n
}

// fill puts values where v refers to them. A text that is nothing but a
// reference becomes the value, with its type; within text it is text.
func (d *Document) fill(v any, values map[string][]string) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			filled, err := d.fill(e, values)
			if err != nil {
				return nil, err
			}
			out[k] = filled
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			filled, err := d.fill(e, values)
			if err != nil {
				return nil, err
			}
			out[i] = filled
		}
		return out, nil
	case string:
		return d.fillText(v, values)
	}
	return v, nil
}

func (d *Document) fillText(s string, values map[string][]string) (any, error) {
	for _, m := range reference.FindAllStringSubmatch(s, -1) {
		if strings.HasPrefix(m[1], "ssm:") {
			return nil, invalid("%s refers to Parameter Store, which is not here.", sallyport.Clip(m[0], 64))
		}
		if _, ok := d.Parameters[m[1]]; !ok {
			return nil, invalid("%s refers to a parameter that is not declared. %s", sallyport.Clip(m[0], 64), d.names())
		}
	}
	if m := reference.FindStringSubmatch(s); m != nil && m[0] == strings.TrimSpace(s) {
		list := []any{}
		for _, v := range values[m[1]] {
			if err := d.refersToNothing(v); err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		if d.Parameters[m[1]].Type == "StringList" {
			return list, nil
		}
		return list[0], nil
	}
	filled := reference.ReplaceAllStringFunc(s, func(ref string) string {
		name := reference.FindStringSubmatch(ref)[1]
		if d.Parameters[name].Type == "StringList" {
			b, _ := json.Marshal(values[name]) // as agents do (agent/framework/docparser/parameters)
			return string(b)
		}
		return values[name][0]
	})
	return filled, d.refersToNothing(filled)
}

// refersToNothing refuses a filled text that refers to Parameter Store, which values
// can make up together, each being innocent. Other braces are text: a filled
// document has no parameters any more. What a literal document runs is not looked
// at.
func (d *Document) refersToNothing(filled string) error {
	if ref := storeReference.FindString(filled); ref != "" && !d.literal {
		return unfit("With its parameters filled in the document refers to Parameter Store, which is not here: %s.", sallyport.Clip(ref, 64))
	}
	return nil
}

// What a pattern may cost. A pattern of a few kilobytes could otherwise take half
// a minute and hundreds of megabytes to compile, at every StartSession.
const (
	maxPattern  = 1024       // characters
	maxParts    = 20_000     // parts, once repetitions are written out
	maxMatching = 20_000_000 // parts times bytes of text, of all of a document's values: a tenth of a second
)

// affordable reports whether a pattern is small enough to be compiled. One that
// cannot be read is: compiling it says why.
func affordable(pattern string) bool {
	if len(pattern) > maxPattern {
		return false
	}
	return partsOf(pattern) <= maxParts
}

// partsOf is how many parts a pattern has, once repetitions are written out; 0 of
// one that cannot be read.
func partsOf(pattern string) int {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0
	}
	return expanded(re)
}

// expanded is how many parts an expression has, once repetitions are written out.
func expanded(re *syntax.Regexp) int {
	n := 1
	for _, sub := range re.Sub {
		n += expanded(sub)
	}
	n += len(re.Rune)
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, 2*maxExpanded)
}
