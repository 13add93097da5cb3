package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"outrigger.dev/test/servers"
)

// serveWord as the first argument makes the test program the background process.
const serveWord = "serve-local-services"

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == serveWord {
		os.Exit(serve(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

func serve(dir, port string) int {
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	number, err := strconv.Atoi(port)
	if err == nil {
		err = Run(ctx, Options{
			Dir: dir, Port: number, Version: "of the test", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
			Ready: func(p Process) { Report(os.Stdout, &p, nil) },
		})
	}
	if err != nil {
		Report(os.Stdout, nil, err)
		return 1
	}
	return 0
}

// launch is how the test program starts the process for a directory, which it is gone from at the end of the test.
func launch(t *testing.T, dir string, port int) Launch {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := Stop(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	return Launch{Dir: dir, Port: port, Command: []string{self, serveWord, dir, strconv.Itoa(port)}}
}

func ensure(t *testing.T, l Launch) *Process {
	t.Helper()
	p, _, err := Ensure(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestManyStartOne(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	l := launch(t, dir, 0)
	const callers = 8
	var found [callers]*Process
	var started [callers]bool
	var failures [callers]error
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() { found[i], started[i], failures[i] = Ensure(t.Context(), l) })
	}
	all.Wait()
	starts := 0
	for i := range callers {
		if failures[i] != nil {
			t.Fatal(failures[i])
		}
		if started[i] {
			starts++
		}
		if found[i].PID != found[0].PID || found[i].Port != found[0].Port || !found[i].Ready {
			t.Errorf("caller %d found %+v, caller 0 %+v", i, found[i], found[0])
		}
	}
	if starts != 1 {
		t.Errorf("%d callers started a process, want 1", starts)
	}
	if found[0].Version != "of the test" || found[0].PID == os.Getpid() {
		t.Errorf("process %+v", found[0])
	}
	usage, err := Used(t.Context(), found[0])
	if err != nil || usage.Streams != 0 {
		t.Errorf("usage %+v, error %v", usage, err)
	}
	// A session of its own is what keeps interrupts and closing terminals away.
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", found[0].PID)); err == nil {
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if fields[3] != strconv.Itoa(found[0].PID) {
			t.Errorf("the process is in session %s, want one of its own", fields[3])
		}
	}
	stopped, err := Stop(t.Context(), dir)
	if err != nil || stopped == nil || stopped.PID != found[0].PID {
		t.Errorf("stopped %+v, error %v", stopped, err)
	}
	if p, err := Find(dir); p != nil || err != nil {
		t.Errorf("after its end there is %+v, error %v", p, err)
	}
	if stopped, err := Stop(t.Context(), dir); stopped != nil || err != nil {
		t.Errorf("stopped %+v again, error %v", stopped, err)
	}
	if again := ensure(t, l); again.Port != found[0].Port {
		t.Errorf("the port was %d and is %d", found[0].Port, again.Port)
	}
}

func TestPortIsRemembered(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	if !Owns(dir, firstPort) || Owns(dir, firstPort-1) || Owns(dir, firstPort+portCount) {
		t.Error("with nothing remembered, exactly the ports of the range may be the broker's")
	}
	var ports [8]int
	var all sync.WaitGroup
	for i := range ports {
		all.Go(func() {
			var err error
			if ports[i], err = ReservePort(dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, port := range ports {
		if port != ports[0] || port < firstPort || port >= firstPort+portCount {
			t.Errorf("ports %v", ports)
		}
	}
	if !Owns(dir, ports[0]) || Owns(dir, ports[0]%portCount+firstPort+1) {
		t.Error("the remembered port is the only one")
	}
	if err := os.WriteFile(portsFile(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReservePort(dir); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("error %v", err)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	port, err := ReservePort(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, err = Ensure(t.Context(), launch(t, dir, 0))
	if err == nil {
		t.Fatal("started on a port that is taken")
	}
	wants := []string{strconv.Itoa(port), "dapr local start --port", LogFile(dir)}
	if portHolder(port) != "" { // the system tells
		wants = append(wants, fmt.Sprintf("process %d (", os.Getpid()))
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not have %q", err, want)
		}
	}
	other := servers.FreePort(t)
	p := ensure(t, launch(t, dir, other))
	if p.Port != other || !Owns(dir, other) {
		t.Errorf("it runs on port %d, want %d, which is remembered", p.Port, other)
	}
	if _, _, err := Ensure(t.Context(), launch(t, dir, port)); err == nil || !strings.Contains(err.Error(), "dapr local stop") {
		t.Errorf("error %v for another port than that of the running process", err)
	}
}

func TestStartThatFails(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(DataDir(dir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := Ensure(t.Context(), launch(t, dir, 0))
	if err == nil || !strings.Contains(err.Error(), "NATS cannot start with the data in "+DataDir(dir)) {
		t.Errorf("error %v", err)
	}
	if _, _, err := Ensure(t.Context(), Launch{Dir: dir, Command: []string{"/nonexistent"}}); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("error %v", err)
	}
	if _, _, err := Ensure(t.Context(), Launch{Dir: dir, Command: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "ended without saying why") {
		t.Errorf("error %v", err)
	}
}

// A program that says something else and goes on is ended with the wait for it.
func TestStartOfAnotherProgram(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, _, err := Ensure(ctx, Launch{Dir: t.TempDir(), Command: []string{"sh", "-c", "echo hello; exec sleep 15"}})
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "ended without saying why") {
			t.Errorf("error %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Ensure waits for a program that says nothing of use")
		<-ended
	}
}

func TestUnusableDirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(file, "local")
	_, _, ensured := Ensure(t.Context(), Launch{Dir: dir, Command: []string{"/nonexistent"}})
	_, reserved := ReservePort(dir)
	_, logged := openLog(LogFile(dir))
	_, locked := acquire(t.Context(), runningLock(dir))
	for what, err := range map[string]error{"Ensure": ensured, "ReservePort": reserved, "Run": Run(t.Context(), Options{Dir: dir}), "log": logged, "lock": locked, "file": writeJSON(processFile(dir), 1)} {
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "make it writable") {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestRunInProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan Process, 1), make(chan error, 1)
	go func() { ended <- Run(ctx, Options{Dir: dir, Version: "v", Ready: func(p Process) { ready <- p }}) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	if err := Run(ctx, Options{Dir: dir}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second one: %v", err)
	}
	if p, started, err := Ensure(ctx, Launch{Dir: dir, Command: []string{"/nonexistent"}}); err != nil || started || p.Version != "v" {
		t.Errorf("found %+v, started %v, error %v", p, started, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(processFile(dir)); !os.IsNotExist(err) {
		t.Errorf("the state stays: %v", err)
	}
}

// publisher publishes to a subject until it is told to stop, and counts what was acknowledged.
func publisher(t *testing.T, url string, writers int, stop <-chan struct{}) (acknowledged func() map[string]bool) {
	t.Helper()
	conn, err := client.Connect(url, client.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "orders", Subjects: []string{"orders"}}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	acks := map[string]bool{}
	for w := range writers {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				text := fmt.Sprintf("%d-%d", w, i)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				_, err := js.Publish(ctx, "orders", []byte(text))
				cancel()
				if err != nil {
					return // the server is gone
				}
				mu.Lock()
				acks[text] = true
				mu.Unlock()
			}
		})
	}
	return func() map[string]bool {
		all.Wait()
		conn.Close()
		return acks
	}
}

func TestAcknowledgedSurvivesKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	l := launch(t, dir, 0)
	first := ensure(t, l)
	stop := make(chan struct{})
	acknowledged := publisher(t, first.NATSURL(), 16, stop)
	deadline := time.Now().Add(30 * time.Second)
	for {
		usage, err := Used(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		if usage.Bytes > 50<<10 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it holds %d bytes only", usage.Bytes)
		}
	}
	if err := kill(first.PID); err != nil {
		t.Fatal(err)
	}
	acks := acknowledged()
	close(stop)
	second := ensure(t, l)
	if second.PID == first.PID || second.Port != first.Port {
		t.Errorf("after the kill there is %+v, before %+v", second, first)
	}
	conn, err := client.Connect(second.NATSURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	stored := stream.CachedInfo().State
	consumer, err := js.OrderedConsumer(t.Context(), "orders", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	batch, err := consumer.Fetch(int(stored.Msgs), jetstream.FetchMaxWait(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for msg := range batch.Messages() {
		have[string(msg.Data())] = true
	}
	t.Logf("%d acknowledged, %d stored", len(acks), stored.Msgs)
	for text := range acks {
		if !have[text] {
			t.Errorf("message %s was acknowledged and is lost", text)
		}
	}
	if len(acks) < 100 {
		t.Errorf("only %d messages were acknowledged before the kill", len(acks))
	}
}

func TestLogIsPutAside(t *testing.T) {
	t.Parallel()
	path := LogFile(t.TempDir())
	if err := os.WriteFile(path, make([]byte, largestLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if info, err := os.Stat(path + ".old"); err != nil || info.Size() != largestLog+1 {
		t.Errorf("the old log: %v %v", info, err)
	}
	if info, err := log.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("the new log: %v %v", info, err)
	}
}
