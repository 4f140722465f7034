package sallyport_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
)

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"ann's laptop": "ann's laptop",
		"café 日本 हिन्दी שלום 👩‍💻":     "café 日本 हिन्दी שלום 👩‍💻",
		"می\u200cخواهم":               "می\u200cخواهم", // with a non-joiner
		"no\u00a0break":               "no\u00a0break",
		"one\r\ntwo\n\tthree":         "one\ntwo\n\tthree",
		"\x1b[31mred\x1b]0;title\x07": "?[31mred?]0;title?",
		"\u009b31mred":                "?31mred", // CSI, of C1
		"\x9b31mred":                  "?31mred", // the same, as one byte
		"user\u202eexe.txt":           "user?exe.txt",
		"a\u2066b\u2069\u200e\u061c":  "a?b???",
		"zero\u200bwidth\ufeff\u00ad": "zero?width??",
		"line\u2028paragraph\u2029":   "line?paragraph?",
		"\U000e0041tag":               "?tag",
		"over\rwritten\x08\x7f\x00":   "over?written???",
		"\xff\xfe":                    "??",
		"\ufffd":                      "?",
	} {
		if got := sallyport.Printable(s); got != want {
			t.Errorf("Printable(%q) = %q, want %q", s, got, want)
		}
	}
	if got := sallyport.PrintableLine("a\tb\r\nc\n"); got != "a?b??c?" {
		t.Errorf("on one line: %q", got)
	}
}

// What is printable has nothing in it that a terminal acts on, or that is not seen,
// and is printable already.
func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31m\u202e\u009b")
	f.Fuzz(func(t *testing.T, s string) {
		got := sallyport.Printable(s)
		if !utf8.ValidString(got) || sallyport.Printable(got) != got {
			t.Fatalf("%q became %q", s, got)
		}
		for _, r := range got {
			if r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Bidi_Control, unicode.Zl, unicode.Zp, unicode.Noncharacter_Code_Point) {
				t.Fatalf("%q became %q, with %U", s, got, r)
			}
		}
		if line := sallyport.PrintableLine(s); strings.ContainsAny(line, "\n\t\r") {
			t.Fatalf("%q became %q", s, line)
		}
	})
}

// An error that a caller is shown, and a line of the JSON log, are printable with
// every text in them.
func TestErrorsAndLogsArePrintable(t *testing.T) {
	const hostile = "evil\u202e\u009b\x1b[2J"
	if got := sallyport.Errorf(sallyport.ValidationException, "There is no %s.", hostile).Message; got != "There is no evil???[2J." {
		t.Errorf("%q", got)
	}
	var b bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{ReplaceAttr: sallyport.PrintableAttr}))
	log.With("name", hostile).Error("failed", "err", errors.New(hostile), "all", []string{hostile}, "n", 7, slog.Group("g", "x", hostile))
	if sallyport.Printable(b.String()) != b.String() || strings.Count(b.String(), "evil???[2J") != 4 {
		t.Error(b.String())
	}
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["n"] != 7.0 || line["level"] != "ERROR" {
		t.Errorf("%v, %v", line, err)
	}
	b.Reset()
	slog.New(slog.NewTextHandler(&b, nil)).Error("failed", "err", errors.New(hostile))
	if sallyport.Printable(b.String()) != b.String() {
		t.Error(b.String())
	}
}
