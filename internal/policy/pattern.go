package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

// A pattern is text with wildcards and variables in it, taken apart.
type pattern struct {
	parts     []part
	all       bool // the whole pattern is "*"
	variables bool // some part is one
}

// part is a piece of a pattern.
type part struct {
	kind partKind
	text string  // of literal: itself; of variable: the key it stands for
	or   *string // of variable: the default, if it has one
}

type partKind uint8

const (
	literal  partKind = iota // text
	one                      // ?, any character
	many                     // *, any characters, or none
	variable                 // ${key}
)

// syntax is what means something in a pattern. The rest stands for itself.
type syntax struct {
	wildcards bool
	variables bool // version 2012-10-17
}

// compile takes text apart. What it says when it cannot is the end of a
// sentence that began with the text.
func (y syntax) compile(text string) (pattern, error) {
	p := pattern{all: y.wildcards && text == "*"}
	var run strings.Builder
	add := func(next part) {
		if run.Len() > 0 {
			p.parts = append(p.parts, part{kind: literal, text: run.String()})
			run.Reset()
		}
		p.parts = append(p.parts, next)
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '*' && y.wildcards:
			if n := len(p.parts); n == 0 || run.Len() > 0 || p.parts[n-1].kind != many {
				add(part{kind: many})
			}
		case c == '?' && y.wildcards:
			add(part{kind: one})
		case y.variables && strings.HasPrefix(text[i:], "${"):
			v, n, err := parseVariable(text[i:])
			if err != nil {
				return pattern{}, err
			}
			if v.kind == literal {
				run.WriteString(v.text)
			} else {
				add(v)
				p.variables = true
			}
			i += n - 1
		default:
			run.WriteByte(c)
		}
	}
	if run.Len() > 0 {
		p.parts = append(p.parts, part{kind: literal, text: run.String()})
	}
	return p, nil
}

// parseVariable reads the variable that s begins with, and says how long it
// is. ${*}, ${?} and ${$} are a way to write those characters themselves.
// (IAM User Guide, "IAM policy elements: Variables and tags".)
func parseVariable(s string) (v part, n int, err error) {
	end := strings.IndexAny(s, "},")
	if end < 0 {
		return part{}, 0, errors.New("has a policy variable without its closing brace; add } after the variable, or write ${$} for a dollar sign")
	}
	name := s[len("${"):end]
	switch {
	case name == "":
		return part{}, 0, errors.New("has an empty policy variable; name a key in it, as in ${aws:username}")
	case s[end] == '}' && len(name) == 1 && strings.Contains("*?$", name):
		return part{kind: literal, text: name}, end + 1, nil
	case strings.Contains(name, "${"):
		return part{}, 0, errors.New("has a policy variable within a policy variable, where none is filled in; write one after the other")
	case !hasVendor(name) || strings.TrimSpace(name) != name:
		return part{}, 0, fmt.Errorf("has a policy variable that names no condition key, ${%s}; write one without spaces and with its vendor, as in ${aws:username}", sallyport.Clip(name, 64))
	}
	v = part{kind: variable, text: name}
	if s[end] == '}' {
		return v, end + 1, nil
	}

	rest := strings.TrimLeft(s[end+1:], " ")
	rest, quoted := strings.CutPrefix(rest, "'")
	or, rest, closed := strings.Cut(rest, "'")
	if !quoted || !closed {
		return part{}, 0, errors.New("has a policy variable whose default value is not between single quotes; write it as in ${aws:PrincipalTag/team, 'none'}")
	}
	if strings.Contains(or, "${") {
		return part{}, 0, errors.New("has a policy variable within the default value of another, where none is filled in; write text between the quotes")
	}
	rest, closed = strings.CutPrefix(rest, "}")
	if !closed {
		return part{}, 0, errors.New("has a policy variable without its closing brace; add } after the default value")
	}
	v.or = &or
	return v, len(s) - len(rest), nil
}

