package api

import (
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

//go:generate go run gen.go -- see the file: it wants AWS's models

//go:embed constraints.json
var constraintsFile embed.FS

// A shape is what AWS's model of a service says about one type: see gen.go.
type shape struct {
	Type     string
	Members  map[string]string
	Required []string
	Member   string // of a list
	Key      string // of a map
	Value    string
	Min, Max *float64
	Pattern  string
	Enum     []string

	pattern *regexp.Regexp
}

// shapes returns the shapes of every service, by service and name. Operations
// are in it as "op StartSession".
var shapes = sync.OnceValue(func() map[string]map[string]*shape {
	b, err := constraintsFile.ReadFile("constraints.json")
	var all map[string]map[string]*shape
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		panic("api: constraints.json: " + err.Error())
	}
	for _, service := range all {
		for _, s := range service {
			if s.Pattern != "" {
				s.pattern = regexp.MustCompile(`^(?:` + s.Pattern + `)$`)
			}
		}
	}
	return all
})

// maxViolations is how many are spelled out.
const maxViolations = 10

// check holds a request to AWS's model of it and says everything that is wrong
// with it at once, as AWS does. The input is JSON, decoded with UseNumber, or
// what [parseForm] made of a form, where numbers are still text.
func check(service, operation string, input map[string]any) error {
	s := shapes()[service]["op "+operation]
	if s == nil {
		return nil // an operation that only agents call; it checks its own
	}
	c := checker{shapes: shapes()[service]}
	c.structure(s, input, "")
	if len(c.wrong) == 0 {
		return nil
	}
	noun := "errors"
	if len(c.wrong) == 1 {
		noun = "error"
	}
	list := c.wrong
	if len(list) > maxViolations {
		list = list[:maxViolations]
	}
	return sallyport.Errorf(sallyport.ValidationException, "%d validation %s detected: %s", len(c.wrong), noun, strings.Join(list, "; "))
}

type checker struct {
	shapes map[string]*shape
	wrong  []string
}

func (c *checker) fail(path string, value any, format string, args ...any) {
	said := "null"
	if value != nil {
		said = "'" + sallyport.Clip(fmt.Sprint(value), 80) + "'"
	}
	c.wrong = append(c.wrong, fmt.Sprintf("Value %s at '%s' failed to satisfy constraint: %s", said, path, fmt.Sprintf(format, args...)))
}

func (c *checker) structure(s *shape, v map[string]any, path string) {
	for _, name := range s.Required {
		if v[name] == nil {
			c.fail(join(path, name), nil, "Member must not be null")
		}
	}
	names := make([]string, 0, len(s.Members))
	for name := range s.Members {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if v[name] != nil {
			c.value(c.shapes[s.Members[name]], v[name], join(path, name))
		}
	}
}

// join makes a path as AWS writes it: lower camel case, ".member." in lists.
func join(path, name string) string {
	name = strings.ToLower(name[:1]) + name[1:]
	if path == "" {
		return name
	}
	return path + "." + name
}

func (c *checker) value(s *shape, v any, path string) {
	if s == nil || len(c.wrong) > maxViolations {
		return
	}
	switch s.Type {
	case "structure":
		if m, ok := v.(map[string]any); ok {
			c.structure(s, m, path)
		} else {
			c.fail(path, "?", "Member must be a structure")
		}
	case "list":
		list, ok := v.([]any)
		if !ok && v == "" {
			break // how forms send a list of nothing (smithy.io, "AWS query protocol")
		}
		if !ok {
			c.fail(path, "?", "Member must be a list")
			return
		}
		c.length(s, len(list), "["+strconv.Itoa(len(list))+" members]", path)
		for i, e := range list {
			at := path + "." + strconv.Itoa(i+1) + ".member"
			if e == nil {
				c.fail(at, nil, "Member must not be null")
				continue
			}
			c.value(c.shapes[s.Member], e, at)
		}
	case "map":
		m, ok := v.(map[string]any)
		if !ok {
			c.fail(path, "?", "Member must be a map")
			return
		}
		c.length(s, len(m), "["+strconv.Itoa(len(m))+" members]", path)
		for _, k := range slices.Sorted(maps.Keys(m)) {
			c.value(c.shapes[s.Key], k, path+".key")
			c.value(c.shapes[s.Value], m[k], path+"."+k+".member")
		}
	case "string":
		c.text(s, v, path)
	case "integer", "long":
		c.number(s, v, path)
	case "boolean":
		if text, ok := v.(string); ok && text != "true" && text != "false" {
			c.fail(path, v, "Member must be true or false")
		}
	}
}

func (c *checker) length(s *shape, n int, said any, path string) {
	if s.Min != nil && n < int(*s.Min) {
		c.fail(path, said, "Member must have length greater than or equal to %d", int(*s.Min))
	}
	if s.Max != nil && n > int(*s.Max) {
		c.fail(path, said, "Member must have length less than or equal to %d", int(*s.Max))
	}
}

func (c *checker) text(s *shape, v any, path string) {
	text, ok := v.(string)
	if !ok {
		c.fail(path, v, "Member must be a string")
		return
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, text) {
		c.fail(path, v, "Member must satisfy enum value set: [%s]", strings.Join(s.Enum, ", "))
		return
	}
	c.length(s, utf8.RuneCountInString(text), v, path)
	if s.pattern != nil && !s.pattern.MatchString(text) {
		c.fail(path, v, "Member must satisfy regular expression pattern: %s", s.Pattern)
	}
}

func (c *checker) number(s *shape, v any, path string) {
	n, err := strconv.ParseInt(fmt.Sprint(v), 10, 64)
	if err != nil {
		c.fail(path, v, "Member must be an integer")
		return
	}
	if s.Min != nil && float64(n) < *s.Min {
		c.fail(path, v, "Member must have value greater than or equal to %d", int64(*s.Min))
	}
	if s.Max != nil && float64(n) > *s.Max {
		c.fail(path, v, "Member must have value less than or equal to %d", int64(*s.Max))
	}
}
