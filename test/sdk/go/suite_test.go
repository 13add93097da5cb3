// Package sdk is the Go Dapr SDK as a client of our sidecar. The tests of the folder above run it, with the sidecars it needs.
package sdk

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) {
	if os.Getenv("SDK_CALLER_ID") == "" {
		fmt.Fprintln(os.Stderr, "this suite needs its sidecars: run it with go test ./test/sdk in the root of the repository")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// env is a variable set by the tests of the folder above.
func env(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not in the environment", name)
	}
	return v
}

// bounded is a context for a few calls.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// caller is a client of the sidecar without an app, made as most programs make it: from the environment.
func caller(t *testing.T) client.Client {
	t.Helper()
	c, err := client.NewClientWithPort(env(t, "DAPR_GRPC_PORT"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Wait(bounded(t), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	return c
}

// wantStatus checks the code of a gRPC error, a part of its message, and the reason in its details ("" for none).
func wantStatus(t *testing.T, err error, code codes.Code, text, reason string) {
	t.Helper()
	s, ok := status.FromError(err)
	if err == nil || !ok {
		t.Errorf("error %v, want a gRPC status %s", err, code)
		return
	}
	if s.Code() != code {
		t.Errorf("status %s (%s), want %s", s.Code(), s.Message(), code)
	}
	if !strings.Contains(s.Message(), text) {
		t.Errorf("message %q, want one with %q", s.Message(), text)
	}
	got := ""
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			got = info.GetReason()
			if info.GetDomain() != "dapr.io" {
				t.Errorf("the error's domain is %q, want dapr.io", info.GetDomain())
			}
		}
	}
	if got != reason {
		t.Errorf("reason %q, want %q", got, reason)
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
