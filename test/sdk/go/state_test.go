package sdk

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
)

var stores = []string{"memory", "sqlite"}

// eachStore runs a test with every state store, and keys that no other test uses.
func eachStore(t *testing.T, test func(t *testing.T, c client.Client, store, key string)) {
	for _, store := range stores {
		t.Run(store, func(t *testing.T) { test(t, caller(t), store, "go/"+t.Name()) })
	}
}

// wantState checks what is stored; nil means nothing is.
func wantState(t *testing.T, c client.Client, store, key string, want []byte) *client.StateItem {
	t.Helper()
	item, err := c.GetState(bounded(t), store, key, nil)
	noError(t, err)
	if !bytes.Equal(item.Value, want) {
		t.Errorf("state of %s is %q, want %q", key, item.Value, want)
	}
	if (item.Etag == "") != (want == nil) {
		t.Errorf("etag of %s is %q", key, item.Etag)
	}
	return item
}

func TestStateSaveGetDelete(t *testing.T) {
	eachStore(t, func(t *testing.T, c client.Client, store, key string) {
		ctx := bounded(t)
		wantState(t, c, store, key, nil)
		for _, value := range [][]byte{[]byte("plain text"), []byte(`{"json": [1, 2.50, "ü"]}`), {0, 1, 0xfe, 0xff}, bytes.Repeat([]byte("x"), 1<<20)} {
			noError(t, c.SaveState(ctx, store, key, value, nil))
			wantState(t, c, store, key, value)
		}
		noError(t, c.SaveState(ctx, store, key, []byte(`{"b":1,"a":[1.0,true]}`), map[string]string{"contentType": "application/json"}))
		if got := wantJSON(t, c, store, key); got != `{"a":[1,true],"b":1}` {
			t.Errorf("the JSON value is stored as %s", got)
		}
		noError(t, c.DeleteState(ctx, store, key, nil))
		wantState(t, c, store, key, nil)
		noError(t, c.DeleteState(ctx, store, key, nil)) // deleting nothing is fine
	})
}

func wantJSON(t *testing.T, c client.Client, store, key string) string {
	t.Helper()
	item, err := c.GetState(bounded(t), store, key, nil)
	noError(t, err)
	return string(item.Value)
}

func TestStateEtags(t *testing.T) {
	eachStore(t, func(t *testing.T, c client.Client, store, key string) {
		ctx := bounded(t)
		noError(t, c.SaveState(ctx, store, key, []byte("1"), nil))
		first := wantState(t, c, store, key, []byte("1")).Etag
		noError(t, c.SaveStateWithETag(ctx, store, key, []byte("2"), first, nil))
		second := wantState(t, c, store, key, []byte("2")).Etag
		if second == first {
			t.Errorf("the etag is still %q after another write", first)
		}
		err := c.SaveStateWithETag(ctx, store, key, []byte("3"), first, nil)
		wantStatus(t, err, codes.Aborted, "possible etag mismatch", "ERR_STATE_SAVE")
		err = c.DeleteStateWithETag(ctx, store, key, &client.ETag{Value: first}, nil, nil)
		wantStatus(t, err, codes.Aborted, "possible etag mismatch", "ERR_STATE_DELETE")
		wantState(t, c, store, key, []byte("2"))
		noError(t, c.DeleteStateWithETag(ctx, store, key, &client.ETag{Value: second}, nil, &client.StateOptions{Concurrency: client.StateConcurrencyFirstWrite}))
		wantState(t, c, store, key, nil)
	})
}

func TestStateFirstWrite(t *testing.T) {
	eachStore(t, func(t *testing.T, c client.Client, store, key string) {
		ctx := bounded(t)
		first := client.WithConcurrency(client.StateConcurrencyFirstWrite)
		noError(t, c.SaveState(ctx, store, key, []byte("1"), nil, first))
		if err := c.SaveState(ctx, store, key, []byte("2"), nil, first); err == nil {
			t.Error("the second first write succeeded")
		}
		wantState(t, c, store, key, []byte("1"))
	})
}

