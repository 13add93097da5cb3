package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"outrigger.dev/controlplane/placement/placementtest"
)

// disseminationLimit bounds one round of placement.
const disseminationLimit = 20 * time.Second

// startPlacementOnly is a placement service without sidecars: the load stands for them.
func startPlacementOnly(b *bench, t target, _ string) (*bed, error) {
	bed, err := b.newBed(t)
	if err != nil {
		return nil, err
	}
	s, err := b.startPlacement(bed)
	if err != nil {
		return bed, err
	}
	bed.sidecars, bed.placementAddr = []*sidecar{s.measured()}, s.addr
	return bed, nil
}

// dissemination is the time from a host's joining, or leaving, until all hosts go on with the new table. The hosts beside it stay.
func dissemination(what string, hosts int) figure {
	return figure{name: fmt.Sprintf("placement/%s/%d", what, hosts), load: func(_ *settings, b *bed) load {
		return load{Kind: "placement-" + what, Addr: b.placementAddr, Connections: 1, Hosts: hosts}
	}}
}

// placementCaller lets a host join and leave again.
type placementCaller struct {
	ctx     context.Context
	addr    string
	join    bool // whether joining is measured, or leaving
	resting []*simulatedHost
	next    int // for the names
	last    time.Duration
}

// simulatedHost is a sidecar as placement sees it.
type simulatedHost struct {
	placementtest.Host
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// leave ends the host's stream.
func (h *simulatedHost) leave() {
	h.cancel()
	h.ended.Wait()
}

// placementCallers has the first hosts settled before the load begins: a service may wait a while for all to come before its first table.
func (l *load) placementCallers(ctx context.Context) (open func(int) (caller, error), done func(), err error) {
	first, err := l.placementCaller(ctx)
	if err != nil {
		return nil, nil, err
	}
	open = func(int) (caller, error) {
		if p := first; p != nil {
			first = nil
			return p, nil
		}
		p, err := l.placementCaller(ctx) // after a failure
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return open, func() {}, nil
}

// placementCaller begins with the hosts that stay.
func (l *load) placementCaller(ctx context.Context) (*placementCaller, error) {
	p := &placementCaller{ctx: ctx, addr: l.Addr, join: l.Kind == "placement-join"}
	for range l.Hosts {
		p.resting = append(p.resting, p.enter())
	}
	if err := p.settled(p.resting, l.Hosts); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// enter makes a host that connects.
func (p *placementCaller) enter() *simulatedHost {
	ctx, cancel := context.WithCancel(p.ctx)
	h := &simulatedHost{cancel: cancel, Host: placementtest.Host{
		Addresses: []string{p.addr}, Name: fmt.Sprintf("10.%d.%d.%d:50002", p.next>>16&255, p.next>>8&255, p.next&255),
		AppID: callerID, Namespace: "default", Types: []string{actorType},
	}}
	p.next++
	h.ended.Go(func() { h.Run(ctx) })
	return h
}

// settled waits until the hosts go on with a table of so many.
func (p *placementCaller) settled(hosts []*simulatedHost, n int) error {
	ctx, cancel := context.WithTimeout(p.ctx, disseminationLimit)
	defer cancel()
	for _, h := range hosts {
		if err := h.Await(ctx, func(s placementtest.State) bool { return s.Settled && s.Hosts == n }); err != nil {
			return fmt.Errorf("%w: a table of %d hosts: %w", errBroken, n, err)
		}
	}
	return nil
}

func (p *placementCaller) call() error {
	n := len(p.resting)
	start := time.Now()
	h := p.enter()
	joined := p.settled(append(p.resting[:n:n], h), n+1)
	if p.join {
		p.last = time.Since(start)
	}
	start = time.Now()
	h.leave()
	if joined != nil {
		return joined
	}
	if err := p.settled(p.resting, n); err != nil {
		return err
	}
	if !p.join {
		p.last = time.Since(start)
	}
	for _, h := range append(p.resting[:n:n], h) {
		if wrong := h.State().Wrong; len(wrong) > 0 {
			return fmt.Errorf("%w: %s: %w", errBroken, h.Name, errors.New(wrong[0]))
		}
	}
	return nil
}

func (p *placementCaller) took() time.Duration { return p.last }

func (p *placementCaller) close() {
	for _, h := range p.resting {
		h.cancel()
	}
	for _, h := range p.resting {
		h.leave()
	}
}
