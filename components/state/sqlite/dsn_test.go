package sqlite

import (
	"context"
	"database/sql/driver"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components/state"
)

func TestOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.db")
	for _, tc := range []struct {
		name       string
		properties map[string]string
		err        string // a part of the message; empty means that the store opens
	}{
		{"no connection string", map[string]string{}, `"connectionString" is required`},
		{"only a scheme", map[string]string{"connectionString": "file:"}, "names no file"},
		{"busy_timeout", map[string]string{"connectionString": file + "?_pragma=busy_timeout(10)"}, `use the metadata property "busyTimeout"`},
		{"busy_timeout set otherwise", map[string]string{"connectionString": file + "?_pragma=BUSY_TIMEOUT%20=10"}, "busy_timeout"},
		{"journal_mode", map[string]string{"connectionString": file + "?_pragma=journal_mode(DELETE)"}, `use the metadata property "disableWAL"`},
		{"_journal_mode", map[string]string{"connectionString": file + "?_journal_mode=DELETE"}, "_journal_mode"},
		{"journal_mode of a schema", map[string]string{"connectionString": file + "?_pragma=main.journal_mode=DELETE"}, "journal_mode"},
		{"_timeout", map[string]string{"connectionString": file + "?_timeout=1"}, "_timeout"},
		{"foreign_keys", map[string]string{"connectionString": file + "?_pragma=foreign_keys(1)"}, "foreign_keys"},
		{"_txlock", map[string]string{"connectionString": file + "?_txlock=never"}, "_txlock=never"},
		{"table name", map[string]string{"connectionString": file, "tableName": "a; DROP TABLE b"}, `"tableName"`},
		{"metadata table name", map[string]string{"connectionString": file, "metadataTableName": "1a"}, `"metadataTableName"`},
		{"timeout", map[string]string{"connectionString": file, "timeout": "10ms"}, `"timeout" is 10ms`},
		{"timeout no duration", map[string]string{"connectionString": file, "timeout": "soon"}, `"timeout" is "soon"`},
		{"busyTimeout", map[string]string{"connectionString": file, "busyTimeout": "-1s"}, `"busyTimeout"`},
		{"no folder", map[string]string{"connectionString": filepath.Join(t.TempDir(), "no", "data.db")}, "folder must exist"},
		{"read-only and new", map[string]string{"connectionString": file + "?mode=ro"}, "unable to open"},
		{"all", map[string]string{
			"CONNECTIONSTRING": file + "?_pragma=synchronous(1)", "tableName": "", "metadataTableName": "", "timeout": "",
			"busyTimeout": "800ms", "disableWAL": "false", "cleanupInterval": "1h",
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := openStore(t, tc.properties)
			if tc.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				return
			}
			if err == nil {
				_ = s.Close()
				t.Fatalf("opened; want an error with %q", tc.err)
			}
			if !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %q has no %q", err, tc.err)
			}
		})
	}
}

func TestPragmas(t *testing.T) {
	for _, tc := range []struct {
		name       string
		properties map[string]string
		pragma     string
		want       any
	}{
		{"journal", nil, "journal_mode", "wal"},
		{"durable by default", nil, "synchronous", int64(2)},
		{"no WAL", map[string]string{"disableWAL": "yes"}, "journal_mode", "delete"},
		{"own synchronous", map[string]string{"parameters": "?_pragma=synchronous(1)"}, "synchronous", int64(1)},
		{"own cache", map[string]string{"parameters": "?_pragma=cache_size(77)"}, "cache_size", int64(77)},
		{"busy timeout", map[string]string{"disableWAL": "1", "busyTimeout": "1234ms"}, "busy_timeout", int64(1234)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := map[string]string{"connectionString": filepath.Join(t.TempDir(), "data.db") + tc.properties["parameters"]}
			for k, v := range tc.properties {
				if k != "parameters" {
					p[k] = v
				}
			}
			s := mustOpen(t, p)
			defer s.Close()
			var got any
			err := s.writer.conn.query(context.Background(), "PRAGMA "+tc.pragma, nil, func(columns []driver.Value) error {
				got = columns[0]
				return nil
			})
			if err != nil || got != tc.want {
				t.Errorf("PRAGMA %s = %v, %v; want %v", tc.pragma, got, err, tc.want)
			}
		})
	}
}

func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.db")
	s := mustOpen(t, map[string]string{"connectionString": path, "disableWAL": "true"})
	set(t, s, "a||k", `"v"`)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, parameter := range []string{"mode=ro", "immutable=1"} {
		s := mustOpen(t, map[string]string{"connectionString": path + "?" + parameter})
		if got := get(t, s, "a||k"); got != `"v"` {
			t.Errorf("%s: read %q", parameter, got)
		}
		if err := s.Set(context.Background(), state.SetRequest{Key: "a||k"}); err == nil || !strings.Contains(err.Error(), "readonly") {
			t.Errorf("%s: Set = %v, want an error about a readonly database", parameter, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzLocate(f *testing.F) {
	for _, seed := range []string{"data.db", "file:a?mode=memory", ":memory:", "a?_pragma=synchronous(1)&_txlock=exclusive", "a?mode=ro", "?", "file:?x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, connectionString string) {
		l, err := locate(connectionString, time.Second, false)
		if err != nil {
			return
		}
		for _, dsn := range []string{l.writer, l.reader} {
			_, query, _ := strings.Cut(dsn, "?")
			if strings.Count(query, "busy_timeout%281000%29") != 1 || strings.Count(strings.ToLower(query), "journal_mode%28") > 1 {
				t.Errorf("%q became %q", connectionString, dsn)
			}
		}
		if !strings.HasPrefix(l.begin, "BEGIN ") {
			t.Errorf("%q begins with %q", connectionString, l.begin)
		}
	})
}
