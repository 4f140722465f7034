package shape

import (
	"bytes"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// Bounds of a request's tree: without them a stranger could have the server
// build one of any size.
const (
	maxJSONDepth = 32
	maxFormPairs = 4000
	maxFormDepth = 12
)

// ParseJSON parses the body of a request, which is a JSON object; nothing at all
// is an empty one, and a byte-order mark is skipped. No member is there twice,
// and nothing is nested more than 32 deep. The error is a
// SerializationException.
func ParseJSON(body []byte) (Value, error) {
	body = strictjson.TrimMark(body)
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	if tooDeep(body) {
		return Value{}, sallyport.Errorf(sallyport.SerializationException, "The request body is nested more than %d deep.", maxJSONDepth)
	}
	v, err := strictjson.Decode(body)
	if err != nil {
		return Value{}, sallyport.Errorf(sallyport.SerializationException, "The request body is not a JSON object: %v.", err)
	}
	if v == nil {
		v = map[string]any{}
	}
	if _, ok := v.(map[string]any); !ok {
		return Value{}, sallyport.Errorf(sallyport.SerializationException, "The request body is not a JSON object: it is a list, text or a number.")
	}
	return Value{v, new(place), new(request)}, nil
}

// tooDeep reports whether JSON is nested too deeply, before a recursive reader
// sees it.
func tooDeep(body []byte) bool {
	depth, inString, escaped := 0, false, false
	for _, b := range body {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped = b == '\\'
			inString = b != '"'
		case b == '"':
			inString = true
		case b == '{' || b == '[':
			if depth++; depth > maxJSONDepth {
				return true
			}
		case b == '}' || b == ']':
			depth--
		}
	}
	return false
}

// ParseForm parses the parameters of a query request. Their flat names, such as
// Tags.member.2.Key, describe a tree of structures, lists and text. A name that
// is there twice, or is both text and has names below it, would mean what comes
// last or first, and is refused: the error is a ValidationException. Action,
// Version and the parameters of a signature are left out.
//
// Flat lists are those of EC2, whose names have no "member" in them: Filter.1.
func ParseForm(form url.Values, flat bool) (Value, error) {
	if len(form) > maxFormPairs {
		return Value{}, sallyport.Errorf(sallyport.ValidationException, "The request has more than %d parameters.", maxFormPairs)
	}
	root := map[string]any{}
	for name, values := range form {
		twice := func() (Value, error) {
			return Value{}, sallyport.Errorf(sallyport.ValidationException, "The request has the parameter %s twice.", sallyport.Clip(name, 80))
		}
		if len(values) > 1 {
			return twice()
		}
		if name == "Action" || name == "Version" || strings.HasPrefix(name, "X-Amz-") {
			continue
		}
		parts := strings.Split(name, ".")
		if len(parts) > maxFormDepth {
			return Value{}, sallyport.Errorf(sallyport.ValidationException, "The parameter %s is nested too deeply.", sallyport.Clip(name, 80))
		}
		at := root
		for _, p := range parts[:len(parts)-1] {
			next, ok := at[p].(map[string]any)
			switch {
			case at[p] == nil:
				next = map[string]any{}
				at[p] = next
			case !ok:
				return twice()
			}
			at = next
		}
		last := parts[len(parts)-1]
		if at[last] != nil {
			return twice()
		}
		at[last] = values[0]
	}
	for name, e := range root {
		root[name] = listed(e, flat)
	}
	return Value{root, new(place), &request{form: true}}, nil
}

// listed turns {"member": {"1": …, "2": …}} into a list, at every depth; if flat,
// {"1": …, "2": …}.
func listed(v any, flat bool) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	members, ok := m, flat
	if !flat {
		members, ok = m["member"].(map[string]any)
		ok = ok && len(m) == 1
	}
	if list, numbered := elements(members); ok && numbered {
		for i := range list {
			list[i] = listed(list[i], flat)
		}
		return list
	}
	for k, e := range m {
		m[k] = listed(e, flat)
	}
	return m
}

// elements returns the elements of a list by their numbers. It reports false if
// a name is no number; 01 is not another 1.
func elements(members map[string]any) ([]any, bool) {
	numbers := make([]int, 0, len(members))
	for k := range members {
		n, err := strconv.Atoi(k)
		if err != nil || strconv.Itoa(n) != k {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	list := make([]any, len(numbers))
	for i, n := range numbers {
		list[i] = members[strconv.Itoa(n)]
	}
	return list, true
}