func TestStateConsistency(t *testing.T) {
	eachStore(t, func(t *testing.T, c client.Client, store, key string) {
		ctx := bounded(t)
		for _, consistency := range []client.StateConsistency{client.StateConsistencyUndefined, client.StateConsistencyEventual, client.StateConsistencyStrong} {
			value := []byte(consistency.String())
			noError(t, c.SaveState(ctx, store, key, value, nil, client.WithConsistency(consistency), client.WithConcurrency(client.StateConcurrencyLastWrite)))
			item, err := c.GetStateWithConsistency(ctx, store, key, nil, consistency)
			if err != nil || !bytes.Equal(item.Value, value) {
				t.Errorf("state read with consistency %s is %v, %v; want %s", consistency, item, err, value)
			}
		}
	})
}

func TestStateTTL(t *testing.T) {
	eachStore(t, func(t *testing.T, c client.Client, store, key string) {
		ctx := bounded(t)
		noError(t, c.SaveState(ctx, store, key, []byte("long"), map[string]string{"ttlInSeconds": "100"}))
		item := wantState(t, c, store, key, []byte("long"))
		expires, err := time.Parse(time.RFC3339, item.Metadata["ttlExpireTime"])
		if left := time.Until(expires); err != nil || left < 80*time.Second || left > 101*time.Second {
			t.Errorf("ttlExpireTime is %q, in %s, %v; want about 100 s from now", item.Metadata["ttlExpireTime"], left, err)
		}
		noError(t, c.SaveState(ctx, store, key, []byte("for ever"), nil))
		if item := wantState(t, c, store, key, []byte("for ever")); item.Metadata["ttlExpireTime"] != "" {
			t.Errorf("saving without TTL left ttlExpireTime %q", item.Metadata["ttlExpireTime"])
		}
		noError(t, c.SaveState(ctx, store, key, []byte("short"), map[string]string{"ttlInSeconds": "1"}))
		for {
			item, err := c.GetState(ctx, store, key, nil)
			noError(t, err) // also once ctx is over
			if item.Etag == "" && len(item.Value) == 0 {
				return
			}
		}
	})
}

func TestStateTTLInvalid(t *testing.T) {
	eachStore(t, func(t *testing.T, c client.Client, store, key string) {
		err := c.SaveState(bounded(t), store, key, []byte("x"), map[string]string{"ttlInSeconds": "soon"})
		wantStatus(t, err, codes.Internal, "failed saving state in state store "+store, "ERR_STATE_SAVE")
	})
}

func TestStateBulk(t *testing.T) {
	eachStore(t, func(t *testing.T, c client.Client, store, key string) {
		ctx := bounded(t)
		const n = 20
		var items []*client.SetStateItem
		var keys []string
		for i := range n {
			k := fmt.Sprintf("%s/%d", key, i)
			keys = append(keys, k)
			items = append(items, &client.SetStateItem{Key: k, Value: fmt.Appendf(nil, "value %d", i), Options: &client.StateOptions{Consistency: client.StateConsistencyStrong}})
		}
		noError(t, c.SaveBulkState(ctx, store, items...))
		got, err := c.GetBulkState(ctx, store, append([]string{key + "/missing"}, keys...), nil, 5)
		noError(t, err)
		if len(got) != n+1 {
			t.Fatalf("%d items, want %d", len(got), n+1)
		}
		values := map[string]*client.BulkStateItem{}
		for _, item := range got {
			values[item.Key] = item
			if item.Error != "" {
				t.Errorf("%s: %s", item.Key, item.Error)
			}
		}
		for i, k := range keys {
			if item := values[k]; item == nil || string(item.Value) != fmt.Sprintf("value %d", i) || item.Etag == "" {
				t.Errorf("item %s is %+v", k, item)
			}
		}
		if item := values[key+"/missing"]; item == nil || len(item.Value) != 0 || item.Etag != "" {
			t.Errorf("the missing item is %+v", item)
		}

		// A mismatch of one item does not keep the others from being deleted.
		err = c.DeleteBulkStateItems(ctx, store, []*client.DeleteStateItem{
			{Key: keys[0], Etag: &client.ETag{Value: values[keys[0]].Etag}}, {Key: keys[1], Etag: &client.ETag{Value: "4711"}}, {Key: keys[2]},
		})
		if err == nil {
			t.Error("no error for the item with another etag")
		}
		wantState(t, c, store, keys[0], nil)
		wantState(t, c, store, keys[1], []byte("value 1"))
		wantState(t, c, store, keys[2], nil)
		noError(t, c.DeleteBulkState(ctx, store, keys, nil))
		got, err = c.GetBulkState(ctx, store, keys, nil, 0)
		noError(t, err)
		for _, item := range got {
			if len(item.Value) != 0 {
				t.Errorf("%s is still there: %q", item.Key, item.Value)
			}
		}
	})
}

