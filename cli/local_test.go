//go:build unix

package cli

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/local"
	"outrigger.dev/resource"
)

// broker is the local broker of a home, nil when it does not run.
func broker(t *testing.T, home string) *local.Process {
	t.Helper()
	p, err := local.Find(localDir(filepath.Join(home, ".dapr")))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLocalCommands(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	dapr(t, home, "", "local", "status").exit(1, "The local services do not run.", filepath.Join(home, ".dapr", "local"))
	dapr(t, home, "", "local", "status", "-o", "xml").exit(1, "An invalid output format was specified.")
	dapr(t, home, "", "local", "stop").exit(0, "The local services did not run")
	dapr(t, home, "", "local", "start").exit(0, "Started the local services: broker nats://127.0.0.1:")
	p := broker(t, home)
	if p == nil || !p.Ready || p.Version != "edge" {
		t.Fatalf("process %+v", p)
	}
	dapr(t, home, "", "local", "start").exit(0, "The local services run: broker "+p.NATSURL()+", process "+strconv.Itoa(p.PID))
	dapr(t, home, "", "local", "start", "--port", strconv.Itoa(p.Port+1)).exit(1, "stop it first with `dapr local stop`")
	dapr(t, home, "", "local", "status").exit(0, "ready", p.NATSURL(), "edge")
	status := dapr(t, home, "", "local", "status", "-o", "json")
	status.exit(0)
	var told localStatus
	if err := json.Unmarshal([]byte(status.out.String()), &told); err != nil || told.PID != p.PID || !told.Ready || told.Usage == nil || told.NATSURL != p.NATSURL() {
		t.Errorf("status %+v, error %v", told, err)
	}
	dapr(t, home, "", "local").exit(0, "Usage:", "start", "stop", "status")
	dapr(t, home, "", "local", "stop").exit(0, "The local services have been stopped (process "+strconv.Itoa(p.PID)+")")
	if p := broker(t, home); p != nil {
		t.Errorf("after the stop there is %+v", p)
	}
}

func TestRunWithDefaultBroker(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	publisher := dapr(t, home, "publish", "run", "--", self(t), "one", "two")
	publisher.exit(0, "Started the local broker nats://127.0.0.1:", "Component loaded: pubsub (pubsub.jetstream/v1)", "published all")
	first := broker(t, home)
	if first == nil {
		t.Fatal("the broker ended with the app")
	}
	// What was published while nobody subscribed is there for every app that comes, once.
	run := func(app string) *program {
		return dapr(t, home, "subscribe", "run", "--app-id", app, "--app-port", freePort(t), "--", self(t))
	}
	inventory := id("inventory")
	subscriber, other := run(inventory), run(id("billing"))
	for _, p := range []*program{subscriber, other} {
		p.await("got one")
		p.await("got two")
	}
	// An interrupt from the terminal reaches the whole process group of the command, but not the broker.
	if err := subscriber.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	subscriber.exit(0, "Exited Dapr successfully")
	// A broker that was stopped comes back with the next run, on its port and with what it holds.
	dapr(t, home, "", "local", "stop").exit(0, "The local services have been stopped")
	dapr(t, home, "publish", "run", "--", self(t), "three").exit(0, "Started the local broker "+first.NATSURL(), "published all")
	other.await("got three")
	again := run(inventory)
	again.await("got three")
	if strings.Contains(again.out.String(), "got one") {
		t.Error("the app got again what it had processed before")
	}
}

// Events that the command publishes arrive as those of apps do.
func TestPublish(t *testing.T) {
	t.Parallel()
	home, app := t.TempDir(), id("stock")
	subscriber := dapr(t, home, "subscribe", "run", "--app-id", app, "--app-port", freePort(t), "--", self(t))
	subscriber.await("You're up and running!")
	file := filepath.Join(home, "event.json")
	write(t, file, `{"id":"1","source":"s","specversion":"1.0","type":"t","data":"whole event"}`)
	publish := func(args ...string) *program {
		return dapr(t, home, "", append([]string{"publish", "--publish-app-id", app, "--pubsub", "pubsub"}, args...)...)
	}
	publish("--topic", "orders", "--data", `"by hand"`, "--metadata", `{"ttlInSeconds":60}`).exit(0, "Event published successfully")
	subscriber.await("got by hand")
	publish("--topic", "orders", "--data-file", file).exit(0, "Event published successfully")
	subscriber.await("got whole event")
	publish("--topic", "orders", "--metadata", "ttl").exit(1, `--metadata is "ttl"`, "JSON object")
	publish("--topic", "orders", "--pubsub", "none").exit(1, "Error publishing topic orders: unexpected status code 404 on publishing to orders in none", "none is not found")
	publish("--topic", "orders", "--data", "1", "--data-file", file).exit(1, "Only one of --data and --data-file allowed in the same publish command")
	publish().exit(255, `required flag(s) "topic" not set`)
	dapr(t, home, "", "publish", "-i", "nobody", "-p", "pubsub", "-t", "t").exit(1, "couldn't find a running Dapr instance", "nobody")
}

// The broker is killed under two apps that run: once it is back, they go on by themselves, and nothing acknowledged is lost.
func TestBrokerKilledUnderApps(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	subscriber := dapr(t, home, "subscribe", "run", "--app-id", id("inventory"), "--app-port", freePort(t), "--", self(t))
	subscriber.await("You're up and running!")
	publisher := dapr(t, home, "stream", "run", "--app-id", id("shop"), "--", self(t))
	words := func(p *program, before string) []string {
		var all []string
		for line := range strings.Lines(p.out.String()) {
			if _, word, found := strings.Cut(line, before); found {
				all = append(all, strings.TrimSpace(word))
			}
		}
		return all
	}
	acknowledged := func() int { return len(words(publisher, "acknowledged ")) }
	for range 2 {
		before := acknowledged()
		publisher.until("messages flow", func() bool { return acknowledged() > before+50 })
		p := broker(t, home)
		if p == nil {
			t.Fatal("the broker does not run")
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		subscriber.until("the broker is gone", func() bool { return broker(t, home) == nil })
		dapr(t, home, "", "local", "start").exit(0, "Started the local services: broker "+p.NATSURL())
	}
	before := acknowledged()
	publisher.until("messages flow again", func() bool { return acknowledged() > before+50 })
	if err := publisher.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	publisher.exit(0, "stream ended")
	var missing []string
	deadline := time.Now().Add(patience)
	for {
		got := map[string]int{}
		for _, word := range words(subscriber, "got ") {
			got[word]++
		}
		missing = nil
		twice := 0
		for _, word := range words(publisher, "acknowledged ") {
			if got[word] == 0 {
				missing = append(missing, word)
			}
			if got[word] > 1 {
				twice++
			}
		}
		if len(missing) == 0 {
			t.Logf("%d messages acknowledged, all came, %d of them twice", acknowledged(), twice)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d acknowledged messages did not come: %v", len(missing), acknowledged(), missing)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestNamedComponentsDirectory(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	own := filepath.Join(home, "own")
	write(t, filepath.Join(own, "store.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: mine}\nspec: {type: state.in-memory, version: v1}\n")
	components := filepath.Join(home, ".dapr", "components")
	// Paths that somebody gives are all there is.
	dapr(t, home, "fail", "run", "--placement-host-address=", "--scheduler-host-address=", "--resources-path", own, "--", self(t)).exit(1, "Component loaded: mine (state.in-memory/v1)", "exited with error code: 3")
	if _, err := os.Stat(components); !os.IsNotExist(err) {
		t.Errorf("the default components were made though nobody named them: %v", err)
	}
	if p := broker(t, home); p != nil {
		t.Errorf("the broker was started though nothing points at it: %+v", p)
	}
	// The default directory among them is made.
	loaded := []string{"Component loaded: mine (state.in-memory/v1)", "Component loaded: statestore (state.sqlite/v1)", "Component loaded: pubsub (pubsub.jetstream/v1)", "Started the local broker"}
	dapr(t, home, "fail", "run", "--resources-path", own, "--resources-path", components, "--", self(t)).exit(1, loaded...)
}

func TestRunFileWithDefaultBroker(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	// The default components are named beside those of one's own, and are not there yet.
	if err := os.Mkdir(filepath.Join(home, "own"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(home, "dapr.yaml"), "version: 1\ncommon: {resourcesPaths: [own, .dapr/components]}\napps:\n- appID: "+id("a")+"\n  appDirPath: .\n  command: ["+self(t)+", four]\n  env: {"+appVariable+": publish}\n"+
		"- appID: "+id("b")+"\n  appDirPath: .\n  appPort: "+freePort(t)+"\n  command: ["+self(t)+"]\n  env: {"+appVariable+": subscribe}\n")
	p := dapr(t, home, "", "run", "-f", file)
	p.await("Started the local broker")
	p.await("got four")
	if strings.Count(p.out.String(), "Started the local broker") != 1 {
		t.Error("the broker was started for each app")
	}
}

func TestRunsAtTheSameTimeShareBroker(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	var ps []*program
	for range 3 {
		ps = append(ps, dapr(t, home, "publish", "run", "--", self(t), "x"))
	}
	starts := 0
	var all sync.WaitGroup
	for _, p := range ps {
		all.Go(func() { <-p.done })
	}
	all.Wait()
	for _, p := range ps {
		p.exit(0, "published all")
		starts += strings.Count(p.out.String(), "Started the local broker")
	}
	if starts != 1 {
		t.Errorf("%d of the commands started a broker, want 1", starts)
	}
}

func TestOwnResourcesAndBroker(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	component := func(url string) string {
		return "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: mine}\nspec:\n  type: pubsub.jetstream\n  version: v1\n  ignoreErrors: true\n" +
			"  metadata: [{name: natsURL, value: '" + url + "'}, {name: deliverPolicy, value: all}]\n"
	}
	resources := filepath.Join(home, "resources")
	file := write(t, filepath.Join(resources, "pubsub.yaml"), component("nats://127.0.0.1:1"))
	dapr(t, home, "fail", "run", "--placement-host-address=", "--scheduler-host-address=", "--resources-path", resources, "--", self(t)).exit(1, "exited with error code: 3")
	if p := broker(t, home); p != nil {
		t.Fatalf("the broker was started though nothing points at it: %+v", p)
	}
	port, err := local.ReservePort(localDir(filepath.Join(home, ".dapr")))
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, component("nats://localhost:"+strconv.Itoa(port)))
	dapr(t, home, "fail", "run", "--resources-path", resources, "--", self(t)).exit(1, "Started the local broker", "Component loaded: mine (pubsub.jetstream/v1)")
}

func TestRunReportsBrokersPort(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	port, err := local.ReservePort(localDir(filepath.Join(home, ".dapr")))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := dapr(t, home, "wait", "run", "--", self(t))
	p.exit(1, `the component "pubsub" needs the local broker`, "port "+strconv.Itoa(port), "is taken by")
	if strings.Contains(p.out.String(), "app wait") {
		t.Error("the app was started all the same")
	}
}

func TestLocalBrokerOf(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	port, err := local.ReservePort(localDir(home))
	if err != nil {
		t.Fatal(err)
	}
	own := strconv.Itoa(port)
	for _, tt := range []struct {
		kind, url string
		want      bool
	}{
		{"pubsub.jetstream", "nats://127.0.0.1:" + own, true},
		{"pubsub.JetStream", "nats://user:secret@localhost:" + own, true},
		{"pubsub.jetstream", "nats://[::1]:" + own, true},
		{"pubsub.jetstream", "nats://elsewhere:4222, nats://127.0.0.1:" + own, true},
		{"pubsub.jetstream", "nats://127.0.0.1:4222", false},
		{"pubsub.jetstream", "nats://elsewhere:" + own, false},
		{"pubsub.jetstream", "nats://127.0.0.1", false},
		{"pubsub.jetstream", "", false},
		{"pubsub.jetstream", "%", false},
		{"pubsub.redis", "nats://127.0.0.1:" + own, false},
	} {
		c := &resource.Component{Spec: resource.ComponentSpec{Type: tt.kind, Metadata: []resource.NameValue{{Name: "natsurl", Value: resource.TextValue(tt.url)}}}}
		c.Metadata.Name = "x"
		got := localBroker([]*resource.Component{c}, home)
		if (got != nil) != tt.want || got != nil && (got.port != port || got.name != "x") {
			t.Errorf("%s with %q: %+v, want %v", tt.kind, tt.url, got, tt.want)
		}
	}
}
