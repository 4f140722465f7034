package sallyport_test

import (
	"testing"

	"github.com/sallyport/sallyport"
)

func TestCompareVersions(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int // its sign
	}{
		{"1.2.332.0", "1.2.331.0", 1}, {"1.2.331.0", "1.2.331.0", 0}, {"1.1.70", "1.1.69.0", 1}, {"1.1.70", "1.1.70.0", 0},
		{"1.10", "1.9", 1}, {"10.0.0.0", "3.0.196.0", 1}, {"3.0.9.0", "3.0.196.0", -1}, {"3.3", "3.0.196.0", 1},
		{"", "1.1", -1}, {"x", "0", -1}, {"devel", "3.0.196.0", -1},
	} {
		sign := func(n int) int { return max(-1, min(n, 1)) }
		if got := sallyport.CompareVersions(tt.a, tt.b); sign(got) != tt.want {
			t.Errorf("CompareVersions(%q, %q) = %d", tt.a, tt.b, got)
		}
		if got := sallyport.CompareVersions(tt.b, tt.a); sign(got) != -tt.want {
			t.Errorf("CompareVersions(%q, %q) = %d", tt.b, tt.a, got)
		}
	}
	for text, want := range map[string]bool{"3.3.0.0": true, "3": true, "": false, "devel": false, "x.1": false} {
		if sallyport.IsVersion(text) != want {
			t.Errorf("IsVersion(%q) is not %v", text, want)
		}
	}
}
