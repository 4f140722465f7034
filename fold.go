package sallyport

import (
	"iter"
	"maps"
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

// CheckTags returns a ValidationException if of the tags that are given two, or
// one and another that the thing has, have names that differ by case alone. A tag
// of the same name is replaced, and is no such other.
func CheckTags(has, given map[string]string) error {
	a, b := SameButCase(maps.Keys(given))
	if a == "" {
		folded := make(map[string]string, len(given))
		for name := range given {
			folded[strings.ToLower(name)] = name
		}
		for _, name := range slices.Sorted(maps.Keys(has)) {
			if other, ok := folded[strings.ToLower(name)]; ok && other != name {
				a, b = name, other
				break
			}
		}
	}
	if a == "" {
		return nil
	}
	return Errorf(ValidationException, "The names of the tags %s and %s differ by case alone, and policies do not tell them apart. Use one spelling: remove the other tag first, if it is there.", Clip(a, 128), Clip(b, 128))
}
