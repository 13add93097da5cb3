package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

// fakeMDNS is an mDNS resolver that knows one app.
type fakeMDNS struct {
	inst      components.Instance
	id        string
	calls     int
	forgotten []string
	closed    bool
}

func (f *fakeMDNS) Resolve(_ context.Context, req nameresolution.Request) (string, error) {
	f.calls++
	if req.ID == f.id {
		return "10.0.0.1:1", nil
	}
	return "", errors.New("couldn't find service: " + req.ID)
}
func (f *fakeMDNS) Forget(_, address string) { f.forgotten = append(f.forgotten, address) }
func (f *fakeMDNS) Close() error             { f.closed = true; return nil }

func TestMDNS(t *testing.T) {
	tests := []struct {
		name              string
		announce, resolve string
		appID             string
		found             bool
	}{
		{"announce", "true", "", "me", false},
		{"resolve", "", "true", "", true},
		{"both", "true", "true", "me", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "hosts.db")
			beside := &fakeMDNS{id: "far"}
			r := join(t, file, setup{
				id: "me", port: 1, properties: map[string]string{"announceMDNS": tt.announce, "resolveMDNS": tt.resolve},
				mdns: func(_ context.Context, inst components.Instance) (nameresolution.Resolver, error) {
					beside.inst = inst
					return beside, nil
				},
			})
			if beside.inst.Sidecar.AppID != tt.appID {
				t.Errorf("announced as %q", beside.inst.Sidecar.AppID)
			}
			if got := resolve(t, r, "me"); got != "127.0.0.1:1" || beside.calls != 0 {
				t.Errorf("got %s after %d calls of mDNS", got, beside.calls)
			}
			if !tt.found {
				missing(t, r, "far")
			} else {
				for range 3 {
					if got := resolve(t, r, "far"); got != "10.0.0.1:1" {
						t.Errorf("got %s", got)
					}
				}
				if h := r.found["far"]; h == nil || !h.elsewhere {
					t.Error("every call asks the table first")
				}
				_, err := r.Resolve(t.Context(), nameresolution.Request{ID: "ghost"})
				if err == nil || err.Error() != "no host found with the given ID; and over mDNS: couldn't find service: ghost" {
					t.Errorf("got %v", err)
				}
				r.Forget("far", "10.0.0.1:1")
				if !slices.Equal(beside.forgotten, []string{"10.0.0.1:1"}) || r.found["far"] != nil {
					t.Errorf("not forgotten: %v", beside.forgotten)
				}
			}
			if err := r.Close(); err != nil || !beside.closed {
				t.Errorf("Close: %v, closed %v", err, beside.closed)
			}
		})
	}
	t.Run("failure is not fatal", func(t *testing.T) {
		var log logBuffer
		r := join(t, filepath.Join(t.TempDir(), "hosts.db"), setup{
			id: "me", port: 1, log: &log, properties: map[string]string{"announceMDNS": "true"},
			mdns: func(context.Context, components.Instance) (nameresolution.Resolver, error) {
				return nil, errors.New("no such luck")
			},
		})
		resolve(t, r, "me")
		r.Forget("me", "127.0.0.1:1")
		if !log.has("no such luck") {
			t.Errorf("log: %s", log.buf.String())
		}
	})
}
