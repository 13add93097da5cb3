package sdk

import (
	"net/http"
	"path/filepath"
	"strconv"
	"testing"

	"outrigger.dev/test/servers"
)

// plane is the part of the control plane that actors and jobs need.
type plane struct {
	placement, scheduler         process
	placementPort, schedulerPort int
}

// actorResources are those of the sidecars whose apps host actors: the store of their state, which both instances of an app share.
var actorResources = map[string]string{
	"actors.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: actors}
spec:
  type: state.sqlite
  version: v1
  metadata:
  - {name: connectionString, value: %[1]s/actors.db}
  - {name: actorStateStore, value: "true"}
`,
}

// startPlane starts placement and a scheduler with its data below a folder.
func startPlane(t *testing.T, dir string) *plane {
	t.Helper()
	port := func() (int, string) {
		p := servers.FreePort(t)
		return p, strconv.Itoa(p)
	}
	p := &plane{}
	var own string

	p.placementPort, own = port()
	health, healthArg := port()
	_, raft := port()
	p.placement = start(t, "placement", dir, nil, "placement",
		"--id", "placement", "--initial-cluster", "placement=127.0.0.1:"+raft, "--listen-address", "127.0.0.1", "--port", own,
		"--healthz-listen-address", "127.0.0.1", "--healthz-port", healthArg, "--enable-metrics=false", "--log-level", "debug")

	p.schedulerPort, own = port()
	healthOfScheduler, healthArg := port()
	_, peer := port()
	_, client := port()
	p.scheduler = start(t, "the scheduler", dir, nil, "scheduler",
		"--id", "scheduler", "--etcd-initial-cluster", "scheduler=http://127.0.0.1:"+peer, "--etcd-client-port", client,
		"--etcd-data-dir", filepath.Join(dir, "scheduler"), "--listen-address", "127.0.0.1", "--port", own, "--override-broadcast-host-port", "127.0.0.1:"+own,
		"--healthz-listen-address", "127.0.0.1", "--healthz-port", healthArg, "--enable-metrics=false", "--log-level", "debug")

	p.placement.await(t, health, "/healthz", http.StatusOK)
	p.scheduler.await(t, healthOfScheduler, "/healthz", http.StatusOK)
	return p
}

// arguments tell a sidecar where the plane is.
func (p *plane) arguments() []string {
	return []string{"--placement-host-address", "127.0.0.1:" + strconv.Itoa(p.placementPort), "--scheduler-host-address", "127.0.0.1:" + strconv.Itoa(p.schedulerPort)}
}

func (p *plane) processes() []*process { return []*process{&p.placement, &p.scheduler} }
