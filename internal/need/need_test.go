package need

import (
	"fmt"
	"runtime"
	"testing"
)

// An outcome is what a test has come to, instead of coming to it.
type outcome struct {
	testing.TB
	is string
}

func (o *outcome) Helper()          {}
func (o *outcome) Log(args ...any)  { o.is = "log: " + fmt.Sprint(args...) }
func (o *outcome) Skip(args ...any) { o.end("skip: ", args) }
func (o *outcome) Fatal(args ...any) {
	o.end("fail: ", args)
}

func (o *outcome) end(how string, args []any) {
	o.is = how + fmt.Sprint(args...)
	runtime.Goexit()
}

// Where CI is set a test fails that elsewhere is skipped.
func TestWhatIsMissing(t *testing.T) {
	none := "there is no program no-such-program: install Debian's package nothing or its like"
	missing := func(tb testing.TB) { Program(tb, "no-such-program", "nothing") }
	partly := func(tb testing.TB) { PartlyProgram(tb, "no-such-program", "nothing") }
	there := func(tb testing.TB) { Program(tb, "go", "golang") }
	for claim, tt := range map[string]struct {
		ci   string
		test func(tb testing.TB)
		want string
	}{
		"in CI it fails":                       {"true", missing, "fail: CI is set, and " + none},
		"elsewhere it is skipped":              {"", missing, "skip: " + none},
		"a part fails in CI too":               {"true", partly, "fail: CI is set, and " + none},
		"and elsewhere the test goes on":       {"", partly, "log: a part of this test is left out: " + none},
		"nothing happens where it is there":    {"", there, ""},
		"and in CI where it is there likewise": {"true", there, ""},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Setenv("CI", tt.ci)
			o := &outcome{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				tt.test(o)
			}()
			if <-done; o.is != tt.want {
				t.Errorf("it comes to %q, want %q", o.is, tt.want)
			}
		})
	}
}
