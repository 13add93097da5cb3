package outbox_test

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"outrigger.dev/api/apitest"
	"outrigger.dev/blocks/state"
	"outrigger.dev/components"
	stores "outrigger.dev/components/state"
	"outrigger.dev/components/state/inmemory"
	mysqlstore "outrigger.dev/components/state/mysql"
	"outrigger.dev/components/state/postgresql"
	"outrigger.dev/components/state/redis"
	"outrigger.dev/components/state/sqlite"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// open opens a store the way a sidecar does.
func open(t *testing.T, name, version string, properties map[string]string) stores.Store {
	t.Helper()
	var r components.Registry
	for _, register := range []func(*components.Registry){inmemory.Register, mysqlstore.Register, postgresql.Register, redis.Register, sqlite.Register} {
		register(&r)
	}
	d, err := r.Lookup(components.State, name, version)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Check(properties) {
		t.Errorf("metadata: %s", f.Message)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := d.Open(ctx, components.Instance{Name: "st", Properties: properties, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s.(stores.Store)
}

// TestStores runs transactions on every kind of store that has them, over HTTP, and follows the markers.
func TestStores(t *testing.T) {
	for _, tc := range []struct {
		name, component, version string
		properties               func(t *testing.T) map[string]string
	}{
		{"in-memory", "in-memory", "v1", func(*testing.T) map[string]string { return map[string]string{} }},
		{"sqlite", "sqlite", "v1", func(t *testing.T) map[string]string {
			return map[string]string{"connectionString": filepath.Join(t.TempDir(), "data.db")}
		}},
		{"redis", "redis", "v1", func(t *testing.T) map[string]string {
			return map[string]string{"redisHost": servers.Redis(t).Addr}
		}},
		{"postgresql v1", "postgresql", "v1", func(t *testing.T) map[string]string {
			return map[string]string{"connectionString": servers.Postgres(t).Database()}
		}},
		{"postgresql v2", "postgresql", "v2", func(t *testing.T) map[string]string {
			return map[string]string{"connectionString": servers.Postgres(t).Database()}
		}},
		{"mysql", "mysql", "v1", func(t *testing.T) map[string]string {
			config, err := mysql.ParseDSN(servers.MariaDB(t).Database())
			if err != nil {
				t.Fatal(err)
			}
			schema := config.DBName
			config.DBName = ""
			return map[string]string{"connectionString": config.FormatDSN(), "schemaName": schema}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := tc.properties(t)
			maps.Copy(p, properties())
			s := open(t, tc.component, tc.version, p)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			followMarkers(t, s, p)
		})
	}
}

func followMarkers(t *testing.T, s stores.Store, properties map[string]string) {
	const (
		key   = "0123456789abcdef0123456789abcdef"
		order = `{"id":1,"qty":2}`
	)
	f := newFixture(t)
	block := state.New(state.Options{AppID: "shop", Outbox: f.Outbox})
	properties["primaryEncryptionKey"] = key
	if err := block.Add(state.Component{Name: "st", Store: s, Properties: properties, SecretNames: map[string]string{"primaryEncryptionKey": "secret"}}); err != nil {
		t.Fatal(err)
	}
	if err := f.Add("st", s, properties); err != nil {
		t.Fatal(err)
	}
	f.Start()
	r := apitest.Router(block.Routes())
	transact := func(status int, operations string) (events []message) {
		t.Helper()
		if got := r.Do("POST", "/v1.0/state/st/transaction?metadata.source=web", `{"operations":[`+operations+`]}`); got.Status != status {
			t.Fatalf("%s: %d %s", operations, got.Status, got.Body)
		}
		return f.broker.take()
	}
	marked := func(m message) bool {
		t.Helper()
		item, err := s.Get(t.Context(), stores.GetRequest{Key: m.event["id"].(string)})
		if err != nil {
			t.Fatal(err)
		}
		return item.Found
	}
	operations := func(etag string) string {
		return `{"operation":"upsert","request":{"key":"order","value":` + order + `,"contentType":"application/json"` + etag + `}},` +
			`{"operation":"upsert","request":{"key":"order","value":"summary","metadata":{"outbox.projection":"true"}}},` +
			`{"operation":"upsert","request":{"key":"bill","value":{"sum":3},"metadata":{"contentType":"application/json"}}},` +
			`{"operation":"delete","request":{"key":"basket"}}`
	}
	events := transact(204, operations(""))
	if len(events) != 2 {
		t.Fatalf("%d events", len(events))
	}
	item, err := block.Get(t.Context(), "st", "order", "", nil)
	if err != nil || string(item.Data) != order {
		t.Errorf("stored %s, %v", item.Data, err)
	}
	for i, m := range events {
		if !marked(m) || m.event["source"] != "web" {
			t.Fatalf("event %d has no marker: %v", i, m.event)
		}
		if err := f.deliver(m.text); err != nil {
			t.Fatal(err)
		}
		if marked(m) {
			t.Errorf("the marker of event %d is still there", i)
		}
	}
	published := f.broker.take()
	if len(published) != 2 || published[0].event["data"] != "summary" || published[1].event["data"].(map[string]any)["sum"] == nil || published[1].topic != "orders" {
		t.Errorf("published %v", published)
	}

	// A transaction that fails leaves events without markers.
	events = transact(500, operations(`,"etag":"999","options":{"concurrency":"first-write"}`))
	if len(events) != 2 {
		t.Fatalf("%d events", len(events))
	}
	orphan := events[0]
	if marked(orphan) {
		t.Error("a failed transaction left a marker")
	}
	if err := f.deliver(orphan.text); err == nil || !strings.Contains(err.Error(), "has no marker") || len(f.broker.take()) != 0 {
		t.Errorf("orphan: %v", err)
	}
}

// A sidecar that takes over finds what another one has left.
func TestOtherReplica(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.db")
	p := properties("connectionString=" + file)
	first, second := newFixture(t), newFixture(t)
	var events []message
	for i, f := range []*fixture{first, second} {
		s := open(t, "sqlite", "v1", p)
		if err := f.Add("st", s, p); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			events = f.committed(t, "st", s.(stores.Transactor), upsert("k", `1`))
		} else {
			f.Start()
			if err := f.deliver(events[0].text); err != nil || len(f.broker.take()) != 1 {
				t.Error(err)
			}
		}
		if err := f.Remove(t.Context(), "st"); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
