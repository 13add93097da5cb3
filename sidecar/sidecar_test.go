package sidecar_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

func echo() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Caller", r.Header.Get("Dapr-Caller-App-Id"))
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
	})
}

func TestTwoSidecars(t *testing.T) {
	network := sidecartest.NewNetwork()
	orders := sidecartest.Start(t, network.Join("orders"), sidecartest.WithApp(sidecartest.NewApp(t, echo())))
	checkout := sidecartest.Start(t, network.Join("checkout"))
	orders.WaitHealthy()

	reply := checkout.Post("/v1.0/invoke/orders/method/list/all?x=1", `{"a":1}`)
	if reply.Status != 200 || reply.Body != `POST /list/all?x=1 {"a":1}` || reply.Header.Get("X-Caller") != "checkout" {
		t.Errorf("got %+v", reply)
	}
	reply = checkout.Get("/v1.0/invoke/nobody/method/x")
	if want := `{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: nobody, err: couldn't find service: nobody"}`; reply.Status != 500 || reply.Body != want {
		t.Errorf("got %d %s", reply.Status, reply.Body)
	}
}

func TestStateAndSecretsOverBothAPIs(t *testing.T) {
	s := sidecartest.Start(t, sidecartest.Resources(
		sidecartest.Component("st", "state.in-memory"),
	))
	if r := s.Post("/v1.0/state/st", `[{"key":"k","value":{"b":1,"a":[true,null]}}]`); r.Status != 204 {
		t.Fatalf("save: %+v", r)
	}
	if r := s.Get("/v1.0/state/st/k"); r.Body != `{"a":[true,null],"b":1}` || r.Header.Get("Etag") == "" {
		t.Errorf("get: %+v", r)
	}
	got, err := s.Dapr().GetState(context.Background(), &runtimev1.GetStateRequest{StoreName: "st", Key: "k"})
	if err != nil || string(got.GetData()) != `{"a":[true,null],"b":1}` {
		t.Errorf("gRPC get: %v, %v", got, err)
	}
	_, err = s.Dapr().GetSecret(context.Background(), &runtimev1.GetSecretRequest{StoreName: "none", Key: "k"})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("gRPC secret without a store: %v", err)
	}
}

