// Reducemodel writes internal/api/models: of AWS's service models, the names,
// types and limits of the operations that operations.txt lists there.
//
//	go run -C tools ./reducemodel BOTOCORE
//
// BOTOCORE is the folder of an installed botocore, which has data/ in it. No
// prose is taken.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/tools/internal/model"
)

const models = "../internal/api/models"

// source is AWS's model, as far as it is read.
type source struct {
	Metadata struct {
		APIVersion, EndpointPrefix, SigningName, Protocol, TargetPrefix, XMLNamespace string
	}
	Operations map[string]struct {
		Input, Output *ref
		Errors        []ref
	}
	Shapes map[string]struct {
		Type            string
		Members         map[string]ref
		Required        []string
		Member          *ref
		Flattened       bool
		Key, Value      *ref
		Min, Max        *float64
		Pattern         string
		Enum            []string
		Sensitive       bool
		Fault           bool
		TimestampFormat string
		Error           struct {
			Code           string
			HTTPStatusCode int
		}
	}
}

type ref struct{ Shape, LocationName, QueryName string }

// rewritten are the patterns that Go's regexp cannot read, said another way.
var rewritten = map[string]string{
	`^(?!\s*$).+`:   `\S`,
	`^.{1,100000}$`: `^.+$`, // the length is checked as a length
}

// codepoint is a character as Java's regexps name it.
var codepoint = regexp.MustCompile(`\\u([0-9A-Fa-f]{4}|10FFFF)`)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: go run -C tools ./reducemodel BOTOCORE")
	}
	wanted, err := readList(filepath.Join(models, "operations.txt"))
	if err != nil {
		log.Fatal(err)
	}
	release, err := readRelease(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for service, operations := range wanted {
		if err := reduce(os.Args[1], release, service, operations); err != nil {
			log.Fatalf("%s: %v", service, err)
		}
	}
}

// readList returns the operations that are wanted, by service.
func readList(name string) (map[string][]string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	wanted := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		service, operation, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not SERVICE:OPERATION", name, line)
		}
		wanted[service] = append(wanted[service], operation)
	}
	return wanted, nil
}

var version = regexp.MustCompile(`(?m)^__version__ = '([^']+)'`)

func readRelease(botocore string) (string, error) {
	b, err := os.ReadFile(filepath.Join(botocore, "__init__.py"))
	if err != nil {
		return "", err
	}
	found := version.FindSubmatch(b)
	if found == nil {
		return "", fmt.Errorf("%s says no version", botocore)
	}
	return string(found[1]), nil
}

// open returns the newest model of a service, unpacked, and the path it has in
// botocore.
func open(botocore, service string) (b []byte, path string, err error) {
	versions, err := filepath.Glob(filepath.Join(botocore, "data", service, "*"))
	if err != nil || len(versions) == 0 {
		return nil, "", fmt.Errorf("there is no model of it in %s", botocore)
	}
	dir := slices.Max(versions)
	path = strings.Join([]string{"data", service, filepath.Base(dir), "service-2.json"}, "/")
	if b, err = os.ReadFile(filepath.Join(dir, "service-2.json")); !errors.Is(err, fs.ErrNotExist) {
		return b, path, err
	}
	packed, err := os.ReadFile(filepath.Join(dir, "service-2.json.gz"))
	if err != nil {
		return nil, "", err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, "", err
	}
	b, err = io.ReadAll(z)
	return b, path, err
}

func reduce(botocore, release, service string, operations []string) error {
	b, path, err := open(botocore, service)
	if err != nil {
		return err
	}
	var from source
	if err := json.Unmarshal(b, &from); err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	to := model.Service{
		Service: service, Version: from.Metadata.APIVersion, Protocol: from.Metadata.Protocol,
		Target: from.Metadata.TargetPrefix, Namespace: from.Metadata.XMLNamespace,
		Source: "botocore " + release + ", " + path, SHA256: hex.EncodeToString(sum[:]),
		Operations: map[string]model.Operation{}, Shapes: map[string]model.Shape{},
	}
	r := reducer{from: &from, to: &to}
	for _, name := range operations {
		op, ok := from.Operations[name]
		if !ok {
			return fmt.Errorf("the model has no %s", name)
		}
		var o model.Operation
		if op.Input != nil {
			o.Input = r.add(op.Input.Shape)
		}
		if op.Output != nil {
			o.Output = r.add(op.Output.Shape)
		}
		for _, e := range op.Errors {
			o.Errors = append(o.Errors, r.addError(e.Shape))
		}
		slices.Sort(o.Errors)
		to.Operations[name] = o
	}
	if r.err != nil {
		return r.err
	}
	out, err := json.MarshalIndent(to, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(models, service+".json"), append(out, '\n'), 0o644)
}

// A reducer adds shapes to a service, and those they are made of.
type reducer struct {
	from *source
	to   *model.Service
	err  error // the first
}

func (r *reducer) add(name string) string {
	if _, ok := r.to.Shapes[name]; ok {
		return name
	}
	s := r.from.Shapes[name]
	o := model.Shape{
		Type: s.Type, Required: s.Required, Flat: s.Flattened, Min: s.Min, Max: s.Max,
		Pattern: s.Pattern, Enum: s.Enum, Secret: s.Sensitive,
	}
	if s.TimestampFormat != "" && r.err == nil {
		r.err = fmt.Errorf("%s: its times are %s, which is not read yet", name, s.TimestampFormat)
	}
	if p, ok := rewritten[o.Pattern]; ok {
		o.Pattern = p
	}
	o.Pattern = codepoint.ReplaceAllString(o.Pattern, `\x{$1}`)
	if _, err := regexp.Compile(o.Pattern); err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", name, err)
	}
	r.to.Shapes[name] = o // before what it is made of, which may be made of it
	for member, of := range s.Members {
		if o.Members == nil {
			o.Members = map[string]model.Ref{}
		}
		o.Members[member] = r.use(member, of)
	}
	for to, of := range map[**model.Ref]*ref{&o.Member: s.Member, &o.Key: s.Key, &o.Value: s.Value} {
		if of != nil {
			used := r.use("", *of)
			*to = &used
		}
	}
	r.to.Shapes[name] = o
	return name
}

func (r *reducer) use(name string, of ref) model.Ref {
	out := model.Ref{Shape: r.add(of.Shape)}
	if of.LocationName != name {
		out.Wire = of.LocationName
	}
	out.Form = of.QueryName
	return out
}

// addError adds an error. Of its members, which are a message, nothing is kept.
func (r *reducer) addError(name string) string {
	s := r.from.Shapes[name]
	o := model.Shape{Type: "error", Code: s.Error.Code, Status: s.Error.HTTPStatusCode}
	if o.Code == name {
		o.Code = ""
	}
	if o.Status == 0 && s.Fault {
		o.Status = 500
	}
	if o.Status == 400 {
		o.Status = 0
	}
	r.to.Shapes[name] = o
	return name
}
