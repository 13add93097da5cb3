package app

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
)

// echoes is a gRPC server that sends every message of any method back, and the token and method it was called with.
func echoes(t *testing.T, o ...grpc.ServerOption) net.Addr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(o, grpc.ForceServerCodecV2(invocation.FrameCodec()), grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(ss.Context())
		method, _ := grpc.MethodFromServerStream(ss)
		ss.SetTrailer(metadata.Pairs("method", method, "token", strings.Join(md["dapr-api-token"], ",")))
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
	}))...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr()
}

// Calls are passed on as they are, with the app's token and nobody else's, also to an app that is not called by gRPC otherwise.
func TestForwarder(t *testing.T) {
	at := echoes(t).(*net.TCPAddr)
	for _, protocol := range []Protocol{GRPC, H2C, HTTP} {
		o := Options{Protocol: protocol, Port: at.Port, APIToken: "app's", MaxBodySize: 100}
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		f, err := NewForwarder(o, c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "dapr-api-token", "client's"), 10*time.Second)
		s, err := f.NewStream(ctx, "/a.B/C")
		if err != nil {
			t.Fatal(err)
		}
		var out, in invocation.Frame
		for _, text := range []string{"\xff\x00", "", strings.Repeat("x", 100)} {
			out.SetBytes([]byte(text))
			if err := s.SendMsg(&out); err != nil {
				t.Fatal(err)
			}
			if err := s.RecvMsg(&in); err != nil || string(in.Bytes()) != text {
				t.Errorf("got %q, %v", in.Bytes(), err)
			}
		}
		_ = s.CloseSend()
		if err := s.RecvMsg(&in); err != io.EOF {
			t.Errorf("the end: %v", err)
		}
		if md := s.Trailer(); md["method"][0] != "/a.B/C" || md["token"][0] != "app's" {
			t.Errorf("the app saw %v", md)
		}
		if s, err = f.NewStream(ctx, "/a.B/C"); err != nil {
			t.Fatal(err)
		}
		out.SetBytes(make([]byte, 101))
		if err := s.SendMsg(&out); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("too large: %v", err)
		}
		cancel()
		f.Close()
		ended, end := context.WithTimeout(context.Background(), 10*time.Second)
		if err := c.Close(ended); err != nil {
			t.Error(err)
		}
		end()
		if _, err := f.NewStream(context.Background(), "/a.B/C"); status.Code(err) != codes.Unavailable {
			t.Errorf("closed: %v", err)
		}
	}
}

// An app that speaks no gRPC, or is not there, is unavailable, and the error says what may be wrong.
func TestForwarderWithoutApp(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	for _, c := range []struct {
		protocol Protocol
		port     int
		want     string
	}{
		{HTTP, web.Listener.Addr().(*net.TCPAddr).Port, "--app-protocol http"},
		{GRPC, nobody, "connection refused"},
	} {
		o := Options{Protocol: c.protocol, Port: c.port}
		channel, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		f, err := NewForwarder(o, channel)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if _, err := f.NewStream(ctx, "/a.B/C"); status.Code(err) != codes.Unavailable || !strings.Contains(status.Convert(err).Message(), c.want) {
			t.Errorf("got %v", err)
		}
		f.Close()
		_ = channel.Close(ctx)
		cancel()
	}
	if _, err := NewForwarder(Options{Protocol: "ftp"}, nil); err == nil {
		t.Error("an unknown protocol is taken")
	}
}