func TestUnbuiltBlocksSaySo(t *testing.T) {
	s := sidecartest.Start(t)
	reply := s.Post("/v1.0-alpha1/lock/store", "{}")
	if reply.Status != 501 || !strings.Contains(reply.Body, "distributed lock") || !strings.Contains(reply.Body, "ERR_API_UNIMPLEMENTED") {
		t.Errorf("got %+v", reply)
	}
	for method, block := range sidecar.UnbuiltMethods() {
		err := s.Conn().Invoke(context.Background(), method, &runtimev1.GetMetadataRequest{}, &runtimev1.GetMetadataResponse{})
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), block) {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// Every method of the service is served by a face or named as unbuilt.
func TestEveryMethodIsAccountedFor(t *testing.T) {
	unbuilt := sidecar.UnbuiltMethods()
	served := map[string]bool{}
	for _, name := range strings.Fields("InvokeService GetState GetBulkState SaveState QueryStateAlpha1 DeleteState DeleteBulkState ExecuteStateTransaction " +
		"GetSecret GetBulkSecret GetMetadata SetMetadata Shutdown " +
		"PublishEvent BulkPublishEvent BulkPublishEventAlpha1 SubscribeTopicEventsAlpha1 InvokeBinding " +
		"RegisterActorTimer UnregisterActorTimer RegisterActorReminder UnregisterActorReminder UnregisterActorRemindersByType ListActorReminders " +
		"GetActorReminder GetActorState ExecuteActorStateTransaction InvokeActor SubscribeActorEventsAlpha1 " +
		"ScheduleJobAlpha1 ScheduleJob GetJobAlpha1 GetJob DeleteJobAlpha1 DeleteJob DeleteJobsByPrefixAlpha1 DeleteJobsByPrefix ListJobsAlpha1 ListJobs") {
		served["/"+runtimev1.Dapr_ServiceDesc.ServiceName+"/"+name] = true
	}
	n := 0
	check := func(name string) {
		n++
		full := "/" + runtimev1.Dapr_ServiceDesc.ServiceName + "/" + name
		if _, is := unbuilt[full]; is == served[full] {
			t.Errorf("%s: unbuilt %v, served %v", name, is, served[full])
		}
	}
	for _, m := range runtimev1.Dapr_ServiceDesc.Methods {
		check(m.MethodName)
	}
	for _, m := range runtimev1.Dapr_ServiceDesc.Streams {
		check(m.StreamName)
	}
	if n != len(unbuilt)+len(served) {
		t.Errorf("%d methods, %d unbuilt and %d served", n, len(unbuilt), len(served))
	}
}

func TestMetadata(t *testing.T) {
	app := sidecartest.NewApp(t, echo())
	s := sidecartest.Start(t, sidecartest.WithApp(app), sidecartest.Resources(sidecartest.Component("st", "state.in-memory")),
		sidecartest.With(func(o *sidecar.Options) { o.AppMaxConcurrency = 5; o.Version = "1.2.3"; o.EnableAppHealthCheck = true }))
	if r := s.Do("PUT", "/v1.0/metadata/cliPID", "42"); r.Status != 204 {
		t.Fatalf("put: %+v", r)
	}
	if _, err := s.Dapr().SetMetadata(context.Background(), &runtimev1.SetMetadataRequest{Key: "k", Value: "<v>"}); err != nil {
		t.Fatal(err)
	}
	r := s.Get("/v1.0/metadata")
	// What the app hosts is known once it is healthy.
	for deadline := time.Now().Add(10 * time.Second); strings.Contains(r.Body, "INITIALIZING") && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		r = s.Get("/v1.0/metadata")
	}
	want := fmt.Sprintf(`{"id":"app","runtimeVersion":"1.2.3","enabledFeatures":["HotReload","WorkflowsRemoteActivityReminder"],`+
		`"components":[{"name":"st","type":"state.in-memory","version":"v1","capabilities":["ETAG","TRANSACTIONAL","TTL","DELETE_WITH_PREFIX","KEYS_LIKE","ACTOR"]}],`+
		`"extended":{"cliPID":"42","daprRuntimeVersion":"1.2.3","k":"\u003cv\u003e"},`+
		`"appConnectionProperties":{"port":%d,"protocol":"http","channelAddress":"127.0.0.1","maxConcurrency":5,`+
		`"health":{"healthCheckPath":"/healthz","healthProbeInterval":"5s","healthProbeTimeout":"500ms","healthThreshold":3}},`+
		`"actorRuntime":{"runtimeStatus":"DISABLED","hostReady":false,"placement":"placement: disconnected"}}`+"\n", app.Port())
	if r.Body != want {
		t.Errorf("got  %s\nwant %s", r.Body, want)
	}
	m, err := s.Dapr().GetMetadata(context.Background(), &runtimev1.GetMetadataRequest{})
	if err != nil || m.GetExtendedMetadata()["cliPID"] != "42" || len(m.GetRegisteredComponents()) != 1 || m.GetAppConnectionProperties().GetHealth().GetHealthThreshold() != 3 {
		t.Errorf("gRPC: %v, %v", m, err)
	}
}

