package placement

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

// Pauses between attempts to connect (Dapr API, placement: reconnecting). They are spread by half of their length around their middle.
const (
	pause = 500 * time.Millisecond
	// maxPause is the longest one, after every instance has refused this sidecar several times over. A new leader waits for about twice as long.
	maxPause = 800 * time.Millisecond
)

// openTimeout bounds reaching an instance: its name, the connection, and the opening of the stream.
const openTimeout = 10 * time.Second

// warnEvery is how many rounds over all instances may fail before the log says so again.
const warnEvery = 32

// Run connects to the leader of the placement service and follows its orders, again and again, until ctx ends. Then all instances are
// halted, and look-ups that still wait fail with [ErrClosed]. The error is nil, or that of options that cannot work.
func (c *Client) Run(ctx context.Context) error {
	defer c.core.close()
	defer c.tasks.Wait()
	o := &c.options
	if len(o.Addresses) == 0 {
		return errors.New("the placement service has no address: give --placement-host-address host:port")
	}
	r := &rotation{}
	for {
		address, members, err := c.target(ctx, r.attempt)
		result := outcome{err: err}
		if err == nil {
			o.Log.Debug("connecting to the placement service", "address", address)
			result = c.connect(ctx, address)
		}
		if ctx.Err() != nil {
			return nil
		}
		wait := r.next(result, members, o.Rand())
		switch {
		case result.worked:
			o.Log.Warn("the connection to the placement service was lost: calls of actors wait until it is there again", "address", address, "error", result.err)
		case r.complete && r.passes%warnEvery == 1:
			o.Log.Warn("no instance of the placement service serves this sidecar: check that it runs, that its address is right, and that its cluster has a leader; it is tried again",
				"addresses", o.Addresses, "error", result.err)
		default:
			o.Log.Debug("an instance of the placement service does not serve this sidecar", "address", address, "error", result.err)
		}
		if wait == 0 {
			continue
		}
		timer := o.Clock.NewTimer(wait)
		select {
		case <-timer.Chan():
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// target is the address for an attempt and how many instances there are.
func (c *Client) target(ctx context.Context, attempt int) (address string, members int, err error) {
	all := c.options.Addresses
	if !c.options.Kubernetes {
		return all[attempt%len(all)], len(all), nil
	}
	host, port, err := net.SplitHostPort(all[0])
	if err != nil {
		return "", 1, fmt.Errorf("the address %q of the placement service is not host:port: correct --placement-host-address", all[0])
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	found, err := c.options.Resolve(ctx, host)
	if err == nil && len(found) == 0 {
		err = errors.New("the name has no addresses")
	}
	if err != nil {
		return "", 1, fmt.Errorf("the host %s of the placement service cannot be resolved: %w", host, err)
	}
	found = slices.Clone(found)
	slices.Sort(found)
	return net.JoinHostPort(found[attempt%len(found)], port), len(found), nil
}

// outcome is how an attempt ended.
type outcome struct {
	// worked tells that the instance gave orders: it was the leader.
	worked bool
	// answered tells that the instance was there.
	answered bool
	err      error
}

// connect opens a stream at an instance and serves it to its end. When it returns, the connection is closed.
func (c *Client) connect(ctx context.Context, address string) outcome {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(c.options.Credentials), grpc.WithContextDialer(c.options.Dial), grpc.WithNoProxy(), grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)), // tables of large clusters exceed the default
	)
	if err != nil {
		return outcome{err: fmt.Errorf("the address %q of the placement service cannot be used: correct --placement-host-address: %w", address, err)}
	}
	// The stream outlives ctx, for it must not end before everything here is halted.
	open, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &session{client: c, halted: c.halting}
	defer s.tasks.Wait()
	defer conn.Close()
	defer cancel()
	late := c.options.Clock.AfterFunc(openTimeout, cancel)
	unwatch := context.AfterFunc(ctx, cancel)
	s.stream, err = placementv1.NewPlacementClient(conn).ReportDaprStatus(open)
	stopped := late.Stop()
	inTime := unwatch() && stopped
	if err == nil && !inTime {
		err = context.Cause(open)
	}
	if err != nil {
		if !inTime && ctx.Err() == nil {
			err = fmt.Errorf("no stream within %s: %w", openTimeout, err)
		}
		return outcome{err: err}
	}
	err = s.run(ctx)
	return outcome{worked: s.worked, answered: true, err: err}
}

// rotation decides when the next attempt to connect is, and where.
type rotation struct {
	attempt int
	// failed counts attempts in a row that got no orders, and refused those that were answered by a refusal, since the last full round.
	failed, refused int
	// passes counts full rounds over all instances that failed; growth those in which instances refused.
	passes, growth int
	// complete tells that the last attempt completed a round.
	complete bool
}

// next is the pause after an attempt: none when another instance may be the leader, a random one after a failure, and a growing one when
// all instances are there and none of them is willing, for a cluster without a leader is not helped by being asked more often.
func (r *rotation) next(o outcome, members int, random float64) time.Duration {
	r.attempt++
	r.complete = false
	notLeader := status.Code(o.err) == codes.FailedPrecondition
	if o.worked {
		*r = rotation{attempt: r.attempt}
		if notLeader {
			return 0
		}
		return spread(pause, random)
	}
	r.failed++
	if o.answered && status.Code(o.err) != codes.Unavailable {
		r.refused++
	}
	if r.failed >= members {
		r.complete = true
		r.passes++
		if r.refused > 0 {
			r.growth++
		} else {
			r.growth = 0
		}
		r.failed, r.refused = 0, 0
		grown := pause
		for i := 1; i < r.growth && grown < maxPause; i++ {
			grown *= 2
		}
		return spread(min(grown, maxPause), random)
	}
	if notLeader {
		return 0
	}
	return spread(pause, random)
}

// spread is a duration between half of d and half more than d.
func spread(d time.Duration, random float64) time.Duration {
	return d/2 + time.Duration(random*float64(d))
}
