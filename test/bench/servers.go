package main

import (
	"fmt"
	"testing"

	realservers "outrigger.dev/test/servers"
)

// servers starts the real servers behind the stores, once each.
type servers struct {
	host  host
	known map[string]string // by kind: how a component names it
}

// host stands in for the test that [realservers] works for.
type host struct {
	testing.TB // for the method that keeps others from implementing it
	cleanups   []func()
}

// absence is a server that is not installed; it comes as a panic out of host.
type absence struct{ reason string }

func (h *host) Helper()                           {}
func (h *host) Cleanup(f func())                  { h.cleanups = append(h.cleanups, f) }
func (h *host) Skip(args ...any)                  { panic(absence{fmt.Sprint(args...)}) }
func (h *host) Skipf(format string, args ...any)  { panic(absence{fmt.Sprintf(format, args...)}) }
func (h *host) Fatal(args ...any)                 { panic(absence{fmt.Sprint(args...)}) }
func (h *host) Fatalf(format string, args ...any) { panic(absence{fmt.Sprintf(format, args...)}) }

// get returns how a component names the server of a kind, which runs.
func (s *servers) get(kind string) (name string, err error) {
	if name, ok := s.known[kind]; ok || kind == "" {
		return name, nil
	}
	defer func() {
		if a, ok := recover().(absence); ok {
			err = fmt.Errorf("%s", a.reason)
		}
	}()
	switch kind {
	case "redis":
		name = realservers.Redis(&s.host).Addr
	case "postgres":
		name = realservers.Postgres(&s.host).Database()
	default:
		return "", fmt.Errorf("no server of kind %q", kind)
	}
	if s.known == nil {
		s.known = make(map[string]string)
	}
	s.known[kind] = name
	return name, nil
}

func (s *servers) stop() {
	for len(s.host.cleanups) > 0 {
		last := len(s.host.cleanups) - 1
		f := s.host.cleanups[last]
		s.host.cleanups = s.host.cleanups[:last]
		f()
	}
	realservers.StopAll()
}
