package main

import (
	"errors"
	"fmt"
	"time"
)

// The actors of the beds.
const (
	actorType = "BenchActor"
	actors    = 1024 // distinct IDs of the calls
)

func actorPath(id int, rest string) string {
	return fmt.Sprintf("/v1.0/actors/%s/actor-%d/%s", actorType, id, rest)
}

// startActors is one sidecar with a placement service, a SQLite actor state store, and an app that hosts the actors. All actors are active, and
// those of the state figures have a value.
func startActors(b *bench, t target, _ string) (*bed, error) {
	bed, err := b.newBed(t)
	if err != nil {
		return nil, err
	}
	placement, err := b.startPlacement(bed)
	if err != nil {
		return bed, err
	}
	s, err := b.spawnHost(bed, "sidecar", b.size, "--placement-host-address", placement.addr)
	if err != nil {
		return bed, err
	}
	for id := range actors {
		bed.actors = append(bed.actors, id)
	}
	if err := b.drive(s, 200, b.size, actorCalls(b.settings, bed)); err != nil {
		return bed, err
	}
	return bed, b.drive(s, 204, 0, actorTransactions(b.settings))
}

// startActorPair is two sidecars of one app, each with an app process that hosts the actors. The bed's actors are those that live at the second one.
func startActorPair(b *bench, t target, _ string) (*bed, error) {
	bed, err := b.newBed(t)
	if err != nil {
		return nil, err
	}
	placement, err := b.startPlacement(bed)
	if err != nil {
		return bed, err
	}
	// Who runs an actor is told by the length of its reply.
	near, far := b.size, b.size+1
	s, err := b.spawnHost(bed, "caller", near, "--placement-host-address", placement.addr)
	if err != nil {
		return bed, err
	}
	// The first one hosts all of them before there is the second: what moves there then stays.
	if err := b.drive(s, 200, near, [][]byte{request("GET", actorPath(0, "method/echo"), "", "")}); err != nil {
		return bed, err
	}
	if _, err := b.spawnHost(bed, "owner", far, "--placement-host-address", placement.addr); err != nil {
		return bed, err
	}
	conn, err := dialResponses(b.ctx, s.httpAddr())
	if err != nil {
		return bed, err
	}
	defer conn.conn.Close()
	for deadline := time.Now().Add(30 * time.Second); len(bed.actors) < actors/8; {
		if time.Now().After(deadline) {
			return bed, s.failure(fmt.Errorf("only %d of %d actors have moved to the second host within 30 s", len(bed.actors), actors))
		}
		bed.actors = nil
		for id := range actors {
			_ = conn.conn.SetDeadline(time.Now().Add(10 * time.Second))
			status, body, err := conn.do(request("GET", actorPath(id, "method/echo"), "", ""))
			if errors.Is(err, errBroken) {
				return bed, s.failure(err)
			}
			if status == 200 && body == far {
				bed.actors = append(bed.actors, id)
			}
		}
	}
	return bed, nil
}

// spawnHost starts a sidecar with an actor state store of its own bed and an app that hosts the actors, and waits until calls reach it.
func (b *bench) spawnHost(bed *bed, role string, size int, more ...string) (*sidecar, error) {
	if err := writeStore(bed, "sqlite", "", item("actorStateStore", "true")); err != nil {
		return nil, err
	}
	port, err := b.startApp(bed, size, actorType)
	if err != nil {
		return nil, err
	}
	s, err := b.spawn(bed, role, callerID+"-"+bed.target.name, port, more...)
	if err != nil {
		return nil, err
	}
	if err := s.healthy(b.ctx, 5*time.Millisecond); err != nil {
		return nil, err
	}
	// A sidecar may be healthy before its types are disseminated.
	return s, s.await(b.ctx, s.httpAddr(), actorPath(0, "method/echo"), 200, 20*time.Millisecond)
}

// drive sends requests to a sidecar, one after the other, and wants the same of all replies.
func (b *bench) drive(s *sidecar, status, body int, requests [][]byte) error {
	conn, err := dialResponses(b.ctx, s.httpAddr())
	if err != nil {
		return err
	}
	defer conn.conn.Close()
	for _, r := range requests {
		_ = conn.conn.SetDeadline(time.Now().Add(10 * time.Second))
		gotStatus, gotBody, err := conn.do(r)
		if err == nil && (gotStatus != status || gotBody != body) {
			err = fmt.Errorf("%.60q: status %d and a body of %d bytes instead of %d and %d", r, gotStatus, gotBody, status, body)
		}
		if err != nil {
			return s.failure(err)
		}
		if err := b.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// actorCalls are one call of each of the bed's actors, which sends the body back.
func actorCalls(s *settings, b *bed) (requests [][]byte) {
	for _, id := range b.actors {
		requests = append(requests, request("POST", actorPath(id, "method/echo"), "application/octet-stream", octets(s)))
	}
	return requests
}

func actorCall(s *settings, b *bed) load {
	return load{Kind: "http", Addr: b.entry().httpAddr(), Connections: saturation, Status: []int{200}, Body: s.size, Requests: actorCalls(s, b)}
}

func actorTransactions(s *settings) (requests [][]byte) {
	for id := range keys {
		requests = append(requests, request("POST", actorPath(id, "state"), "application/json",
			fmt.Sprintf(`[{"operation":"upsert","request":{"key":"key","value":%s}}]`, value(s))))
	}
	return requests
}

func actorStateSet(s *settings, b *bed) load {
	return load{Kind: "http", Addr: b.entry().httpAddr(), Connections: saturation, Status: []int{204}, Requests: actorTransactions(s)}
}

func actorStateGet(s *settings, b *bed) load {
	l := load{Kind: "http", Addr: b.entry().httpAddr(), Connections: saturation, Status: []int{200}, Body: len(value(s))}
	for id := range keys {
		l.Requests = append(l.Requests, request("GET", actorPath(id, "state/key"), "", ""))
	}
	return l
}
