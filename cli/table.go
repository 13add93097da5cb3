package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// writeTable writes rows under headers (Dapr CLI, output conventions): left aligned, two spaces between columns, and without the
// columns that are blank in every row.
func writeTable(w io.Writer, headers []string, rows [][]string) {
	var kept []int
	for i := range headers {
		for _, row := range rows {
			if strings.TrimSpace(row[i]) != "" {
				kept = append(kept, i)
				break
			}
		}
	}
	if len(kept) == 0 {
		for i := range headers {
			kept = append(kept, i)
		}
	}
	lines := make([][]string, 0, len(rows)+1)
	widths := make([]int, len(kept))
	add := func(cells []string, clean func(string) string) {
		line := make([]string, len(kept))
		for at, i := range kept {
			line[at] = clean(cells[i])
			widths[at] = max(widths[at], utf8.RuneCountInString(line[at]))
		}
		lines = append(lines, line)
	}
	add(headers, func(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "_", " ")) })
	for _, row := range rows {
		add(row, func(s string) string { return strings.Join(strings.Fields(s), " ") })
	}
	for _, line := range lines {
		var b strings.Builder
		for at, cell := range line {
			b.WriteString(cell)
			if at < len(line)-1 {
				b.WriteString(strings.Repeat(" ", widths[at]-utf8.RuneCountInString(cell)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// writeStructured writes v as JSON or YAML (Dapr CLI, output conventions).
func writeStructured(w io.Writer, format string, v any) error {
	var text []byte
	var err error
	if format == "yaml" {
		text, err = yaml.Marshal(v)
	} else {
		text, err = json.MarshalIndent(v, "", "  ")
	}
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// age is a duration in the largest fitting unit (Dapr CLI, output conventions).
func age(d time.Duration) string {
	switch {
	case d <= time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d <= time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d <= 24*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// createdLayout is how the time of creation is written.
const createdLayout = "2006-01-02 15:04.05"
