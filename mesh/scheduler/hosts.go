package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// follow keeps to the list of schedulers until ctx ends (Dapr API, sidecar to scheduler: hosts). While none can be asked the last list stays
// in force.
func (c *Client) follow(ctx context.Context) {
	last, quietly := -1, false
	for ctx.Err() == nil {
		last = c.choose(last)
		address := c.options.Addresses[last]
		listed, err := c.watch(ctx, address)
		if ctx.Err() != nil {
			return
		}
		if status.Code(err) == codes.Unimplemented {
			c.options.Log.Info("the scheduler knows no list of schedulers: the configured addresses are used", "address", address)
			c.apply(ctx, c.options.Addresses)
			<-ctx.Done()
			return
		}
		c.mu.Lock()
		c.failure = fmt.Errorf("the scheduler at %s: %w", address, err)
		c.mu.Unlock()
		wait := time.Second
		if listed {
			quietly = false
		} else {
			wait = c.between(500*time.Millisecond, 1500*time.Millisecond)
		}
		log := c.options.Log.Warn
		if quietly {
			log = c.options.Log.Debug
		}
		quietly = true
		log("the list of schedulers is not available, and asked for again; check that the scheduler runs and --scheduler-host-address is right", "address", address, "error", err)
		if !c.pause(ctx, wait) {
			return
		}
	}
}

// choose picks any address, but not the one that was tried last if there is another.
func (c *Client) choose(last int) int {
	n := len(c.options.Addresses)
	if last < 0 || n == 1 {
		return min(int(c.options.Rand()*float64(n)), n-1)
	}
	i := min(int(c.options.Rand()*float64(n-1)), n-2)
	if i >= last {
		i++
	}
	return i
}

var errFirstList = errors.New("it has sent no list of schedulers for " + firstListTimeout.String() + "; it may not be able to join the others")

// watch takes lists of schedulers from one of them, until that fails. Listed tells whether there was any.
func (c *Client) watch(ctx context.Context, address string) (listed bool, err error) {
	conn, err := grpc.NewClient("passthrough:///"+address, c.dialOptions()...)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	call, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := c.options.Clock.AfterFunc(firstListTimeout, func() { cancel(errFirstList) })
	defer timer.Stop()
	stream, err := schedulerv1.NewSchedulerClient(conn).WatchHosts(call, &schedulerv1.WatchHostsRequest{})
	if err != nil {
		return false, err
	}
	for {
		list, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(call); errors.Is(cause, errFirstList) {
				err = cause
			}
			return listed, err
		}
		timer.Stop()
		hosts := make([]string, len(list.GetHosts()))
		for i, h := range list.GetHosts() {
			hosts[i] = h.GetAddress()
		}
		if hosts = unique(hosts); len(hosts) == 0 {
			// Whoever sent this is one, so it is not so.
			c.options.Log.Warn("a list of schedulers names none, and is ignored", "address", address)
			continue
		}
		listed = true
		c.apply(ctx, hosts)
	}
}

// apply puts a list of schedulers in force. Connections to those that stay are kept; those that go may finish what runs.
func (c *Client) apply(ctx context.Context, hosts []string) {
	state := resolver.State{Addresses: make([]resolver.Address, len(hosts))}
	for i, h := range hosts {
		state.Addresses[i] = resolver.Address{Addr: h}
	}
	c.mu.Lock()
	before := c.hosts
	c.hosts, c.failure = slices.Clone(hosts), nil
	c.mu.Unlock()
	c.addresses.UpdateState(state)
	for address, links := range c.links {
		if !slices.Contains(hosts, address) {
			for _, l := range links {
				close(l.leave)
			}
			delete(c.links, address)
		}
	}
	for _, address := range hosts {
		if c.links[address] != nil {
			continue
		}
		for range c.options.JobStreams {
			l := &link{client: c, address: address, leave: make(chan struct{})}
			c.links[address] = append(c.links[address], l)
			c.tasks.Go(func() { l.run(ctx) })
		}
	}
	if before == nil {
		close(c.ready)
	}
	if !slices.Equal(slices.Sorted(slices.Values(before)), slices.Sorted(slices.Values(hosts))) {
		c.options.Log.Info("connected to the schedulers " + strings.Join(hosts, ", "))
	}
}
