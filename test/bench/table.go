package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// table aligns cells in columns: texts to the left, figures to the right.
type table struct {
	left  map[string]bool // the heads of the columns of text
	lines [][]string      // the first one is the head
}

func (t *table) line(cells ...string) { t.lines = append(t.lines, cells) }

func (t *table) print(out io.Writer) error {
	var widths []int
	for _, cells := range t.lines {
		for i, c := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var text strings.Builder
	for _, cells := range t.lines {
		var line strings.Builder
		for i, c := range cells {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if t.left[t.lines[0][i]] {
				line.WriteString(c + pad + "  ")
			} else {
				line.WriteString(pad + c + "  ")
			}
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(out, text.String())
	return err
}
