//go:build unix

package mesh

import (
	"bytes"
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/identity/identitytest"
	"outrigger.dev/invocation"
)

// BenchmarkInvoke is one call of 1 KiB in both directions, client and server in this process.
func BenchmarkInvoke(b *testing.B) { benchmarkInvoke(b, nil, nil) }

// BenchmarkInvokeMTLS is the same under mTLS.
func BenchmarkInvokeMTLS(b *testing.B) {
	ca := identitytest.NewCA(b)
	benchmarkInvoke(b, NewMTLS(ca.NewSource(b, uriA), nil), NewMTLS(ca.NewSource(b, uriB), nil))
}

// BenchmarkHandshake opens and closes a connection under mTLS, both ends in this process.
func BenchmarkHandshake(b *testing.B) {
	ca := identitytest.NewCA(b)
	client, server := NewMTLS(ca.NewSource(b, uriA), nil), NewMTLS(ca.NewSource(b, uriB), nil)
	l := listen(b, "127.0.0.1:0")
	defer l.Close()
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			c, _, err := server.Server(context.Background(), raw, []string{ProtocolExchange, ProtocolGRPC})
			if err == nil {
				_, _ = c.Write([]byte("x"))
			}
			_ = raw.Close()
		}
	}()
	before := cpu(b)
	b.ReportAllocs()
	for b.Loop() {
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c, _, err := client.Client(context.Background(), raw, Target{AppID: "b", Namespace: "default"}, []string{ProtocolExchange})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		_ = raw.Close()
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

func benchmarkInvoke(b *testing.B, clientSecurity, serverSecurity Security) {
	body := bytes.Repeat([]byte("x"), 1<<10)
	server := NewServer(ServerOptions{AppID: "b", Security: serverSecurity, Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		resp := &invocation.Response{Status: 200, ContentType: "text/plain", Body: req.Body}
		resp.Header.Add("X-A", "1")
		return resp, nil
	}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			b.Error(err)
		}
		<-served
	}()
	for _, wire := range []struct {
		name string
		grpc bool
	}{{"exchange", false}, {"grpc", true}} {
		for _, parallel := range []bool{false, true} {
			name := wire.name
			if parallel {
				name += "-parallel"
			}
			b.Run(name, func(b *testing.B) {
				client := NewClient(ClientOptions{GRPCOnly: wire.grpc, Security: clientSecurity})
				defer client.Close()
				call := func() {
					req := &invocation.Request{AppID: "b", Namespace: "default", Method: "api/echo", Verb: "POST", ContentType: "text/plain", Body: body}
					req.Header.Add("User-Agent", "bench/1")
					req.Header.Add("Accept", "*/*")
					req.Header.Add("dapr-caller-app-id", "a")
					req.Header.Add("dapr-callee-app-id", "b")
					req.Header.Add("X-Forwarded-For", "127.0.0.1")
					resp, err := client.Invoke(context.Background(), l.Addr().String(), req)
					if err != nil {
						b.Error(err)
						return
					}
					if err := resp.Buffer(0); err != nil || len(resp.Body) != len(body) {
						b.Errorf("%d bytes, %v", len(resp.Body), err)
					}
				}
				measure(b, parallel, call)
			})
		}
	}
}

// BenchmarkCallActor is one call of an actor at another sidecar, 1 KiB in both directions, client and server in this process.
func BenchmarkCallActor(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 1<<10)
	address := servedActors(b, ServerOptions{AppID: "b"}, func(_ context.Context, _ Actor, req *invocation.Request) (*invocation.Response, error) {
		resp := &invocation.Response{Status: 200, ContentType: "text/plain", Body: req.Body}
		resp.Header.Add("X-A", "1")
		return resp, nil
	})
	for _, wire := range []struct {
		name string
		grpc bool
	}{{"exchange", false}, {"grpc", true}} {
		for _, parallel := range []bool{false, true} {
			name := wire.name
			if parallel {
				name += "-parallel"
			}
			b.Run(name, func(b *testing.B) {
				client := newClient(b, ClientOptions{GRPCOnly: wire.grpc})
				call := func() {
					req := &invocation.Request{Method: "add", Verb: "PUT", ContentType: "text/plain", Body: body}
					req.Header.Add("User-Agent", "bench/1")
					req.Header.Add("Accept", "*/*")
					req.Header.Add("X-Forwarded-For", "127.0.0.1")
					resp, err := client.CallActor(context.Background(), Target{Address: address}, Actor{"Cart", "42"}, req)
					if err != nil || len(resp.Body) != len(body) {
						b.Errorf("%v, %v", resp, err)
					}
				}
				measure(b, parallel, call)
			})
		}
	}
}

func cpu(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// measure makes calls, the first of which does not count, and reports the CPU time of each.
func measure(b *testing.B, parallel bool, call func()) {
	call()
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	if parallel {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				call()
			}
		})
	} else {
		for range b.N {
			call()
		}
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}
