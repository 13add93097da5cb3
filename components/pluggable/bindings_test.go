//go:build unix

package pluggable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
)

// source is where the events of an inputService come from. Events without a good verdict come again.
type source struct {
	mu       sync.Mutex
	pending  []*componentsv1.ReadResponse
	verdicts []*componentsv1.ReadRequest
	streams  int
	wake     chan struct{}
}

func (s *source) add(all ...*componentsv1.ReadResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, all...)
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

func (s *source) verdict(id string) *componentsv1.ReadRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.verdicts {
		if v.GetMessageId() == id {
			return v
		}
	}
	return nil
}

type inputService struct {
	componentsv1.UnimplementedInputBindingServer
	*life
	source *source
}

func (s *inputService) Init(ctx context.Context, in *componentsv1.InputBindingInitRequest) (*componentsv1.InputBindingInitResponse, error) {
	return &componentsv1.InputBindingInitResponse{}, s.life.init(ctx, in.GetMetadata())
}

func (s *inputService) Read(stream grpc.BidiStreamingServer[componentsv1.ReadRequest, componentsv1.ReadResponse]) error {
	if _, err := s.properties(stream.Context()); err != nil {
		return err
	}
	src := s.source
	src.mu.Lock()
	src.streams++
	src.mu.Unlock()
	held := map[string]*componentsv1.ReadResponse{} // src.mu
	ended := make(chan error, 1)
	go func() { // ends with the stream
		for {
			v, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			src.mu.Lock()
			src.verdicts = append(src.verdicts, v)
			if held[v.GetMessageId()] == nil {
				src.mu.Unlock()
				ended <- status.Error(codes.InvalidArgument, "a verdict for no event of this stream: "+v.GetMessageId())
				return
			}
			delete(held, v.GetMessageId())
			src.mu.Unlock()
		}
	}()
	defer func() {
		for _, e := range held {
			src.add(e)
		}
	}()
	for {
		src.mu.Lock()
		if src.wake == nil {
			src.wake = make(chan struct{})
		}
		wake, all := src.wake, src.pending
		src.pending = nil
		for _, e := range all {
			held[e.GetMessageId()] = e
		}
		src.mu.Unlock()
		for _, e := range all {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		select {
		case <-wake:
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

type outputService struct {
	componentsv1.UnimplementedOutputBindingServer
	*life
	operations []string
}

func (s *outputService) Init(ctx context.Context, in *componentsv1.OutputBindingInitRequest) (*componentsv1.OutputBindingInitResponse, error) {
	return &componentsv1.OutputBindingInitResponse{}, s.life.init(ctx, in.GetMetadata())
}

func (s *outputService) ListOperations(ctx context.Context, in *componentsv1.ListOperationsRequest) (*componentsv1.ListOperationsResponse, error) {
	if s.operations == nil {
		return s.UnimplementedOutputBindingServer.ListOperations(ctx, in)
	}
	return &componentsv1.ListOperationsResponse{Operations: s.operations}, nil
}

func (s *outputService) Invoke(ctx context.Context, in *componentsv1.InvokeRequest) (*componentsv1.InvokeResponse, error) {
	if _, err := s.properties(ctx); err != nil {
		return nil, err
	}
	if in.GetOperation() != "create" {
		return nil, status.Error(codes.InvalidArgument, "cannot "+in.GetOperation())
	}
	return &componentsv1.InvokeResponse{Data: append([]byte("got "), in.GetData()...), Metadata: in.GetMetadata()}, nil
}

// bindingType is a binding type of a folder.
func bindingType(t testing.TB, folder, name string) bindingstest.Type[bindings.Binding] {
	return bindingstest.Type[bindings.Binding]{Name: name, Register: func(r *components.Registry) {
		found(t, folder, func(o *Options) { o.Registry = r })
	}}
}

func TestOutputBinding(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, dir, "mail.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterOutputBindingServer(g, &outputService{life: l, operations: []string{"create", "list"}})
	})
	typ := bindingType(t, dir, "mail")
	if got := typ.Descriptor(t).Capabilities; !slices.Equal(got, []string{bindings.CapabilityOutput}) {
		t.Errorf("capabilities %v", got)
	}
	b := typ.MustOpen(t, map[string]string{"any": "thing"})
	if _, ok := b.(bindings.Input); ok {
		t.Error("it is an input, too")
	}
	out := b.(bindings.Output)
	if got := out.Operations(); !slices.Equal(got, []string{"create", "list"}) {
		t.Errorf("operations %v", got)
	}
	for range 3 {
		var r *bindings.Response
		var err error
		waitFor(t, "the component", func() bool { // a call on the way while the process ends may fail
			r, err = bindingstest.Invoke(out, "create", "data", "to", "me")
			return status.Code(err) != codes.Unavailable
		})
		if err != nil || string(r.Data) != "got data" || r.Metadata["to"] != "me" {
			t.Errorf("response %+v, %v", r, err)
		}
		if _, err := bindingstest.Invoke(out, "list", ""); status.Code(err) != codes.InvalidArgument || err.Error() != "cannot list" {
			t.Errorf("error %v", err)
		}
		p.restart()
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := bindingstest.Invoke(out, "create", ""); err == nil || err.Error() != "component is closed" {
		t.Errorf("on the closed binding: %v", err)
	}
	startProcess(t, dir, "dumb.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterOutputBindingServer(g, &outputService{life: l})
	})
	if _, err := bindingType(t, dir, "dumb").Open(t, nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("a binding without ListOperations: %v", err)
	}
}

func TestDirections(t *testing.T) {
	both := t.TempDir()
	startProcess(t, both, "b.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterInputBindingServer(g, &inputService{life: l, source: &source{}})
		componentsv1.RegisterOutputBindingServer(g, &outputService{life: l, operations: []string{"create"}})
	})
	apart := t.TempDir()
	startProcess(t, apart, "b.in", func(g *grpc.Server, l *life) {
		componentsv1.RegisterInputBindingServer(g, &inputService{life: l, source: &source{}})
	})
	startProcess(t, apart, "b.out", func(g *grpc.Server, l *life) {
		componentsv1.RegisterOutputBindingServer(g, &outputService{life: l, operations: []string{"create"}})
	})
	for dir, name := range map[string]string{both: "one socket", apart: "two sockets"} {
		for direction, want := range map[string][2]bool{"": {true, true}, "input": {true, false}, "Output": {false, true}, "input, output": {true, true}} {
			b, err := bindingType(t, dir, "b").Open(t, map[string]string{"direction": direction})
			if err != nil {
				t.Fatal(err)
			}
			_, in := b.(bindings.Input)
			_, out := b.(bindings.Output)
			if in != want[0] || out != want[1] {
				t.Errorf("%s, %q: input %t, output %t", name, direction, in, out)
			}
		}
	}
	startProcess(t, both, "in.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterInputBindingServer(g, &inputService{life: l, source: &source{}})
	})
	if _, err := bindingType(t, both, "in").Open(t, map[string]string{"direction": "output"}); err == nil || !strings.Contains(err.Error(), `only is an input binding: write "input"`) {
		t.Errorf("error %v", err)
	}
}

