package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// bench holds what lives for the whole run.
type bench struct {
	*settings
	ctx     context.Context // of the group that is measured
	beds    int             // made so far: each has a directory of its own
	servers servers
}

func (b *bench) close() { b.servers.stop() }

// describe prints what is measured on what; a machine that is busy otherwise measures badly.
func (b *bench) describe(out *os.File) {
	programs := append(b.targets[:len(b.targets):len(b.targets)], target{name: "placement", path: b.placement}, target{name: "scheduler", path: b.scheduler})
	for _, t := range programs {
		info, err := os.Stat(t.path)
		if err != nil {
			continue
		}
		text, _ := exec.Command(t.path, "--version").Output()
		version, _, _ := strings.Cut(string(text), "\n")
		fmt.Fprintf(out, "%-9s %s %s (%.1f MiB) %s\n", t.name, t.path, version, float64(info.Size())/(1<<20), strings.Join(t.env, " "))
	}
	fmt.Fprintf(out, "%d rounds of %s each, %d bytes, %d CPUs%s\n\n", b.rounds, b.duration, b.size, runtime.NumCPU(), machineLoad())
}

// bed is the processes that a load runs against.
type bed struct {
	target   target
	dir      string
	appAddr  string     // of the first app, when there is one
	sidecars []*sidecar // the first one is where the load goes
	// others are apps and services of the control plane; they end after the sidecars.
	others        []*process
	actors        []int  // that the calls go to
	placementAddr string // where a load stands for sidecars
	// authority ends the certificate authority of sidecars that use mTLS.
	authority func()
}

func (b *bed) entry() *sidecar { return b.sidecars[0] }

func (b *bed) stop() {
	for _, s := range b.sidecars {
		s.stop()
	}
	for _, p := range b.others {
		p.kill()
	}
	if b.authority != nil {
		b.authority()
	}
}

// sidecar is a sidecar process, or another one that is measured like it.
type sidecar struct {
	*process
	role                string // for the names of profiles
	http, grpc, profile int    // ports; 0 for none
}

func (s *sidecar) httpAddr() string { return loopback(s.http) }
func (s *sidecar) grpcAddr() string { return loopback(s.grpc) }

func (b *bench) newBed(t target) (*bed, error) {
	b.beds++
	bed := &bed{target: t, dir: filepath.Join(b.dir, fmt.Sprintf("%d-%s", b.beds, t.name))}
	return bed, os.MkdirAll(filepath.Join(bed.dir, "resources"), 0o755)
}

// startApp starts the echo app, which hosts actors of the types if any, and waits until it answers.
func (b *bench) startApp(bed *bed, size int, types ...string) (port int, err error) {
	ports, err := freePorts(1)
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	addr := loopback(ports[0])
	if bed.appAddr == "" {
		bed.appAddr = addr
	}
	app, err := startProcess(bed.dir, "app", self, os.Environ(), append([]string{"app", addr, strconv.Itoa(size)}, types...), func(c *exec.Cmd) error {
		_, err := c.StdinPipe() // it ends with us
		return err
	})
	if err != nil {
		return 0, err
	}
	bed.others = append(bed.others, app)
	return ports[0], app.await(b.ctx, addr, "/echo", 200, time.Millisecond)
}

// spawn starts a sidecar of the bed without waiting for it.
func (b *bench) spawn(bed *bed, role, appID string, appPort int, more ...string) (*sidecar, error) {
	ports, err := freePorts(5)
	if err != nil {
		return nil, err
	}
	s := &sidecar{role: role, http: ports[0], grpc: ports[1], profile: ports[4]}
	args := []string{
		"--app-id", appID,
		"--dapr-http-port", strconv.Itoa(s.http), "--dapr-grpc-port", strconv.Itoa(s.grpc),
		"--dapr-internal-grpc-port", strconv.Itoa(ports[2]), "--metrics-port", strconv.Itoa(ports[3]),
		"--resources-path", filepath.Join(bed.dir, "resources"),
		"--dapr-listen-addresses", "127.0.0.1", "--log-level", "error",
	}
	if appPort > 0 {
		args = append(args, "--app-port", strconv.Itoa(appPort))
	}
	if b.profiles != "" {
		args = append(args, "--enable-profiling", "--profile-port", strconv.Itoa(s.profile))
	}
	env := environment(append([]string{"DAPR_HOST_IP=127.0.0.1"}, bed.target.env...)...)
	s.process, err = startProcess(bed.dir, bed.target.name+"-"+role, bed.target.path, env, append(args, more...), nil)
	if err != nil {
		return nil, err
	}
	bed.sidecars = append(bed.sidecars, s)
	return s, nil
}

// healthy waits until a sidecar says that it is ready.
func (s *sidecar) healthy(ctx context.Context, pause time.Duration) error {
	return s.await(ctx, s.httpAddr(), "/v1.0/healthz", 204, pause)
}

// startFloor has the echo app in place of a sidecar: what this machine, as busy
// as it is, takes for the least that a server can do. Other figures compare to it.
func startFloor(b *bench, t target, _ string) (*bed, error) {
	bed, err := b.newBed(t)
	if err != nil {
		return nil, err
	}
	port, err := b.startApp(bed, b.size)
	if err != nil {
		return bed, err
	}
	bed.sidecars = []*sidecar{{process: bed.others[0], role: "app", http: port}}
	bed.others = nil
	return bed, nil
}

