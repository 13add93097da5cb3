package mesh

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/invocation"
)

// echoFrames is a proxy that sends each message back.
func echoFrames(_ any, ss grpc.ServerStream) error {
	if p := identity.PeerFromContext(ss.Context()); p != nil {
		ss.SetTrailer(metadata.Pairs("x-peer", p.URI))
	}
	var f invocation.Frame
	defer f.Free()
	for {
		if err := ss.RecvMsg(&f); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := ss.SendMsg(&f); err != nil {
			return err
		}
	}
}

// roundTrip sends a message on a stream and receives it back.
func roundTrip(s grpc.ClientStream, text string) error {
	var out, in invocation.Frame
	defer out.Free()
	defer in.Free()
	out.SetBytes([]byte(text))
	if err := s.SendMsg(&out); err != nil && err != io.EOF {
		return err
	}
	if err := s.RecvMsg(&in); err != nil {
		return err
	}
	if string(in.Bytes()) != text {
		return status.Errorf(codes.DataLoss, "sent %q, got %q", text, in.Bytes())
	}
	return nil
}

const anyMethod = "/pkg.Service/Method"

// A stream holds its connection however long it goes on, and gives it back when it ends.
func TestStreamHoldsConnection(t *testing.T) {
	clock := clockwork.NewFakeClock()
	_, at := startServer(t, ServerOptions{Handler: echoHandler, Proxy: echoFrames})
	c := newClient(t, ClientOptions{Clock: clock})
	target := Target{Address: at, AppID: "b", Namespace: "default"}
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	s, err := c.NewStream(ctx, target, anyMethod)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := roundTrip(s, strings.Repeat("x", 1+100*i)); err != nil {
			t.Fatalf("after %s: %v", time.Duration(i)*peerIdle, err)
		}
		clock.Advance(peerIdle)
		c.sweep()
	}
	count := func() (active, conns int) {
		c.mu.Lock()
		p := c.peers[Target{Address: at}]
		c.mu.Unlock()
		if p == nil {
			return 0, 0
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, conn := range p.conns {
			active += conn.active
		}
		return active, len(p.conns)
	}
	if active, conns := count(); active != 1 || conns != 1 {
		t.Errorf("%d calls on %d connections", active, conns)
	}
	cancel()
	eventually(t, "the connection is given back", func() bool { active, _ := count(); return active == 0 })
	clock.Advance(connIdle)
	c.sweep()
	if _, conns := count(); conns != 0 {
		t.Errorf("%d connections", conns)
	}
	// The other ways that a stream ends.
	for name, end := range map[string]func(s grpc.ClientStream) error{
		"half-closed": func(s grpc.ClientStream) error {
			_ = s.CloseSend()
			return s.RecvMsg(&invocation.Frame{})
		},
		"too large": func(s grpc.ClientStream) error {
			var f invocation.Frame
			f.SetBytes(make([]byte, 1<<10))
			return s.SendMsg(&f)
		},
	} {
		small := newClient(t, ClientOptions{MaxBodySize: 100})
		s, err := small.NewStream(within(t), target, anyMethod)
		if err != nil {
			t.Fatal(err)
		}
		if err := end(s); err == nil || name == "too large" && status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
		eventually(t, name, func() bool {
			small.mu.Lock()
			p := small.peers[Target{Address: at}]
			small.mu.Unlock()
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.conns[0].active == 0
		})
	}
	c.Close()
	if _, err := c.NewStream(within(t), target, anyMethod); status.Code(err) != codes.Unavailable {
		t.Errorf("a closed client: %v", err)
	}
}

// Under mTLS a proxied call reaches only the app that it is for, and the other side knows whose it is.
func TestStreamIdentity(t *testing.T) {
	ca := identitytest.NewCA(t)
	serverSide := NewMTLS(ca.NewSource(t, "spiffe://public/ns/default/b"), nil)
	clientSide := NewMTLS(ca.NewSource(t, "spiffe://public/ns/default/a"), nil)
	_, at := startServer(t, ServerOptions{Handler: echoHandler, Proxy: echoFrames, Security: serverSide})
	c := newClient(t, ClientOptions{Security: clientSide})
	s, err := c.NewStream(within(t), Target{Address: at, AppID: "b", Namespace: "default"}, anyMethod)
	if err != nil {
		t.Fatal(err)
	}
	if err := roundTrip(s, "x"); err != nil {
		t.Fatal(err)
	}
	_ = s.CloseSend()
	if err := s.RecvMsg(&invocation.Frame{}); err != io.EOF || s.Trailer()["x-peer"][0] != "spiffe://public/ns/default/a" {
		t.Errorf("%v, %v", err, s.Trailer())
	}
	// Name resolution that lies: the address is another app's, or another namespace's.
	for _, lie := range []Target{{at, "victim", "default"}, {at, "b", "other"}} {
		if _, err := c.NewStream(within(t), lie, anyMethod); !c.Retriable(err) {
			t.Errorf("%+v: %v", lie, err)
		}
		req := request("x")
		req.AppID, req.Namespace = lie.AppID, lie.Namespace
		if resp, err := c.Invoke(within(t), at, req); !c.Retriable(err) {
			t.Errorf("%+v: %v, %v", lie, resp, err)
		}
	}
}
