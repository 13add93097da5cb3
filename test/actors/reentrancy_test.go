package actors_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"outrigger.dev/sidecar/sidecartest"
)

// chain is an app whose actors call the actors that the body names, one after the other: "A/1,B/2" calls B/2 with what is left. The id of the
// reentrancy goes with the call, as an SDK sends it.
type chain struct{ sidecar *sidecartest.Sidecar }

func (c *chain) follow(rw http.ResponseWriter, r *http.Request, path string) {
	next, rest, _ := strings.Cut(path, ",")
	if next == "" {
		_, _ = io.WriteString(rw, "end")
		return
	}
	var header []string
	if id := r.Header.Get("Dapr-Reentrancy-Id"); id != "" {
		header = []string{"Dapr-Reentrancy-Id", id}
	}
	req, err := http.NewRequestWithContext(r.Context(), "POST", c.sidecar.URL+"/v1.0/actors/"+next+"/method/follow", strings.NewReader(rest))
	if err == nil {
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		var resp *http.Response
		if resp, err = c.sidecar.Client.Do(req); err == nil {
			defer resp.Body.Close()
			rw.WriteHeader(resp.StatusCode)
			_, err = io.Copy(rw, resp.Body)
		}
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
	}
}

// chained starts two members whose actors call each other.
func chained(t *testing.T, config string, more map[string]string) (a, b *member, ids map[*member][]string) {
	t.Helper()
	w := newWorld(t, "shop")
	start := func(name string) *member {
		c := &chain{}
		methods := map[string]func(http.ResponseWriter, *http.Request, string){
			"follow": func(rw http.ResponseWriter, r *http.Request, _ string) {
				body, _ := io.ReadAll(r.Body)
				c.follow(rw, r, string(body))
			},
		}
		for method, path := range more {
			methods[method] = func(rw http.ResponseWriter, r *http.Request, id string) {
				c.follow(rw, r, strings.ReplaceAll(path, "ID", id))
			}
		}
		m := w.newMember(name, config, methods)
		c.sidecar = m.Sidecar
		return m
	}
	a, b = start("a"), start("b")
	return a, b, place(t, "Cart", a, b)
}

// A turn may come back to its own actor, over any number of other actors and sidecars.
func TestReentrancy(t *testing.T) {
	t.Parallel()
	// follow is called after the sidecar is known: place calls tell only.
	a, b, ids := chained(t, `{"entities":["Cart"],"reentrancy":{"enabled":true,"maxStackDepth":4}}`, nil)
	one, other, third := "Cart/"+ids[a][0], "Cart/"+ids[b][0], "Cart/"+ids[b][1]
	for _, c := range []struct{ name, first, path string }{
		{"into itself", one, one},
		{"over a remote actor", one, other + "," + one},
		{"remote from the start", other, one + "," + other},
		{"over two others", one, other + "," + third + "," + one + "," + other},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, through := range []*member{a, b} {
				if r := through.Post("/v1.0/actors/"+c.first+"/method/follow", c.path); r.Status != 200 || r.Body != "end" {
					t.Errorf("through %s: %+v", through.name, r)
				}
			}
		})
	}
	t.Run("too deep", func(t *testing.T) {
		// The fifth entry is refused, and the actor goes on afterwards.
		r := a.Post("/v1.0/actors/"+one+"/method/follow", strings.Join([]string{one, one, one, one}, ","))
		if r.Status != 500 || !strings.Contains(r.Body, "ERR_ACTOR_STACK_DEPTH") && !strings.Contains(r.Body, "maximum stack depth exceeded") {
			t.Errorf("%+v", r)
		}
		if r := a.Post("/v1.0/actors/"+one+"/method/follow", strings.Join([]string{one, one, one}, ",")); r.Status != 200 || r.Body != "end" {
			t.Errorf("afterwards: %+v", r)
		}
	})
}

// Turns of timers and reminders may come back as well.
func TestReentrancyOfTimersAndReminders(t *testing.T) {
	t.Parallel()
	a, b, ids := chained(t, `{"entities":["Cart"],"reentrancy":{"enabled":true}}`, map[string]string{
		"timer/again": "Cart/ID,Cart/ID", "remind/again": "Cart/ID,Cart/ID",
	})
	for _, m := range []*member{a, b} {
		id := ids[m][0]
		for kind, path := range map[string]string{"timers": "timer", "reminders": "remind"} {
			t.Run(kind+" of "+m.name, func(t *testing.T) {
				if r := m.Post("/v1.0/actors/Cart/"+id+"/"+kind+"/again", `{"dueTime":"0s"}`); r.Status != 204 {
					t.Fatalf("%+v", r)
				}
				turn := m.awaitCall("PUT", "/actors/Cart/"+id+"/method/"+path+"/again")
				want := turn.Header.Get("Dapr-Reentrancy-Id")
				if want == "" {
					t.Errorf("the turn has no reentrancy id: %v", turn.Header)
				}
				// Twice, each within the turn before.
				waitFor(t, "the calls back", func() bool {
					n := 0
					for _, c := range m.seen("PUT", "/actors/Cart/"+id+"/method/follow") {
						if c.Header.Get("Dapr-Reentrancy-Id") == want {
							n++
						}
					}
					return n == 2
				})
			})
		}
	}
}

// Without reentrancy an actor that calls itself waits for itself, and others do not get in between.
func TestNoReentrancy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "shop")
	entered, leave := make(chan string, 4), make(chan struct{})
	m := w.newMember("a", `{"entities":["Cart"]}`, map[string]func(http.ResponseWriter, *http.Request, string){
		"hold": func(_ http.ResponseWriter, r *http.Request, _ string) {
			entered <- r.Header.Get("Dapr-Reentrancy-Id")
			select {
			case <-leave:
			case <-r.Context().Done():
			}
		},
	})
	done := make(chan sidecartest.Response, 2)
	for range 2 {
		go func() { done <- m.Post("/v1.0/actors/Cart/1/method/hold", "", "Dapr-Reentrancy-Id", "of a client") }()
	}
	if id := wait(t, entered, "the first turn"); id != "of a client" {
		t.Errorf("the id is %q", id)
	}
	waitFor(t, "the second call to wait", func() bool { return strings.Contains(fmt.Sprint(m.active("Cart")), "1") })
	select {
	case <-entered:
		t.Error("two turns at once")
	default:
	}
	leave <- struct{}{}
	wait(t, entered, "the second turn")
	leave <- struct{}{}
	for range 2 {
		if r := wait(t, done, "the replies"); r.Status != 200 {
			t.Errorf("%+v", r)
		}
	}
}
