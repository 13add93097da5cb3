package postgresql

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// tableName is the name of a table, ready for SQL text.
type tableName struct {
	// quoted is the whole name, with its schema if one was given.
	quoted string
	// bare is the name without schema and quotes, which the names of indexes begin with.
	bare string
}

// index is the quoted name of one of the table's indexes, which live in the table's schema.
func (n tableName) index(suffix string) string { return pgx.Identifier{n.bare + suffix}.Sanitize() }

// parseTableName reads a table name as SQL does: with a schema in front or not, its letters lower-cased unless quoted.
func parseTableName(property, name string) (tableName, error) {
	bad := func(why string) (tableName, error) {
		return tableName{}, fmt.Errorf("metadata property %q is %q, but %s", property, name, why)
	}
	var parts pgx.Identifier
	for rest, more := name, true; more; {
		var part string
		if strings.HasPrefix(rest, `"`) {
			end := 1
			for ; end < len(rest); end++ {
				if rest[end] != '"' {
					continue
				}
				if end+1 == len(rest) || rest[end+1] != '"' {
					break
				}
				end++
			}
			if end >= len(rest) {
				return bad("its quotation mark is not closed")
			}
			part = strings.ReplaceAll(rest[1:end], `""`, `"`)
			rest = rest[end+1:]
			if more = strings.HasPrefix(rest, "."); !more && rest != "" {
				return bad("there is text behind its quotation mark")
			}
			rest = strings.TrimPrefix(rest, ".")
		} else {
			part, rest, more = strings.Cut(rest, ".")
			if !plain(part) {
				return bad("a table name may only have letters, digits and underscores, and not start with a digit; put others in double quotes")
			}
			part = strings.ToLower(part)
		}
		if part == "" || strings.ContainsRune(part, 0) {
			return bad("a part of it is empty or has a NUL character")
		}
		parts = append(parts, part)
	}
	if len(parts) > 2 {
		return bad("it may only have a schema in front of the table")
	}
	return tableName{quoted: parts.Sanitize(), bare: parts[len(parts)-1]}, nil
}

func plain(part string) bool {
	for i, r := range part {
		switch {
		case r == '_', 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', r > 127:
		case ('0' <= r && r <= '9' || r == '$') && i > 0:
		default:
			return false
		}
	}
	return part != ""
}

// literal quotes text as an SQL string that means the same whatever the server's standard_conforming_strings is.
func literal(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		return "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
