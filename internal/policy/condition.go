package policy

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

// A condition is one key of one operator in a Condition block.
type condition struct {
	key    string
	test   test
	negate bool // StringNotEquals and its like: none of the values may match
	deny   bool // it is of a statement that denies

	quantifier quantifier
	ifExists   bool
	null       bool // the Null operator: test is on "true" if the key has no value, else on "false"
}

// A test reports whether a request's value matches any of those the policy
// lists.
type test func(c *Context, value string) outcome

// outcome is what a [test] finds.
type outcome uint8

const (
	differs    outcome = iota // from all the values
	matches                   // one of them
	unreadable                // what the operator compares, numbers or dates or addresses, is not what the value is
)

func outcomeOf(match bool) outcome {
	if match {
		return matches
	}
	return differs
}

// quantifier is how a condition goes about a key with several values.
type quantifier uint8

const (
	unquantified quantifier = iota
	forAllValues
	forAnyValue
)

// holds follows the IAM User Guide, "Condition operators" and "Conditions with
// multiple context keys or values":
//
//	                    key missing      key has values
//	StringEquals        false            some value matches
//	StringNotEquals     true             no value matches any in the policy
//	…IfExists           true             as without
//	ForAllValues:…      true             each value passes, on its own
//	ForAnyValue:…       false            some value passes, on its own
//
// ForAnyValue is stronger than IfExists, as people find out. (repost.aws,
// "ForAnyValue:StringEqualsIfExists behaving unexpectedly".) To both
// quantifiers a key of empty values is missing.
//
// AWS does not say what an operator without a quantifier makes of several
// values. Here it takes them together, so that a negated operator is the
// opposite of the one it negates.
//
// A value that cannot be read, such as a number that is none, matches nothing.
// That it therefore does not match is not known: it meets a negated operator
// only in a statement that denies.
func (c *condition) holds(ctx *Context) bool {
	v := ctx.get(c.key)
	if c.null {
		return c.test(ctx, strconv.FormatBool(v.n == 0)) == matches
	}
	switch c.quantifier {
	case forAllValues:
		if v.blank() {
			return true
		}
		for i := range v.n {
			if !c.passes(c.test(ctx, v.at(i))) {
				return false
			}
		}
		return true
	case forAnyValue:
		if v.blank() {
			return false
		}
		for i := range v.n {
			if c.passes(c.test(ctx, v.at(i))) {
				return true
			}
		}
		return false
	}
	if v.n == 0 {
		return c.ifExists || c.negate
	}
	holds := c.negate
	for i := range v.n {
		switch found := c.test(ctx, v.at(i)); {
		case found == matches:
			return !c.negate
		case !c.passes(found):
			holds = false
		}
	}
	return holds
}

// passes reports whether one value meets the condition by itself.
func (c *condition) passes(found outcome) bool {
	if found == unreadable {
		return c.negate && c.deny
	}
	return (found == matches) != c.negate
}

// operator is a condition operator, without prefix and suffix.
type operator struct {
	// compile makes the test for a policy's values. What it says when it
	// cannot is the end of a sentence that began with the value's place.
	compile func(y syntax, values []string) (test, error)
	negate  bool
	null    bool
}

var operators = map[string]operator{
	"StringEquals":              {compile: stringEquals},
	"StringNotEquals":           {compile: stringEquals, negate: true},
	"StringEqualsIgnoreCase":    {compile: stringEqualsIgnoreCase},
	"StringNotEqualsIgnoreCase": {compile: stringEqualsIgnoreCase, negate: true},
	"StringLike":                {compile: stringLike},
	"StringNotLike":             {compile: stringLike, negate: true},

	"NumericEquals":            {compile: numeric(func(order int) bool { return order == 0 })},
	"NumericNotEquals":         {compile: numeric(func(order int) bool { return order == 0 }), negate: true},
	"NumericLessThan":          {compile: numeric(func(order int) bool { return order < 0 })},
	"NumericLessThanEquals":    {compile: numeric(func(order int) bool { return order <= 0 })},
	"NumericGreaterThan":       {compile: numeric(func(order int) bool { return order > 0 })},
	"NumericGreaterThanEquals": {compile: numeric(func(order int) bool { return order >= 0 })},

	"DateEquals":            {compile: date(func(order int) bool { return order == 0 })},
	"DateNotEquals":         {compile: date(func(order int) bool { return order == 0 }), negate: true},
	"DateLessThan":          {compile: date(func(order int) bool { return order < 0 })},
	"DateLessThanEquals":    {compile: date(func(order int) bool { return order <= 0 })},
	"DateGreaterThan":       {compile: date(func(order int) bool { return order > 0 })},
	"DateGreaterThanEquals": {compile: date(func(order int) bool { return order >= 0 })},

	"Bool":         {compile: boolean},
	"Null":         {compile: boolean, null: true},
	"BinaryEquals": {compile: binaryEquals},

	"IpAddress":    {compile: ipAddress},
	"NotIpAddress": {compile: ipAddress, negate: true},

	"ArnEquals":    {compile: arnLike},
	"ArnLike":      {compile: arnLike},
	"ArnNotEquals": {compile: arnLike, negate: true},
	"ArnNotLike":   {compile: arnLike, negate: true},
}

