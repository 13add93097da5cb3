package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
)

const sentryID = "spiffe://cluster.local/ns/dapr-system/dapr-sentry"

// token is a service account token as the API server would sign it, bound to a pod.
func token(t testing.TB, pod, uid string) string {
	t.Helper()
	payload, err := json.Marshal(map[string]any{"kubernetes.io": map[string]any{"pod": map[string]string{"name": pod, "uid": uid}}})
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + encode(payload) + "." + encode([]byte("signature"))
}

func pod(namespace, name, account string, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "uid-" + "1", Annotations: annotations},
		Spec:       corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "app"}}},
	}
}

func configuration(namespace, name string, spec map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "spec": spec}}
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

func dynamicOf(objects ...runtime.Object) *dynamicfake.FakeDynamicClient {
	return dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{configurations(): "ConfigurationList"}, objects...)
}

func TestValidator(t *testing.T) {
	c := newCluster(
		pod("prod", "shop-1", "shop-sa", map[string]string{annotationAppID: "shop"}),
		pod("prod", "plain", "shop-sa", nil),
		pod("prod", "own-domain", "shop-sa", map[string]string{annotationAppID: "own", annotationConfig: "own"}),
		pod("prod", "no-domain", "shop-sa", map[string]string{annotationAppID: "nod", annotationConfig: "empty"}),
		pod("prod", "bad-domain", "shop-sa", map[string]string{annotationAppID: "badd", annotationConfig: "bad"}),
		pod("prod", "no-config", "shop-sa", map[string]string{annotationAppID: "noc", annotationConfig: "missing"}),
		pod("prod", "pretender", "shop-sa", map[string]string{annotationControlPlane: "operator"}),
		pod(controlPlane, "operator-1", "dapr-operator", map[string]string{annotationControlPlane: "operator"}),
		pod(controlPlane, "unknown-1", "dapr-operator", map[string]string{annotationControlPlane: "dashboard"}),
		pod(controlPlane, "both", "dapr-operator", map[string]string{annotationControlPlane: "operator", annotationAppID: "app"}),
	)
	// What the API server says of the token; the default is the service account of the token's pod in prod.
	var status authenticationv1.TokenReviewStatus
	var failure error
	c.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if got := fmt.Sprint(review.Spec.Audiences); got != "[dapr.io/sentry "+sentryID+"]" {
			t.Errorf("the review is for the audiences %s", got)
		}
		review.Status = status
		return true, review, failure
	})
	v, err := NewValidator(ValidatorOptions{
		Clients: &Clients{Core: c, Dynamic: dynamicOf(
			configuration("prod", "own", map[string]any{"accessControl": map[string]any{"trustDomain": "own.test"}, "tracing": map[string]any{}}),
			configuration("prod", "empty", map[string]any{}),
			configuration("prod", "bad", map[string]any{"accessControl": map[string]any{"trustDomain": "A B"}}),
		)},
		TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), Namespace: controlPlane, SentryID: sentryID,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Validate(t.Context(), &sentryv1.SignCertificateRequest{}); err == nil || err.Error() != "validator not ready" {
		t.Errorf("before the caches are full: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- v.Run(ctx, func() { close(ready) }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the caches do not fill")
	}
	user := func(name string) authenticationv1.TokenReviewStatus {
		return authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: name}}
	}
	shop, operator := user("system:serviceaccount:prod:shop-sa"), user("system:serviceaccount:dapr-system:dapr-operator")
	otherAudience := shop
	otherAudience.Audiences = []string{"https://kubernetes.default.svc"}
	for _, tt := range []struct {
		name    string
		status  authenticationv1.TokenReviewStatus
		failure error
		token   string
		ns, id  string
		want    string
		err     string
	}{
		{"app id", shop, nil, token(t, "shop-1", ""), "prod", "shop", "public", ""},
		{"uid", shop, nil, token(t, "shop-1", "uid-1"), "prod", "shop", "public", ""},
		{"pod name", shop, nil, token(t, "plain", ""), "prod", "plain", "public", ""},
		{"trust domain of the Configuration", shop, nil, token(t, "own-domain", ""), "prod", "own", "own.test", ""},
		{"Configuration without trust domain", shop, nil, token(t, "no-domain", ""), "prod", "nod", "public", ""},
		{"control plane", operator, nil, token(t, "operator-1", ""), controlPlane, "dapr-operator", "cluster.local", ""},
		{"unknown service of the control plane", operator, nil, token(t, "unknown-1", ""), controlPlane, "unknown-1", "public", ""},
		{"app id beats control plane", operator, nil, token(t, "both", ""), controlPlane, "app", "public", ""},
		{"control plane by an app", operator, nil, token(t, "both", ""), controlPlane, "dapr-operator", "", "app-id mismatch. expected: app, received: dapr-operator"},
		{"control plane in another namespace", shop, nil, token(t, "pretender", ""), "prod", "dapr-operator", "", "app-id mismatch. expected: pretender, received: dapr-operator"},
		{"wrong app", shop, nil, token(t, "shop-1", ""), "prod", "bank", "", "app-id mismatch. expected: shop, received: bank"},
		{"wrong namespace", shop, nil, token(t, "shop-1", ""), "test", "shop", "", "namespace mismatch; received namespace: test"},
		{"wrong account", user("system:serviceaccount:prod:other"), nil, token(t, "shop-1", ""), "prod", "shop", "", "pod service account mismatch"},
		{"earlier pod", shop, nil, token(t, "shop-1", "uid-0"), "prod", "shop", "", "earlier pod"},
		{"no pod", shop, nil, token(t, "gone", ""), "prod", "gone", "", "failed to get pod of identity"},
		{"no claim", shop, nil, token(t, "", ""), "prod", "shop", "", "kubernetes.io/pod/name claim is missing from Kubernetes token"},
		{"no token", shop, nil, "x", "prod", "shop", "", "failed to parse Kubernetes token"},
		{"no Configuration", shop, nil, token(t, "no-config", ""), "prod", "noc", "", "failed to get configuration"},
		{"bad Configuration", shop, nil, token(t, "bad-domain", ""), "prod", "badd", "", "invalid trust domain"},
		{"user", user("alice"), nil, token(t, "shop-1", ""), "prod", "shop", "", "provided token is not a properly structured service account token"},
		{"node", user("system:node:prod:shop-sa"), nil, token(t, "shop-1", ""), "prod", "shop", "", "provided token is not a properly structured service account token"},
		{"not authenticated", authenticationv1.TokenReviewStatus{}, nil, token(t, "shop-1", ""), "prod", "shop", "", "authentication failed"},
		{"for somebody else", otherAudience, nil, token(t, "shop-1", ""), "prod", "shop", "", "authentication failed"},
		{"invalid", authenticationv1.TokenReviewStatus{Error: "expired"}, nil, token(t, "shop-1", ""), "prod", "shop", "", "invalid token: expired"},
		{"API server down", shop, errors.New("refused"), token(t, "shop-1", ""), "prod", "shop", "", "token review failed: refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, failure = tt.status, tt.failure
			td, err := v.Validate(t.Context(), &sentryv1.SignCertificateRequest{Id: tt.id, Namespace: tt.ns, Token: tt.token, TrustDomain: "requested.test"})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || td.Name() != tt.want {
				t.Errorf("%q %v, want %q", td, err, tt.want)
			}
		})
	}
	t.Run("a pod that has just started", func(t *testing.T) {
		status, failure = shop, nil
		if _, err := c.CoreV1().Pods("prod").Create(t.Context(), pod("prod", "fresh", "shop-sa", nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Validate(t.Context(), &sentryv1.SignCertificateRequest{Id: "fresh", Namespace: "prod", Token: token(t, "fresh", "")}); err != nil {
			t.Error(err)
		}
	})
	t.Run("the cache is small", func(t *testing.T) {
		object, found, err := v.pods.GetStore().GetByKey("prod/shop-1")
		if err != nil || !found || len(object.(*corev1.Pod).Spec.Containers) > 0 {
			t.Errorf("%v %t %v", object, found, err)
		}
	})
}

func TestMTLS(t *testing.T) {
	c := &Clients{Dynamic: dynamicOf(configuration(controlPlane, "daprsystem", map[string]any{"mtls": map[string]any{
		"enabled": true, "workloadCertTTL": "12h", "allowedClockSkew": "1m",
		"tokenValidators": []any{map[string]any{"name": "jwks", "options": map[string]any{"source": "x", "minRefreshInterval": int64(5)}}},
	}}))}
	got, err := c.MTLS(t.Context(), controlPlane, "daprsystem")
	if err != nil {
		t.Fatal(err)
	}
	if got.WorkloadCertTTL != "12h" || got.AllowedClockSkew != "1m" || len(got.TokenValidators) != 1 || got.TokenValidators[0].Options.String() != `{"minRefreshInterval":5,"source":"x"}` {
		t.Errorf("%+v", got)
	}
	if _, err := c.MTLS(t.Context(), controlPlane, "other"); err == nil || !strings.Contains(err.Error(), `the Configuration "other" in namespace "dapr-system" cannot be read`) {
		t.Errorf("error %v", err)
	}
}

func TestConnect(t *testing.T) {
	if _, err := Connect("/nonexistent/kubeconfig"); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("error %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Connect(""); err == nil || !strings.Contains(err.Error(), "set --kubeconfig") {
		t.Errorf("error %v", err)
	}
}

func FuzzPodClaims(f *testing.F) {
	f.Add(token(f, "a", "b"))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		if claims, err := podClaims(token); err == nil && claims.Pod.Name == "" {
			t.Error("accepted without a pod")
		}
	})
}
