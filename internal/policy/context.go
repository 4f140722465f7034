package policy

import "strings"

// A Context holds what is known about a request: condition keys and their
// values. The zero Context knows nothing. Names of keys are not
// case-sensitive, and one Set later wins.
//
// A key that the request does not have must not be set: an empty value is a
// value, and ${aws:username} of a caller without a user name is not "".
//
// The maps and slices it is given are kept, not copied.
type Context struct {
	keys []contextKey
	tags []contextTags
}

type contextKey struct {
	name string
	values
}

type contextTags struct {
	prefix string
	tags   map[string]string
}

// Set gives key one value.
func (c *Context) Set(key, value string) {
	c.keys = append(c.keys, contextKey{key, values{one: value, n: 1}})
}

// SetAll gives key several values, as aws:TagKeys has.
func (c *Context) SetAll(key string, all []string) {
	c.keys = append(c.keys, contextKey{key, values{all: all, n: len(all)}})
}

// SetTags gives each tag its key: prefix and the tag's name, as in
// "aws:PrincipalTag/" and "team". Where the names of two tags differ only by
// case, which those who keep tags should refuse, they are one key with the
// values of both: so neither hides the other from a statement that denies.
func (c *Context) SetTags(prefix string, tags map[string]string) {
	c.tags = append(c.tags, contextTags{prefix, tags})
}

// values is what a key holds: none, one, or several.
type values struct {
	one string
	all []string
	n   int
}

func (v *values) at(i int) string {
	if v.all != nil {
		return v.all[i]
	}
	return v.one
}

// blank reports whether no value says anything: AWS's "null data set, such as
// an empty string".
func (v *values) blank() bool {
	for i := range v.n {
		if v.at(i) != "" {
			return false
		}
	}
	return true
}

// get returns what key holds.
func (c *Context) get(key string) values {
	for i := len(c.keys) - 1; i >= 0; i-- {
		if equalFold(c.keys[i].name, key) {
			return c.keys[i].values
		}
	}
	for i := len(c.tags) - 1; i >= 0; i-- {
		t := &c.tags[i]
		if len(key) > len(t.prefix) && equalFold(key[:len(t.prefix)], t.prefix) {
			if v := t.get(key[len(t.prefix):]); v.n > 0 {
				return v
			}
		}
	}
	return values{}
}

// get finds a tag by its name in any case.
func (t *contextTags) get(name string) (v values) {
	for k, value := range t.tags {
		switch {
		case !equalFold(k, name):
		case v.n == 0:
			v = values{one: value, n: 1}
		default:
			if v.all == nil {
				v.all = []string{v.one}
			}
			v.all = append(v.all, value)
			v.n++
		}
	}
	return v
}

// equalFold is strings.EqualFold for the names of keys and actions, which are
// ASCII: no letter of another alphabet passes for one of them.
func equalFold(a, b string) bool {
	return len(a) == len(b) && hasPrefixFold(a, b)
}

func hasPrefixFold(s, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if a, b := s[i], prefix[i]; a != b && lower(a) != lower(b) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// hasVendor reports whether key is a condition key at all: vendor:name.
func hasVendor(key string) bool {
	vendor, name, ok := strings.Cut(key, ":")
	return ok && vendor != "" && name != "" && !strings.ContainsAny(vendor, " ${}*?")
}
