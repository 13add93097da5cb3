package sidecar_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

const (
	memoryStore  = `{"type":"state.in-memory","version":"v1","metadata":[]}`
	plainSetting = `{"metadata":{"name":"settings","namespace":"team"},"spec":{"metric":{"enabled":false}}}`
)

// inlined is a component whose secret the operator has put in place: the prefix of variables' names.
func inlined(prefix string) string {
	return listed("env", `{"type":"secretstores.local.env","version":"v1","metadata":[{"name":"prefix","value":"`+
		base64.StdEncoding.EncodeToString([]byte(prefix))+`","secretKeyRef":{"name":"s","key":"k"}}]}`)
}

func TestKubernetes(t *testing.T) {
	w := newWorld(t)
	w.env["SENTRY_LOCAL_IDENTITY"] = "" // as if it were not set
	w.operator.setConfiguration(plainSetting)
	w.operator.set(resource.KindComponent, listed("a", memoryStore), inlined("TEAM_"),
		strings.Replace(listed("elsewhere", memoryStore), `"team"`, `"other"`, 1), listed("theirs", memoryStore, `,"scopes":["another"]`))
	w.operator.set(resource.KindHTTPEndpoint, listed("mine", `{"baseUrl":"http://127.0.0.1:1"}`), listed("foreign", `{"baseUrl":"http://127.0.0.1:1"}`, `,"scopes":["another"]`))
	s := sidecartest.Start(t, w.pod())
	if !saves(s, "a") {
		t.Errorf("a is not in service\n%s", s.Log)
	}
	metadata := s.Get("/v1.0/metadata").Body
	for text, want := range map[string]bool{`"elsewhere"`: false, `"theirs"`: false, `"foreign"`: false, `"mine"`: true, `"secretstores.kubernetes"`: true} {
		if strings.Contains(metadata, text) != want {
			t.Errorf("metadata has %s: %t, but %t is right\n%s", text, !want, want, metadata)
		}
	}
	if r := s.Get("/v1.0/secrets/kubernetes/db"); strings.TrimSpace(r.Body) != `{"password":"pw"}` {
		t.Errorf("the built-in secret store: %+v", r)
	}
	if r := s.Get("/v1.0/secrets/kubernetes/db?metadata.namespace=kube-system"); r.Status != 500 || !strings.Contains(r.Body, "RoleBinding") {
		t.Errorf("another namespace: %+v", r)
	}
	if r := s.Get("/v1.0/secrets/env/X"); !strings.Contains(r.Body, "value of TEAM_X") {
		t.Errorf("the secret of the operator is not in place: %+v", r)
	}
	log := s.Log.String()
	if first, other := strings.Index(log, "Component loaded: kubernetes "), strings.Index(log, "Component loaded: env "); first < 0 || first > other {
		t.Errorf("the built-in secret store does not come first\n%s", log)
	}
	if r := w.sentry.requests[0]; r.GetId() != "app" || r.GetNamespace() != "team" || r.GetTokenValidator() != sentryv1.SignCertificateRequest_KUBERNETES {
		t.Errorf("Sentry was asked for %+v", r)
	}
}

func TestKubernetesWithoutSecretStore(t *testing.T) {
	w := newWorld(t)
	w.operator.setConfiguration(plainSetting)
	s := sidecartest.Start(t, w.pod(), sidecartest.With(func(o *sidecar.Options) { o.DisableKubernetesSecrets = true }))
	if r := s.Get("/v1.0/secrets/kubernetes/db"); !strings.Contains(r.Body, "ERR_SECRET_STORES_NOT_CONFIGURED") {
		t.Errorf("got %+v", r)
	}
}

// A component takes the place of the built-in store by its name.
func TestKubernetesSecretStoreReplaced(t *testing.T) {
	w := newWorld(t)
	w.operator.setConfiguration(plainSetting)
	w.operator.set(resource.KindComponent, strings.Replace(inlined("OWN_"), `"env"`, `"kubernetes"`, 1))
	s := sidecartest.Start(t, w.pod())
	if r := s.Get("/v1.0/secrets/kubernetes/X"); !strings.Contains(r.Body, "OWN_X") {
		t.Errorf("got %+v", r)
	}
}

