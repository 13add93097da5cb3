package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/controlplane/placement"
)

// TestDissemination plays joining and leaving against a real placement service.
func TestDissemination(t *testing.T) {
	started, ended := make(chan placement.Addresses, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- placement.Run(ctx, placement.Options{
			Listen: placement.Address{Host: "127.0.0.1"}, Observed: placement.Observed{Healthz: placement.Address{Host: "127.0.0.1"}},
			Started: func(at placement.Addresses) { started <- at },
		})
	}()
	var addr string
	select {
	case at := <-started:
		addr = at.GRPC.String()
	case err := <-ended:
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	gone, leave := context.WithCancel(ctx)
	leave()
	if _, err := (&load{Kind: "placement-join", Addr: addr, Hosts: 1}).placementCaller(gone); !errors.Is(err, errBroken) {
		t.Errorf("hosts that cannot connect: %v", err)
	}
	for _, kind := range []string{"placement-join", "placement-leave"} {
		o := play(t, load{Kind: kind, Addr: addr, Connections: 1, Hosts: 3, Warmup: 100 * time.Millisecond, Duration: 300 * time.Millisecond})
		if o.Requests == 0 || o.Errors > 0 {
			t.Errorf("%s: %d rounds, %d errors, the first %q", kind, o.Requests, o.Errors, o.Error)
		}
	}
}

// crontab stands for a sidecar with a scheduler: it brings jobs to the app when they are due, each as often as brings says.
type crontab struct {
	app    string
	brings func(name string) int

	running sync.WaitGroup
	mu      sync.Mutex
	names   map[string]bool
	twice   []string
}

func (c *crontab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var job struct {
		DueTime string
		Data    json.RawMessage
	}
	if err := json.NewDecoder(r.Body).Decode(&job); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/v1.0/jobs/")
	c.mu.Lock()
	if c.names[name] || strings.Contains(name, "@") {
		c.twice = append(c.twice, name)
	}
	c.names[name] = true
	c.mu.Unlock()
	if at, err := time.Parse(time.RFC3339, job.DueTime); err == nil {
		c.running.Add(1)
		time.AfterFunc(time.Until(at), func() {
			defer c.running.Done()
			for range c.brings(name) {
				resp, err := http.Post("http://"+c.app+"/job/"+name, "application/json", bytes.NewReader(job.Data))
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
		})
	}
	w.WriteHeader(http.StatusNoContent)
}

func TestTrigger(t *testing.T) {
	app, err := newApp(10, nil)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- app.Serve(listener) }()
	defer func() {
		listener.Close()
		<-served
	}()
	c := &crontab{app: listener.Addr().String(), names: map[string]bool{}, brings: func(string) int { return 2 }}
	sidecar := httptest.NewServer(c)
	defer sidecar.Close()
	l := load{
		Kind: "trigger", Addr: strings.TrimPrefix(sidecar.URL, "http://"), App: c.app, Connections: 4, Jobs: 40, Size: 64, Lead: 500 * time.Millisecond,
		Patience: time.Minute, Status: []int{204},
	}
	o := play(t, l)
	c.running.Wait()
	if o.Requests != 40 || o.Latency.count() != 40 || o.Errors != 0 || o.Seconds <= 0 {
		t.Errorf("%d jobs in %g s, %d errors, the first %q", o.Requests, o.Seconds, o.Errors, o.Error)
	}
	if len(c.names) != 40+probes || len(c.twice) > 0 {
		t.Errorf("%d names, of which twice or without digits: %q", len(c.names), c.twice)
	}
}

func TestArrivals(t *testing.T) {
	a := &arrivals{due: time.Now().Add(-time.Second), seen: make([]bool, 3), latency: make(histogram, histogramSize), all: make(chan struct{})}
	for _, n := range []uint32{0, 2, 2, 7} {
		a.add(n)
	}
	if o := a.outcome(); o.Requests != 2 || o.Errors != 1 || !strings.Contains(o.Error, "1 of 3 jobs have not arrived") || o.Seconds < 1 || o.Latency.quantile(0) < 9e5 {
		t.Errorf("%d jobs in %g s, %d errors, the first %q", o.Requests, o.Seconds, o.Errors, o.Error)
	}
	a.due = time.Now().Add(time.Hour)
	a.add(1)
	select {
	case <-a.all:
	default:
		t.Error("all have arrived, and nobody says so")
	}
	if o := a.outcome(); o.Requests != 3 || o.Errors != 1 || !strings.Contains(o.Error, "1 jobs came before they were due") {
		t.Errorf("%d jobs, %d errors, the first %q", o.Requests, o.Errors, o.Error)
	}
}

func TestStamp(t *testing.T) {
	c := &httpCaller{serials: newSerials()}
	plain := request("GET", "/a", "", "")
	if got := c.stamp(plain); !bytes.Equal(got, plain) {
		t.Errorf("%q", got)
	}
	marked := jobRequest("1h", `"v"`)
	first := string(c.stamp(marked))
	second := string(c.stamp(marked))
	if first == second || len(first) != len(marked) || strings.Contains(first, "@") || !strings.HasSuffix(first, `{"dueTime":"1h","data":"v"}`) {
		t.Errorf("%q, %q", first, second)
	}
}
