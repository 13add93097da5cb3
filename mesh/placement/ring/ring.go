// Package ring is the consistent hashing that tells which host owns an actor. Every sidecar of a namespace computes it on its own from
// the same table and must come to the same result, so it is fixed to the bit (Dapr API, placement: consistent hashing).
package ring

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/crypto/blake2b"
)

// Host is a member of a ring.
type Host struct {
	// Key is what is hashed: the host's key in the table.
	Key string
	// Name is the address that actors are called at, "host:port", and AppID the app there.
	Name, AppID string
}

// Ring tells the owners of the actors of one type. It does not change and is safe for concurrent use. The zero Ring has no hosts.
type Ring struct {
	// points are sorted; owners[i] is the index in hosts of the owner of points[i].
	points []uint64
	owners []uint32
	hosts  []Host
}

// MaxPoints bounds the points of all hosts together (hosts times the replication factor): a table over it is no table but a mistake.
const MaxPoints = 50_000_000

// Hash is the place of a text on a ring: the first 8 bytes, little endian, of its BLAKE2b digest of 64 bytes.
func Hash(s string) uint64 {
	var space [256]byte
	sum := blake2b.Sum512(append(space[:0], s...))
	return binary.LittleEndian.Uint64(sum[:])
}

// Build makes a ring of each list of hosts, with factor points per host. Lists with the same hosts get the same Ring, so that types that
// are hosted together cost nothing each. A host stands in a list once. The error is that of a factor out of all bounds; a factor of 0 or
// less makes rings without points.
func Build(factor int64, lists [][]Host) ([]*Ring, error) {
	rings := make([]*Ring, len(lists))
	keys := map[string]uint32{}
	for _, hosts := range lists {
		for i := range hosts {
			if _, known := keys[hosts[i].Key]; !known {
				keys[hosts[i].Key] = uint32(len(keys))
			}
		}
	}
	factor = max(factor, 0)
	if len(keys) > 0 && factor > MaxPoints/int64(len(keys)) {
		return nil, fmt.Errorf("the replication factor %d for %d hosts makes more than %d points: set --replicationFactor of the placement service to 100", factor, len(keys), MaxPoints)
	}
	all := spread(keys, int(factor))
	known := map[string]*Ring{}
	member := make([]uint32, len(keys)) // 1 + the index in the list, by number of the key
	var signature []byte
	for n, list := range lists {
		hosts := slices.Clone(list)
		slices.SortFunc(hosts, func(a, b Host) int { return cmp.Compare(a.Key, b.Key) })
		signature = signature[:0]
		for i := range hosts {
			for _, part := range [...]string{hosts[i].Key, hosts[i].Name, hosts[i].AppID} {
				signature = binary.AppendUvarint(signature, uint64(len(part)))
				signature = append(signature, part...)
			}
		}
		if r, ok := known[string(signature)]; ok {
			rings[n] = r
			continue
		}
		clear(member)
		for i := range hosts {
			member[keys[hosts[i].Key]] = uint32(i) + 1
		}
		r := &Ring{hosts: hosts, points: make([]uint64, 0, len(hosts)*int(factor)), owners: make([]uint32, 0, len(hosts)*int(factor))}
		for i := range all {
			if m := member[all[i].key]; m > 0 {
				r.points = append(r.points, all[i].at)
				r.owners = append(r.owners, m-1)
			}
		}
		known[string(signature)] = r
		rings[n] = r
	}
	return rings, nil
}

type point struct {
	at  uint64
	key uint32
}

// spread makes the points of all keys and sorts them, once for all rings.
func spread(keys map[string]uint32, factor int) []point {
	all := make([]point, 0, len(keys)*factor)
	names := make([]string, len(keys)) // equal points, if there ever are any, go by name and not by chance
	for key := range keys {
		names[keys[key]] = key
	}
	var space [256]byte
	for n, key := range names {
		text := append(space[:0], key...)
		for i := range factor {
			sum := blake2b.Sum512(strconv.AppendInt(text, int64(i), 10))
			all = append(all, point{at: binary.LittleEndian.Uint64(sum[:]), key: uint32(n)})
		}
	}
	slices.SortFunc(all, func(a, b point) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		return cmp.Compare(names[a.key], names[b.key])
	})
	return all
}

// Hosts are the members, sorted by key. They must not be changed.
func (r *Ring) Hosts() []Host { return r.hosts }

// At is the index in Hosts of the owner of what hashes to hash, -1 when the ring has no points: the owner of the first point that is not
// before it, or of the first of all.
func (r *Ring) At(hash uint64) int {
	if len(r.points) == 0 {
		return -1
	}
	i, _ := slices.BinarySearch(r.points, hash)
	if i == len(r.points) {
		i = 0
	}
	return int(r.owners[i])
}

// Lookup is the owner of the actor with an id; ok is false when the ring has no points.
func (r *Ring) Lookup(id string) (h Host, ok bool) {
	i := r.At(Hash(id))
	if i < 0 {
		return Host{}, false
	}
	return r.hosts[i], true
}
