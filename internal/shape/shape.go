// Package shape reads the inputs of operations and writes their outputs, in
// whichever of AWS's protocols a service speaks. The types themselves, and the
// code that reads and writes their members, are made by tools/apigen from the
// models in internal/api/models.
//
//	JSON ─ [ParseJSON] ─┐                    ┌─ [JSON] ─ JSON
//	                    ├─▶ [Value] ─▶ input │
//	form ─ [ParseForm] ─┘                    output ─┤
//	                                         └─ [XML] ── XML
//
// A request is first parsed into a tree that has one meaning, and then read,
// once: each member is converted and held to its limits by the same call. What
// an operation is given is thus what was checked. All that is wrong with an
// input is reported at once, in AWS's words ([Value.Err]).
package shape

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

// An Input is a generated type that an operation takes.
type Input interface{ Read(Value) }

// An Output is a generated type that an operation answers.
type Output interface{ Write(Writer) }

// Text is the limits of a text. The zero value has none.
type Text struct {
	Min, Max int // characters; no bound if 0
	Pattern  *Pattern
	Enum     []string
}

// Size is the limits of a list, a map or a blob. Max is no bound if 0.
type Size struct{ Min, Max int }

// Range is the limits of a number, both included.
type Range struct{ Min, Max float64 }

// AnyNumber is a Range without limits.
var AnyNumber = Range{math.Inf(-1), math.Inf(1)}

// A Pattern is a regular expression that a whole text has to match. It is
// compiled when it is first used.
type Pattern struct {
	Text string

	once     sync.Once
	compiled *regexp.Regexp
}

func (p *Pattern) matches(text string) bool {
	p.once.Do(func() { p.compiled = regexp.MustCompile(`^(?:` + p.Text + `)$`) }) // tools/reducemodel compiled it
	return p.compiled.MatchString(text)
}

// A Model is what AWS's model of a service says of its operations.
type Model struct {
	Service    string // "ssm"
	Operations []Operation
	Errors     []Error // those of its errors that have a code or a status of their own
}

// An Operation is what a model says of one operation.
type Operation struct {
	Name   string
	Silent bool     // it answers nothing
	Errors []string // the codes that it declares
	Secret []string // paths of members that are secrets: "Credentials.SecretAccessKey"
}

// An Error is how a model has an error answered.
type Error struct {
	Code   string
	Status int // of HTTP
}

// Operation returns what the model says of an operation; nil if it has none by
// that name.
func (m *Model) Operation(name string) *Operation {
	i := slices.IndexFunc(m.Operations, func(o Operation) bool { return o.Name == name })
	if i < 0 {
		return nil
	}
	return &m.Operations[i]
}

// maxViolations is how many violations an error spells out.
const maxViolations = 10

// A Value is one value of a request while it is read: the input itself, or
// something in it. What is wrong with it is kept for [Value.Err].
type Value struct {
	v    any // map[string]any, []any, string, bool or json.Number
	at   *place
	from *request
}

// A place is where in a request a value is.
type place struct {
	in   *place // nil for the input itself
	name string
}

// A request is what all the values of one request share.
type request struct {
	form  bool // numbers and truths are text
	wrong []string
	count int // of violations, of which wrong has the first
}

// Err is nil if nothing was wrong with what was read, and otherwise a
// ValidationException that says all of it.
func (v Value) Err() error {
	n := v.from.count
	if n == 0 {
		return nil
	}
	noun := "errors"
	if n == 1 {
		noun = "error"
	}
	return sallyport.Errorf(sallyport.ValidationException, "%d validation %s detected: %s", n, noun, strings.Join(v.from.wrong, "; "))
}

// path is a place as AWS writes it: lower camel case, ".member." in lists.
func (p *place) path() string {
	if p.in == nil {
		return ""
	}
	name := strings.ToLower(p.name[:min(1, len(p.name))]) + p.name[min(1, len(p.name)):]
	if p.in.in == nil {
		return name
	}
	return p.in.path() + "." + name
}

func (v Value) fail(said any, format string, args ...any) {
	v.from.count++
	if len(v.from.wrong) == maxViolations {
		return
	}
	quoted := "null"
	if said != nil {
		quoted = "'" + sallyport.Clip(fmt.Sprint(said), 80) + "'"
	}
	v.from.wrong = append(v.from.wrong, fmt.Sprintf("Value %s at '%s' failed to satisfy constraint: %s", quoted, v.at.path(), fmt.Sprintf(format, args...)))
}

func (v Value) within(name string, of any) Value {
	return Value{of, &place{v.at, name}, v.from}
}

// Tree is all of the value: maps, lists, text, truths and json.Numbers.
func (v Value) Tree() any { return v.v }

// Member returns a member of a structure that is text; "" if there is none.
func (v Value) Member(name string) string {
	m, _ := v.v.(map[string]any)
	text, _ := m[name].(string)
	return text
}

// Fields begins to read a structure. If v is none, that is a violation, and the
// structure is read as if it were empty.
func (v Value) Fields() Fields {
	m, ok := v.v.(map[string]any)
	if !ok {
		if v.v != nil {
			v.fail("?", "Member must be a structure")
		}
		return Fields{v, nil}
	}
	return Fields{v, m}
}

// Fields are the members of a structure, by the name that each has on the wire.
type Fields struct {
	of Value
	m  map[string]any
}

// Optional returns a member, and whether it is there. A member that is null is
// not.
func (f Fields) Optional(name string) (Value, bool) {
	e := f.m[name]
	if e == nil {
		return Value{}, false
	}
	return f.of.within(name, e), true
}