func TestHealth(t *testing.T) {
	s := sidecartest.Start(t, sidecartest.With(func(o *sidecar.Options) { o.AppPort = 1 })) // nobody listens there
	if r := s.Get("/v1.0/healthz/outbound"); r.Status != 204 {
		t.Errorf("outbound: %+v", r)
	}
	r := s.Get("/v1.0/healthz")
	if want := `{"errorCode":"ERR_HEALTH_NOT_READY","message":"dapr is not ready: [runtime]"}`; r.Status != 500 || r.Body != want {
		t.Errorf("healthz: %d %s", r.Status, r.Body)
	}
	s = sidecartest.Start(t)
	s.WaitHealthy()
	for path, want := range map[string]int{"/v1.0/healthz": 204, "/v1.0/healthz?appid=app": 204, "/v1.0/healthz?appid=x": 500, "/v1.0/healthz?appid=": 500} {
		if r := s.Get(path); r.Status != want {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if r := s.Do("POST", "/v1.0/healthz", ""); r.Status != 404 || !strings.Contains(r.Body, "ERR_DIRECT_INVOKE") {
		t.Errorf("wrong verb: %+v", r)
	}
}

func TestToken(t *testing.T) {
	app := sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Dapr-Api-Token")) }))
	s := sidecartest.Start(t, sidecartest.WithApp(app), sidecartest.With(func(o *sidecar.Options) { o.APIToken = "secret" }))
	s.WaitHealthy()
	r := s.Get("/v1.0/metadata")
	if r.Status != 401 || r.Body != "invalid api token\n" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("no token: %+v", r)
	}
	if r := s.Get("/v1.0/metadata", "dapr-api-token", "wrong"); r.Status != 401 {
		t.Errorf("wrong token: %+v", r)
	}
	if r := s.Get("/v1.0/metadata", "dapr-api-token", "secret"); r.Status != 200 {
		t.Errorf("right token: %+v", r)
	}
	if r := s.Get("/v1.0//healthz/"); r.Status != 401 {
		t.Errorf("only the exact path is exempt: %+v", r)
	}
	if r := s.Get("/v1.0/healthz"); r.Status != 204 {
		t.Errorf("health needs no token: %+v", r)
	}
	if r := s.Get("/v1.0/invoke/app/method/x", "dapr-api-token", "secret"); r.Body != "" {
		t.Errorf("the token reached the app: %+v", r)
	}
	for token, want := range map[string]string{"": "missing api token in request metadata", "wrong": "authentication error: api token mismatch"} {
		ctx := context.Background()
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "dapr-api-token", token)
		}
		_, err := s.Dapr().GetMetadata(ctx, &runtimev1.GetMetadataRequest{})
		st := status.Convert(err)
		if st.Code() != codes.Unauthenticated || st.Message() != "Unauthorized" || !strings.Contains(fmt.Sprint(st.Details()...), want) {
			t.Errorf("gRPC token %q: %v %v", token, err, st.Details())
		}
	}
	if _, err := s.Dapr().GetMetadata(metadata.AppendToOutgoingContext(context.Background(), "dapr-api-token", "secret"), &runtimev1.GetMetadataRequest{}); err != nil {
		t.Errorf("gRPC with the token: %v", err)
	}
}

func TestLists(t *testing.T) {
	s := sidecartest.Start(t, sidecartest.Resources(sidecartest.Component("st", "state.in-memory")), sidecartest.Config(`
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: c}
spec:
  api:
    allowed:
    - {name: state, version: v1.0, protocol: http}
    - {name: metadata, version: v1, protocol: grpc}
`))
	s.WaitHealthy()
	for path, want := range map[string]int{"/v1.0/state/st/k": 204, "/v1.0/healthz": 204, "/v1.0/metadata": 404, "/v1.0/invoke/app/method/x": 404} {
		if r := s.Get(path); r.Status != want {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if r := s.Do("PATCH", "/v1.0/state/st/k", ""); r.Status != 405 || strings.Join(r.Header["Allow"], ",") != "DELETE,GET" {
		t.Errorf("wrong verb without the invoke API: %+v", r)
	}
	if _, err := s.Dapr().GetMetadata(context.Background(), &runtimev1.GetMetadataRequest{}); err != nil {
		t.Error(err)
	}
	_, err := s.Dapr().GetState(context.Background(), &runtimev1.GetStateRequest{StoreName: "st", Key: "k"})
	if st := status.Convert(err); st.Code() != codes.Unimplemented || st.Message() != "Not Implemented" || !strings.Contains(fmt.Sprint(st.Details()...), "requested endpoint is not available") {
		t.Errorf("gRPC: %v %v", err, status.Convert(err).Details())
	}
}

func TestShutdownAPI(t *testing.T) {
	s := sidecartest.Start(t)
	if r := s.Post("/v1.0/shutdown", ""); r.Status != 204 {
		t.Fatalf("got %+v", r)
	}
	<-s.Done()
	if err := s.Stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	s = sidecartest.Start(t)
	if _, err := s.Dapr().Shutdown(context.Background(), &runtimev1.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
}

func TestErrorBodyIsJSON(t *testing.T) {
	s := sidecartest.Start(t)
	r := s.Post("/v1.0/state/a%3Cb", "[]")
	var body struct{ ErrorCode, Message string }
	if err := json.Unmarshal([]byte(r.Body), &body); err != nil || body.Message != "state store a<b is not configured" || strings.Contains(r.Body, "<") {
		t.Errorf("got %s (%v)", r.Body, err)
	}
}
