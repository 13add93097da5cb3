package actors_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// An actor that is not used is deactivated: after the time of its type, not during a turn, and it can be called again.
func TestIdleActors(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	var m *member
	m = newWorld(t, "shop").newMember("a", `{"entities":["Brief","Lasting"],"entitiesConfig":[{"entities":["Brief"],"actorIdleTimeout":"100ms"}]}`,
		map[string]func(http.ResponseWriter, *http.Request, string){
			"hold": func(http.ResponseWriter, *http.Request, string) {
				entered <- struct{}{}
				<-leave
			},
			"save": func(rw http.ResponseWriter, _ *http.Request, id string) {
				r, err := m.send("/v1.0/actors/Brief/"+id+"/state", `[{"operation":"upsert","request":{"key":"k","value":"kept"}}]`)
				if err != nil || r.Status != 204 {
					http.Error(rw, fmt.Sprint(r, err), http.StatusInternalServerError)
				}
			},
		})
	ends := func(actor string) int { return len(m.seen("DELETE", "/actors/"+actor)) }

	if r := m.Post("/v1.0/actors/Lasting/1/method/tell", ""); r.Status != 200 {
		t.Fatalf("%+v", r)
	}
	for round := 1; round <= 2; round++ {
		if r := m.Post("/v1.0/actors/Brief/1/method/save", ""); r.Status != 200 {
			t.Fatalf("%+v", r)
		}
		waitFor(t, "the end of an idle actor", func() bool { return ends("Brief/1") == round })
		waitFor(t, "an idle actor to be gone", func() bool { return m.active("Brief") == 0 })
		// Its state is still there, but it may not be written without the actor.
		if r := m.Get("/v1.0/actors/Brief/1/state/k"); r.Body != `"kept"` {
			t.Errorf("%+v", r)
		}
		r := m.Post("/v1.0/actors/Brief/1/state", `[{"operation":"upsert","request":{"key":"k","value":1}}]`)
		if r.Status != 400 || !strings.Contains(r.Body, "ERR_ACTOR_INSTANCE_MISSING") {
			t.Errorf("%+v", r)
		}
	}
	end := m.awaitCall("DELETE", "/actors/Brief/1")
	if end.Body != "" || end.Query != "" || end.Header.Get("Content-Type") != "application/x-protobuf" {
		t.Errorf("the deactivation is %+v", end)
	}

	// Others come and go during the turn of one, so that it lasts longer than actors may be idle.
	done := m.sending("/v1.0/actors/Brief/2/method/hold", "")
	wait(t, entered, "the long turn")
	for _, id := range []string{"3", "4"} {
		if r := m.Post("/v1.0/actors/Brief/"+id+"/method/tell", ""); r.Status != 200 {
			t.Fatalf("%+v", r)
		}
		waitFor(t, "the end of an idle actor", func() bool { return ends("Brief/"+id) == 1 })
	}
	if n := ends("Brief/2"); n != 0 {
		t.Error("an actor was deactivated during its turn")
	}
	close(leave)
	if r := wait(t, done, "the end of the long turn"); r.err != nil || r.Status != 200 {
		t.Errorf("%+v", r)
	}
	waitFor(t, "the end of the actor after its turn", func() bool { return ends("Brief/2") == 1 })
	if ends("Lasting/1") != 0 || m.active("Lasting") != 1 {
		t.Error("an actor of the other type was deactivated, too")
	}
}

// A timer is over when its actor is deactivated.
func TestTimersEndWithTheirActor(t *testing.T) {
	t.Parallel()
	var m *member
	m = newWorld(t, "shop").newMember("a", `{"entities":["Brief","Lasting"],"entitiesConfig":[{"entities":["Brief"],"actorIdleTimeout":"50ms"}]}`,
		map[string]func(http.ResponseWriter, *http.Request, string){
			// In a turn, so that the actor is there for certain.
			"arm": func(rw http.ResponseWriter, _ *http.Request, id string) {
				r, err := m.send("/v1.0/actors/Brief/"+id+"/timers/late", `{"dueTime":"1500ms","period":"10ms"}`)
				if err != nil || r.Status != 204 {
					http.Error(rw, fmt.Sprint(r, err), http.StatusInternalServerError)
				}
			},
		})
	if r := m.Post("/v1.0/actors/Brief/1/method/arm", ""); r.Status != 200 {
		t.Fatalf("%+v", r)
	}
	// It is due when that of the other actor is over, which can tell the same of itself.
	if r := m.Post("/v1.0/actors/Lasting/1/timers/later", `{"dueTime":"1600ms","callback":"cb","data":[1]}`); r.Status != 204 {
		t.Fatalf("%+v", r)
	}
	m.awaitCall("DELETE", "/actors/Brief/1")
	// The actor comes back, but not its timer.
	if r := m.Post("/v1.0/actors/Brief/1/method/tell", ""); r.Status != 200 {
		t.Fatalf("%+v", r)
	}
	if c := m.awaitCall("PUT", "/actors/Lasting/1/method/timer/later"); c.Body != `{"data":[1],"callback":"cb","dueTime":"1600ms","period":""}` {
		t.Errorf("the app got %s", c.Body)
	}
	if calls := m.seen("PUT", "/actors/Brief/1/method/timer/late"); len(calls) != 0 {
		t.Errorf("the timer fired %d times without its actor", len(calls))
	}
}

