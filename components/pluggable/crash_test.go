//go:build unix

package pluggable

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/inmemory"
)

// childFolder, when it is set, turns the test binary into a component's process with its journals in that folder.
const childFolder = "OUTRIGGER_PLUGGABLE_CHILD"

func TestMain(m *testing.M) {
	if folder := os.Getenv(childFolder); folder != "" {
		if err := serveChild(folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveChild serves a state store and a broker that keep what they acknowledge, until it is killed or its input ends.
func serveChild(folder string) error {
	open := func(name string) (*os.File, error) {
		return os.OpenFile(filepath.Join(folder, name), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	}
	items, err := open("items")
	if err != nil {
		return err
	}
	messages, err := open("messages")
	if err != nil {
		return err
	}
	type written struct {
		Key   string
		Value []byte
	}
	backend := inmemory.New(clockwork.NewRealClock())
	lines := bufio.NewReader(items)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var w written
		if json.Unmarshal(line, &w) == nil {
			if err := backend.Set(context.Background(), state.SetRequest{Key: w.Key, Value: state.Value{Bytes: w.Value}}); err != nil {
				return err
			}
		}
	}
	var mu sync.Mutex
	store := &stateService{backend: backend, features: []string{"ETAG"}, written: func(key string, value []byte) error {
		line, err := json.Marshal(written{key, value})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		_, err = items.Write(append(line, '\n'))
		return err
	}}
	broker := &brokerService{backend: newTestBroker(messages)}

	path := filepath.Join(folder, "child.sock")
	_ = os.Remove(path) // of the one that was killed
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server, life := grpc.NewServer(), &life{}
	store.register(server, life)
	broker.register(server, life)
	reflection.Register(server)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the test has ended
		os.Exit(0)
	}()
	return server.Serve(l)
}

// child is a component's process of its own.
type child struct {
	t      testing.TB
	folder string
	cmd    *exec.Cmd
	input  io.WriteCloser
}

func startChild(t testing.TB) *child {
	t.Helper()
	c := &child{t: t, folder: t.TempDir()}
	c.start()
	t.Cleanup(c.kill)
	return c
}

func (c *child) start() {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	c.cmd = exec.Command(self)
	c.cmd.Env = append(os.Environ(), childFolder+"="+c.folder)
	c.cmd.Stdout, c.cmd.Stderr = os.Stderr, os.Stderr
	if c.input, err = c.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	waitFor(c.t, "the child's socket", func() bool {
		conn, err := net.Dial("unix", filepath.Join(c.folder, "child.sock"))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// kill ends the process as kill -9 does.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	_ = c.input.Close()
}

// kills is how often a test kills the process.
const kills = 3

func crashFolder(t testing.TB, c *child) *components.Registry {
	t.Helper()
	_, r, sockets := found(t, c.folder)
	if s := socketNamed(t, sockets, "child.sock"); s.Err != nil || len(s.Services) != 2 {
		t.Fatalf("%+v", s)
	}
	return r
}

// What a killed process has acknowledged is there afterwards, and calls succeed again as soon as it is back.
func TestStateCrash(t *testing.T) {
	c := startChild(t)
	s := openStore(t, c.folder, "child", components.Instance{Name: "store"})
	defer s.Close()
	_ = crashFolder(t, c)
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	failed, round := 0, 0
	rounds := map[int]int{} // acknowledged writes by round
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("%d-%d", w, i)
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				err := s.Set(ctx, state.SetRequest{Key: key, Value: state.Value{Bytes: []byte(key)}})
				cancel()
				mu.Lock()
				if err == nil {
					acknowledged[key] = true
					rounds[round]++
				} else {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	count := func(round int) int { mu.Lock(); defer mu.Unlock(); return rounds[round] }
	for n := range kills {
		waitFor(t, "writes", func() bool { return count(n) > 200 })
		c.kill()
		mu.Lock()
		round++
		mu.Unlock()
		c.start()
	}
	waitFor(t, "writes after the last kill", func() bool { return count(kills) > 200 })
	close(stop)
	writers.Wait()
	for key := range acknowledged {
		if i, err := s.Get(within(t), state.GetRequest{Key: key}); err != nil || string(i.Data) != key {
			t.Fatalf("%s was acknowledged, and now is %q, %v", key, i.Data, err)
		}
	}
	t.Logf("%d writes were acknowledged, %d failed", len(acknowledged), failed)
	if failed > kills*8 {
		t.Errorf("%d writes failed; only those on the way may, %d at a time", failed, 8)
	}
}

// No message that was acknowledged to its publisher is lost, whoever is killed when.
func TestPubSubCrash(t *testing.T) {
	c := startChild(t)
	b := openBroker(t, c.folder, "child", "consumer")
	var mu sync.Mutex
	got := map[string]int{}
	handled := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }
	if _, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "t"}, func(_ context.Context, msg *pubsub.Message) error {
		mu.Lock()
		defer mu.Unlock()
		got[string(msg.Data)]++
		if n, _ := strconv.Atoi(string(msg.Data)); n%10 == 0 && got[string(msg.Data)] == 1 {
			return fmt.Errorf("once more")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the subscription", func() bool {
		_ = b.Publish(within(t), pubsub.PublishRequest{Topic: "t", Data: []byte("probe")})
		return handled() > 0
	})
	var published []string // acknowledged
	next := 0
	var publishing sync.Mutex
	publish := func() {
		publishing.Lock()
		next++
		id := strconv.Itoa(next)
		publishing.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if b.Publish(ctx, pubsub.PublishRequest{Topic: "t", Data: []byte(id)}) == nil {
			publishing.Lock()
			published = append(published, id)
			publishing.Unlock()
		}
	}
	stop := make(chan struct{})
	var publishers sync.WaitGroup
	for range 4 {
		publishers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					publish()
				}
			}
		})
	}
	for range kills {
		before := handled()
		waitFor(t, "messages", func() bool { return handled() > before+200 })
		c.kill()
		c.start()
	}
	before := handled()
	waitFor(t, "messages after the last kill", func() bool { return handled() > before+200 })
	close(stop)
	publishers.Wait()
	waitFor(t, "all messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range published {
			if got[id] == 0 {
				return false
			}
		}
		return true
	})
	waitFor(t, "rejected messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range published {
			if n, _ := strconv.Atoi(id); n%10 == 0 && got[id] < 2 {
				return false
			}
		}
		return true
	})
	t.Logf("%d messages were acknowledged to publishers", len(published))
}

// A process that hangs is waited for no longer than the caller wants.
func TestStopped(t *testing.T) {
	c := startChild(t)
	s := openStore(t, c.folder, "child", components.Instance{})
	defer s.Close()
	if err := s.Set(within(t), state.SetRequest{Key: "k", Value: state.Value{Bytes: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	suspend(t, c.cmd.Process, true)
	waitFor(t, "a call that the hanging process does not answer", func() bool { // it may still answer some, until the signal has got to it
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := s.Get(ctx, state.GetRequest{Key: "k"})
		return errors.Is(err, context.DeadlineExceeded)
	})
	suspend(t, c.cmd.Process, false)
	if i, err := s.Get(within(t), state.GetRequest{Key: "k"}); err != nil || string(i.Data) != "v" {
		t.Errorf("a call after that: %+v, %v", i, err)
	}
}
