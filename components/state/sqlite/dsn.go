package sqlite

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// location is a database as the connection string and the other options name it, ready for the driver.
type location struct {
	// writer and reader are the data source names for the writing connection and for the others.
	writer, reader string
	// begin starts a transaction that writes.
	begin string
	// memory is true for databases without a file, which live as long as their only connection.
	memory bool
	// readOnly databases cannot be written at all.
	readOnly bool
	// wal tells that the database works with a write-ahead log, so that readers and the writer do not wait for each other.
	wal bool
}

// forbidden maps pragmas that a connection string must not set to what to do instead.
var forbidden = []struct {
	pragma string
	// short are the driver's parameters for it.
	short  []string
	remedy string
}{
	{"busy_timeout", []string{"_busy_timeout", "_timeout"}, `use the metadata property "busyTimeout"`},
	{"journal_mode", []string{"_journal_mode", "_journal"}, `use the metadata property "disableWAL"`},
	{"foreign_keys", []string{"_foreign_keys", "_fk"}, "remove it, the state tables have none"},
}

// locate reads a connection string: a file path or SQLite URI, with "file:" in front if missing, to which the transaction
// lock, the busy timeout and the journal mode are added (Dapr API, state.sqlite).
func locate(connectionString string, busyTimeout time.Duration, disableWAL bool) (location, error) {
	if connectionString == "" {
		return location{}, errors.New(`metadata property "connectionString" is required: give the path of the database file, such as "data.db"`)
	}
	path, query, _ := strings.Cut(strings.TrimPrefix(connectionString, "file:"), "?")
	if path == "" {
		return location{}, fmt.Errorf("connection string %q names no file: give the path of the database file, such as \"data.db\"", connectionString)
	}
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return location{}, fmt.Errorf("connection string %q has malformed parameters: %w", connectionString, err)
	}
	if err := checkPragmas(parameters); err != nil {
		return location{}, err
	}

	l := location{
		memory:   strings.HasPrefix(path, ":memory:") || parameters.Get("mode") == "memory",
		readOnly: parameters.Get("mode") == "ro" || parameters.Get("immutable") == "1",
	}
	switch lock := strings.ToLower(parameters.Get("_txlock")); lock {
	case "":
		parameters.Set("_txlock", "immediate")
		l.begin = "BEGIN IMMEDIATE"
	case "immediate", "exclusive", "deferred":
		l.begin = "BEGIN " + strings.ToUpper(lock)
	default:
		return location{}, fmt.Errorf("connection string has _txlock=%s, but it must be immediate, exclusive or deferred", lock)
	}
	journal := "WAL"
	switch {
	case l.memory:
		journal = "MEMORY"
		parameters.Set("cache", "shared")
	case disableWAL, l.readOnly:
		journal = "DELETE"
	}
	l.wal = journal == "WAL"

	cacheSize := has(parameters["_pragma"], "cache_size")
	parameters.Add("_pragma", "busy_timeout("+strconv.FormatInt(busyTimeout.Milliseconds(), 10)+")")
	if !l.readOnly {
		parameters.Add("_pragma", "journal_mode("+journal+")")
	}
	if !cacheSize {
		// A writer of another connection voids a reader's cache, so little is lost.
		parameters.Add("_pragma", "cache_size(-1024)")
	}
	l.writer = "file:" + path + "?" + parameters.Encode()
	parameters.Add("_pragma", "query_only(1)")
	l.reader = "file:" + path + "?" + parameters.Encode()
	return l, nil
}

func checkPragmas(parameters url.Values) error {
	for _, f := range forbidden {
		for _, name := range f.short {
			if parameters.Has(name) {
				return fmt.Errorf("connection string must not have %s: %s", name, f.remedy)
			}
		}
		if has(parameters["_pragma"], f.pragma) {
			return fmt.Errorf("connection string must not set the pragma %s: %s", f.pragma, f.remedy)
		}
	}
	return nil
}

// has reports whether one of the settings, such as "busy_timeout(10)" or "busy_timeout = 10", is of the pragma.
func has(settings []string, pragma string) bool {
	for _, s := range settings {
		name := strings.ToLower(strings.TrimSpace(s))
		if i := strings.IndexAny(name, "(= \t\r\n"); i >= 0 {
			name = name[:i]
		}
		name = name[strings.LastIndexByte(name, '.')+1:] // the schema
		if name == pragma {
			return true
		}
	}
	return false
}
