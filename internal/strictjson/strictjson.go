// Package strictjson reads JSON that has one meaning, and writes it short. [Unmarshal] is
// json.Unmarshal for text that a stranger wrote: it refuses what two readers may
// understand differently, so that what was checked by one is what the other
// acts on.
//
// Refused are, beside what is no JSON:
//
//   - a member that an object has twice. encoding/json takes the last, and puts
//     it on top of the first: {"Tags":[{"Key":"a"}],"Tags":[{}]} has one tag
//     with the key a.
//   - two members that fill one field of a struct, since encoding/json matches
//     names in either case;
//   - anything after the value, and more than [MaxDepth] objects and lists
//     within each other.
//
// A byte-order mark before the value is skipped, as Windows' editors write one.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"

	"github.com/sallyport/sallyport"
)

// MaxDepth is how many objects and lists may be within each other.
const MaxDepth = 64

// mark is the byte-order mark, as UTF-8.
const mark = "\ufeff"

// TrimMark returns b without the byte-order mark that it may begin with.
func TrimMark(b []byte) []byte { return bytes.TrimPrefix(b, []byte(mark)) }

// Check reports whether b is JSON that has one meaning, for a reader that
// matches names exactly.
func Check(b []byte) error { return check(b, nil, false) }

// Unmarshal reads b into v, a pointer, as json.Unmarshal does.
func Unmarshal(b []byte, v any) error {
	if err := check(b, reflect.TypeOf(v), false); err != nil {
		return err
	}
	return json.Unmarshal(TrimMark(b), v)
}

// UnmarshalExact is [Unmarshal], and refuses a member whose name is a field's
// but for its case.
func UnmarshalExact(b []byte, v any) error {
	if err := check(b, reflect.TypeOf(v), true); err != nil {
		return err
	}
	return json.Unmarshal(TrimMark(b), v)
}

// Decode reads b as maps, lists, text, truths and json.Numbers.
func Decode(b []byte) (v any, err error) {
	if err := Check(b); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(TrimMark(b)))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// Marshal writes v as json.Marshal does, but for <, > and &, which are text and not
// \u003c: what is written within a string of other JSON would be seven bytes for
// one.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func check(b []byte, t reflect.Type, exact bool) error {
	c := checker{dec: json.NewDecoder(bytes.NewReader(TrimMark(b))), exact: exact}
	c.dec.UseNumber()
	if err := c.value(t, 0); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("it breaks off before its end")
		}
		return err
	}
	if _, err := c.dec.Token(); err != io.EOF {
		return errors.New("something follows its end")
	}
	return nil
}

type checker struct {
	dec   *json.Decoder
	exact bool
}

// value reads a value that will be read into a t, or into anything if t is nil.
func (c *checker) value(t reflect.Type, depth int) error {
	token, err := c.dec.Token()
	if err != nil {
		return err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth == MaxDepth {
		return fmt.Errorf("it is nested more than %d deep", MaxDepth)
	}
	t = target(t)
	if delim == '[' {
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			t = t.Elem()
		} else {
			t = nil
		}
		for c.dec.More() {
			if err := c.value(t, depth+1); err != nil {
				return err
			}
		}
	} else if err := c.object(t, depth); err != nil {
		return err
	}
	_, err = c.dec.Token() // what closes it
	return err
}

func (c *checker) object(t reflect.Type, depth int) error {
	var fields map[string]field
	if t != nil && t.Kind() == reflect.Struct {
		fields = map[string]field{}
		fieldsOf(t, fields)
	}
	seen := map[string]bool{}
	for c.dec.More() {
		token, err := c.dec.Token()
		if err != nil {
			return err
		}
		name, ok := token.(string)
		if !ok {
			return errors.New("an object has a member without a name")
		}
		if seen[name] {
			return fmt.Errorf("it has the member %q twice", sallyport.Clip(name, 64))
		}
		seen[name] = true
		var of reflect.Type
		if f, ok := fields[fold(name)]; ok {
			if c.exact && name != f.name {
				return fmt.Errorf("its member %q is spelt %q", sallyport.Clip(name, 64), f.name)
			}
			folded := "\x00" + f.name // which no two members that fill the field differ in
			if seen[folded] {
				return fmt.Errorf("it has the member %q twice, in different case", sallyport.Clip(name, 64))
			}
			seen[folded] = true
			of = f.t
		} else if t != nil && t.Kind() == reflect.Map {
			of = t.Elem()
		}
		if err := c.value(of, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// target is what a value is read into, behind pointers: nil if that reads its
// text itself, or takes anything.
func target(t reflect.Type) reflect.Type {
	for ; t != nil; t = t.Elem() {
		if p := reflect.PointerTo(t); p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			return nil
		}
		if t.Kind() != reflect.Pointer {
			return t
		}
	}
	return nil
}

// A field is what a member fills.
type field struct {
	name string
	t    reflect.Type
}

// fieldsOf adds the fields of a struct, and of those embedded in it, by folded
// name.
func fieldsOf(t reflect.Type, fields map[string]field) {
	var own []field // which hide those of embedded structs
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		embedded := target(f.Type)
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
		case f.Anonymous && name == "" && embedded != nil && embedded.Kind() == reflect.Struct:
			fieldsOf(embedded, fields)
		case name == "":
			own = append(own, field{f.Name, f.Type})
		default:
			own = append(own, field{name, f.Type})
		}
	}
	for _, f := range own {
		fields[fold(f.name)] = f
	}
}

// fold is what encoding/json compares names by: of runes that differ in case
// alone, the smallest.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, name)
}
