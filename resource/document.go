package resource

import (
	"bytes"
	"strings"
)

// document is one YAML document of a file.
type document struct {
	index int // 1-based
	line  int // 1-based line of the file on which data starts
	data  []byte
}

// splitDocuments cuts a file at the lines that start with "---" (Dapr API, resource loading: files). Documents of any
// size are fine. What follows "---" on its line belongs to the document when YAML allows content there ("--- {a: b}");
// otherwise the line is only a separator. Documents with nothing but comments, blanks and directives are left out, but
// count for the numbering, except one in front of a leading "---".
func splitDocuments(data []byte) []document {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var docs []document
	index, line := 1, 1
	start, startLine := 0, 1
	flush := func(end int) {
		chunk := data[start:end]
		if blankDocument(chunk) {
			if index > 1 || len(docs) > 0 {
				index++
			}
			return
		}
		docs = append(docs, document{index: index, line: startLine, data: chunk})
		index++
	}
	for pos := 0; pos < len(data); {
		end := len(data)
		next := end
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end, next = pos+i, pos+i+1
		}
		if bytes.HasPrefix(data[pos:end], []byte("---")) {
			flush(pos)
			start, startLine = pos, line
			if rest := data[pos+3 : end]; len(rest) > 0 && rest[0] != ' ' && rest[0] != '\t' && rest[0] != '\r' {
				start, startLine = next, line+1
			}
		}
		pos = next
		line++
	}
	flush(len(data))
	return docs
}

// blankDocument tells whether a chunk has no content: only blanks, comments, directives and document markers.
func blankDocument(chunk []byte) bool {
	for len(chunk) > 0 {
		var l []byte
		l, chunk, _ = bytes.Cut(chunk, []byte("\n"))
		directive := bytes.HasPrefix(l, []byte("%"))
		l = bytes.TrimSpace(l)
		if bytes.HasPrefix(l, []byte("---")) {
			l = bytes.TrimSpace(l[3:])
		}
		if len(l) > 0 && l[0] != '#' && !directive && !bytes.Equal(l, []byte("...")) {
			return false
		}
	}
	return true
}

// sniffKind guesses the kind of a document that does not parse, for the error message: the first line that starts with
// "kind:".
func sniffKind(data []byte) string {
	for len(data) > 0 {
		var l []byte
		l, data, _ = bytes.Cut(data, []byte("\n"))
		name, value, ok := strings.Cut(string(l), ":")
		if ok && strings.EqualFold(strings.TrimRight(name, " "), "kind") {
			value, _, _ = strings.Cut(value, "#")
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return ""
}
