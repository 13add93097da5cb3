package kubernetes

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/telemetry/logging/logtest"
)

const controlPlane = "dapr-system"

// cluster is an API server that, as the real one does, refuses to update what has changed since it was read.
type cluster struct {
	*fake.Clientset
	mu        sync.Mutex
	updates   map[string]int
	conflicts int
}

func newCluster(objects ...runtime.Object) *cluster {
	c := &cluster{Clientset: fake.NewClientset(objects...), updates: map[string]int{}}
	c.PrependReactor("update", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		object := action.(clienttesting.UpdateAction).GetObject().DeepCopyObject()
		changed, err := meta.Accessor(object)
		if err != nil {
			return true, nil, err
		}
		resource := action.GetResource()
		present, err := c.Tracker().Get(resource, action.GetNamespace(), changed.GetName())
		if err != nil {
			return true, nil, err
		}
		was, err := meta.Accessor(present)
		if err != nil {
			return true, nil, err
		}
		if was.GetResourceVersion() != changed.GetResourceVersion() {
			c.conflicts++
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: resource.Resource}, changed.GetName(), fmt.Errorf("changed"))
		}
		version, _ := strconv.Atoi(was.GetResourceVersion())
		changed.SetResourceVersion(strconv.Itoa(version + 1))
		c.updates[resource.Resource]++
		return true, object, c.Tracker().Update(resource, object, action.GetNamespace())
	})
	return c
}

func bundles() []runtime.Object {
	name := metav1.ObjectMeta{Namespace: controlPlane, Name: bundleName, ResourceVersion: "1"}
	return []runtime.Object{&corev1.Secret{ObjectMeta: name}, &corev1.ConfigMap{ObjectMeta: name}}
}

