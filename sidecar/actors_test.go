package sidecar_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/placement"
	"outrigger.dev/mesh/scheduler/schedulertest"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// plane is what actors of a test stand on: placement, a scheduler in memory, and the network of the sidecars.
type plane struct {
	t         *testing.T
	placement string
	cluster   *schedulertest.Cluster
	scheduler *schedulertest.Instance
	network   *sidecartest.Network
	database  string
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t, placement: startPlacement(t), cluster: schedulertest.NewCluster(), network: sidecartest.NewNetwork(), database: filepath.Join(t.TempDir(), "actors.db")}
	p.scheduler = p.cluster.Start(t)
	p.cluster.SetHosts(p.scheduler.Address)
	return p
}

// startPlacement runs placement on a free port until the test ends.
func startPlacement(t *testing.T) (address string) {
	t.Helper()
	local := placement.Address{Host: "127.0.0.1"}
	started, done := make(chan placement.Addresses, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		done <- placement.Run(ctx, placement.Options{Listen: local, RejoinWindow: -1, Observed: placement.Observed{Healthz: local}, Started: func(a placement.Addresses) { started <- a }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("placement: %v", err)
		}
	})
	select {
	case a := <-started:
		return a.GRPC.String()
	case <-time.After(15 * time.Second):
		t.Fatal("placement does not start")
		return ""
	}
}

// store is the actor state store under a name.
func (p *plane) store(name string) string {
	return sidecartest.Component(name, "state.sqlite", "connectionString", p.database, "busyTimeout", "15s", "actorStateStore", "true")
}

// start starts a sidecar of the app "app".
func (p *plane) start(options ...sidecartest.Option) *sidecartest.Sidecar {
	p.t.Helper()
	return sidecartest.Start(p.t, append([]sidecartest.Option{p.network.Join("app"), sidecartest.With(func(o *sidecar.Options) {
		o.PlacementAddresses, o.SchedulerAddresses = []string{p.placement}, []string{p.scheduler.Address}
		o.GracefulShutdown = 20 * time.Second
	})}, options...)...)
}

// actorApp is an app that hosts actors over HTTP and remembers how it was called.
type actorApp struct {
	*sidecartest.App
	name   string
	health atomic.Int32 // the status of /healthz

	mu    sync.Mutex
	calls []string // verb and path
	asked int      // for its configuration
	// inside are the turns that run; most is the most of one actor at a time.
	inside map[string]int
	most   int
}

// newActorApp starts an app that answers config when asked. It has the methods name, which tells its name, and slow.
func newActorApp(t *testing.T, name, config string) *actorApp {
	a := &actorApp{name: name, inside: map[string]int{}}
	a.health.Store(200)
	a.App = sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/dapr/config":
			a.mu.Lock()
			a.asked++
			a.mu.Unlock()
			_, _ = io.WriteString(w, config)
		case r.URL.Path == "/healthz":
			w.WriteHeader(int(a.health.Load()))
		case strings.HasPrefix(r.URL.Path, "/actors/"):
			a.turn(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	return a
}

func (a *actorApp) turn(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	actor := parts[2] + "/" + parts[3]
	a.mu.Lock()
	a.calls = append(a.calls, r.Method+" "+r.URL.Path)
	a.inside[actor]++
	a.most = max(a.most, a.inside[actor])
	a.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/slow") {
		time.Sleep(5 * time.Millisecond) // the work of the method
	}
	_, _ = io.WriteString(w, a.name)
	a.mu.Lock()
	a.inside[actor]--
	a.mu.Unlock()
}

// called reports whether there was such a callback, and times counts them.
func (a *actorApp) called(call string) bool { return a.times(call) > 0 }

func (a *actorApp) times(call string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		if c == call {
			n++
		}
	}
	return n
}

const cartConfig = `{"entities":["Cart"],"drainOngoingCallTimeout":"10s"}`

