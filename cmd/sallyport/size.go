package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A byteSize is a flag's number of bytes, as in 1048576, 512KiB or 1.5GiB. Units
// are powers of 1024, with or without the i and the B.
type byteSize int64

func (b *byteSize) Type() string { return "size" }

func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*b), 10)
}

func (b *byteSize) Set(text string) error {
	number := strings.TrimRight(text, "BbiIKkMmGgTt")
	shift, ok := map[string]int{"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[strings.TrimRight(strings.ToLower(text[len(number):]), "bi")]
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	n := v * math.Pow(2, float64(shift))
	if err != nil || !ok || math.IsNaN(n) || math.Abs(n) > 1<<62 {
		return fmt.Errorf("%q is not a size, as in 500MiB or 2GiB", text)
	}
	*b = byteSize(n)
	return nil
}
