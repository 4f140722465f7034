package shape

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"maps"
	"slices"
	"strconv"
	"time"
)

// A Writer is given the members of an output, in order. Name is what the member is
// called on the wire, a map's key within a map, and not looked at within a list.
// What is begun with Struct, List or Map ends with End.
type Writer interface {
	Text(name, v string)
	Int(name string, v int64)
	Double(name string, v float64)
	Bool(name string, v bool)
	Time(name string, v time.Time)
	Blob(name string, v []byte)
	Struct(name string)
	List(name string)
	Map(name string)
	End()
}

// Keys returns the keys of a map in the order they are written in.
func Keys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// within is what is being written.
type within uint8

const (
	inStruct within = iota
	inList
	inMap
)

// JSON writes an output as AWS's JSON 1.1 protocol has it. The zero value is
// ready; Bytes is called when all has been written.
type JSON struct {
	b  []byte
	in []within
}

// Bytes returns what was written: one object.
func (w *JSON) Bytes() []byte {
	if w.b == nil {
		return []byte("{}")
	}
	return append(w.b, '}')
}

// begin writes what comes before a value.
func (w *JSON) begin(name string) {
	switch {
	case w.b == nil:
		w.b = append(make([]byte, 0, 512), '{')
	case w.b[len(w.b)-1] != '{' && w.b[len(w.b)-1] != '[':
		w.b = append(w.b, ',')
	}
	if n := len(w.in); n == 0 || w.in[n-1] != inList {
		w.b = append(appendText(w.b, name), ':')
	}
}

func (w *JSON) open(name string, bracket byte, in within) {
	w.begin(name)
	w.b = append(w.b, bracket)
	w.in = append(w.in, in)
}

func (w *JSON) Struct(name string) { w.open(name, '{', inStruct) }
func (w *JSON) Map(name string)    { w.open(name, '{', inMap) }
func (w *JSON) List(name string)   { w.open(name, '[', inList) }

func (w *JSON) End() {
	n := len(w.in) - 1
	if w.in[n] == inList {
		w.b = append(w.b, ']')
	} else {
		w.b = append(w.b, '}')
	}
	w.in = w.in[:n]
}

func (w *JSON) Text(name, v string) {
	w.begin(name)
	w.b = appendText(w.b, v)
}

func (w *JSON) Int(name string, v int64) {
	w.begin(name)
	w.b = strconv.AppendInt(w.b, v, 10)
}

func (w *JSON) Double(name string, v float64) {
	w.begin(name)
	w.b = strconv.AppendFloat(w.b, v, 'g', -1, 64)
}

func (w *JSON) Bool(name string, v bool) {
	w.begin(name)
	w.b = strconv.AppendBool(w.b, v)
}

// Time writes Unix seconds, to the millisecond.
func (w *JSON) Time(name string, v time.Time) {
	w.begin(name)
	w.b = strconv.AppendFloat(w.b, float64(v.UnixMilli())/1e3, 'f', -1, 64)
}

func (w *JSON) Blob(name string, v []byte) { w.Text(name, base64.StdEncoding.EncodeToString(v)) }

// appendText appends a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // text always can be written
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// XML writes an output as AWS's query protocol has it: one element a member. The
// zero value is ready.
type XML struct {
	// Item is what the elements of lists are called; "member" if it is empty.
	Item string

	b    bytes.Buffer
	open []element
}

type element struct {
	name string
	in   within
}

// Bytes returns what was written: the members, one after the other.
func (w *XML) Bytes() []byte { return w.b.Bytes() }

// wrap writes an element, whose content write writes.
func (w *XML) wrap(name string, write func()) {
	end := w.start(&name)
	write()
	w.b.WriteString("</" + name + ">" + end)
}

// start writes the beginning of an element, and returns what follows its end.
func (w *XML) start(name *string) (end string) {
	if n := len(w.open); n > 0 {
		switch w.open[n-1].in {
		case inList:
			if *name = w.Item; *name == "" {
				*name = "member"
			}
		case inMap:
			w.b.WriteString("<entry><key>")
			w.escape(*name)
			w.b.WriteString("</key>")
			*name, end = "value", "</entry>"
		}
	}
	w.b.WriteString("<" + *name + ">")
	return end
}

func (w *XML) begin(name string, in within) {
	end := w.start(&name)
	w.open = append(w.open, element{"</" + name + ">" + end, in})
}

func (w *XML) Struct(name string) { w.begin(name, inStruct) }
func (w *XML) List(name string)   { w.begin(name, inList) }
func (w *XML) Map(name string)    { w.begin(name, inMap) }

func (w *XML) End() {
	n := len(w.open) - 1
	w.b.WriteString(w.open[n].name)
	w.open = w.open[:n]
}

func (w *XML) escape(s string) { xml.EscapeText(&w.b, []byte(s)) } // a bytes.Buffer takes all

func (w *XML) Text(name, v string) { w.wrap(name, func() { w.escape(v) }) }
func (w *XML) Int(name string, v int64) {
	w.wrap(name, func() { w.b.WriteString(strconv.FormatInt(v, 10)) })
}
func (w *XML) Double(name string, v float64) {
	w.wrap(name, func() { w.b.WriteString(strconv.FormatFloat(v, 'g', -1, 64)) })
}
func (w *XML) Bool(name string, v bool) {
	w.wrap(name, func() { w.b.WriteString(strconv.FormatBool(v)) })
}

// Time writes RFC 3339, in UTC, to the second.
func (w *XML) Time(name string, v time.Time) {
	w.wrap(name, func() { w.b.WriteString(v.UTC().Format("2006-01-02T15:04:05Z")) })
}

func (w *XML) Blob(name string, v []byte) { w.Text(name, base64.StdEncoding.EncodeToString(v)) }
