package clientcmd

import (
	"strings"
	"testing"
)

// A narrow terminal has fewer columns, and no line that is broken.
func TestTableFits(t *testing.T) {
	table := &table{columns: []column{{"NODE", 0}, {"NAME", 1}, {"PLATFORM", 3}, {"STATUS", 0}, {"ADDRESS", 2}}}
	table.add("mi-1", "wéb", "Debian GNU/Linux 12", "Online", "192.0.2.1")
	table.add("mi-2", "-", "-", "Inactive", "-")
	for _, c := range []struct {
		room int
		want string
		left string
	}{
		{0, "NODE  NAME  PLATFORM             STATUS    ADDRESS\nmi-1  wéb   Debian GNU/Linux 12  Online    192.0.2.1\nmi-2  -     -                    Inactive  -\n", ""},
		{52, "NODE  NAME  PLATFORM             STATUS    ADDRESS\nmi-1  wéb   Debian GNU/Linux 12  Online    192.0.2.1\nmi-2  -     -                    Inactive  -\n", ""},
		{51, "NODE  NAME  STATUS    ADDRESS\nmi-1  wéb   Online    192.0.2.1\nmi-2  -     Inactive  -\n", "PLATFORM"},
		{30, "NODE  NAME  STATUS\nmi-1  wéb   Online\nmi-2  -     Inactive\n", "PLATFORM ADDRESS"},
		{5, "NODE  STATUS\nmi-1  Online\nmi-2  Inactive\n", "NAME PLATFORM ADDRESS"},
	} {
		got, left := table.format(c.room)
		if got != c.want || strings.Join(left, " ") != c.left {
			t.Errorf("in %d: without %v\n%s", c.room, left, got)
		}
	}
}
