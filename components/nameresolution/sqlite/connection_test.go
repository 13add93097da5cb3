package sqlite

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDataSource(t *testing.T) {
	tests := []struct {
		name, given, want string // want is an error's part when it starts with !
		disableWAL        bool
	}{
		{"path", "/a/b.db", "file:/a/b.db?_pragma=busy_timeout(800)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_txlock=immediate", false},
		{"options stay", "file:b.db?_txlock=exclusive&vfs=unix&_pragma=cache_size(10)", "file:b.db?_pragma=busy_timeout(800)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=cache_size(10)&_txlock=exclusive&vfs=unix", false},
		{"no WAL", "b.db", "file:b.db?_pragma=busy_timeout(800)&_pragma=journal_mode(DELETE)&_txlock=immediate", true},
		{"memory", ":memory:", "file::memory:?_pragma=busy_timeout(800)&_pragma=journal_mode(MEMORY)&_txlock=immediate&cache=shared", false},
		{"named memory", "file:x?mode=memory", "file:x?_pragma=busy_timeout(800)&_pragma=journal_mode(MEMORY)&_txlock=immediate&cache=shared&mode=memory", false},
		{"busy_timeout", "b.db?_pragma=BUSY_TIMEOUT(1)", "!busy_timeout", false},
		{"journal_mode", "b.db?_pragma=journal_mode%20=%20OFF", "!journal_mode", false},
		{"foreign_keys", "b.db?_pragma=foreign_keys=1", "!foreign_keys", false},
		{"shorthand", "b.db?_journal_mode=OFF", "!_journal_mode", false},
		{"read-only", "b.db?mode=ro", "!read-only", false},
		{"nothing", "file:?a=b", "!names no file", false},
		{"bad escape", "b.db?a=%zz", "!malformed", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{ConnectionString: tt.given, BusyTimeout: 800 * time.Millisecond, DisableWAL: tt.disableWAL}
			got, _, err := o.dataSource()
			if part, isError := strings.CutPrefix(tt.want, "!"); isError {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			got = strings.NewReplacer("%28", "(", "%29", ")").Replace(got)
			if err != nil || got != tt.want {
				t.Errorf("got  %q, %v\nwant %q", got, err, tt.want)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	nowhere := filepath.Join(t.TempDir(), "no", "hosts.db")
	tests := []struct {
		name, file string
		setup      setup
		want       string
	}{
		{"no file", "", setup{id: "a", host: "h", port: 1}, `"connectionString" is required`},
		{"no folder", nowhere, setup{id: "a", host: "h", port: 1}, nowhere},
		{"no app id", file, setup{host: "h", port: 1}, "app id"},
		{"no host", file, setup{id: "a", port: 1}, "DAPR_HOST_IP"},
		{"no port", file, setup{id: "a", host: "h"}, "internal gRPC port"},
		{"timeout", file, setup{id: "a", host: "h", port: 1, properties: map[string]string{"timeout": "500ms"}}, `"timeout" is 500ms`},
		{"alias of timeout", file, setup{id: "a", host: "h", port: 1, properties: map[string]string{"timeoutInSeconds": "5"}}, `"updateInterval" is 5s; it must be at least 6s`},
		{"fraction", file, setup{id: "a", host: "h", port: 1, properties: map[string]string{"updateInterval": "5500ms"}}, "whole seconds"},
		{"table name", file, setup{id: "a", host: "h", port: 1, properties: map[string]string{"tableName": "a b"}}, `"tableName" is "a b"`},
		{"mDNS in a build without", file, setup{id: "a", host: "h", port: 1, properties: map[string]string{"announceMDNS": "true"}}, "mDNS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := openWith(t, tt.file, tt.setup)
			if err == nil {
				_ = r.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not contain %q", err, tt.want)
			}
		})
	}
}
