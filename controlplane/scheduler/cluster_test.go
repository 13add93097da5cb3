package scheduler

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/test/servers"
)

// cluster is three schedulers, each a process.
type cluster struct {
	t       *testing.T
	members [3]*member
}

// member is one of them. Its ports and its directory stay when it comes back.
type member struct {
	t             *testing.T
	binary        string
	args          []string
	address, http string
	out           bytes.Buffer
	process       *exec.Cmd
	done          chan error
}

// newCluster builds the program and starts the members.
func newCluster(t *testing.T) *cluster {
	binary := filepath.Join(t.TempDir(), "scheduler")
	build := exec.Command("go", "build", "-o", binary, "outrigger.dev/cmd/scheduler")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := &cluster{t: t}
	var peers []string
	for i := range c.members {
		peers = append(peers, fmt.Sprintf("dapr-scheduler-server-%d=http://127.0.0.1:%d", i, servers.FreePort(t)))
	}
	for i := range c.members {
		port, healthz := servers.FreePort(t), servers.FreePort(t)
		m := &member{t: t, binary: binary, address: fmt.Sprintf("127.0.0.1:%d", port), http: fmt.Sprintf("http://127.0.0.1:%d/healthz", healthz)}
		m.args = []string{
			"--id", fmt.Sprintf("dapr-scheduler-server-%d", i), "--etcd-initial-cluster", strings.Join(peers, ","), "--etcd-data-dir", t.TempDir(),
			"--etcd-client-port", fmt.Sprint(servers.FreePort(t)), "--listen-address", "127.0.0.1", "--port", fmt.Sprint(port), "--healthz-port", fmt.Sprint(healthz),
			"--enable-metrics=false", "--etcd-initial-election-tick-advance",
		}
		c.members[i] = m
		m.start()
		t.Cleanup(m.kill)
	}
	for _, m := range c.members {
		m.await()
	}
	return c
}

func (m *member) start() {
	m.t.Helper()
	m.process = exec.Command(m.binary, m.args...)
	m.process.Stdout, m.process.Stderr = &m.out, &m.out
	m.done = make(chan error, 1)
	if err := m.process.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func(c *exec.Cmd, done chan<- error) { done <- c.Wait() }(m.process, m.done)
}

// kill ends the process as kill -9 does; it need not run.
func (m *member) kill() {
	if m.process == nil {
		return
	}
	_ = m.process.Process.Kill()
	<-m.done
	m.process = nil
}

// await waits until it is ready.
func (m *member) await() {
	m.t.Helper()
	client := &http.Client{Timeout: time.Second}
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(20 * time.Millisecond) {
		if r, err := client.Get(m.http); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			m.kill()
			m.t.Fatalf("%s is not ready; log:\n%s", m.args[1], m.out.String())
		}
	}
}

// load creates jobs all the time and takes their triggers, as the sidecars of one app do.
type load struct {
	stopped atomic.Bool
	tasks   sync.WaitGroup
	next    atomic.Int64

	mu        sync.Mutex
	created   map[string]bool
	triggered map[string]int
	lastAck   time.Time
	refused   int
}

func (l *load) missing() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.created {
		if l.triggered[name] == 0 {
			list = append(list, name)
		}
	}
	return list
}

// acknowledged waits for a job that is created from now on, and says how long that took.
func (l *load) acknowledged(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	waitFor(t, "a job to be created", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.lastAck.After(begin)
	})
	return time.Since(begin)
}

func startLoad(ctx context.Context, t *testing.T, c *cluster) *load {
	l := &load{created: map[string]bool{}, triggered: map[string]int{}}
	var clients []schedulerv1.SchedulerClient
	for _, m := range c.members {
		conn, err := grpc.NewClient("passthrough:///"+m.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		clients = append(clients, schedulerv1.NewSchedulerClient(conn))
	}
	for i, client := range clients {
		l.tasks.Go(func() {
			for ctx.Err() == nil {
				l.take(ctx, client)
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
		for range 2 {
			l.tasks.Go(func() {
				for to := i; !l.stopped.Load(); to++ {
					l.create(ctx, clients[to%len(clients)])
				}
			})
		}
	}
	return l
}

// create creates a job that is due soon.
func (l *load) create(ctx context.Context, c schedulerv1.SchedulerClient) {
	n := l.next.Add(1)
	name := fmt.Sprint("job-", n)
	call, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := c.ScheduleJob(call, due(name, fmt.Sprintf("%dms", n%3000), job("app")))
	l.mu.Lock()
	if err == nil {
		l.created[name] = true
		l.lastAck = time.Now()
	} else {
		l.refused++
	}
	l.mu.Unlock()
	if status.Code(err) == codes.Unavailable {
		// The member is away; the next one is asked, and not without a pause.
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// take takes triggers until the stream ends.
func (l *load) take(ctx context.Context, c schedulerv1.SchedulerClient) {
	stream, err := c.WatchJobs(ctx)
	if err != nil {
		return
	}
	err = stream.Send(&schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Initial{Initial: initial("app")}})
	for err == nil {
		var m *schedulerv1.WatchJobsResponse
		if m, err = stream.Recv(); err != nil {
			return
		}
		l.mu.Lock()
		l.triggered[m.Name]++
		l.mu.Unlock()
		err = stream.Send(&schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Result{
			Result: &schedulerv1.WatchJobsRequestResult{Id: m.Id, Status: success},
		}})
	}
}

// TestMembersAreKilled has the members of a cluster killed under load. Every job that was acknowledged fires.
func TestMembersAreKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	begin := time.Now()
	c := newCluster(t)
	t.Logf("three members are ready after %s", time.Since(begin))
	ctx, cancel := context.WithCancel(context.Background())
	l := startLoad(ctx, t, c)
	defer func() {
		l.stopped.Store(true)
		cancel()
		l.tasks.Wait()
	}()
	l.acknowledged(t)
	for i, m := range c.members {
		m.kill()
		took := l.acknowledged(t)
		away := time.Now().Add(2 * time.Second) // under load
		waitFor(t, "the load", func() bool { return time.Now().After(away) })
		if i == len(c.members)-1 {
			t.Logf("member %d killed: jobs are created again after %s", i, took)
			break
		}
		restart := time.Now()
		m.start()
		m.await()
		t.Logf("member %d killed: jobs are created again after %s; it is ready %s after its return", i, took, time.Since(restart))
	}
	// The last one stays away: the others have to take its jobs over.
	l.stopped.Store(true)
	begin = time.Now()
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(20 * time.Millisecond) {
		missing := l.missing()
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			for _, m := range c.members {
				m.kill()
				t.Logf("%s:\n%s", m.args[1], m.out.String())
			}
			t.Fatalf("%d of %d jobs did not fire, such as %s", len(missing), len(l.created), missing[0])
		}
	}
	l.mu.Lock()
	twice := 0
	for _, n := range l.triggered {
		if n > 1 {
			twice++
		}
	}
	t.Logf("%d jobs were created and fired, %d of them more than once; %d calls failed; without the last member everything had fired after %s",
		len(l.created), twice, l.refused, time.Since(begin))
	l.mu.Unlock()
	back := time.Now()
	c.members[2].start()
	c.members[2].await()
	t.Logf("the last member is ready %s after its return", time.Since(back))
	list, err := dial(t, c.members[0].address, nil).ListJobs(bounded(t), &schedulerv1.ListJobsRequest{Metadata: job("app")})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range list.Jobs {
		if l.created[j.Name] {
			t.Errorf("%s has fired and is still there", j.Name)
		}
	}
}
