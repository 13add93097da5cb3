// Package placementtest has sidecars for tests of the placement service: they report types and answer orders, and nothing else.
package placementtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

// Host is one sidecar, as the protocol describes it (Dapr API, placement: client protocol). Its fields are to be set before Run.
type Host struct {
	// Addresses are those of the members of the cluster, tried in this order.
	Addresses []string
	// Credentials of the connection; nil is clear text.
	Credentials            credentials.TransportCredentials
	Name, AppID, Namespace string
	Types                  []string
	// Answer, if not nil, is asked before an order is answered; false leaves it without an answer.
	Answer func(*placementv1.PlacementOrder) bool

	mu      sync.Mutex
	stream  placementv1.Placement_ReportDaprStatusClient
	state   State
	changed chan struct{}
}

// State is what a sidecar knows.
type State struct {
	// Leader is the address of the member that it is connected to, "" for none.
	Leader string
	// Version and Table are those of the last UPDATE: host names by type, sorted, "type:a,b type:c".
	Version uint64
	Table   string
	// Hosts is how many different hosts the table has.
	Hosts int
	// Settled says that the last order was UNLOCK.
	Settled bool
	// Rounds counts the UNLOCKs of all streams, Streams the streams that were opened.
	Rounds, Streams int
	// Err is why the last stream has ended.
	Err error
	// Wrong are orders that do not follow the protocol.
	Wrong []string
}

// Run connects, and connects again, until ctx ends.
func (h *Host) Run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		address := h.Addresses[i%len(h.Addresses)]
		err := h.serve(ctx, address)
		h.set(func(s *State) { s.Leader, s.Settled, s.Version, s.Err = "", false, 0, err })
		if status.Code(err) == codes.FailedPrecondition && i%len(h.Addresses) != len(h.Addresses)-1 {
			continue
		}
		select {
		case <-time.After(50*time.Millisecond + rand.N(100*time.Millisecond)):
		case <-ctx.Done():
		}
	}
}

// serve is one connection.
func (h *Host) serve(ctx context.Context, address string) error {
	creds := h.Credentials
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := placementv1.NewPlacementClient(conn).ReportDaprStatus(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.stream = stream
	err = stream.Send(h.report())
	h.mu.Unlock()
	if err != nil {
		_, err = stream.Recv()
		return err
	}
	var locked uint64
	last := ""
	for first := true; ; first = false {
		o, err := stream.Recv()
		if err != nil {
			return err
		}
		h.set(func(s *State) {
			if first {
				s.Leader, s.Version = address, 0
				s.Streams++
			}
			switch o.Operation {
			case "lock":
				if o.Version < locked {
					s.Wrong = append(s.Wrong, fmt.Sprintf("lock %d after %s %d", o.Version, last, locked))
				}
				s.Settled = false
			case "update":
				if last != "lock" || o.Version != locked || o.GetTables().GetVersion() != fmt.Sprint(o.Version) {
					s.Wrong = append(s.Wrong, fmt.Sprintf("update %d (table %s) after %s %d", o.Version, o.GetTables().GetVersion(), last, locked))
				}
				s.Version, s.Table, s.Hosts = o.Version, Text(o.Tables), hosts(o.Tables)
			case "unlock":
				if last != "update" || o.Version != locked {
					s.Wrong = append(s.Wrong, fmt.Sprintf("unlock %d after %s %d", o.Version, last, locked))
				}
				s.Settled = true
				s.Rounds++
			default:
				s.Wrong = append(s.Wrong, "operation "+o.Operation)
			}
		})
		locked, last = o.Version, o.Operation
		if h.Answer != nil && !h.Answer(o) {
			continue
		}
		ack := &placementv1.Host{
			Operation: placementv1.HostOperation(placementv1.HostOperation_value[strings.ToUpper(o.Operation)]), Version: &o.Version, Id: h.AppID, Namespace: h.Namespace,
		}
		h.mu.Lock()
		err = stream.Send(ack)
		h.mu.Unlock()
		if err != nil {
			_, err = stream.Recv()
			return err
		}
	}
}

func (h *Host) report() *placementv1.Host {
	return &placementv1.Host{
		Name: h.Name, Id: h.AppID, Namespace: h.Namespace, Entities: h.Types, ApiLevel: 20, Operation: placementv1.HostOperation_REPORT,
	}
}

// Report replaces the types, and tells the service if there is a stream.
func (h *Host) Report(types ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Types = types
	if h.stream == nil {
		return nil
	}
	return h.stream.Send(h.report())
}

// Announced are its types.
func (h *Host) Announced() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.Types)
}

// State is what it knows now.
func (h *Host) State() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.state
	s.Wrong = slices.Clone(s.Wrong)
	return s
}

func (h *Host) set(change func(*State)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.state)
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// Await waits until the state is as wanted. The error is that of ctx, with the last state.
func (h *Host) Await(ctx context.Context, wanted func(State) bool) error {
	for {
		h.mu.Lock()
		s := h.state
		if h.changed == nil {
			h.changed = make(chan struct{})
		}
		changed := h.changed
		h.mu.Unlock()
		if wanted(s) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("sidecar %s is in %+v: %w", h.Name, s, ctx.Err())
		}
	}
}

// hosts counts those of a table.
func hosts(t *placementv1.PlacementTables) int {
	names := map[string]struct{}{}
	for _, entry := range t.GetEntries() {
		for name := range entry.GetLoadMap() {
			names[name] = struct{}{}
		}
	}
	return len(names)
}

// Text is a table as [State] has it.
func Text(t *placementv1.PlacementTables) string {
	var types []string
	for name, entry := range t.GetEntries() {
		var hosts []string
		for host := range entry.GetLoadMap() {
			hosts = append(hosts, host)
		}
		slices.Sort(hosts)
		types = append(types, name+":"+strings.Join(hosts, ","))
	}
	slices.Sort(types)
	return strings.Join(types, " ")
}