// actorRuntime is what the metadata say about actors.
type actorRuntime struct {
	RuntimeStatus string
	ActiveActors  []struct {
		Type  string
		Count int
	}
	HostReady bool
	Placement string
}

func runtimeOf(t *testing.T, s *sidecartest.Sidecar) actorRuntime {
	t.Helper()
	var m struct{ ActorRuntime actorRuntime }
	if body := s.Get("/v1.0/metadata").Body; json.Unmarshal([]byte(body), &m) != nil {
		t.Fatalf("metadata: %s", body)
	}
	return m.ActorRuntime
}

// hosting are the types of metadata.
func (a actorRuntime) hosting() (types []string) {
	for _, t := range a.ActiveActors {
		types = append(types, fmt.Sprintf("%s %d", t.Type, t.Count))
	}
	return types
}

// accepting are the actor types of which the scheduler may send reminders.
func (p *plane) accepting() (types []string) {
	for _, s := range p.scheduler.Streams() {
		types = append(types, s.Initial.GetActorTypes()...)
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// The app is asked once, its types are advertised, its actors are called, reminders come, and metadata tell all of it.
func TestActorsOfAnHTTPApp(t *testing.T) {
	p := newPlane(t)
	a := newActorApp(t, "a", cartConfig)
	s := p.start(sidecartest.WithApp(a.App), sidecartest.Resources(p.store("st")))
	s.WaitHealthy()
	if r := s.Post("/v1.0/actors/Cart/1/method/name", ""); r.Status != 200 || r.Body != "a" {
		t.Fatalf("%+v", r)
	}
	got := runtimeOf(t, s)
	if got.RuntimeStatus != "RUNNING" || !got.HostReady || got.Placement != "placement: connected" || !slices.Equal(got.hosting(), []string{"Cart 1"}) {
		t.Errorf("metadata: %+v", got)
	}
	if r := s.Get("/v1.0/metadata"); !strings.Contains(r.Body, `"scheduler":{"connected_addresses":["`+p.scheduler.Address+`"]}`) {
		t.Errorf("metadata: %s", r.Body)
	}
	if r := s.Post("/v1.0/actors/Cart/1/state", `[{"operation":"upsert","request":{"key":"k","value":9007199254740993}}]`); r.Status != 204 {
		t.Errorf("%+v", r)
	}
	if r := s.Get("/v1.0/actors/Cart/1/state/k"); r.Body != "9007199254740993" {
		t.Errorf("%+v", r)
	}
	if r := s.Post("/v1.0/actors/Cart/2/state", `[]`); r.Status != 400 || !strings.Contains(r.Body, "ERR_ACTOR_INSTANCE_MISSING") {
		t.Errorf("the state of an actor that is not active: %+v", r)
	}
	if r := s.Post("/v1.0/actors/Cart/1/reminders/r", `{"dueTime":"1h"}`); r.Status != 204 {
		t.Errorf("%+v", r)
	}
	eventually(t, "the scheduler may send reminders", s, func() bool { return slices.Equal(p.accepting(), []string{"Cart"}) })
	eventually(t, "the reminder is delivered", s, func() bool { // a stream may end just now because another one replaces it
		got := <-p.scheduler.Trigger(schedulertest.Reminder("r", "Cart", "3"))
		if !got.Undeliverable && got.Status != schedulerv1.WatchJobsRequestResultStatus_SUCCESS {
			t.Fatalf("the reminder: %+v\n%s", got, s.Log)
		}
		return !got.Undeliverable
	})
	if !a.called("PUT /actors/Cart/3/method/remind/r") || a.asked != 1 {
		t.Errorf("asked %d times; calls: %v", a.asked, a.calls)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if !a.called("DELETE /actors/Cart/1") || !a.called("DELETE /actors/Cart/3") {
		t.Errorf("not deactivated at the end: %v", a.calls)
	}
}

// Without placement calls are refused at once; with one, they wait until it is known what is hosted, and so does readiness, which goes on
// when placement answers.
func TestActorsBeforeRegistration(t *testing.T) {
	p := newPlane(t)
	without := sidecartest.Start(t, p.network.Join("without"))
	without.WaitHealthy()
	if r := without.Get("/v1.0/actors/Cart/1/method/name"); r.Status != 400 || !strings.Contains(r.Body, "ERR_ACTOR_NO_PLACEMENT") {
		t.Errorf("%+v", r)
	}
	if got := runtimeOf(t, without); got.RuntimeStatus != "DISABLED" || got.Placement != "placement: disconnected" || got.HostReady {
		t.Errorf("metadata: %+v", got)
	}

	release := make(chan struct{})
	app := sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/dapr/config" {
			<-release
		}
		_, _ = io.WriteString(w, cartConfig)
	}))
	s := p.start(sidecartest.WithApp(app), sidecartest.Resources(p.store("st")))
	if got := runtimeOf(t, s); got.RuntimeStatus != "INITIALIZING" || got.Placement != "" || got.HostReady || len(got.ActiveActors) > 0 {
		t.Errorf("metadata: %+v", got)
	}
	ready, unready := s.Healthy()
	if ready || !slices.ContainsFunc(unready, func(name string) bool { return name == "internal-placement-service" }) {
		t.Errorf("ready: %v, without %v", ready, unready)
	}
	answer := make(chan int, 1)
	go func() {
		resp, err := http.Post(s.URL+"/v1.0/actors/Cart/1/method/name", "", nil)
		if err != nil {
			answer <- 0
			return
		}
		_ = resp.Body.Close()
		answer <- resp.StatusCode
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Dapr().GetActorState(ctx, &runtimev1.GetActorStateRequest{ActorType: "Cart", ActorId: "1", Key: "k"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call before the registration does not wait: %v", err)
	}
	close(release)
	if code := <-answer; code != 200 {
		t.Errorf("the call that waited: %d", code)
	}
	s.WaitHealthy()
}

// While an app is not healthy nothing of it is hosted, and calls by its sidecar wait; what it hosts is not asked again.
func TestActorsOfAnUnhealthyApp(t *testing.T) {
	p := newPlane(t)
	sick, well := newActorApp(t, "sick", cartConfig), newActorApp(t, "well", cartConfig)
	s := p.start(sidecartest.WithApp(sick.App), sidecartest.With(checked), sidecartest.Resources(p.store("st")))
	other := p.start(sidecartest.WithApp(well.App), sidecartest.Resources(p.store("st")))
	s.WaitHealthy()
	other.WaitHealthy()
	owners := func() map[string]bool {
		names := map[string]bool{}
		for i := range 40 {
			r := other.Post(fmt.Sprintf("/v1.0/actors/Cart/%d/method/name", i), "")
			if r.Status != 200 {
				t.Fatalf("%+v\n%s", r, other.Log)
			}
			names[r.Body] = true
		}
		return names
	}
	eventually(t, "both apps host", s, func() bool { return len(owners()) == 2 })
	sick.health.Store(500)
	eventually(t, "the sidecar has noticed", s, func() bool { return runtimeOf(t, s).RuntimeStatus == "INITIALIZING" })
	if got := owners(); got["sick"] {
		t.Error("an app that is not healthy hosts actors")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Dapr().InvokeActor(ctx, &runtimev1.InvokeActorRequest{ActorType: "Cart", ActorId: "1", Method: "name"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call by way of the sidecar: %v", err)
	}
	if r := s.Get("/v1.0/healthz"); r.Status != 204 {
		t.Errorf("%+v", r)
	}
	sick.health.Store(200)
	eventually(t, "both apps host again", s, func() bool { return len(owners()) == 2 })
	if sick.asked != 1 {
		t.Errorf("asked %d times", sick.asked)
	}
}

// The actor state store comes, is replaced under its name, gives way to one of another name, and goes, while everything runs.
func TestReloadOfTheActorStateStore(t *testing.T) {
	p := newPlane(t)
	f := newFolder(t)
	a := newActorApp(t, "a", cartConfig)
	s := p.start(sidecartest.WithApp(a.App), f.option())
	s.WaitHealthy() // without a store placement is connected all the same
	if got := runtimeOf(t, s); got.RuntimeStatus != "RUNNING" || !got.HostReady || !slices.Equal(got.hosting(), []string{"Cart 0"}) {
		t.Errorf("without a store: %+v", got)
	}
	if r := s.Post("/v1.0/actors/Cart/1/reminders/r", `{"dueTime":"1h"}`); r.Status != 403 || !strings.Contains(r.Body, "ERR_ACTOR_REMINDER_NON_HOSTED") {
		t.Errorf("without a store: %+v", r)
	}
	if r := s.Get("/v1.0/actors/Cart/1/state/k"); r.Status != 500 || !strings.Contains(r.Body, "ERR_ACTOR_RUNTIME_NOT_FOUND") {
		t.Errorf("without a store: %+v", r)
	}
	works := func() bool { return s.Post("/v1.0/actors/Cart/1/method/name", "").Body == "a" }
	saves := func() bool {
		return s.Post("/v1.0/actors/Cart/1/state", `[{"operation":"upsert","request":{"key":"k","value":1}}]`).Status == 204
	}
	const gone = "DELETE /actors/Cart/1"

	f.write("st.yaml", p.store("st"))
	eventually(t, "actors with a store", s, works)
	if !saves() {
		t.Error("the state cannot be saved")
	}

	f.write("st.yaml", strings.Replace(p.store("st"), "15s", "14s", 1))
	logged(t, s, "Component st (state.sqlite/v1) changed and is replaced")
	eventually(t, "the state can be saved", s, saves) // of the same instance: state of one that is not active cannot be
	if a.called(gone) {
		t.Errorf("a new version of the store ended actors: %v", a.calls)
	}

	f.write("st.yaml", p.store("other"))
	eventually(t, "another store ends actors", s, func() bool { return a.times(gone) == 1 })
	eventually(t, "actors with another store", s, func() bool { return works() && saves() })

	f.write("two.yaml", p.store("two"))
	logged(t, s, "detected duplicate actor state store: other and two")
	if !works() || !saves() {
		t.Error("a second store disturbs the first")
	}
	f.remove("two.yaml")

	f.remove("st.yaml")
	eventually(t, "no store ends actors", s, func() bool { return a.times(gone) == 2 })
	eventually(t, "there is no store", s, func() bool {
		return strings.Contains(s.Get("/v1.0/actors/Cart/1/state/k").Body, "ERR_ACTOR_RUNTIME_NOT_FOUND")
	})
	if got := runtimeOf(t, s); got.RuntimeStatus != "RUNNING" || !slices.Equal(got.hosting(), []string{"Cart 0"}) {
		t.Errorf("without a store: %+v", got)
	}
	eventually(t, "the scheduler may not send reminders", s, func() bool { return len(p.accepting()) == 0 })
}

// When a sidecar ends, calls by another one all succeed, and no actor has two turns at a time.
func TestActorsMoveFromASidecarThatEnds(t *testing.T) {
	p := newPlane(t)
	ending, staying := newActorApp(t, "ending", cartConfig), newActorApp(t, "staying", cartConfig)
	first := p.start(sidecartest.WithApp(ending.App), sidecartest.Resources(p.store("st")))
	second := p.start(sidecartest.WithApp(staying.App), sidecartest.Resources(p.store("st")))
	first.WaitHealthy()
	second.WaitHealthy()

	var (
		workers sync.WaitGroup
		stop    = make(chan struct{})
		lost    = make(chan string, 100)
		byFirst atomic.Int64
	)
	for worker := range 8 {
		workers.Go(func() {
			for i := worker; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := http.Post(fmt.Sprintf("%s/v1.0/actors/Cart/%d/method/slow", second.URL, i%16), "", nil)
				if err != nil {
					lost <- err.Error()
					return
				}
				body, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != 200 {
					lost <- string(body)
					return
				}
				if string(body) == "ending" {
					byFirst.Add(1)
				}
			}
		})
	}
	eventually(t, "both serve", second, func() bool { return byFirst.Load() > 50 })
	if err := first.Stop(); err != nil {
		t.Errorf("the sidecar did not end well: %v", err)
	}
	before := byFirst.Load()
	close(stop)
	workers.Wait()
	close(lost)
	for text := range lost {
		t.Errorf("a call failed: %s", text)
	}
	if got := byFirst.Load(); got != before {
		t.Errorf("%d calls were answered by an app whose sidecar has ended", got-before)
	}
	if ending.most != 1 || staying.most != 1 {
		t.Errorf("%d and %d turns of an actor at a time", ending.most, staying.most)
	}
}

// An open stream of actors does not hold up the end of its sidecar: it ends well, after its actors were deactivated.
func TestTheEndOfASidecarEndsActorStreams(t *testing.T) {
	p := newPlane(t)
	s := p.start(sidecartest.Resources(p.store("st")))
	stream, err := s.Dapr().SubscribeActorEventsAlpha1(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *runtimev1.SubscribeActorEventsRequestAlpha1) {
		if err := stream.Send(m); err != nil {
			t.Errorf("%v", err)
		}
	}
	send(&runtimev1.SubscribeActorEventsRequestAlpha1{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InitialRequest{
		InitialRequest: &runtimev1.SubscribeActorEventsRequestInitialAlpha1{Entities: []string{"Cart"}},
	}})
	if m, err := stream.Recv(); err != nil || m.GetInitialResponse() == nil {
		t.Fatalf("%v, %v", m, err)
	}
	type end struct {
		deactivated bool
		err         error
	}
	ended := make(chan end, 1)
	go func() {
		var e end
		for {
			m, err := stream.Recv()
			if err != nil {
				e.err = err
				ended <- e
				return
			}
			switch {
			case m.GetInvokeRequest() != nil:
				send(&runtimev1.SubscribeActorEventsRequestAlpha1{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InvokeResponse{
					InvokeResponse: &runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: m.GetInvokeRequest().GetId(), Data: []byte("streamed")},
				}})
			case m.GetDeactivateRequest() != nil:
				e.deactivated = true
				send(&runtimev1.SubscribeActorEventsRequestAlpha1{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_DeactivateResponse{
					DeactivateResponse: &runtimev1.SubscribeActorEventsRequestDeactivateResponseAlpha1{Id: m.GetDeactivateRequest().GetId()},
				}})
			}
		}
	}()
	s.WaitHealthy()
	if r := s.Post("/v1.0/actors/Cart/1/method/x", ""); r.Body != "streamed" {
		t.Fatalf("%+v\n%s", r, s.Log)
	}
	// Not by Stop: that would take the connection of the stream away.
	if r := s.Post("/v1.0/shutdown", ""); r.Status != 204 {
		t.Fatalf("%+v", r)
	}
	if err := s.Stopped(); err != nil {
		t.Errorf("%v\n%s", err, s.Log)
	}
	if e := <-ended; e.err != io.EOF || !e.deactivated {
		t.Errorf("the stream ended with %v; deactivated: %v", e.err, e.deactivated)
	}
}

// TestActorsNeedANamespace: in Kubernetes, with identities, actors of no namespace would be those of another one.
func TestActorsNeedANamespace(t *testing.T) {
	o := sidecar.Defaults()
	o.AppID, o.Kubernetes, o.EnableMTLS, o.PlacementAddresses = "app", true, true, []string{"placement:50005"}
	if _, err := sidecar.New(o); err == nil || !strings.Contains(err.Error(), "actors must have a namespace configured when running in Kubernetes mode") {
		t.Errorf("without a namespace: %v", err)
	}
	o.Namespace = "shop"
	if _, err := sidecar.New(o); err != nil {
		t.Errorf("with one: %v", err)
	}
}
