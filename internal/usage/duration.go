package usage

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// day is what d stands for in a duration. It is always of 24 hours.
const day = 24 * time.Hour

// DurationVar defines a flag whose value is a duration as [ParseDuration] reads it.
func DurationVar(flags *pflag.FlagSet, p *time.Duration, name string, value time.Duration, text string) {
	*p = value
	flags.Var((*duration)(p), name, text)
}

// A duration is such a flag's value.
type duration time.Duration

func (d *duration) Type() string { return "duration" }

func (d *duration) String() string {
	v := time.Duration(*d)
	if v != 0 && v%day == 0 {
		return strconv.Itoa(int(v/day)) + "d"
	}
	text := v.String() // 1h0m0s
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (d *duration) Set(text string) error {
	v, err := ParseDuration(text)
	*d = duration(v)
	return err
}

// ParseDuration reads what [time.ParseDuration] does, and days: 30d, 1d12h, 0.5d.
func ParseDuration(text string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is not a duration, as in 30d, 12h, 90m or 1d12h", text)
	number, rest, found := strings.Cut(text, "d")
	if !found {
		v, err := time.ParseDuration(text)
		if err != nil {
			return 0, wrong
		}
		return v, nil
	}
	days, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.ContainsAny(number, "xXpPeEiInN_") || days > 100_000 || days < -100_000 {
		return 0, wrong
	}
	v := time.Duration(days * float64(day))
	if rest == "" {
		return v, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || strings.ContainsAny(rest[:1], "+-") || more >= day {
		return 0, wrong
	}
	if strings.HasPrefix(number, "-") {
		more = -more
	}
	return v + more, nil
}
