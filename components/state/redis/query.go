package redis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"outrigger.dev/components/state"
)

// metadataIndexName is the request metadata that chooses the index of a query.
const metadataIndexName = "queryIndexName"

// queryPage is how many items one FT.SEARCH asks for in a query without a limit; the server's own limit may be as low as
// ten thousand.
const queryPage = 10000

// indexSpec is an index as the metadata has it.
type indexSpec struct {
	Name    string `json:"name"`
	Indexes []struct {
		Key  string `json:"key"`
		Type string `json:"type"`
	} `json:"indexes"`
}

// index maps the paths that are indexed to their names in the search engine.
type index map[string]attribute

// attribute is an indexed path.
type attribute struct {
	name string
	// kind is TEXT, TAG, NUMERIC, ...
	kind string
}

// parseIndexes reads the metadata property queryIndexes.
func parseIndexes(text string) ([]indexSpec, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var specs []indexSpec
	if err := json.Unmarshal([]byte(text), &specs); err != nil {
		return nil, fmt.Errorf("metadata property \"queryIndexes\" is not a JSON list of {\"name\":...,\"indexes\":[{\"key\":...,\"type\":...}]}: %w", err)
	}
	for i, spec := range specs {
		if spec.Name == "" {
			return nil, fmt.Errorf("metadata property \"queryIndexes\": index %d has no name", i)
		}
		if len(spec.Indexes) == 0 {
			return nil, fmt.Errorf("metadata property \"queryIndexes\": index %q has no indexes, so there is nothing to query it by", spec.Name)
		}
		for j, field := range spec.Indexes {
			if field.Key == "" || field.Type == "" {
				return nil, fmt.Errorf("metadata property \"queryIndexes\": entry %d of index %q needs a key and a type", j, spec.Name)
			}
		}
	}
	return specs, nil
}

// createArguments are those of FT.CREATE, and index what queries need to know of it.
func (spec *indexSpec) createArguments() ([]string, index) {
	args := []string{spec.Name, "ON", "JSON", "SCHEMA"}
	known := index{}
	for i, field := range spec.Indexes {
		a := attribute{name: "var" + strconv.Itoa(i), kind: strings.ToUpper(field.Type)}
		args = append(args, "$.data."+field.Key, "AS", a.name, field.Type, "SORTABLE")
		known[field.Key] = a
	}
	return args, known
}

// createIndexes creates the indexes of the metadata. One that exists is made anew, for its definition may have changed.
func (s *Store) createIndexes(ctx context.Context, specs []indexSpec) error {
	s.indexes = make(map[string]index, len(specs))
	for _, spec := range specs {
		args, known := spec.createArguments()
		create := func() error {
			return s.client.Do(ctx, s.client.B().Arbitrary("FT.CREATE").Args(args...).Build()).Error()
		}
		err := create()
		if err != nil && strings.Contains(strings.ToLower(err.Error()), "index already exists") {
			if err = s.client.Do(ctx, s.client.B().Arbitrary("FT.DROPINDEX").Args(spec.Name).Build()).Error(); err == nil {
				err = create()
			}
		}
		if err != nil {
			return fmt.Errorf("redis at %s cannot create the query index %q: %w; check queryIndexes, and that the server has RediSearch", s.client.Address, spec.Name, err)
		}
		s.indexes[spec.Name] = known
	}
	return nil
}

// Query runs a query on the index that the metadata names.
func (s *Store) Query(ctx context.Context, q state.Query, metadata map[string]string) (state.QueryResult, error) {
	if !s.json {
		return state.QueryResult{}, errors.New("redis-json server support is required for query capability")
	}
	name := metadata[metadataIndexName]
	if name == "" {
		return state.QueryResult{}, errors.New("query index not found")
	}
	known, ok := s.indexes[name]
	if !ok {
		return state.QueryResult{}, fmt.Errorf("query index schema %q not found", name)
	}
	head, err := searchArguments(name, known, q)
	if err != nil {
		return state.QueryResult{}, err
	}
	offset, err := q.Page.Offset()
	if err != nil {
		return state.QueryResult{}, err
	}
	var result state.QueryResult
	for at := offset; ; {
		count := queryPage
		if q.Page.Limit > 0 {
			count = q.Page.Limit
		}
		args := append(head[:len(head):len(head)], "LIMIT", strconv.FormatInt(at, 10), strconv.Itoa(count))
		_, docs, err := s.client.Do(ctx, s.client.B().Arbitrary("FT.SEARCH").Args(args...).Build()).AsFtSearch()
		if err != nil {
			return state.QueryResult{}, err
		}
		for _, doc := range docs {
			result.Items = append(result.Items, queryItem(doc.Key, doc.Doc["$"]))
		}
		if at += int64(len(docs)); q.Page.Limit > 0 || len(docs) < queryPage {
			break
		}
	}
	result.Token = q.Page.Next(offset, len(result.Items))
	return result, nil
}

