package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/sidecar/sidecartest"
)

// victim is a sidecar whose app answers, and which must go on to do so.
func victim(f *testing.F) (*sidecartest.Sidecar, *recorder) {
	app := &recorder{}
	s := sidecartest.Start(f, sidecartest.NewNetwork().Join("victim"), sidecartest.WithApp(sidecartest.NewApp(f, app)))
	s.WaitHealthy()
	return s, app
}

// alive fails the test unless the sidecar serves a call.
func alive(t *testing.T, s *sidecartest.Sidecar) {
	t.Helper()
	resp, body, err := raw(t, s.InternalAddress(), "GET /alive HTTP/1.1\r\nHost: x\r\nOutrigger-Exchange: 1\r\nConnection: close\r\n\r\n")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("the sidecar does not serve any more: %v %v %s\n%s", err, resp, body, s.Log)
	}
	if text := s.Log.String(); bytes.Contains([]byte(text), []byte("panic")) {
		t.Fatalf("something panicked:\n%s", text)
	}
}

// FuzzInternalHTTP2 sends bytes after the preface of HTTP/2 to the internal port, over a real connection.
func FuzzInternalHTTP2(f *testing.F) {
	leading, err := proto.Marshal(&internalsv1.InternalInvokeRequestStream{Request: call{verb: "GET", method: "m"}.leading()})
	if err != nil {
		f.Fatal(err)
	}
	block, _ := headerBlock(":method", "POST", ":scheme", "http", ":path", internalsv1.ServiceInvocation_CallLocalStream_FullMethodName, ":authority", "x", "content-type", "application/grpc", "te", "trailers")
	seed := func(write func(*http2.Framer)) {
		var b bytes.Buffer
		framer := http2.NewFramer(&b, nil)
		framer.AllowIllegalWrites = true
		_ = framer.WriteSettings()
		write(framer)
		f.Add(b.Bytes())
	}
	seed(func(w *http2.Framer) {
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
		_ = w.WriteData(1, true, append([]byte{0, 0, 0, 0, byte(len(leading))}, leading...))
	})
	seed(func(w *http2.Framer) {
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:10]})
		_ = w.WriteContinuation(1, true, block[10:])
		_ = w.WriteRSTStream(1, http2.ErrCodeCancel)
		_ = w.WritePing(false, [8]byte{})
		_ = w.WriteGoAway(1, http2.ErrCodeNo, nil)
	})
	seed(func(w *http2.Framer) {
		_ = w.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1<<32 - 1}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		_ = w.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: block, EndHeaders: true})
		_ = w.WriteDataPadded(2, true, nil, []byte{0, 0})
		_ = w.WriteWindowUpdate(0, 0)
	})
	proxied, _ := headerBlock(":method", "POST", ":scheme", "http", ":path", "/a.B/C", ":authority", "x", "content-type", "application/grpc+x", "te", "trailers", "dapr-callee-app-id", "victim", "grpc-timeout", "1n", "grpc-encoding", "gzip")
	seed(func(w *http2.Framer) {
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: proxied, EndHeaders: true})
		_ = w.WriteData(1, true, []byte{1, 0, 0, 0, 1, 0})
	})
	f.Add([]byte(nil))
	s, app := victim(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := net.DialTimeout("tcp", s.InternalAddress(), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * patience))
		read := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, c)
			read <- err
		}()
		if _, err := io.WriteString(c, http2.ClientPreface); err == nil {
			_, _ = c.Write(data) // the other side may have had enough
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if err := <-read; errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q: the connection goes on after its end", data)
		}
		app.take()
		alive(t, s)
	})
}

// bytesCodec sends messages as the bytes that they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = bytesCodec{}

// FuzzInternalStream sends messages to the streamed call of the internal port that may be anything.
func FuzzInternalStream(f *testing.F) {
	add := func(messages ...*internalsv1.InternalInvokeRequestStream) {
		var all [2][]byte
		for i, m := range messages {
			text, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			all[i] = text
		}
		f.Add(all[0], all[1])
	}
	lead := call{verb: "POST", method: "m", query: "a=b", header: [][2]string{{"content-length", "3"}, {"x", "y"}}}.leading()
	add(&internalsv1.InternalInvokeRequestStream{Request: lead, Payload: &commonv1.StreamPayload{Data: []byte("abc")}})
	add(&internalsv1.InternalInvokeRequestStream{Request: lead}, &internalsv1.InternalInvokeRequestStream{Payload: &commonv1.StreamPayload{Data: []byte("abc")}})
	add(&internalsv1.InternalInvokeRequestStream{Request: lead}, &internalsv1.InternalInvokeRequestStream{Request: lead, Payload: &commonv1.StreamPayload{Data: []byte("abc"), Seq: 7}})
	add(&internalsv1.InternalInvokeRequestStream{Request: call{method: "/../%2e%2e\x00#?", header: [][2]string{{"content-length", "-1"}, {":path", "/x"}, {"transfer-encoding", "chunked"}, {"", ""}}}.leading()})
	add(&internalsv1.InternalInvokeRequestStream{Payload: &commonv1.StreamPayload{Seq: 1<<64 - 1}}, &internalsv1.InternalInvokeRequestStream{})
	f.Add([]byte{0x0a, 0xff, 0xff}, []byte{})
	s, app := victim(f)
	cc, err := grpc.NewClient("passthrough:///"+s.InternalAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = cc.Close() })
	f.Fuzz(func(t *testing.T, first, second []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, internalsv1.ServiceInvocation_CallLocalStream_FullMethodName, grpc.ForceCodecV2(bytesCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		if stream.SendMsg(first) == nil {
			_ = stream.SendMsg(second) // its fate is what is received
		}
		_ = stream.CloseSend()
		var answer []byte
		for err == nil {
			err = stream.RecvMsg(&answer)
		}
		if ctx.Err() != nil {
			t.Fatalf("%q, %q: no end of the call", first, second)
		}
		for _, r := range app.take() {
			if len(r.path) == 0 || r.path[0] != '/' || bytes.ContainsAny([]byte(r.path), "?#\x00\r\n") {
				t.Errorf("the app got the path %q", r.path)
			}
		}
		alive(t, s)
	})
}
