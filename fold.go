package sallyport

import (
	"iter"
	"slices"
	"strings"
)

// Names of tags, and of keys in an encryption context, are asked about in the
// conditions of policies, and there names have no case: two that differ by case
// alone could hide one another. So a thing has no two such tags, and a request no
// two such keys.

// SameButCase returns two names that differ by case alone, in order, or two empty
// ones if there are none. A name that is there twice is the same as itself.
func SameButCase(names iter.Seq[string]) (a, b string) {
	first := map[string]string{}
	for _, name := range slices.Sorted(names) {
		folded := strings.ToLower(name)
		if other, twice := first[folded]; twice {
			return other, name
		}
		first[folded] = name
	}
	return "", ""
}
