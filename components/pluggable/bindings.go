package pluggable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

type (
	inputLink  = link[componentsv1.InputBindingClient]
	outputLink = link[componentsv1.OutputBindingClient]
)

// twoWay is a binding with both directions, each with a connection of its own.
type twoWay struct {
	*input
	*output
}

var (
	_ bindings.Input  = (*input)(nil)
	_ bindings.Output = (*output)(nil)
	_ bindings.Input  = twoWay{}
	_ bindings.Output = twoWay{}
)

// Close closes both directions.
func (t twoWay) Close() error { return errors.Join(t.input.Close(), t.output.Close()) }

// openBinding opens the directions that there are sockets for, and that the property direction does not leave out.
func (f *Folder) openBinding(ctx context.Context, inputPath, outputPath string, inst components.Instance, p Properties) (bindings.Binding, error) {
	if words := directions(p.All); words != nil {
		in, out := inputPath != "" && words["input"], outputPath != "" && words["output"]
		if !in && !out {
			offered := "input"
			if inputPath == "" {
				offered = "output"
			}
			return nil, fmt.Errorf("metadata property \"direction\" is %q, but the pluggable component behind the socket %s only is an %s binding: write %q, or leave the property out",
				strings.Join(slices.Sorted(maps.Keys(words)), ","), inputPath+outputPath, offered, offered)
		}
		if !in {
			inputPath = ""
		}
		if !out {
			outputPath = ""
		}
	}
	var in *input
	if inputPath != "" {
		var err error
		if in, err = f.openInput(ctx, inputPath, inst, p); err != nil || outputPath == "" {
			return orNothing(in, err)
		}
	}
	out, err := f.openOutput(ctx, outputPath, inst, p)
	if err != nil && in != nil {
		err = errors.Join(err, in.Close())
	}
	if err != nil || in == nil {
		return orNothing(out, err)
	}
	return twoWay{in, out}, nil
}

// orNothing is b, or with an error nothing at all instead of a nil of its type.
func orNothing(b bindings.Binding, err error) (bindings.Binding, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// directions are the words of the property direction; nil when it is absent or empty.
func directions(properties map[string]string) map[string]bool {
	var words map[string]bool
	for name, value := range properties {
		if !strings.EqualFold(name, "direction") {
			continue
		}
		for word := range strings.SplitSeq(value, ",") {
			if word = strings.ToLower(strings.TrimSpace(word)); word != "" {
				if words == nil {
					words = map[string]bool{}
				}
				words[word] = true
			}
		}
	}
	return words
}

// output is an output binding in another process.
type output struct {
	link       *outputLink
	operations []string
	closing    sync.Once
}

func (f *Folder) openOutput(ctx context.Context, path string, inst components.Instance, p Properties) (*output, error) {
	properties := maps.Clone(p.All)
	o := &output{}
	asked := false
	l, err := openLink(ctx, f, path, inst, func(cc grpc.ClientConnInterface) componentsv1.OutputBindingClient {
		return componentsv1.NewOutputBindingClient(cc)
	},
		func(ctx context.Context, c componentsv1.OutputBindingClient) error {
			if _, err := c.Init(ctx, &componentsv1.OutputBindingInitRequest{Metadata: &componentsv1.MetadataRequest{Properties: properties}}); err != nil || asked {
				return err
			}
			r, err := c.ListOperations(ctx, &componentsv1.ListOperationsRequest{})
			if err != nil {
				return err
			}
			o.operations, asked = r.GetOperations(), true
			return nil
		})
	if err != nil {
		return nil, err
	}
	o.link = l
	return o, nil
}

// Operations are those that the process has named.
func (o *output) Operations() []string { return o.operations }

// Invoke lets the process carry out an operation.
func (o *output) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	in := &componentsv1.InvokeRequest{Data: req.Data, Metadata: req.Metadata, Operation: req.Operation}
	r, err := call(ctx, o.link, false, func(ctx context.Context, c componentsv1.OutputBindingClient) (*componentsv1.InvokeResponse, error) {
		return c.Invoke(ctx, in)
	})
	if err != nil {
		return nil, err
	}
	return &bindings.Response{Data: r.GetData(), Metadata: r.GetMetadata()}, nil
}

// Close ends the connection to the process.
func (o *output) Close() error {
	o.closing.Do(o.link.close)
	return nil
}

// input is an input binding in another process.
type input struct {
	link  *inputLink
	log   *slog.Logger
	clock clockwork.Clock

	mu      sync.Mutex
	closed  bool
	reading *reading // nil: none
	closing sync.Once
}