func TestInputBinding(t *testing.T) {
	dir, src := t.TempDir(), &source{}
	p := startProcess(t, dir, "events.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterInputBindingServer(g, &inputService{life: l, source: src})
	})
	in := bindingType(t, dir, "events").MustOpen(t, nil).(bindings.Input)
	const together = 5
	var here sync.WaitGroup
	here.Add(together)
	handler := func(_ context.Context, e *bindings.Event) ([]byte, error) {
		if e.Metadata["together"] != "" { // only if all are handled at once does this return
			here.Done()
			here.Wait()
		}
		if string(e.Data) == "bad" {
			return nil, errors.New("rejected")
		}
		return append([]byte("re: "), e.Data...), nil
	}
	reading, err := in.Read(within(t), handler)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Read(within(t), handler); err == nil || !strings.Contains(err.Error(), "close that reading first") {
		t.Errorf("a second reading: %v", err)
	}
	for i := range together {
		src.add(&componentsv1.ReadResponse{MessageId: fmt.Sprint(i), Data: []byte("x"), Metadata: map[string]string{"together": "y"}})
	}
	src.add(&componentsv1.ReadResponse{MessageId: "bad", Data: []byte("bad")})
	waitFor(t, "verdicts", func() bool { return src.verdict("bad") != nil && src.verdict("0") != nil && src.verdict("4") != nil })
	if v := src.verdict("bad"); v.GetResponseError().GetMessage() != "rejected" {
		t.Errorf("verdict %v", v)
	}
	if v := src.verdict("3"); string(v.GetResponseData()) != "re: x" || v.GetResponseError() != nil {
		t.Errorf("verdict %v", v)
	}
	p.restart()
	src.add(&componentsv1.ReadResponse{MessageId: "later", Data: []byte("x")})
	waitFor(t, "an event after the restart", func() bool { return src.verdict("later") != nil })
	if err := reading.Close(); err != nil {
		t.Error(err)
	}
	if err := reading.Close(); err != nil {
		t.Error(err)
	}
	if _, err = in.Read(within(t), handler); err != nil {
		t.Fatal(err)
	}
	src.add(&componentsv1.ReadResponse{MessageId: "last", Data: []byte("x")})
	waitFor(t, "an event of the next reading", func() bool { return src.verdict("last") != nil })
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if _, err := in.Read(within(t), handler); err == nil || err.Error() != "component is closed" {
		t.Errorf("reading the closed binding: %v", err)
	}
}

// Closing cancels handlers, waits for them, and gives no verdict; nothing is left running.
func TestInputClose(t *testing.T) {
	dir, src := t.TempDir(), &source{}
	startProcess(t, dir, "events.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterInputBindingServer(g, &inputService{life: l, source: src})
	})
	typ := bindingType(t, dir, "events")
	descriptor := typ.Descriptor(t)
	before := ours()
	c, err := descriptor.Open(within(t), components.Instance{Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	in := c.(bindings.Input)
	var running atomic.Int32
	if _, err := in.Read(within(t), func(ctx context.Context, _ *bindings.Event) ([]byte, error) {
		running.Add(1)
		defer running.Add(-1)
		<-ctx.Done()
		return []byte("too late"), nil
	}); err != nil {
		t.Fatal(err)
	}
	src.add(&componentsv1.ReadResponse{MessageId: "1"}, &componentsv1.ReadResponse{MessageId: "2"})
	waitFor(t, "the handlers", func() bool { return running.Load() == 2 })
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if running.Load() != 0 {
		t.Error("a handler runs after Close")
	}
	if src.verdict("1") != nil || src.verdict("2") != nil {
		t.Error("a cancelled handler has a verdict")
	}
	waitFor(t, "goroutines to end", func() bool { return ours() <= before })
}

// ours counts the goroutines but for those of servers.
func ours() int {
	buffer := make([]byte, 4<<20)
	buffer = buffer[:runtime.Stack(buffer, true)]
	n := 0
stacks:
	for stack := range strings.SplitSeq(string(buffer), "\n\n") {
		for _, text := range append(serverStacks, "(*inputService)") {
			if strings.Contains(stack, text) {
				continue stacks
			}
		}
		n++
	}
	return n
}