// cancelAfter is an app's answer to timers and reminders: it wants no more of them when they come for the second time.
type cancelAfter struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *cancelAfter) answer(rw http.ResponseWriter, r *http.Request, _ string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[r.URL.Path]++; c.seen[r.URL.Path] == 2 {
		rw.Header().Set("X-DaprReminderCancel", "true")
	}
}

// A reminder or timer that the app cancels by the header does not come again, wherever the actor lives.
func TestCancelledRemindersAndTimers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "shop")
	c := &cancelAfter{seen: map[string]int{}}
	methods := map[string]func(http.ResponseWriter, *http.Request, string){"remind/stop": c.answer, "timer/stop": c.answer}
	a, b := w.newMember("a", `{"entities":["Cart"]}`, methods), w.newMember("b", `{"entities":["Cart"]}`, methods)
	ids := place(t, "Cart", a, b)
	for _, at := range []*member{a, b} {
		for kind, path := range map[string]string{"reminders": "remind", "timers": "timer"} {
			t.Run(kind+" of "+at.name, func(t *testing.T) {
				t.Parallel()
				actor := "/actors/Cart/" + ids[at][0]
				// Through one sidecar, to which one of the actors is remote.
				for _, name := range []string{"stop", "go-on"} {
					if r := a.Post("/v1.0"+actor+"/"+kind+"/"+name, `{"dueTime":"0s","period":"30ms"}`); r.Status != 204 {
						t.Fatalf("%+v", r)
					}
				}
				if kind == "reminders" {
					waitFor(t, "the reminder to be gone", func() bool { return a.Get("/v1.0"+actor+"/reminders/stop").Status == 404 })
				}
				waitFor(t, "the second time", func() bool { return len(at.seen("PUT", actor+"/method/"+path+"/stop")) == 2 })
				before := len(at.seen("PUT", actor+"/method/"+path+"/go-on"))
				waitFor(t, "the other one to go on", func() bool { return len(at.seen("PUT", actor+"/method/"+path+"/go-on")) >= before+5 })
				if n := len(at.seen("PUT", actor+"/method/"+path+"/stop")); n != 2 {
					t.Errorf("it came %d times, although it was cancelled at the second", n)
				}
				if r := a.Do("DELETE", "/v1.0"+actor+"/"+kind+"/go-on", ""); r.Status != 204 {
					t.Errorf("%+v", r)
				}
			})
		}
	}
}

// prompt is how long the end of a sidecar may take that has nothing to wait for any more; its graceful period is far longer.
const prompt = 5 * time.Second

