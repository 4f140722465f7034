//go:build ignore

// Gen writes constraints.json: what AWS's service models require of the
// requests we answer. Its arguments are service-2.json files, as botocore ships
// them, gunzipped:
//
//	go run gen.go {ssm/2014-11-06,iam/2010-05-08,sts/2011-06-15,kms/2014-11-01}/service-2.json
//
// Only facts are taken (names, lengths, patterns), and only for operations that
// gen.txt lists.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"regexp"
	"slices"
	"strings"
)

type shape struct {
	Type     string                            `json:"type"`
	Members  map[string]struct{ Shape string } `json:"members"`
	Required []string                          `json:"required"`
	Member   *struct{ Shape string }           `json:"member"`
	Key      *struct{ Shape string }           `json:"key"`
	Value    *struct{ Shape string }           `json:"value"`
	Min      *float64                          `json:"min"`
	Max      *float64                          `json:"max"`
	Pattern  string                            `json:"pattern"`
	Enum     []string                          `json:"enum"`
}

type model struct {
	Metadata   struct{ EndpointPrefix, SigningName string }
	Operations map[string]struct{ Input *struct{ Shape string } }
	Shapes     map[string]shape
}

type out struct {
	Type     string            `json:"type"`
	Members  map[string]string `json:"members,omitempty"`
	Required []string          `json:"required,omitempty"`
	Member   string            `json:"member,omitempty"`
	Key      string            `json:"key,omitempty"`
	Value    string            `json:"value,omitempty"`
	Min      *float64          `json:"min,omitempty"`
	Max      *float64          `json:"max,omitempty"`
	Pattern  string            `json:"pattern,omitempty"`
	Enum     []string          `json:"enum,omitempty"`
}

// rewritten are the patterns Go's regexp cannot read, said another way.
var rewritten = map[string]string{
	`^(?!\s*$).+`:   `\S`,
	`^.{1,100000}$`: `^.+$`, // the length is checked as a length
}

// codepoint is a character as Java's regexps name it.
var codepoint = regexp.MustCompile(`\\u([0-9A-Fa-f]{4}|10FFFF)`)

func main() {
	log.SetFlags(0)
	wanted := map[string]bool{}
	list, err := os.ReadFile("gen.txt")
	if err != nil {
		log.Fatal(err)
	}
	for _, line := range strings.Split(string(list), "\n") {
		if line, _, _ = strings.Cut(line, "#"); strings.TrimSpace(line) != "" {
			wanted[strings.TrimSpace(line)] = true
		}
	}
	result := map[string]map[string]out{}
	for _, name := range os.Args[1:] {
		b, err := os.ReadFile(name)
		if err != nil {
			log.Fatal(err)
		}
		var m model
		if err := json.Unmarshal(b, &m); err != nil {
			log.Fatal(err)
		}
		service := m.Metadata.SigningName
		if service == "" {
			service = m.Metadata.EndpointPrefix
		}
		shapes := map[string]out{}
		result[service] = shapes
		var add func(name string)
		add = func(name string) {
			if _, ok := shapes[name]; ok {
				return
			}
			s := m.Shapes[name]
			o := out{Type: s.Type, Required: s.Required, Min: s.Min, Max: s.Max, Pattern: s.Pattern, Enum: s.Enum}
			if p, ok := rewritten[o.Pattern]; ok {
				o.Pattern = p
			}
			o.Pattern = codepoint.ReplaceAllString(o.Pattern, `\x{$1}`)
			if _, err := regexp.Compile(o.Pattern); err != nil {
				log.Fatalf("%s %s: %v", service, name, err)
			}
			shapes[name] = o
			if len(s.Members) > 0 {
				o.Members = map[string]string{}
				for member, ref := range s.Members {
					o.Members[member] = ref.Shape
					add(ref.Shape)
				}
			}
			for to, ref := range map[*string]*struct{ Shape string }{&o.Member: s.Member, &o.Key: s.Key, &o.Value: s.Value} {
				if ref != nil {
					*to = ref.Shape
					add(ref.Shape)
				}
			}
			shapes[name] = o
		}
		for op, spec := range m.Operations {
			full := service + ":" + op
			if !wanted[full] {
				continue
			}
			delete(wanted, full)
			if spec.Input == nil {
				shapes["op "+op] = out{Type: "structure"}
				continue
			}
			add(spec.Input.Shape)
			shapes["op "+op] = shapes[spec.Input.Shape]
		}
	}
	if len(wanted) > 0 {
		var missing []string
		for name := range wanted {
			missing = append(missing, name)
		}
		slices.Sort(missing)
		log.Fatalf("no model has %s", strings.Join(missing, ", "))
	}
	b, err := json.MarshalIndent(result, "", " ")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("constraints.json", append(b, '\n'), 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(b), "bytes")
}
