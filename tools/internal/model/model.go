// Package model is the reduced form of AWS's service models: names, types and
// limits, no prose. tools/reducemodel writes it, tools/apigen makes Go of it.
package model

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// A Service is one file of internal/api/models.
type Service struct {
	Service   string `json:"service"`           // as signatures are scoped to it: "ssm"
	Package   string `json:"package,omitempty"` // the folder in internal/api, if it is called otherwise
	Version   string `json:"version"`           // "2014-11-06"
	Protocol  string `json:"protocol"`
	Target    string `json:"target,omitempty"`    // of a JSON service, what X-Amz-Target begins with
	Namespace string `json:"namespace,omitempty"` // of the XML of its answers
	Source    string `json:"source"`              // what the facts were taken from
	SHA256    string `json:"sha256,omitempty"`    // of that file, unpacked; none if the facts were read in a program

	Operations map[string]Operation `json:"operations"`
	Shapes     map[string]Shape     `json:"shapes"`
}

// An Operation names its shapes. Output is empty if it answers nothing.
type Operation struct {
	Input  string   `json:"input,omitempty"`
	Output string   `json:"output,omitempty"`
	Errors []string `json:"errors,omitempty"` // shapes
}

// A Shape is a type.
type Shape struct {
	Type     string         `json:"type"`
	Members  map[string]Ref `json:"members,omitempty"`
	Required []string       `json:"required,omitempty"`
	Member   *Ref           `json:"member,omitempty"` // of a list
	Flat     bool           `json:"flat,omitempty"`   // a list without an element of its own in forms and XML
	Key      *Ref           `json:"key,omitempty"`    // of a map
	Value    *Ref           `json:"value,omitempty"`
	Min      *float64       `json:"min,omitempty"`
	Max      *float64       `json:"max,omitempty"`
	Pattern  string         `json:"pattern,omitempty"`
	Enum     []string       `json:"enum,omitempty"`
	Secret   bool           `json:"secret,omitempty"`

	// Of an error: its code where that is not the shape's name, and the HTTP status
	// if it is not 400.
	Code   string `json:"code,omitempty"`
	Status int    `json:"status,omitempty"`
}

// A Ref is the use of a shape.
type Ref struct {
	Shape string `json:"shape"`
	Wire  string `json:"wire,omitempty"` // the name in answers and JSON, if it is another
	Form  string `json:"form,omitempty"` // the name in forms, if it is another than in answers
}

// Read reads a file of internal/api/models.
func Read(name string) (*Service, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	s := new(Service)
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}