func (f *Folder) openInput(ctx context.Context, path string, inst components.Instance, p Properties) (*input, error) {
	properties := maps.Clone(p.All)
	l, err := openLink(ctx, f, path, inst, func(cc grpc.ClientConnInterface) componentsv1.InputBindingClient {
		return componentsv1.NewInputBindingClient(cc)
	},
		func(ctx context.Context, c componentsv1.InputBindingClient) error {
			_, err := c.Init(ctx, &componentsv1.InputBindingInitRequest{Metadata: &componentsv1.MetadataRequest{Properties: properties}})
			return err
		})
	if err != nil {
		return nil, err
	}
	return &input{link: l, log: inst.Log, clock: inst.Clock}, nil
}

// Read opens a stream of events, and again whenever it breaks.
func (i *input) Read(ctx context.Context, handler bindings.Handler) (io.Closer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.closed:
		return nil, errClosed
	case i.reading != nil:
		return nil, fmt.Errorf("the pluggable component %s is being read already: close that reading first", i.link.name)
	}
	r := &reading{input: i, handler: handler, places: make(chan struct{}, mostEvents)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	i.reading = r
	r.running.Go(r.run)
	return r, nil
}

// Close ends the reading and the connection to the process.
func (i *input) Close() error {
	i.mu.Lock()
	i.closed = true
	r := i.reading
	i.mu.Unlock()
	if r != nil {
		_ = r.Close()
	}
	i.closing.Do(i.link.close)
	return nil
}

// mostEvents is how many events of one binding are handled at a time; more are left to the process until then.
const mostEvents = 1000

// reading is a stream of events, handled side by side (Dapr API, pluggable components: Read).
type reading struct {
	input   *input
	handler bindings.Handler
	// ctx is that of handlers.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	// places holds a token for each event that is being handled.
	places chan struct{}
}

func (r *reading) run() {
	var again reopening
	for {
		began := r.input.clock.Now()
		err := r.read()
		if r.ctx.Err() != nil {
			return
		}
		again.tell(r.input.log, "the stream of events of the pluggable component "+r.input.link.name, err)
		if !again.wait(r.ctx, r.input.clock, r.input.clock.Since(began)) {
			return
		}
	}
}

// read opens a stream and hands over its events until it breaks or the reading is closed.
func (r *reading) read() error {
	c, err := r.input.link.get(r.ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.client.Read(ctx)
	if err != nil {
		cancel()
		return componentError(ctx, err)
	}
	s := &eventStream{BidiStreamingClient: stream}
	ended := make(chan struct{})
	stop := context.AfterFunc(r.ctx, func() {
		defer close(ended)
		limit := r.input.clock.AfterFunc(lastWords, cancel)
		defer limit.Stop()
		if !s.finish() {
			cancel()
		}
		<-ctx.Done()
	})
	defer func() {
		cancel()
		if !stop() {
			<-ended
		}
	}()
	for {
		event, err := stream.Recv()
		if err != nil {
			return componentError(ctx, err)
		}
		select {
		case r.places <- struct{}{}:
		case <-r.ctx.Done():
			continue // left to the process
		}
		if r.ctx.Err() != nil {
			<-r.places
			continue
		}
		r.running.Go(func() {
			defer func() { <-r.places }()
			r.handle(s, event)
		})
	}
}

// handle hands an event over and sends the verdict, if there is one, on the stream that it came on.
func (r *reading) handle(s *eventStream, event *componentsv1.ReadResponse) {
	reply, err := r.handler(r.ctx, &bindings.Event{Data: event.GetData(), Metadata: event.GetMetadata()})
	answer := &componentsv1.ReadRequest{ResponseData: reply, MessageId: event.GetMessageId()}
	if err != nil {
		answer.ResponseError = &componentsv1.AckResponseError{Message: err.Error()}
	}
	s.answer(r.ctx, answer)
}

// Close ends the stream and waits for the handlers.
func (r *reading) Close() error {
	r.cancel()
	r.running.Wait()
	r.input.mu.Lock()
	if r.input.reading == r {
		r.input.reading = nil
	}
	r.input.mu.Unlock()
	return nil
}

// eventStream is a stream that handlers share for their verdicts.
type eventStream struct {
	grpc.BidiStreamingClient[componentsv1.ReadRequest, componentsv1.ReadResponse]

	mu             sync.Mutex // sending must not meet
	spoken, closed bool
}

// answer sends a verdict unless ctx has ended. On a broken stream it is lost, and the process hands the event over again.
func (s *eventStream) answer(ctx context.Context, a *componentsv1.ReadRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil || s.closed {
		return
	}
	s.spoken = true
	if s.Send(a) != nil {
		s.closed = true // receiving tells why
	}
}

// finish ends the stream from our side, so that the last verdicts arrive. It returns false when there were none.
func (s *eventStream) finish() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.spoken {
		_ = s.CloseSend()
	}
	return s.spoken
}
