package placement

import (
	"net"
	"strings"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/mesh/placement/ring"
)

// table is a placement table with its rings. It does not change.
type table struct{ types map[string]hosts }

// hosts of one actor type.
type hosts struct {
	ring *ring.Ring
	// owners are the ring's hosts, in its order.
	owners []Owner
}

// at is the owner of what hashes to hash, nil when there is no host.
func (h hosts) at(hash uint64) *Owner {
	if h.ring == nil {
		return nil
	}
	if i := h.ring.At(hash); i >= 0 {
		return &h.owners[i]
	}
	return nil
}

// newTable makes the rings of a table. The error is that of a table that nobody can have meant.
func newTable(in *placementv1.PlacementTables, own self) (*table, error) {
	entries := in.GetEntries()
	names := make([]string, 0, len(entries))
	lists := make([][]ring.Host, 0, len(entries))
	for actorType, entry := range entries {
		list := make([]ring.Host, 0, len(entry.GetLoadMap()))
		for key, host := range entry.GetLoadMap() {
			list = append(list, ring.Host{Key: key, Name: host.GetName(), AppID: host.GetId()})
		}
		names, lists = append(names, actorType), append(lists, list)
	}
	rings, err := ring.Build(in.GetReplicationFactor(), lists)
	if err != nil {
		return nil, err
	}
	t := &table{types: make(map[string]hosts, len(names))}
	made := map[*ring.Ring][]Owner{}
	for i, r := range rings {
		owners, ok := made[r]
		if !ok {
			owners = make([]Owner, len(r.Hosts()))
			for n, h := range r.Hosts() {
				owners[n] = Owner{Address: h.Name, AppID: h.AppID, Local: own.is(h.Name)}
			}
			made[r] = owners
		}
		t.types[names[i]] = hosts{ring: r, owners: owners}
	}
	return t, nil
}

// hosted are those of the actor types that this sidecar hosts by the table, in the order given.
func (t *table) hosted(types []string) []string {
	in := make([]string, 0, len(types))
	for _, name := range types {
		for _, o := range t.types[name].owners {
			if o.Local {
				in = append(in, name)
				break
			}
		}
	}
	return in
}

// self is the name of this sidecar in tables.
type self struct {
	name string
	// port is set when the name is one of loopback: sidecars of one machine call themselves by different ones of these.
	port string
}

func newSelf(name string) self {
	if port, ok := loopback(name); ok {
		return self{name: name, port: port}
	}
	return self{name: name}
}

// is tells whether a host name is this sidecar's (Dapr API, actors: invocation).
func (s self) is(name string) bool {
	if name == s.name {
		return true
	}
	if s.port == "" {
		return false
	}
	port, ok := loopback(name)
	return ok && port == s.port
}

// loopback is the port of a host name whose host is the machine itself.
func loopback(name string) (port string, ok bool) {
	host, port, err := net.SplitHostPort(name)
	if err != nil { // an IPv6 address without brackets
		i := strings.LastIndexByte(name, ':')
		if i < 0 {
			return "", false
		}
		host, port = name[:i], name[i+1:]
	}
	switch host {
	case "localhost", "127.0.0.1", "::1":
		return port, port != ""
	}
	return "", false
}