// startPair is two sidecars that find each other by a SQLite registry, and an app behind the second.
func startPair(b *bench, t target, _ string) (*bed, error) {
	bed, err := b.newBed(t)
	if err != nil {
		return nil, err
	}
	return bed, b.pair(bed)
}

// startSecuredPair is the same with mTLS between the two, by a Sentry of ours.
func startSecuredPair(b *bench, t target, _ string) (*bed, error) {
	bed, err := b.newBed(t)
	if err != nil {
		return nil, err
	}
	address, anchors, err := b.startAuthority(bed)
	if err != nil {
		return bed, err
	}
	bed.target.env = append(bed.target.env[:len(bed.target.env):len(bed.target.env)], "DAPR_TRUST_ANCHORS="+anchors)
	return bed, b.pair(bed, "--enable-mtls", "--sentry-address", address)
}

// pair starts two sidecars and the app.
func (b *bench) pair(bed *bed, more ...string) error {
	config := filepath.Join(bed.dir, "config.yaml")
	err := write(`apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: bench
spec:
  nameResolution:
    component: sqlite
    version: v1
    configuration:
      connectionString: `+quote(filepath.Join(bed.dir, "nr.db"))+"\n", config)
	if err != nil {
		return err
	}
	port, err := b.startApp(bed, b.size)
	if err != nil {
		return err
	}
	if _, err := b.spawn(bed, "caller", callerID, 0, append([]string{"--config", config}, more...)...); err != nil {
		return err
	}
	if _, err := b.spawn(bed, "callee", calleeID, port, append([]string{"--config", config}, more...)...); err != nil {
		return err
	}
	for _, s := range bed.sidecars {
		if err := s.healthy(b.ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	// The first call may find that the other one has not registered itself yet.
	err = bed.sidecars[0].await(b.ctx, bed.entry().httpAddr(), "/v1.0/invoke/"+calleeID+"/method/echo", 200, 20*time.Millisecond)
	return err
}

// startStore is one sidecar with a state store "store" that holds all keys.
func startStore(store string) func(*bench, target, string) (*bed, error) {
	return func(b *bench, t target, server string) (*bed, error) {
		bed, err := b.newBed(t)
		if err != nil {
			return nil, err
		}
		if err := writeStore(bed, store, server); err != nil {
			return bed, err
		}
		s, err := b.spawn(bed, "sidecar", callerID+"-"+t.name, 0)
		if err != nil {
			return bed, err
		}
		// Without an app the sidecar is healthy as soon as its components are.
		if err := s.healthy(b.ctx, 5*time.Millisecond); err != nil {
			return bed, err
		}
		conn, err := dialResponses(b.ctx, s.httpAddr())
		if err != nil {
			return bed, err
		}
		defer conn.conn.Close()
		if err := conn.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return bed, err
		}
		status, _, err := conn.do(seed(b.settings))
		if err == nil && status != 204 {
			err = fmt.Errorf("status %d instead of 204", status)
		}
		if err != nil {
			return bed, s.failure(fmt.Errorf("saving %d keys: %w", keys, err))
		}
		return bed, nil
	}
}

// writeStore configures the state store "store". more are further items of its metadata.
func writeStore(bed *bed, store, server string, more ...string) error {
	version, metadata := "v1", ""
	switch store {
	case "in-memory":
		metadata = " []"
	case "redis":
		metadata = item("redisHost", server) + item("redisPassword", "")
	case "sqlite":
		metadata = item("connectionString", filepath.Join(bed.dir, "state.db"))
	case "postgresql":
		// Targets keep apart by a table each.
		version, metadata = "v2", item("connectionString", server)+item("tablePrefix", "bench_"+bed.target.name+"_")
	default:
		return fmt.Errorf("no component is known for the store %q", store)
	}
	return write(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: store
spec:
  type: state.`+store+`
  version: `+version+`
  metadata:`+metadata+strings.Join(more, "")+"\n", bed.dir, "resources", "store.yaml")
}

func item(name, value string) string { return "\n  - name: " + name + "\n    value: " + quote(value) }

// quote writes a string as YAML and JSON read it.
func quote(s string) string { return strconv.Quote(s) }

// startBroker is one sidecar with a broker "broker", and with delivery an app behind it that subscribes to it.
func startBroker(broker string, delivery bool) func(*bench, target, string) (*bed, error) {
	return func(b *bench, t target, server string) (*bed, error) {
		bed, err := b.newBed(t)
		if err != nil {
			return nil, err
		}
		metadata := " []"
		if broker == "redis" {
			// What is published without a subscriber would fill the server's memory.
			metadata = item("redisHost", server) + item("redisPassword", "") + item("maxLenApprox", "10000")
		}
		if err := write(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: broker
spec:
  type: pubsub.`+broker+`
  version: v1
  metadata:`+metadata+"\n", bed.dir, "resources", "broker.yaml"); err != nil {
			return bed, err
		}
		port := 0
		if delivery {
			if port, err = b.startApp(bed, b.size); err != nil {
				return bed, err
			}
		}
		s, err := b.spawn(bed, "sidecar", callerID+"-"+t.name, port)
		if err != nil {
			return bed, err
		}
		return bed, s.healthy(b.ctx, 5*time.Millisecond)
	}
}
