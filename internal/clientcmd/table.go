package clientcmd

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// A table is shown in columns, of which a narrow terminal does not have all.
type table struct {
	columns []column
	rows    [][]string
}

// A column has a heading, and a rank: those of a higher rank are left out first, and
// those of rank 0 never.
type column struct {
	head string
	rank int
}

// gap is between two columns.
const gap = 2

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write writes the table to w, and says on notes which columns a terminal has no
// room for. What is no terminal has room for all.
func (t *table) write(w, notes io.Writer) error {
	room := 0
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if cols, _, err := term.GetSize(int(f.Fd())); err == nil {
			room = cols
		}
	}
	text, left := t.format(room)
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	if len(left) > 0 {
		note(notes, "there is no room for %s; --json has all", strings.Join(left, ", "))
	}
	return nil
}

// format returns the table in lines of at most room characters, or of any length
// if room is 0, and the headings of the columns that were left out. If those of rank
// 0 need more room they have it.
func (t *table) format(room int) (text string, left []string) {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = utf8.RuneCountInString(c.head)
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	shown := make([]bool, len(t.columns))
	need := -gap
	for i := range t.columns {
		shown[i] = true
		need += widths[i] + gap
	}
	for room > 0 && need > room {
		worst := -1
		for i, c := range t.columns {
			if shown[i] && c.rank > 0 && (worst < 0 || c.rank > t.columns[worst].rank) {
				worst = i
			}
		}
		if worst < 0 {
			break
		}
		shown[worst] = false
		need -= widths[worst] + gap
	}
	var b strings.Builder
	line := func(cells func(i int) string) {
		pad := 0
		for i := range t.columns {
			if !shown[i] {
				continue
			}
			cell := cells(i)
			b.WriteString(strings.Repeat(" ", pad))
			b.WriteString(cell)
			pad = widths[i] - utf8.RuneCountInString(cell) + gap
		}
		b.WriteByte('\n')
	}
	line(func(i int) string { return t.columns[i].head })
	for _, row := range t.rows {
		line(func(i int) string { return row[i] })
	}
	for i, c := range t.columns {
		if !shown[i] {
			left = append(left, c.head)
		}
	}
	return b.String(), left
}
