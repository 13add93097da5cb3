package state

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"outrigger.dev/api/apitest"
	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	stores "outrigger.dev/components/state"
	"outrigger.dev/telemetry/logging/logtest"
)

const (
	hexKey   = "3031323334353637383961626364656630313233343536373839616263646566"
	otherKey = "00112233445566778899aabbccddeeff"
)

func encrypted(store stores.Store) Component {
	return Component{
		Name: "st", Store: store,
		Properties:  map[string]string{primaryKey: hexKey},
		SecretNames: map[string]string{primaryKey: "primary"},
	}
}

func TestEncryptedValuesOfDapr(t *testing.T) {
	p := newPlain()
	r := apitest.Router(withStore(t, encrypted(p)).Routes())
	for _, tc := range []struct{ stored, want string }{
		{"o7bKpP4vXvnPr2+nrohHvRnFimrl9xc1d9a5rKAI1hCZ||primary", "plain"},
		{"nB2vJxcHn2Yd2IBjTm6Hb3CAXcz8UpDTjF9RSmM=||primary", "2"},
		{"JNeZI5alRAaIzZWMDxzm5LXEYxZ/Geyt+HBS6P3RSJTtM1CDHeaSbh5LynbFwQ==||primary", "žluťoučký 🐎"},
		{"", ""},
	} {
		p.items["app||k"] = stores.Item{Found: true, Data: []byte(tc.stored)}
		expect{method: "GET", target: "/v1.0/state/st/k", status: 200, want: tc.want}.check(t, r)
	}
}

func TestEncryption(t *testing.T) {
	p := &limited{plain: newPlain()}
	s := withStore(t, encrypted(p))
	r := apitest.Router(s.Routes())
	for _, tc := range []struct{ value, want string }{
		{`"va\"lue1"`, `va"lue1`}, {`{"b":1,"a":[2.50]}`, `{"a":[2.5],"b":1}`}, {`12345678`, `12345678`}, {`true`, `true`}, {`null`, `null`}, {`""`, ``},
	} {
		expect{method: "POST", target: "/v1.0/state/st", body: `[{"key":"k","value":` + tc.value + `}]`, status: 204}.check(t, r)
		stored := p.items["app||k"].Data
		if !bytes.HasSuffix(stored, []byte("||primary")) || len(tc.want) > 4 && bytes.Contains(stored, []byte(tc.want)) {
			t.Errorf("%s is stored as %s", tc.value, stored)
		}
		expect{method: "GET", target: "/v1.0/state/st/k", status: 200, want: tc.want}.check(t, r)
	}
	before := bytes.Clone(p.items["app||k"].Data)
	expect{method: "POST", target: "/v1.0/state/st", body: `[{"key":"k","value":""}]`, status: 204}.check(t, r)
	if bytes.Equal(before, p.items["app||k"].Data) {
		t.Error("the nonce was used twice")
	}

	g := s.Server()
	for _, contentType := range []string{"", "application/json"} {
		item := &commonv1.StateItem{Key: "k", Value: []byte(`{"b": 1}`), Metadata: map[string]string{"contentType": contentType}}
		if _, err := g.SaveState(t.Context(), &runtimev1.SaveStateRequest{StoreName: "st", States: []*commonv1.StateItem{item}}); err != nil {
			t.Fatal(err)
		}
		got, err := g.GetState(t.Context(), &runtimev1.GetStateRequest{StoreName: "st", Key: "k"})
		if err != nil || string(got.GetData()) != `{"b": 1}` {
			t.Errorf("content type %q: %q, %v", contentType, got.GetData(), err)
		}
	}
	ops := []*runtimev1.TransactionalStateOperation{{OperationType: "upsert", Request: &commonv1.StateItem{Key: "t", Value: []byte("v")}}}
	if _, err := g.ExecuteStateTransaction(t.Context(), &runtimev1.ExecuteStateTransactionRequest{StoreName: "st", Operations: ops}); err != nil {
		t.Fatal(err)
	}
	if v := p.transactions[0].Operations[0].Set.Value; v.JSON || !bytes.HasSuffix(v.Bytes, []byte("||primary")) {
		t.Errorf("the transaction wrote %s", v.Bytes)
	}
	got := r.Do("POST", "/v1.0-alpha1/state/st/query", "{}")
	if got.Status != 500 || !strings.Contains(string(got.Body), "state store st query failed: cannot query encrypted store") {
		t.Errorf("query: %d %s", got.Status, got.Body)
	}
}

