package policy

import (
	"encoding/json"
	"slices"
	"strings"
)

// RewritePrincipals returns the policy of a resource with each principal of kind
// AWS replaced by what rewrite makes of it. All else stays as it was written. The
// document is one that [ParseTrust] or [ParseKey] takes; an error of rewrite's
// ends it.
func RewritePrincipals(doc string, rewrite func(name string) (string, error)) (string, error) {
	doc = trimMark(doc)
	r := rewriter{doc: doc, dec: json.NewDecoder(strings.NewReader(doc)), rewrite: rewrite}
	if err := r.value(nil); err != nil {
		return "", err
	}
	r.out.WriteString(doc[r.copied:])
	return r.out.String(), nil
}

type rewriter struct {
	doc     string
	dec     *json.Decoder
	rewrite func(name string) (string, error)
	out     strings.Builder
	copied  int // how much of doc is in out
}

var (
	inPrincipal    = []string{"Statement", "Principal", "AWS"}
	inNotPrincipal = []string{"Statement", "NotPrincipal", "AWS"}
)

// value reads one value, which the keys in path lead to. A list adds nothing to
// the path of its elements. A document that was parsed is not deep.
func (r *rewriter) value(path []string) error {
	before := int(r.dec.InputOffset())
	token, err := r.dec.Token()
	if err != nil {
		return err
	}
	switch t := token.(type) {
	case json.Delim:
		for r.dec.More() {
			to := path
			if t == '{' {
				key, err := r.dec.Token()
				if err != nil {
					return err
				}
				name, _ := key.(string)
				to = append(slices.Clone(path), name)
			}
			if err := r.value(to); err != nil {
				return err
			}
		}
		_, err := r.dec.Token()
		return err
	case string:
		if !slices.Equal(path, inPrincipal) && !slices.Equal(path, inNotPrincipal) {
			return nil
		}
		now, err := r.rewrite(t)
		if err != nil {
			return err
		}
		text, err := json.Marshal(now)
		if err != nil {
			return err
		}
		begin := before + strings.IndexByte(r.doc[before:], '"') // after white space, a colon or a comma
		r.out.WriteString(r.doc[r.copied:begin])
		r.out.Write(text)
		r.copied = int(r.dec.InputOffset())
	}
	return nil
}