// Required is Optional for a member that has to be there: it is a violation if
// it is not.
func (f Fields) Required(name string) (Value, bool) {
	e := f.m[name]
	v := f.of.within(name, e)
	if e == nil && f.m != nil {
		v.fail(nil, "Member must not be null")
	}
	return v, e != nil
}

// Text reads a text.
func (v Value) Text(limits *Text) string {
	text, ok := v.v.(string)
	switch {
	case !ok:
		v.fail(said(v.v), "Member must be a string")
		return ""
	case limits == nil:
		return text
	case len(limits.Enum) > 0 && !slices.Contains(limits.Enum, text):
		v.fail(text, "Member must satisfy enum value set: [%s]", strings.Join(limits.Enum, ", "))
		return text
	}
	v.size(Size{limits.Min, limits.Max}, utf8.RuneCountInString(text), text)
	if limits.Pattern != nil && !limits.Pattern.matches(text) {
		v.fail(text, "Member must satisfy regular expression pattern: %s", limits.Pattern.Text)
	}
	return text
}

// said is how a value of the wrong kind is quoted.
func said(v any) any {
	switch v.(type) {
	case map[string]any, []any:
		return "?"
	}
	return v
}

func (v Value) size(limits Size, n int, said any) {
	if n < limits.Min {
		v.fail(said, "Member must have length greater than or equal to %d", limits.Min)
	}
	if limits.Max > 0 && n > limits.Max {
		v.fail(said, "Member must have length less than or equal to %d", limits.Max)
	}
}

// digits is a number's text, in JSON as in a form.
func (v Value) digits() (string, bool) {
	switch e := v.v.(type) {
	case json.Number:
		return e.String(), true
	case string:
		return e, v.from.form
	}
	return "", false
}

// Int reads a whole number of 32 bits.
func (v Value) Int(limits Range) int32 { return int32(v.integer(limits, 32)) }

// Long reads a whole number of 64 bits.
func (v Value) Long(limits Range) int64 { return v.integer(limits, 64) }

func (v Value) integer(limits Range, bits int) int64 {
	text, ok := v.digits()
	n, err := strconv.ParseInt(text, 10, bits)
	if !ok || err != nil {
		v.fail(said(v.v), "Member must be an integer")
		return 0
	}
	v.inRange(limits, float64(n))
	return n
}

// Double reads a number.
func (v Value) Double(limits Range) float64 {
	text, ok := v.digits()
	n, err := strconv.ParseFloat(text, 64)
	if !ok || err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		v.fail(said(v.v), "Member must be a number")
		return 0
	}
	v.inRange(limits, n)
	return n
}

func (v Value) inRange(limits Range, n float64) {
	if n < limits.Min {
		v.fail(v.v, "Member must have value greater than or equal to %s", strconv.FormatFloat(limits.Min, 'f', -1, 64))
	}
	if n > limits.Max {
		v.fail(v.v, "Member must have value less than or equal to %s", strconv.FormatFloat(limits.Max, 'f', -1, 64))
	}
}

// Bool reads a truth.
func (v Value) Bool() bool {
	switch e := v.v.(type) {
	case bool:
		return e
	case string:
		if v.from.form && (e == "true" || e == "false") {
			return e == "true"
		}
	}
	v.fail(said(v.v), "Member must be true or false")
	return false
}

// latest is the last second of the year 9999, after which a time cannot be
// written as RFC 3339 has it.
const latest = 253402300799

// Time reads a time: Unix seconds in JSON, RFC 3339 in a form. (smithy.io, "AWS
// JSON 1.1 protocol" and "AWS query protocol".)
func (v Value) Time() time.Time {
	if text, ok := v.v.(string); ok && v.from.form {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			v.fail(text, "Member must be a time, such as 2006-01-02T15:04:05Z")
		}
		return t
	}
	number, ok := v.v.(json.Number)
	seconds, err := strconv.ParseFloat(string(number), 64)
	if !ok || err != nil || !(math.Abs(seconds) <= latest) {
		v.fail(said(v.v), "Member must be a time, in seconds since 1970")
		return time.Time{}
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(math.Round(part*1e3))*int64(time.Millisecond)).UTC()
}

// Blob reads bytes, which are base64 on the wire. Limits count bytes.
func (v Value) Blob(limits Size) []byte {
	text, ok := v.v.(string)
	b, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		v.fail("?", "Member must be base64")
		return nil
	}
	v.size(limits, len(b), fmt.Sprintf("[%d bytes]", len(b)))
	return b
}

// List reads a list, whose elements read reads. It is not nil if the list is
// there, though it be empty.
func List[T any](v Value, limits Size, read func(Value) T) []T {
	list, ok := v.v.([]any)
	if !ok && !(v.from.form && v.v == "") { // forms send a list of nothing as no text (smithy.io, "AWS query protocol")
		v.fail("?", "Member must be a list")
		return nil
	}
	v.size(limits, len(list), fmt.Sprintf("[%d members]", len(list)))
	out := make([]T, 0, len(list))
	for i, e := range list {
		at := v.within(strconv.Itoa(i+1)+".member", e)
		if e == nil {
			at.fail(nil, "Member must not be null")
			continue
		}
		out = append(out, read(at))
	}
	return out
}

// Map reads a map, whose keys have limits and whose values read reads.
func Map[T any](v Value, limits Size, key *Text, read func(Value) T) map[string]T {
	m, ok := v.v.(map[string]any)
	if !ok {
		v.fail("?", "Member must be a map")
		return nil
	}
	v.size(limits, len(m), fmt.Sprintf("[%d members]", len(m)))
	out := make(map[string]T, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v.within("key", k).Text(key)
		at := v.within(k+".member", m[k])
		if m[k] == nil {
			at.fail(nil, "Member must not be null")
			continue
		}
		out[k] = read(at)
	}
	return out
}
