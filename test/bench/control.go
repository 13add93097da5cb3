package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// startPlacement starts a placement service for the sidecars of a bed.
func (b *bench) startPlacement(bed *bed) (*service, error) {
	return b.startService(bed, "placement", b.placement)
}

// startScheduler starts a scheduler service, which keeps its jobs in the bed's directory, for the sidecars of a bed.
func (b *bench) startScheduler(bed *bed) (*service, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	return b.startService(bed, "scheduler", b.scheduler,
		"--id", "scheduler-0", "--etcd-initial-cluster", "scheduler-0=http://"+loopback(ports[0]), "--etcd-data-dir", filepath.Join(bed.dir, "scheduler"),
		"--etcd-client-listen-address", "127.0.0.1", "--etcd-client-port", strconv.Itoa(ports[1]))
}

// service is a process of the control plane.
type service struct {
	*process
	role string
	addr string // of its gRPC port
}

// measured is the service as one of the processes whose CPU time and memory are figures.
func (s *service) measured() *sidecar { return &sidecar{process: s.process, role: s.role} }

// startService starts a program of the control plane and waits until it says that it is ready. It ends with the bed.
func (b *bench) startService(bed *bed, role, path string, more ...string) (*service, error) {
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return nil, fmt.Errorf("no %s at %s; build it (make build) or name one with -%s", role, path, role)
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	args := []string{
		"--port", strconv.Itoa(ports[0]), "--listen-address", "127.0.0.1", "--healthz-port", strconv.Itoa(ports[1]),
		"--metrics-port", strconv.Itoa(ports[2]), "--log-level", "error",
	}
	p, err := startProcess(bed.dir, role, path, environment(), append(args, more...), nil)
	if err != nil {
		return nil, err
	}
	bed.others = append(bed.others, p)
	return &service{process: p, role: role, addr: loopback(ports[0])}, p.await(b.ctx, loopback(ports[1]), "/healthz", 200, 5*time.Millisecond)
}