// parseOperator makes a condition that is yet without key and test.
func parseOperator(name string) (condition, operator, error) {
	var c condition
	base := name
	if s, ok := strings.CutPrefix(base, "ForAllValues:"); ok {
		base, c.quantifier = s, forAllValues
	} else if s, ok := strings.CutPrefix(base, "ForAnyValue:"); ok {
		base, c.quantifier = s, forAnyValue
	}
	base, c.ifExists = strings.CutSuffix(base, "IfExists")

	op, ok := operators[base]
	if !ok {
		// IAM's spelling is exact. Say which, if only the case is wrong.
		for known := range operators {
			if strings.EqualFold(known, base) {
				return c, op, fmt.Errorf("%q is not a condition operator; write %s", sallyport.Clip(name, 64), known)
			}
		}
		return c, op, fmt.Errorf("%q is not a condition operator; they are like StringEquals, StringLikeIfExists and ForAnyValue:StringLike", sallyport.Clip(name, 64))
	}
	if op.null && (c.ifExists || c.quantifier != unquantified) {
		return c, op, fmt.Errorf("%s cannot be: Null itself asks whether the key exists; write Null", sallyport.Clip(name, 64))
	}
	c.negate, c.null = op.negate, op.null
	return c, op, nil
}

func compileAll(y syntax, values []string) ([]pattern, error) {
	patterns := make([]pattern, len(values))
	for i, v := range values {
		var err error
		if patterns[i], err = y.compile(v); err != nil {
			return nil, fmt.Errorf("the value %q %w", sallyport.Clip(v, 64), err)
		}
	}
	return patterns, nil
}

func stringEquals(y syntax, values []string) (test, error) {
	y.wildcards = false
	return stringMatches(y, values)
}

func stringLike(y syntax, values []string) (test, error) {
	y.wildcards = true
	return stringMatches(y, values)
}

func stringMatches(y syntax, values []string) (test, error) {
	patterns, err := compileAll(y, values)
	return func(c *Context, value string) outcome {
		for i := range patterns {
			if patterns[i].matches(c, value, 0) {
				return matches
			}
		}
		return differs
	}, err
}

func stringEqualsIgnoreCase(y syntax, values []string) (test, error) {
	y.wildcards = false
	patterns, err := compileAll(y, values)
	return func(c *Context, value string) outcome {
		for i := range patterns {
			if s, ok := patterns[i].text(c); ok && sameButCase(s, value) {
				return matches
			}
		}
		return differs
	}, err
}

// sameButCase is strings.EqualFold, except that no letter from outside ASCII is
// the same as one of ASCII: U+212A, the kelvin sign, is not a k, nor U+017F an s.
func sameButCase(a, b string) bool {
	for len(a) > 0 && len(b) > 0 {
		_, n := utf8.DecodeRuneInString(a)
		_, m := utf8.DecodeRuneInString(b)
		switch {
		case (n == 1) != (m == 1):
			return false
		case n == 1 && lower(a[0]) != lower(b[0]):
			return false
		case n > 1 && !strings.EqualFold(a[:n], b[:m]):
			return false
		}
		a, b = a[n:], b[m:]
	}
	return len(a) == len(b)
}

// arnLike compares ARNs part by part, so that a wildcard stays within its
// part. ArnEquals does as ArnLike does.
func arnLike(y syntax, values []string) (test, error) {
	y.wildcards = true
	patterns, err := compileAll(y, values)
	for i := range patterns {
		if p := &patterns[i]; !p.all && !p.variables && bound(values[i]) == 0 {
			return nil, fmt.Errorf("the value %q is not an ARN, and would match none; write all six parts, as in arn:aws:ssm:*:*:document/*", sallyport.Clip(values[i], 64))
		}
	}
	return func(c *Context, value string) outcome {
		b := bound(value)
		for i := range patterns {
			if p := &patterns[i]; p.all || b > 0 && p.matches(c, value, b) {
				return matches
			}
		}
		if b == 0 {
			return unreadable
		}
		return differs
	}, err
}