// matches reports whether p matches s, with its variables filled in. One that
// has no value and no default makes a pattern that matches nothing; so does
// one that has several values.
func (p *pattern) matches(c *Context, s string, bound int) bool {
	parts := p.parts
	if p.variables {
		var room [16]part
		var ok bool
		if parts, ok = p.fill(room[:0], c); !ok {
			return false
		}
	}
	return match(parts, s, bound, false)
}

// fill appends the parts of p to to, each variable as the text it stands for.
func (p *pattern) fill(to []part, c *Context) (parts []part, ok bool) {
	for _, q := range p.parts {
		if q.kind == variable {
			if q, ok = q.resolve(c); !ok {
				return nil, false
			}
		}
		to = append(to, q)
	}
	return to, true
}

func (p part) resolve(c *Context) (part, bool) {
	switch v := c.get(p.text); {
	case v.n == 1:
		return part{kind: literal, text: v.at(0)}, true
	case p.or != nil:
		return part{kind: literal, text: *p.or}, true
	}
	return part{}, false
}

// unresolved reports whether some variable of p has no value.
func (p *pattern) unresolved(c *Context) bool {
	if p.variables {
		for _, q := range p.parts {
			if q.kind == variable {
				if _, ok := q.resolve(c); !ok {
					return true
				}
			}
		}
	}
	return false
}

// text is the one string that p, which has no wildcards, matches.
func (p *pattern) text(c *Context) (s string, ok bool) {
	if !p.variables {
		switch len(p.parts) {
		case 0:
			return "", true
		case 1:
			return p.parts[0].text, true
		}
	}
	var room [16]part
	parts, ok := p.fill(room[:0], c)
	if !ok {
		return "", false
	}
	for _, q := range parts {
		s += q.text
	}
	return s, true
}

// bound returns where the last of an ARN's six parts begins, and 0 for what is
// no ARN. Up to there each colon is a border that no wildcard crosses: AWS
// compares ARNs part by part.
func bound(s string) int {
	at := 0
	for range 5 {
		i := strings.IndexByte(s[at:], ':')
		if i < 0 {
			return 0
		}
		at += i + 1
	}
	return at
}

// match reports whether parts, in which no variable is left, match the whole
// of s. In s[:bound] no wildcard matches a colon. With fold, ASCII case does
// not matter.
//
// When what follows a * does not fit, the * takes one character more; an
// earlier * need never be tried again, since the later one can take every character
// that it could. So the time grows with the length of s, and no
// pattern makes it grow faster: for each place in s it costs at most the
// longest stretch of the pattern between two stars. The borders change
// nothing, since a border has only one place to be.
func match(parts []part, s string, bound int, fold bool) bool {
	var (
		p, i  = 0, 0 // next of parts, and of s
		star  = -1   // the last * passed
		taken = 0    // where that which the * has taken ends
	)
	for {
		if p == len(parts) {
			if i == len(s) {
				return true
			}
		} else {
			switch q := &parts[p]; q.kind {
			case many:
				if p+1 == len(parts) {
					return i >= bound || strings.IndexByte(s[i:bound], ':') < 0
				}
				star, taken = p, i
				p++
				continue
			case one:
				if i < len(s) && (s[i] != ':' || i >= bound) {
					i += width(s[i:])
					p++
					continue
				}
			case literal:
				if fold && hasPrefixFold(s[i:], q.text) || !fold && strings.HasPrefix(s[i:], q.text) {
					i += len(q.text)
					p++
					continue
				}
			}
		}

		if star < 0 || taken >= len(s) || taken < bound && s[taken] == ':' {
			return false
		}
		taken += width(s[taken:])
		if next := &parts[star+1]; next.kind == literal && !fold {
			// Go straight to where the text after the * is next to be found.
			skip := strings.Index(s[taken:], next.text)
			if skip < 0 || taken < bound && strings.IndexByte(s[taken:min(taken+skip, bound)], ':') >= 0 {
				return false
			}
			taken += skip
		}
		p, i = star+1, taken
	}
}

// width is the length of the character that s begins with.
func width(s string) int {
	if s[0] < utf8.RuneSelf {
		return 1
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}
