package sallyport

import (
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable returns s as it may be shown on a terminal, in a log or in an answer, also
// if a stranger wrote it. What is no text is replaced with question marks: control
// characters, C1's among them, which move the cursor and change colours; marks of
// direction, which have a line read backwards; what is invisible; and bytes that
// are not UTF-8. Line ends and tabs stay; a carriage return before a line end goes.
//
// It is the only such function, so that there is one answer to what may be shown.
func Printable(s string) string {
	return printable(strings.ReplaceAll(s, "\r\n", "\n"), func(r rune) bool { return r == '\n' || r == '\t' })
}

// PrintableLine is [Printable] for what has to stay on one line, as in a table: line
// ends and tabs are question marks too.
func PrintableLine(s string) string { return printable(s, func(rune) bool { return false }) }

func printable(s string, also func(rune) bool) string {
	shown := func(r rune) bool {
		switch {
		case r == utf8.RuneError: // of a byte that is not UTF-8, or the mark for one
			return false
		case r == '\u200c' || r == '\u200d': // join letters, or keep them apart, in Persian and Hindi and in emoji
			return true
		}
		return unicode.IsPrint(r) || unicode.Is(unicode.Zs, r) || also(r)
	}
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !shown(r) }) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if shown(r) {
			return r
		}
		return '?'
	}, s)
}

// PrintableAttr is for slog.HandlerOptions.ReplaceAttr of a handler that writes text
// as it is: JSON's. A TextHandler quotes what is not printable itself.
func PrintableAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(Printable(v.String()))
	case slog.KindAny:
		switch v := v.Any().(type) {
		case error:
			a.Value = slog.StringValue(Printable(v.Error()))
		case interface{ String() string }:
			a.Value = slog.StringValue(Printable(v.String()))
		case []string:
			clean := make([]string, len(v))
			for i, s := range v {
				clean[i] = Printable(s)
			}
			a.Value = slog.AnyValue(clean)
		}
	}
	return a
}