// parsed makes the compile of an operator whose values mean something other
// than their text: each must be one that parse can read. Variables are for
// operators on strings and ARNs alone.
func parsed[T any](what string, parse func(string) (T, bool), match func(policy, request T) bool) func(syntax, []string) (test, error) {
	return func(_ syntax, values []string) (test, error) {
		want := make([]T, len(values))
		for i, v := range values {
			var ok bool
			if want[i], ok = parse(v); !ok {
				hint := ""
				if strings.Contains(v, "${") {
					hint = "; policy variables work with String and Arn operators only"
				}
				return nil, fmt.Errorf("the value %q is not %s%s", sallyport.Clip(v, 64), what, hint)
			}
		}
		return func(_ *Context, value string) outcome {
			got, ok := parse(value)
			if !ok {
				return unreadable
			}
			return outcomeOf(slices.ContainsFunc(want, func(w T) bool { return match(w, got) }))
		}, nil
	}
}

func boolean(y syntax, values []string) (test, error) {
	return parsed(`true or false`, parseBool, func(p, r bool) bool { return p == r })(y, values)
}

func parseBool(s string) (value, ok bool) {
	switch {
	case equalFold(s, "true"):
		return true, true
	case equalFold(s, "false"):
		return false, true
	}
	return false, false
}

// binaryEquals compares the bytes that a policy has in base 64 with a value
// that is those bytes.
func binaryEquals(_ syntax, values []string) (test, error) {
	want := make([]string, len(values))
	for i, v := range values {
		b, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			return nil, fmt.Errorf("the value %q is not base 64; encode the bytes to compare with", sallyport.Clip(v, 64))
		}
		want[i] = string(b)
	}
	return func(_ *Context, value string) outcome { return outcomeOf(slices.Contains(want, value)) }, nil
}

func numeric(holds func(order int) bool) func(syntax, []string) (test, error) {
	return parsed("a number, as in 10 or 2.5", parseNumber, func(p, r number) bool { return holds(r.compare(p)) })
}

// number is kept as an integer where it is one, so that large ones differ
// when they do.
type number struct {
	i       int64
	f       float64
	integer bool
}

func parseNumber(s string) (number, bool) {
	if strings.Trim(s, "0123456789+-.eE") != "" {
		return number{}, false // the other forms strconv reads: 0x10, 1_000, inf
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return number{i, float64(i), true}, true
	}
	f, err := strconv.ParseFloat(s, 64)
	return number{f: f}, err == nil && !math.IsInf(f, 0)
}

func (n number) compare(m number) int {
	if n.integer && m.integer {
		switch {
		case n.i < m.i:
			return -1
		case n.i > m.i:
			return 1
		}
		return 0
	}
	switch {
	case n.f < m.f:
		return -1
	case n.f > m.f:
		return 1
	}
	return 0
}

func date(holds func(order int) bool) func(syntax, []string) (test, error) {
	return parsed("a date, as in 2026-01-31T09:00:00Z or 1769850000", parseDate, func(p, r time.Time) bool { return holds(r.Compare(p)) })
}

// The W3C's subset of ISO 8601, which AWS asks for, and what else it is seen
// to take. A time without a zone is in UTC.
var dateLayouts = []string{
	time.RFC3339, // also with a fraction
	"2006-01-02T15:04Z07:00",
	"2006-01-02T15:04:05",
	"2006-01-02T15:04",
	"2006-01-02",
	"2006-01",
	"20060102T150405Z",
}

// parseDate reads a date. Digits alone are seconds since 1970, even if there
// are four of them.
func parseDate(s string) (time.Time, bool) {
	if sec, err := strconv.ParseInt(s, 10, 64); err == nil {
		// Beyond these years a time.Time wraps around.
		return time.Unix(sec, 0), sec > -1<<55 && sec < 1<<55
	}
	if strings.ContainsAny(s, "tz") {
		s = strings.ToUpper(s)
	}
	for _, layout := range dateLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

func ipAddress(y syntax, values []string) (test, error) {
	return parsed("an IP address or a range of them, as in 203.0.113.0/24 or 2001:db8::/32", parsePrefix,
		func(p, r netip.Prefix) bool { return r.Bits() >= p.Bits() && p.Contains(r.Addr()) })(y, values)
}

// parsePrefix reads an address, which is a range of one, or a range. IPv4
// written as IPv6 is IPv4.
func parsePrefix(s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}