// A sidecar that stops gives its actors to the other one: turns end before, callers are sent on and lose nothing, and the scheduler sends to
// the other one only.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "shop")
	entered, leave := make(chan struct{}), make(chan struct{})
	a := w.newMember("a", `{"entities":["Cart"],"drainOngoingCallTimeout":"20s"}`, map[string]func(http.ResponseWriter, *http.Request, string){
		"hold": func(rw http.ResponseWriter, _ *http.Request, _ string) {
			entered <- struct{}{}
			<-leave
			rw.Header().Set("X-Member", "a")
		},
	})
	b := w.newMember("b", `{"entities":["Cart"]}`, nil)
	ids := place(t, "Cart", a, b)
	busy, quiet, stays := "/actors/Cart/"+ids[a][0], "/actors/Cart/"+ids[a][1], "/actors/Cart/"+ids[b][0]

	release := sync.OnceFunc(func() { close(leave) })
	defer release()
	first := b.sending("/v1.0"+busy+"/method/hold", "")
	wait(t, entered, "the turn")

	// Others call all the time, also actors that move.
	var callers sync.WaitGroup
	stop := make(chan struct{})
	endCallers := sync.OnceFunc(func() { close(stop); callers.Wait() })
	defer func() { release(); endCallers() }()
	for worker := range 3 {
		callers.Go(func() {
			all := slices.Concat(ids[a][2:], ids[b])
			for i := worker; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if r, err := b.send("/v1.0/actors/Cart/"+all[i%len(all)]+"/method/tell", ""); err != nil || r.Status != 200 {
					t.Errorf("a call failed: %+v, %v", r, err)
					return
				}
			}
		})
	}

	stopped := make(chan error, 1)
	go func() { stopped <- a.Stop() }()
	a.awaitCall("DELETE", quiet) // it has no turn, so that it goes at once
	// Who calls actors that move waits until all have moved.
	second, other := b.sending("/v1.0"+busy+"/method/tell", ""), b.sending("/v1.0"+quiet+"/method/tell", "")
	for i := range 8 {
		name := fmt.Sprint("late", i)
		for path, body := range map[string]string{"/v1.0/jobs/" + name: `{"dueTime":"0s"}`, "/v1.0" + stays + "/reminders/" + name: `{"dueTime":"0s"}`} {
			if r := b.Post(path, body); r.Status != 204 {
				t.Fatalf("%s: %+v", path, r)
			}
		}
		b.awaitCall("POST", "/job/"+name)
		b.awaitCall("PUT", stays+"/method/remind/"+name)
		if len(a.seen("POST", "/job/"+name)) > 0 {
			t.Errorf("the sidecar that stops took the job %s", name)
		}
	}
	select {
	case r := <-first:
		t.Fatalf("the turn was broken off: %+v", r)
	case r := <-second:
		t.Fatalf("the actor moved during its turn: %+v", r)
	case err := <-stopped:
		t.Fatalf("the sidecar ended during a turn: %v", err)
	default:
	}
	if len(a.seen("DELETE", busy)) != 0 {
		t.Error("the actor was deactivated during its turn")
	}
	release()
	began := time.Now()
	for what, c := range map[string]struct {
		done <-chan outcome
		at   string
	}{"the turn": {first, "a"}, "the call after it": {second, "b"}, "the call of another actor": {other, "b"}} {
		if r := wait(t, c.done, what); r.err != nil || r.Status != 200 || r.Header.Get("X-Member") != c.at {
			t.Errorf("%s: %+v, want it to be answered by %s", what, r, c.at)
		}
	}
	if n := len(a.seen("DELETE", busy)); n != 1 {
		t.Errorf("the actor was deactivated %d times before it moved", n)
	}
	ended(t, began, stopped)
	endCallers()
}

// ended waits for the end of a sidecar that has had nothing to wait for since a time.
func ended(t *testing.T, since time.Time, stopped <-chan error) {
	t.Helper()
	if err := wait(t, stopped, "the end of the sidecar"); err != nil {
		t.Errorf("the sidecar did not end well: %v", err)
	}
	if took := time.Since(since); took > prompt {
		t.Errorf("the sidecar took %s to end, with nothing left to wait for", took)
	}
}

// A sidecar that stops waits for the job that its app has in hand, and for no other: that its actor types are withdrawn meanwhile does not
// open streams to the scheduler again, which it would have to wait for.
func TestGracefulStopDuringAJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "shop")
	jobs, leave := make(chan string, 100), make(chan struct{})
	a := w.newMember("a", `{"entities":["Cart"]}`, map[string]func(http.ResponseWriter, *http.Request, string){
		"job": func(_ http.ResponseWriter, _ *http.Request, name string) {
			jobs <- name
			<-leave
		},
	})
	b := w.newMember("b", `{"entities":["Cart"]}`, nil)
	ids := place(t, "Cart", a, b)
	release := sync.OnceFunc(func() { close(leave) })
	defer release()
	for i := 0; len(jobs) == 0; i++ {
		if i == 100 {
			t.Fatal("the scheduler sends all jobs to one of two sidecars")
		}
		name := fmt.Sprint("job", i)
		if r := b.Post("/v1.0/jobs/"+name, `{"dueTime":"0s"}`); r.Status != 204 {
			t.Fatalf("%+v", r)
		}
		waitFor(t, "the job "+name, func() bool { return len(a.seen("POST", "/job/"+name))+len(b.seen("POST", "/job/"+name)) > 0 })
		if len(a.seen("POST", "/job/"+name)) > 0 { // its method follows
			jobs <- wait(t, jobs, "the job in hand")
		}
	}
	inHand := <-jobs

	stopped := make(chan error, 1)
	go func() { stopped <- a.Stop() }()
	moving := "/actors/Cart/" + ids[a][0]
	a.awaitCall("DELETE", moving)
	// The sidecar that stops knows of the withdrawal as well once it sends calls on.
	if r, err := a.send("/v1.0"+moving+"/method/tell", ""); err != nil || r.Status != 200 || r.Header.Get("X-Member") != "b" {
		t.Errorf("%+v, %v", r, err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("the sidecar ended while its app had a job in hand: %v", err)
	default:
	}
	release()
	ended(t, time.Now(), stopped)
	waitFor(t, "the end of the job", func() bool { return b.Get("/v1.0/jobs/"+inHand).Status == 404 })
	if len(b.seen("POST", "/job/"+inHand)) > 0 {
		t.Error("the job that the app had in hand came again")
	}
}