func TestKubernetesComponentsChange(t *testing.T) {
	w := newWorld(t)
	w.operator.setConfiguration(plainSetting)
	w.operator.set(resource.KindComponent, listed("a", memoryStore))
	s := sidecartest.Start(t, w.pod())
	eventually(t, "changes are followed", s, w.operator.watched)

	w.operator.set(resource.KindComponent, listed("a", memoryStore), listed("b", memoryStore), inlined("ONE_"))
	eventually(t, "b is in service", s, func() bool { return saves(s, "b") })
	if !saves(s, "a") {
		t.Error("a is not in service any more")
	}
	// A secret that changes changes the component.
	w.operator.set(resource.KindComponent, listed("a", memoryStore), listed("b", memoryStore), inlined("TWO_"))
	eventually(t, "the new secret is used", s, func() bool { return strings.Contains(s.Get("/v1.0/secrets/env/X").Body, "TWO_X") })

	// A list that fails, for a Secret is missing, leaves components as they are and other kinds change all the same.
	w.operator.breakList(resource.KindComponent, errors.New(`secrets "gone" not found`))
	w.operator.set(resource.KindComponent)
	w.operator.set(resource.KindHTTPEndpoint, listed("e", `{"baseUrl":"http://127.0.0.1:1"}`))
	logged(t, s, `secrets \"gone\" not found`)
	eventually(t, "the endpoint is there", s, func() bool { return strings.Contains(s.Get("/v1.0/metadata").Body, `"name":"e"`) })
	if !saves(s, "a") || !saves(s, "b") {
		t.Error("a list that failed took components away")
	}
	w.operator.breakList(resource.KindComponent, nil)

	w.operator.set(resource.KindComponent, listed("a", memoryStore))
	eventually(t, "b is gone", s, func() bool { return !saves(s, "b") })
	if r := s.Get("/v1.0/secrets/kubernetes/db"); r.Status != 200 {
		t.Errorf("the built-in secret store went too: %+v", r)
	}
	if r := s.Get("/v1.0/state/a/k"); r.Body != "1" {
		t.Errorf("a lost what it held: %+v", r)
	}
}

func TestKubernetesSubscriptionsAndEndpointsChange(t *testing.T) {
	events := make(chan string, 100)
	app := sidecartest.NewApp(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			events <- r.URL.Path
		}
	}))
	outside := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = rw.Write([]byte(r.Header.Get("X-Key")))
	}))
	defer outside.Close()
	w := newWorld(t)
	w.operator.setConfiguration(plainSetting)
	w.operator.set(resource.KindComponent, listed("broker", `{"type":"pubsub.in-memory","version":"v1","metadata":[]}`))
	s := sidecartest.Start(t, w.pod(), sidecartest.WithApp(app))
	s.WaitHealthy()
	eventually(t, "changes are followed", s, w.operator.watched)

	subscription := func(route string) string {
		return listed("s", `{"pubsubname":"broker","topic":"t","routes":{"default":"`+route+`"}}`)
	}
	arrives := func(route string) bool {
		for len(events) > 0 {
			<-events
		}
		if r := s.Post("/v1.0/publish/broker/t", `1`); r.Status != 204 {
			t.Fatalf("publish: %+v", r)
		}
		select {
		case at := <-events:
			if at == "/other" {
				t.Error("a subscription of another app is followed")
			}
			return at == route
		case <-time.After(50 * time.Millisecond):
			return false
		}
	}
	other := listed("other", `{"pubsubname":"broker","topic":"t","routes":{"default":"/other"}}`, `,"scopes":["another"]`)
	w.operator.set(resource.KindSubscription, subscription("/one"), other)
	eventually(t, "events arrive", s, func() bool { return arrives("/one") })
	w.operator.set(resource.KindSubscription, subscription("/two"), other)
	eventually(t, "events arrive by the new route", s, func() bool { return arrives("/two") })
	w.operator.set(resource.KindSubscription, other)
	eventually(t, "events arrive no more", s, func() bool { return !arrives("/two") })

	call := func() sidecartest.Response { return s.Get("/v1.0/invoke/outside/method/x") }
	key := base64.StdEncoding.EncodeToString([]byte("secret of the header"))
	w.operator.set(resource.KindHTTPEndpoint, listed("outside", `{"baseUrl":"`+outside.URL+`","headers":[{"name":"X-Key","value":"`+key+`","secretKeyRef":{"name":"s"}}]}`))
	eventually(t, "the endpoint is called", s, func() bool { return call().Body == "secret of the header" })
	w.operator.set(resource.KindHTTPEndpoint)
	eventually(t, "the endpoint is gone", s, func() bool { return call().Status != 200 })
}

