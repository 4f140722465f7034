package sallyport

import (
	"strconv"
	"strings"
)

// CompareVersions compares two versions of AWS's programs, or of ours that pass for
// them, as these do: dotted numbers, part by part. A part that is missing is 0, and
// one that is no number is less than any. It is negative if a is the older, 0 if
// they are equal. (amazon-ssm-agent, agent/versionutil; session-manager-plugin,
// src/version.)
func CompareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	part := func(parts []string, i int) int {
		if i >= len(parts) {
			return 0
		}
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return -1
		}
		return n
	}
	for i := range max(len(as), len(bs)) {
		if x, y := part(as, i), part(bs, i); x != y {
			return x - y
		}
	}
	return 0
}

// IsVersion reports whether text begins like a version: with a number.
func IsVersion(text string) bool {
	first, _, _ := strings.Cut(text, ".")
	_, err := strconv.Atoi(first)
	return err == nil
}
