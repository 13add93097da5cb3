package sdk

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
)

func TestMetadata(t *testing.T) {
	c, ctx := caller(t), bounded(t)
	noError(t, c.SetMetadata(ctx, "colour", "blue"))
	noError(t, c.SetMetadata(ctx, "colour", "green"))
	m, err := c.GetMetadata(ctx)
	noError(t, err)
	if m.ID != env(t, "SDK_CALLER_ID") {
		t.Errorf("id %q, want %q", m.ID, env(t, "SDK_CALLER_ID"))
	}
	if got := m.ExtendedMetadata["colour"]; got != "green" {
		t.Errorf("extended metadata colour = %q, want green", got)
	}
	if m.ExtendedMetadata["daprRuntimeVersion"] == "" {
		t.Error("no daprRuntimeVersion in the extended metadata")
	}
	types := map[string]string{}
	for _, r := range m.RegisteredComponents {
		types[r.Name] = r.Type + "/" + r.Version
		if r.Name == "sqlite" {
			for _, want := range []string{"ETAG", "TRANSACTIONAL", "TTL", "ACTOR"} {
				if !slices.Contains(r.Capabilities, want) {
					t.Errorf("capabilities of state.sqlite are %v, want %s among them", r.Capabilities, want)
				}
			}
		}
	}
	for name, want := range map[string]string{
		"memory": "state.in-memory/v1", "sqlite": "state.sqlite/v1", "scoped": "state.in-memory/v1", "secrets": "secretstores.local.file/v1", "multi": "secretstores.local.file/v1",
	} {
		if types[name] != want {
			t.Errorf("component %s is %q in the metadata, want %q", name, types[name], want)
		}
	}
}

func TestWaitGivesUp(t *testing.T) {
	t.Setenv("DAPR_CLIENT_TIMEOUT_SECONDS", "1")
	c, err := client.NewClientWithAddressContext(bounded(t), "127.0.0.1:1") // tcpmux, which nobody serves
	if err == nil {
		defer c.Close()
		err = c.Wait(bounded(t), 100*time.Millisecond)
	}
	if err == nil {
		t.Error("waiting for a sidecar that is not there ended well")
	}
}

func TestAPIToken(t *testing.T) {
	for _, token := range []string{"", "wrong"} {
		t.Setenv("DAPR_API_TOKEN", token)
		c, err := client.NewClientWithPort(env(t, "DAPR_GRPC_PORT"))
		noError(t, err)
		defer c.Close()
		_, err = c.GetMetadata(bounded(t))
		wantStatus(t, err, codes.Unauthenticated, "Unauthorized", "Unauthorized")
	}
}

func TestShutdown(t *testing.T) {
	c, err := client.NewClientWithPort(env(t, "SDK_DOOMED_GRPC_GRPC_PORT"))
	noError(t, err)
	defer c.Close()
	noError(t, c.Shutdown(bounded(t)))
	waitGone(t, c)

	// The Go SDK has no HTTP client; the other one of the two is shut down the same way, in the middle of other calls.
	c, err = client.NewClientWithPort(env(t, "SDK_DOOMED_HTTP_GRPC_PORT"))
	noError(t, err)
	defer c.Close()
	noError(t, c.SaveState(bounded(t), "memory", "last", []byte("words"), nil))
	noError(t, c.Shutdown(bounded(t)))
	waitGone(t, c)
}

// waitGone waits until the sidecar does not answer any more.
func waitGone(t *testing.T, c client.Client) {
	t.Helper()
	ctx := bounded(t)
	for {
		call, cancel := context.WithTimeout(ctx, time.Second)
		_, err := c.GetMetadata(call)
		cancel()
		if err != nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the sidecar still answers after it was shut down")
		}
	}
}