func TestKubernetesConfigurationChanges(t *testing.T) {
	w := newWorld(t)
	w.operator.setConfiguration(plainSetting)
	s := sidecartest.Start(t, w.pod())
	eventually(t, "changes are followed", s, w.operator.watched)
	// The same again, and one that cannot be used, change nothing.
	w.operator.setConfiguration(strings.Replace(plainSetting, `"settings"`, `"settings","resourceVersion":"2"`, 1))
	w.operator.setConfiguration(`{"spec":{"accessControl":{"policies":[{"appId":""}]}}}`)
	logged(t, s, "the present one stays in force")
	w.operator.setConfiguration("")
	logged(t, s, "configuration settings not found")
	w.operator.setConfiguration(`{"metadata":{"name":"settings"},"spec":{"features":[{"name":"Brave","enabled":true}],
		"tracing":{"samplingRate":"1","otel":{"endpointAddress":"127.0.0.1:1","protocol":"grpc","isSecure":false,"headers":[{"name":"x-key","value":"plain","secretKeyRef":{"name":"s","key":"k"}}]}}}}`)
	if err := s.Stopped(); !errors.Is(err, sidecar.ErrRestart) {
		t.Fatalf("it ended with %v\n%s", err, s.Log)
	}
	again := sidecartest.Start(t, w.pod())
	if body := again.Get("/v1.0/metadata").Body; !strings.Contains(body, `"Brave"`) {
		t.Errorf("the new Configuration is not in force: %s", body)
	}
	eventually(t, "changes are followed", again, w.operator.watched)
	w.operator.set(resource.KindResiliency, listed("r", `{"policies":{"timeouts":{"t":"1s"}},"targets":{"apps":{"x":{"timeout":"t"}}}}`))
	if err := again.Stopped(); !errors.Is(err, sidecar.ErrRestart) {
		t.Fatalf("it ended with %v\n%s", err, again.Log)
	}
}

func TestOperatorRestarts(t *testing.T) {
	w := newWorld(t)
	w.operator.setConfiguration(plainSetting)
	w.operator.set(resource.KindComponent, listed("a", memoryStore))
	s := sidecartest.Start(t, w.pod())
	eventually(t, "changes are followed", s, w.operator.watched)
	w.operator.stop()
	w.operator.set(resource.KindComponent, listed("a", memoryStore), listed("b", memoryStore))
	if !saves(s, "a") {
		t.Error("a needs the operator")
	}
	w.operator.start(operatorURI)
	eventually(t, "what happened meanwhile is taken over", s, func() bool { return saves(s, "b") })
	eventually(t, "changes are followed", s, w.operator.watched)

	// Somebody else of the mesh takes its place, and is not heard.
	w.operator.stop()
	before := w.operator.count()
	w.operator.set(resource.KindComponent, listed("c", memoryStore))
	w.operator.start("spiffe://cluster.local/ns/team/dapr-operator")
	logged(t, s, "spiffe://cluster.local/ns/team/dapr-operator")
	if n := w.operator.count(); n != before {
		t.Errorf("the wrong operator was asked %d times", n-before)
	}
	w.operator.stop()
	w.operator.start(operatorURI)
	eventually(t, "the right one is heard", s, func() bool { return saves(s, "c") })
}

func TestKubernetesRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(w *world)
		option func(o *sidecar.Options)
		want   []string
	}{
		{
			name:   "operator with a wrong identity",
			change: func(w *world) { w.operator.stop(); w.operator.start("spiffe://cluster.local/ns/team/dapr-operator") },
			want:   []string{"the operator at 127.0.0.1:", "spiffe://cluster.local/ns/team/dapr-operator", operatorURI},
		}, {
			name:   "operator of another trust domain",
			change: func(w *world) { w.operator.stop(); w.operator.start("spiffe://public/ns/dapr-system/dapr-operator") },
			want:   []string{"spiffe://public/ns/dapr-system/dapr-operator"},
		}, {
			name:   "no operator",
			change: func(w *world) { w.operator.stop() },
			want:   []string{"cannot be reached within", "refused"},
		}, {
			name: "no Configuration", change: func(w *world) { w.operator.setConfiguration("") },
			want: []string{"error loading configuration: configuration settings not found", "dapr.io/config"},
		}, {
			name:   "a Secret is missing",
			change: func(w *world) { w.operator.breakList(resource.KindComponent, errors.New(`secrets "gone" not found`)) },
			want:   []string{"failed to load components", `secrets "gone" not found`},
		}, {
			name:   "no trust anchors",
			change: func(w *world) { delete(w.env, "DAPR_TRUST_ANCHORS") },
			want:   []string{"trust anchors are required"},
		}, {
			name:   "the control plane is elsewhere",
			change: func(w *world) { w.env["DAPR_CONTROLPLANE_NAMESPACE"] = "elsewhere" },
			option: func(o *sidecar.Options) { o.ControlPlaneTimeout = time.Second },
			want:   []string{"dapr-system"},
		}, {
			name: "no operator named", option: func(o *sidecar.Options) { o.ControlPlaneAddress = "" }, want: []string{"--control-plane-address"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.operator.setConfiguration(plainSetting)
			if tt.change != nil {
				tt.change(w)
			}
			_, err := sidecartest.TryStart(t, w.pod(), sidecartest.With(func(o *sidecar.Options) {
				o.ControlPlaneTimeout = time.Second
				if tt.option != nil {
					tt.option(o)
				}
			}))
			if err == nil {
				t.Fatal("it started")
			}
			for _, text := range tt.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("the error does not say %q: %v", text, err)
				}
			}
		})
	}
}

// Lists that a sidecar can do without do not keep it from starting.
func TestKubernetesOptionalLists(t *testing.T) {
	w := newWorld(t)
	w.operator.setConfiguration(plainSetting)
	w.operator.breakList(resource.KindResiliency, errors.New("no resiliency today"))
	w.operator.breakList(resource.KindHTTPEndpoint, errors.New(`secrets "of another app" not found`))
	s := sidecartest.Start(t, w.pod())
	logged(t, s, "no resiliency today")
	logged(t, s, "of another app")
}

func TestKubernetesAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs to run as root")
	}
	w := newWorld(t)
	delete(w.env, "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK")
	if _, err := sidecartest.TryStart(t, w.pod()); err == nil || !strings.Contains(err.Error(), "UID 0") {
		t.Errorf("got %v", err)
	}
	if len(w.sentry.requests) != 0 {
		t.Error("an identity was asked for")
	}
}

// Without mTLS a sidecar has an identity all the same, for the control plane, and takes calls in clear text.
func TestKubernetesWithoutMTLS(t *testing.T) {
	w := newWorld(t)
	w.env["SENTRY_LOCAL_IDENTITY"] = "legacy"
	w.operator.setConfiguration(plainSetting)
	w.operator.set(resource.KindComponent, listed("a", memoryStore))
	network := sidecartest.NewNetwork()
	app := sidecartest.NewApp(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("hello")) }))
	s := sidecartest.Start(t, w.pod(), network.Join("app"), sidecartest.WithApp(app), sidecartest.With(func(o *sidecar.Options) { o.EnableMTLS = false }))
	if id := w.sentry.requests[0].GetId(); id != "legacy" {
		t.Errorf("Sentry was asked for %s", id)
	}
	if !saves(s, "a") {
		t.Error("a is not in service")
	}
	s.WaitHealthy()
	plain := sidecartest.Start(t, network.Join("plain"))
	if r := plain.Get("/v1.0/invoke/app/method/x"); r.Body != "hello" {
		t.Errorf("got %+v", r)
	}
}
