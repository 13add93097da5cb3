package postgresql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"outrigger.dev/components/state"
)

// Query finds items by what their JSON values hold. It sees the items of all applications in the table. As in Dapr,
// comparisons are those of text: the number 10 comes before 9.
func (s *Store) Query(ctx context.Context, q state.Query, _ map[string]string) (state.QueryResult, error) {
	if !s.layout.queries {
		return state.QueryResult{}, errors.New("version 2 of the PostgreSQL state store keeps values as bytes, which cannot be queried; use version 1")
	}
	offset, err := q.Page.Offset()
	if err != nil {
		return state.QueryResult{}, err
	}
	b := queryBuilder{}
	if err := b.build(s.layout.table.quoted, q, offset); err != nil {
		return state.QueryResult{}, err
	}
	var result state.QueryResult
	err = s.try(ctx, true, func(ctx context.Context) error {
		result.Items = nil
		rows, err := s.pool.Query(ctx, b.text.String(), b.args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			item := state.QueryItem{HasETag: true}
			var value string
			if err := rows.Scan(&item.Key, &value, &item.ETag); err != nil {
				return err
			}
			item.Data = []byte(value)
			result.Items = append(result.Items, item)
		}
		return rows.Err()
	})
	if err != nil {
		return state.QueryResult{}, err
	}
	result.Token = q.Page.Next(offset, len(result.Items))
	return result, nil
}

// queryBuilder makes the SQL text of a query. Values are arguments; keys are quoted literals instead, so that indexes on
// expressions such as (value->'person'->>'org') serve.
type queryBuilder struct {
	text strings.Builder
	args []any
}

func (b *queryBuilder) build(table string, q state.Query, offset int64) error {
	b.text.WriteString("SELECT key, value::text, xmin::text FROM " + table + " WHERE (expiredate IS NULL OR expiredate >= CURRENT_TIMESTAMP)")
	if q.Filter != nil {
		b.text.WriteString(" AND ")
		if err := b.filter(*q.Filter); err != nil {
			return err
		}
	}
	b.text.WriteString(" ORDER BY ")
	for _, sort := range q.Sort {
		expression, err := path(sort.Path(), true)
		if err != nil {
			return err
		}
		b.text.WriteString(expression)
		if sort.Descending {
			b.text.WriteString(" DESC")
		}
		b.text.WriteString(", ")
	}
	b.text.WriteString("row_id") // so that pages fit together
	if q.Page.Limit > 0 {
		b.text.WriteString(" LIMIT " + strconv.Itoa(q.Page.Limit))
	}
	if offset > 0 {
		b.text.WriteString(" OFFSET " + strconv.FormatInt(offset, 10))
	}
	return nil
}

var operators = map[state.Op]string{
	state.OpEQ: "=", state.OpNEQ: "<>", state.OpGT: ">", state.OpGTE: ">=", state.OpLT: "<", state.OpLTE: "<=",
}

func (b *queryBuilder) filter(f state.Filter) error {
	switch f.Op {
	case state.OpAND, state.OpOR:
		b.text.WriteByte('(')
		for i, g := range f.Filters {
			if i > 0 {
				b.text.WriteString(" " + string(f.Op) + " ")
			}
			if err := b.filter(g); err != nil {
				return err
			}
		}
		b.text.WriteByte(')')
		return nil
	case state.OpIN:
		if len(f.Values) == 0 {
			b.text.WriteString("FALSE")
			return nil
		}
		b.text.WriteByte('(')
		for i, v := range f.Values {
			if i > 0 {
				b.text.WriteString(" OR ")
			}
			if err := b.compare(f.Path(), "=", v); err != nil {
				return err
			}
		}
		b.text.WriteByte(')')
		return nil
	default:
		return b.compare(f.Path(), operators[f.Op], f.Value)
	}
}

// compare writes a comparison of what the path leads to with a value: as text, or as JSON for objects and arrays.
func (b *queryBuilder) compare(keys []string, operator string, value any) error {
	asText, argument := true, ""
	switch v := value.(type) {
	case nil:
		expression, err := path(keys, true)
		if err != nil {
			return err
		}
		if operator == "<>" {
			b.text.WriteString("(" + expression + " IS NOT NULL)")
		} else {
			b.text.WriteString("(" + expression + " IS NULL)")
		}
		return nil
	case string:
		argument = v
	case bool:
		argument = strconv.FormatBool(v)
	case float64:
		argument = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		asText = false
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		argument = string(text)
	}
	expression, err := path(keys, asText)
	if err != nil {
		return err
	}
	b.args = append(b.args, argument)
	b.text.WriteString("(" + expression + " " + operator + " $" + strconv.Itoa(len(b.args)) + "::text")
	if !asText {
		b.text.WriteString("::jsonb")
	}
	b.text.WriteByte(')')
	return nil
}

// path is the expression for a part of the value, as text or as JSON.
func path(keys []string, asText bool) (string, error) {
	var b strings.Builder
	b.WriteString("value")
	for i, key := range keys {
		if strings.ContainsRune(key, 0) {
			return "", fmt.Errorf("query key %q has a NUL character", strings.Join(keys, "."))
		}
		if i == len(keys)-1 && asText {
			b.WriteString("->>")
		} else {
			b.WriteString("->")
		}
		b.WriteString(literal(key))
	}
	return b.String(), nil
}