// queryItem makes an item of a found document.
func queryItem(key, document string) state.QueryItem {
	text := []byte(document)
	// Newer dialects return what a path finds as a list.
	if bytes.HasPrefix(text, []byte("[")) {
		var list []json.RawMessage
		if err := json.Unmarshal(text, &list); err == nil && len(list) == 1 {
			text = list[0]
		}
	}
	item, err := parseDocument(text)
	return state.QueryItem{Key: key, Data: item.Data, ETag: item.ETag, HasETag: item.HasETag, Err: err}
}

// searchArguments are those of FT.SEARCH, without the page.
func searchArguments(name string, known index, q state.Query) ([]string, error) {
	clause := "*"
	if q.Filter != nil {
		var err error
		if clause, err = known.clause(q.Filter); err != nil {
			return nil, err
		}
	}
	args := []string{name, clause}
	if len(q.Sort) > 1 {
		return nil, fmt.Errorf("the query sorts by %d keys, but Redis sorts by one only", len(q.Sort))
	}
	for _, sort := range q.Sort {
		a, err := known.attribute(sort.Key)
		if err != nil {
			return nil, err
		}
		order := "ASC"
		if sort.Descending {
			order = "DESC"
		}
		args = append(args, "SORTBY", a.name, order)
	}
	// The whole document comes as JSON; of a part that is a string only its bare text would.
	return append(args, "RETURN", "1", "$"), nil
}

func (known index) attribute(key string) (attribute, error) {
	a, ok := known[key]
	if !ok {
		return a, fmt.Errorf("the path %q is not indexed: add it to queryIndexes", key)
	}
	return a, nil
}

// clause writes a filter in the language of RediSearch.
func (known index) clause(f *state.Filter) (string, error) {
	switch f.Op {
	case state.OpAND, state.OpOR:
		glue := " "
		if f.Op == state.OpOR {
			glue = "|"
		}
		parts := make([]string, len(f.Filters))
		for i := range f.Filters {
			var err error
			if parts[i], err = known.clause(&f.Filters[i]); err != nil {
				return "", err
			}
		}
		return "(" + strings.Join(parts, glue) + ")", nil
	}
	a, err := known.attribute(f.Key)
	if err != nil {
		return "", err
	}
	switch f.Op {
	case state.OpEQ:
		return a.equals(f.Value)
	case state.OpNEQ:
		equal, err := a.equals(f.Value)
		return "-" + equal, err
	case state.OpIN:
		if len(f.Values) < 2 {
			return "", fmt.Errorf("IN filter on %q must have at least two values, it has %d", f.Key, len(f.Values))
		}
		parts := make([]string, len(f.Values))
		for i, v := range f.Values {
			if parts[i], err = a.equals(v); err != nil {
				return "", err
			}
		}
		return "(" + strings.Join(parts, "|") + ")", nil
	}
	n, ok := f.Value.(float64)
	if !ok {
		return "", fmt.Errorf("%s filter on %q has the value %v, but only numbers have an order", f.Op, f.Key, f.Value)
	}
	switch f.Op {
	case state.OpGT:
		return a.inRange("("+number(n), "inf"), nil
	case state.OpGTE:
		return a.inRange(number(n), "inf"), nil
	case state.OpLT:
		return a.inRange("-inf", "("+number(n)), nil
	case state.OpLTE:
		return a.inRange("-inf", number(n)), nil
	default:
		return "", fmt.Errorf("unsupported filter %q", f.Op)
	}
}

func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

func (a attribute) inRange(from, to string) string {
	return "@" + a.name + ":[" + from + " " + to + "]"
}

// equals is the clause for one value.
func (a attribute) equals(value any) (string, error) {
	switch v := value.(type) {
	case float64:
		return a.inRange(number(v), number(v)), nil
	case string:
		if a.kind == "TAG" {
			return "@" + a.name + ":{" + escapeTag(v) + "}", nil
		}
		words := searchWords(v)
		if words == "" {
			return "", fmt.Errorf("the value %q has no word to search for", v)
		}
		return "@" + a.name + ":(" + words + ")", nil
	case bool:
		if a.kind == "TAG" {
			return "@" + a.name + ":{" + strconv.FormatBool(v) + "}", nil
		}
	}
	return "", fmt.Errorf("unsupported type of value %v; a string or a number is needed (or true or false with an index of type TAG)", value)
}

// searchWords are the words of a text as the search engine cuts them: what would separate words, or mean something in a
// query, becomes a blank.
func searchWords(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(",.<>{}[]\"':;!@#$%^&*()-+=~|/\\?`", r)
	}), " ")
}

// escapeTag writes a tag so that it is taken literally.
func escapeTag(tag string) string {
	var b strings.Builder
	for _, r := range tag {
		if r < 0x80 && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