func (c *cluster) secret(t *testing.T) map[string][]byte {
	t.Helper()
	s, err := c.CoreV1().Secrets(controlPlane).Get(t.Context(), bundleName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Data
}

func (c *cluster) published(t *testing.T) map[string]string {
	t.Helper()
	m, err := c.CoreV1().ConfigMaps(controlPlane).Get(t.Context(), bundleName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m.Data
}

// together is the store of a replica that writes only when all others have read what it has read.
type together struct {
	*Store
	meet func()
}

func (s *together) Update(ctx context.Context, change func(ca.Documents) (ca.Documents, bool, error)) error {
	first := true
	return s.Store.Update(ctx, func(d ca.Documents) (ca.Documents, bool, error) {
		if first {
			first = false
			s.meet()
		}
		return change(d)
	})
}

func manager(t *testing.T, c *cluster, clock clockwork.Clock) (*ca.Manager, error) {
	return managerOf(t, &Store{Clients: &Clients{Core: c}, Namespace: controlPlane}, clock)
}

func managerOf(t *testing.T, store ca.Store, clock clockwork.Clock) (*ca.Manager, error) {
	return ca.NewManager(t.Context(), ca.ManagerOptions{
		Store: store, Log: (&logtest.Log{}).Logger(), Clock: clock,
		Settings: ca.Settings{TrustDomain: "cluster.local", Namespace: controlPlane, ClockSkew: ca.DefaultClockSkew, SelfRenewing: true, JWT: ca.JWTSettings{Enabled: true, Algorithm: "ES256"}},
	})
}

func TestStoreBootstrap(t *testing.T) {
	c := newCluster(bundles()...)
	first, err := manager(t, c, clockwork.NewRealClock())
	if err != nil {
		t.Fatal(err)
	}
	secret, published := c.secret(t), c.published(t)
	for _, name := range []string{ca.AnchorsName, ca.IssuerName, ca.IssuerKeyName, ca.JWTKeyName, ca.JWKSName, ca.RecordName} {
		if len(secret[name]) == 0 {
			t.Errorf("the Secret has no %s", name)
		}
	}
	if len(published) != 2 || published[ca.AnchorsName] != string(secret[ca.AnchorsName]) || published[ca.JWKSName] != string(secret[ca.JWKSName]) {
		t.Errorf("the ConfigMap has %v", published)
	}
	second, err := manager(t, c, clockwork.NewRealClock())
	if err != nil || !second.Authority().Issuer().Equal(first.Authority().Issuer()) {
		t.Errorf("a second start has another issuer: %v", err)
	}
	if c.updates["secrets"] != 1 || c.updates["configmaps"] != 1 {
		t.Errorf("updates: %v", c.updates)
	}
}

// TestReplicasAgree starts replicas at once on an empty Secret, and lets them renew at once.
func TestReplicasAgree(t *testing.T) {
	c := newCluster(bundles()...)
	clock := clockwork.NewFakeClockAt(time.Now())
	const n = 6
	managers := make([]*ca.Manager, n)
	var wg, met sync.WaitGroup
	meet := func() {
		met.Done()
		met.Wait()
	}
	met.Add(n)
	for i := range n {
		wg.Go(func() {
			var err error
			if managers[i], err = managerOf(t, &together{&Store{Clients: &Clients{Core: c}, Namespace: controlPlane}, meet}, clock); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	agree := func(when string) {
		t.Helper()
		for _, m := range managers {
			if !m.Authority().Issuer().Equal(managers[0].Authority().Issuer()) {
				t.Fatalf("%s replicas have different issuers", when)
			}
		}
		if got := c.published(t)[ca.AnchorsName]; got != string(managers[0].Authority().TrustAnchors()) || got != string(c.secret(t)[ca.AnchorsName]) {
			t.Fatalf("%s the ConfigMap does not have the roots in use", when)
		}
	}
	agree("after the start")
	for _, part := range []time.Duration{70, 15} { // the announcement, the change
		clock.Advance(ca.DefaultRootTTL * part / 100)
		met.Add(n)
		for _, m := range managers {
			wg.Go(func() {
				if err := m.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		agree("after a renewal")
	}
	if got := strings.Count(c.published(t)[ca.AnchorsName], "BEGIN"); got != 2 {
		t.Errorf("%d roots are published", got)
	}
	if c.updates["secrets"] != 3 {
		t.Errorf("the Secret was written %d times, want 3", c.updates["secrets"])
	}
	if c.conflicts < 3*(n-1) {
		t.Errorf("%d conflicts, want one for every replica but one at every step", c.conflicts)
	}
}

func TestConflictIsTriedAgain(t *testing.T) {
	c := newCluster(bundles()...)
	store := &Store{Clients: &Clients{Core: c}, Namespace: controlPlane}
	calls := 0
	err := store.Update(t.Context(), func(d ca.Documents) (ca.Documents, bool, error) {
		if calls++; calls == 1 {
			other := ca.Documents{Anchors: []byte("other"), IssuerChain: []byte("other"), IssuerKey: []byte("other")}
			if err := store.Update(t.Context(), func(ca.Documents) (ca.Documents, bool, error) { return other, true, nil }); err != nil {
				t.Fatal(err)
			}
		}
		if d.Complete() {
			return d, false, nil
		}
		return ca.Documents{Anchors: []byte("mine"), IssuerChain: []byte("mine"), IssuerKey: []byte("mine")}, true, nil
	})
	if err != nil || calls != 2 || c.conflicts != 1 {
		t.Fatalf("%d calls, %d conflicts, %v", calls, c.conflicts, err)
	}
	if got := string(c.secret(t)[ca.AnchorsName]); got != "other" {
		t.Errorf("the Secret has %q: the second writer won as well", got)
	}
}

func TestConfigMapFollowsTheSecret(t *testing.T) {
	c := newCluster(bundles()...)
	if _, err := manager(t, c, clockwork.NewRealClock()); err != nil {
		t.Fatal(err)
	}
	// What an interrupted writer, or somebody's mistake, leaves.
	published, err := c.CoreV1().ConfigMaps(controlPlane).Get(t.Context(), bundleName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	published.Data = map[string]string{ca.AnchorsName: "stale", "more": "kept"}
	if _, err := c.CoreV1().ConfigMaps(controlPlane).Update(t.Context(), published, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := string(c.secret(t)[ca.IssuerName])
	if _, err := manager(t, c, clockwork.NewRealClock()); err != nil {
		t.Fatal(err)
	}
	got := c.published(t)
	if got[ca.AnchorsName] != string(c.secret(t)[ca.AnchorsName]) || got["more"] != "kept" || string(c.secret(t)[ca.IssuerName]) != before {
		t.Errorf("the ConfigMap has %v", got)
	}
}

func TestMissingObjectsAreFatal(t *testing.T) {
	for i, want := range []string{"the Secret dapr-trust-bundle", "the ConfigMap dapr-trust-bundle"} {
		objects := bundles()
		c := newCluster(objects[1-i])
		if _, err := manager(t, c, clockwork.NewRealClock()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestStoreNames(t *testing.T) {
	c := newCluster(bundles()...)
	store := &Store{Clients: &Clients{Core: c}, Namespace: controlPlane, Anchors: "/mnt/roots.pem", IssuerKey: "k"}
	d := ca.Documents{Anchors: []byte("a"), IssuerChain: []byte("b"), IssuerKey: []byte("c")}
	if err := store.Update(t.Context(), func(ca.Documents) (ca.Documents, bool, error) { return d, true, nil }); err != nil {
		t.Fatal(err)
	}
	got := c.secret(t)
	if string(got["roots.pem"]) != "a" || string(got[ca.IssuerName]) != "b" || string(got["k"]) != "c" || c.published(t)["roots.pem"] != "a" {
		t.Errorf("the Secret has %v", got)
	}
}