func TestUndecryptable(t *testing.T) {
	p := newPlain()
	s := withStore(t, encrypted(p))
	r := apitest.Router(s.Routes())
	for _, tc := range []struct{ stored, want string }{
		{`{"a":1}`, "encryption key name not found on record"},
		{`nB2vJxcHn2Yd2IBjTm6Hb3CAXcz8UpDTjF9RSmM=||older`, `encrypted with the key of secret "older", but this store has "primary": add that key as secondaryEncryptionKey`},
		{`oB2vJxcHn2Yd2IBjTm6Hb3CAXcz8UpDTjF9RSmM=||primary`, `the key of secret "primary" does not fit`},
		{`no base64||primary`, "is not base64 text"},
		{`||primary`, "does not fit"},
		{`AAAA||primary`, "does not fit"},
		{`||`, `secret ""`},
	} {
		p.items["app||k"] = stores.Item{Found: true, Data: []byte(tc.stored), ETag: "1", HasETag: true}
		_, err := s.Get(t.Context(), "st", "k", "", nil)
		if err == nil || !strings.Contains(err.Error(), "fail to get k from state store st: could not decrypt data for state store st: ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.stored, err)
		}
		if got := r.Do("GET", "/v1.0/state/st/k", ""); got.Status != 500 || !strings.Contains(string(got.Body), "ERR_STATE_GET") {
			t.Errorf("%s: %d %s", tc.stored, got.Status, got.Body)
		}
		if got := r.Do("POST", "/v1.0/state/st/bulk", `{"keys":["k","missing"]}`); got.Status != 200 || !strings.Contains(string(got.Body), `"error":"could not decrypt`) ||
			strings.Contains(string(got.Body), `"data"`) || !strings.Contains(string(got.Body), `{"key":"missing"}`) {
			t.Errorf("bulk %s: %d %s", tc.stored, got.Status, got.Body)
		}
	}
}

func TestRotation(t *testing.T) {
	p := newPlain()
	write := func(c Component, key, value string) {
		t.Helper()
		if err := withStore(t, c).Save(t.Context(), "st", []stores.SetRequest{{Key: key, Value: stores.Value{Bytes: []byte(value)}}}); err != nil {
			t.Fatal(err)
		}
	}
	write(encrypted(p), "old", "1")
	for _, newName := range []string{"new", "primary"} { // the same secret with another entry works, too
		c := Component{
			Name: "st", Store: p,
			Properties:  map[string]string{primaryKey: otherKey, secondaryKey: hexKey},
			SecretNames: map[string]string{primaryKey: newName, secondaryKey: "primary"},
		}
		write(c, "new", "2")
		if stored := p.items["app||new"].Data; !bytes.HasSuffix(stored, []byte("||"+newName)) {
			t.Errorf("written as %s", stored)
		}
		for key, want := range map[string]string{"old": "1", "new": "2"} {
			item, err := withStore(t, c).Get(t.Context(), "st", key, "", nil)
			if err != nil || string(item.Data) != want {
				t.Errorf("%s: %q, %v", key, item.Data, err)
			}
		}
	}
}

func TestBadKeys(t *testing.T) {
	for _, tc := range []struct {
		name           string
		items, secrets map[string]string
		want           string
	}{
		{"plain value", map[string]string{primaryKey: hexKey}, nil, "metadata item primaryEncryptionKey of state store st is not given by secretKeyRef"},
		{"unresolved", map[string]string{primaryKey: ""}, map[string]string{primaryKey: "s"}, `is empty: the secret "s"`},
		{"no hex", map[string]string{primaryKey: "xyz"}, map[string]string{primaryKey: "s"}, "is not hexadecimal text"},
		{"too short", map[string]string{primaryKey: "00ff"}, map[string]string{primaryKey: "s"}, "is a key of 2 bytes"},
		{"separator", map[string]string{primaryKey: hexKey}, map[string]string{primaryKey: "a||b"}, "rename the secret"},
		{"secondary alone", map[string]string{secondaryKey: hexKey}, map[string]string{secondaryKey: "s"}, "without primaryEncryptionKey"},
		{"bad secondary", map[string]string{primaryKey: hexKey, secondaryKey: "x"}, map[string]string{primaryKey: "p", secondaryKey: "s"}, "metadata item secondaryEncryptionKey of state store st"},
	} {
		err := New(Options{AppID: "app"}).Add(Component{Name: "st", Store: newPlain(), Properties: tc.items, SecretNames: tc.secrets})
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), hexKey) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	var log logtest.Log
	s := New(Options{Log: log.Logger()})
	if err := s.Add(Component{Name: "st", Store: newPlain(), Properties: map[string]string{"primaryencryptionkey": hexKey}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "item=primaryencryptionkey want=primaryEncryptionKey") || strings.Contains(log.String(), hexKey) {
		t.Errorf("logged %s", &log)
	}
}

// FuzzDecrypt looks for stored values that bring decryption down, or pass it by luck.
func FuzzDecrypt(f *testing.F) {
	c, err := newCipher(encrypted(newPlain()), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("nB2vJxcHn2Yd2IBjTm6Hb3CAXcz8UpDTjF9RSmN=||primary"))
	f.Add([]byte("||primary"))
	f.Add([]byte("||"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if plain, err := c.decrypt(data); err == nil && len(plain) > 0 && !bytes.HasSuffix(data, []byte("||primary")) {
			t.Errorf("%q became %q", data, plain)
		}
		back, err := c.decrypt(c.encrypt(stores.Value{Bytes: data}).Bytes)
		if err != nil || !bytes.Equal(back, data) {
			t.Errorf("%q came back as %q, %v", data, back, err)
		}
	})
}