func TestStateTransaction(t *testing.T) {
	eachStore(t, func(t *testing.T, c client.Client, store, key string) {
		ctx := bounded(t)
		noError(t, c.SaveState(ctx, store, key+"/old", []byte("old"), nil))
		upsert := func(name, value, etag string) *client.StateOperation {
			item := &client.SetStateItem{Key: key + "/" + name, Value: []byte(value)}
			if etag != "" {
				item.Etag = &client.ETag{Value: etag}
			}
			return &client.StateOperation{Type: client.StateOperationTypeUpsert, Item: item}
		}
		noError(t, c.ExecuteStateTransaction(ctx, store, nil, []*client.StateOperation{
			upsert("a", "1", ""), upsert("b", "2", ""), {Type: client.StateOperationTypeDelete, Item: &client.SetStateItem{Key: key + "/old"}},
		}))
		etag := wantState(t, c, store, key+"/a", []byte("1")).Etag
		wantState(t, c, store, key+"/b", []byte("2"))
		wantState(t, c, store, key+"/old", nil)

		noError(t, c.ExecuteStateTransaction(ctx, store, nil, []*client.StateOperation{upsert("a", "3", etag)}))
		err := c.ExecuteStateTransaction(ctx, store, nil, []*client.StateOperation{upsert("b", "4", ""), upsert("c", "5", ""), upsert("a", "6", etag)})
		wantStatus(t, err, codes.Internal, "error while executing state transaction", "ERR_STATE_TRANSACTION")
		wantState(t, c, store, key+"/a", []byte("3"))
		wantState(t, c, store, key+"/b", []byte("2")) // nothing of it was done
		wantState(t, c, store, key+"/c", nil)

		err = c.ExecuteStateTransaction(ctx, store, nil, []*client.StateOperation{{Type: client.StateOperationTypeUndefined, Item: &client.SetStateItem{Key: key}}})
		wantStatus(t, err, codes.Unimplemented, "operation type undefined not supported", "ERR_NOT_SUPPORTED_STATE_OPERATION")
	})
}

func TestStateErrors(t *testing.T) {
	c, ctx := caller(t), bounded(t)
	_, err := c.GetState(ctx, "nowhere", "key", nil)
	wantStatus(t, err, codes.InvalidArgument, "state store nowhere is not found", "DAPR_STATE_NOT_FOUND")
	err = c.SaveState(ctx, "nowhere", "key", []byte("x"), nil)
	wantStatus(t, err, codes.InvalidArgument, "state store nowhere is not found", "DAPR_STATE_NOT_FOUND")
	err = c.SaveState(ctx, "memory", "a||b", []byte("x"), nil)
	wantStatus(t, err, codes.InvalidArgument, "input key/keyPrefix 'a||b' can't contain '||'", "DAPR_STATE_ILLEGAL_KEY")
	err = c.SaveState(ctx, "memory", "", []byte("x"), nil)
	wantStatus(t, err, codes.InvalidArgument, "state key cannot be empty", "ERR_STATE_SAVE")
}

// TestStateScopes uses a component that is only for the caller.
func TestStateScopes(t *testing.T) {
	noError(t, caller(t).SaveState(bounded(t), "scoped", "key", []byte("x"), nil))
	other, err := client.NewClientWithPort(env(t, "SDK_GRPC_APP_GRPC_PORT"))
	noError(t, err)
	defer other.Close()
	err = other.SaveState(bounded(t), "scoped", "key", []byte("x"), nil)
	wantStatus(t, err, codes.InvalidArgument, "state store scoped is not found", "DAPR_STATE_NOT_FOUND")
}

// TestStatePerApp checks that apps do not see each other's keys in a store that they share.
func TestStatePerApp(t *testing.T) {
	other, err := client.NewClientWithPort(env(t, "SDK_GRPC_APP_GRPC_PORT"))
	noError(t, err)
	defer other.Close()
	noError(t, caller(t).SaveState(bounded(t), "sqlite", "go/mine", []byte("x"), nil))
	wantState(t, other, "sqlite", "go/mine", nil)
}
