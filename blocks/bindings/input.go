package bindings

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"outrigger.dev/app"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/invocation"
	"outrigger.dev/resiliency"
)

// input is an input binding in service.
type input struct {
	name    string
	binding contract.Input
	// wanted is true when the resource says that it is an input: the app is not asked then.
	wanted bool
	// path and query are where an HTTP app gets its events.
	path, query string
	// policy is for the deliveries to the app; it may be nil.
	policy *resiliency.Policy
	// reader is the last one, nil before the first.
	reader *reader
}

// splitRoute makes of the property route what the app channel wants: the decoded path without leading slash, and the query.
func splitRoute(route string) (path, query string) {
	path, query, _ = strings.Cut(route, "?")
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded
	}
	return invocation.CleanMethod(path), query
}

// session is the time from one Start to the next Stop.
type session struct{ target target }

// Start begins to read the input bindings for a healthy app (Dapr API, bindings: when read). Each is asked for and opened in the
// background by itself: one that fails is tried again until Stop, without holding up the others. Start returns when each has been
// tried once, or ctx has ended; ctx bounds nothing else. While they are read, and after Shutdown, it does nothing; nor does it
// without a channel, for then there is no app.
func (b *Bindings) Start(ctx context.Context, channel app.Channel) {
	if channel == nil {
		return
	}
	b.mu.Lock()
	if b.ended || b.active != nil {
		b.mu.Unlock()
		return
	}
	b.active = &session{target: b.newTarget(channel)}
	readers := make([]*reader, 0, len(b.inputs))
	for _, in := range b.inputs {
		readers = append(readers, b.read(in))
	}
	b.mu.Unlock()
	for _, r := range readers {
		select {
		case <-r.tried:
		case <-ctx.Done():
			return
		}
	}
}

// read starts a reader in the active session. The caller holds mu.
func (b *Bindings) read(in *input) *reader {
	r := newReader(b, in, b.active.target, in.reader)
	in.reader = r
	go r.run()
	return r
}

// Stop ends the reading of all input bindings, for an app that is not healthy (Dapr API, bindings: stop). Events that still come are
// refused; running deliveries, and what they started, end by themselves. It does not wait for them, so that the app's health goes on
// being watched. Start may follow at any time.
func (b *Bindings) Stop() {
	for _, r := range b.deactivate(false) {
		r.stop()
	}
}

// Shutdown is Stop for good: Start does nothing any more. It returns when everything has ended. When ctx ends first, what still runs is
// broken off; the error then names the bindings.
func (b *Bindings) Shutdown(ctx context.Context) error { return stopAll(ctx, b.deactivate(true)) }

// deactivate ends the session and returns the last readers of all bindings.
func (b *Bindings) deactivate(forGood bool) []*reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = b.ended || forGood
	b.active = nil
	readers := make([]*reader, 0, len(b.inputs))
	for _, in := range b.inputs {
		if in.reader != nil {
			readers = append(readers, in.reader)
		}
	}
	return readers
}

// brokenOff is how long a reader may take to notice that it was broken off.
const brokenOff = time.Second

// stopAll ends readers side by side.
func stopAll(ctx context.Context, readers []*reader) error {
	for _, r := range readers {
		r.stop()
	}
	errs := make([]error, len(readers))
	var group sync.WaitGroup
	for i, r := range readers {
		group.Go(func() {
			select {
			case <-r.done:
				return
			case <-ctx.Done():
			}
			r.breakOff()
			timer := time.NewTimer(brokenOff)
			defer timer.Stop()
			select {
			case <-r.done:
				errs[i] = fmt.Errorf("input binding %s was busy, and its running deliveries were broken off: %w", r.in.name, context.Cause(ctx))
			case <-timer.C:
				errs[i] = fmt.Errorf("input binding %s does not end: %w", r.in.name, context.Cause(ctx))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
