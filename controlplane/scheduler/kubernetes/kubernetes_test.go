package kubernetes

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestNamespaces(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := fake.NewClientset(namespace("stays"), namespace("goes"), namespace("fails"))
	clock := clockwork.NewFakeClock()
	ready, calls, done := make(chan struct{}), make(chan string, 10), make(chan error, 1)
	failures := 1
	inner, stop := context.WithCancel(ctx)
	go func() {
		done <- (&Namespaces{Client: client, Clock: clock}).Run(inner, func() { close(ready) }, func(_ context.Context, name string) error {
			calls <- name
			if name == "fails" && failures > 0 {
				failures--
				return errors.New("not now")
			}
			return nil
		})
	}()
	wait := func(want string) {
		t.Helper()
		select {
		case got := <-calls:
			if got != want {
				t.Fatalf("deleted %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("%q was not deleted", want)
		}
	}
	select {
	case <-ready:
	case <-ctx.Done():
		t.Fatal("not ready")
	}
	remove := func(name string) {
		t.Helper()
		if err := client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	remove("goes")
	wait("goes")
	remove("fails")
	wait("fails")
	if err := clock.BlockUntilContext(ctx, 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(deleteRetry)
	wait("fails")
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(calls) > 0 {
		t.Errorf("%q was deleted too", <-calls)
	}
}

func TestConnect(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Connect(""); err == nil {
		t.Error("a process outside of a pod connects")
	}
	if _, err := Connect("/nowhere"); err == nil {
		t.Error("a kubeconfig that does not exist connects")
	}
}
