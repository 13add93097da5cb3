package actors

import (
	"context"
	"fmt"
	"strings"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"

	"google.golang.org/grpc"

	"outrigger.dev/api"
	"outrigger.dev/invocation"
)

// Core is what the parts of the actors API stand on; [Runtime] is one.
type Core interface {
	// Await waits until it is known what this sidecar hosts. Its errors are those of the API.
	Await(ctx context.Context) error
	// Hosts reports whether actors of the type may live on this sidecar.
	Hosts(actorType string) bool
	// Invoke calls a method of an actor, wherever it lives.
	Invoke(ctx context.Context, call *Call) (*invocation.Response, error)
	// Remind runs a reminder or a timer of an actor, wherever it lives.
	Remind(ctx context.Context, r *Reminder) error
	// Enter keeps an actor that is active here from being halted until release is called; ok is false if it is not active here.
	Enter(actorType, id string) (release func(), ok bool)
}

// Streams serves the streams by which apps host actors.
type Streams interface {
	SubscribeActorEventsAlpha1(stream grpc.BidiStreamingServer[runtimev1.SubscribeActorEventsRequestAlpha1, runtimev1.SubscribeActorEventsResponseAlpha1]) error
}

// ServiceOptions are the parts of a sidecar's actors API. All of Core, State, Timers and Reminders are needed.
type ServiceOptions struct {
	// AppID and Namespace are the sidecar's own.
	AppID, Namespace string
	Core             Core
	State            *State
	Timers           *Timers
	Reminders        *Reminders
	// Streams may be nil: then there are none.
	Streams Streams
}

// Service is the actors API of a sidecar (Dapr API, actors). Its faces are [Service.Routes] and [Service.Server].
type Service struct {
	options ServiceOptions
	// says is what the sidecar says of itself in the header of every call.
	says invocation.Header
}

// NewService puts the API together.
func NewService(o ServiceOptions) *Service {
	s := &Service{options: o}
	s.says.Add(APICallHeader, "true")
	s.says.Add(invocation.CallerAppID, o.AppID)
	s.says.Add(invocation.CallerNamespace, o.Namespace)
	return s
}

// ReservedPrefix begins the names of the sidecar's own actor types.
const ReservedPrefix = "dapr.internal."

// open is the first check of all operations but invocation (Dapr API, actors: validation).
func open(actorType string) error {
	if strings.HasPrefix(actorType, ReservedPrefix) {
		return api.ErrActorTypeReserved(actorType)
	}
	return nil
}

// checkName refuses names that could not stand in the path of a callback (Dapr API, actors: validation).
func checkName(name string) error {
	if name == "." || name == ".." {
		return fmt.Errorf("name must not be a path segment of dots: %q", name)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c == '#' || c == '?' || c == '/' || c == '\\' || c == 0:
			return fmt.Errorf("name contains forbidden character: %q", name)
		case c < 0x20 || c == 0x7f:
			return fmt.Errorf("name contains control character at position %d: %q", i, name)
		}
	}
	return nil
}

// checkCall refuses what no actor can be called by, and returns the method as it goes on from here: with its dots resolved, so that
// it cannot leave the actor's own paths.
func checkCall(actorType, id, method string) (cleaned string, err error) {
	if err := checkName(actorType); err != nil {
		return "", fmt.Errorf("invalid actorType: %w", err)
	}
	if err := checkName(id); err != nil {
		return "", fmt.Errorf("invalid actorId: %w", err)
	}
	if err := invocation.CheckMethod(method); err != nil {
		return "", fmt.Errorf("invalid actor method: %s", strings.TrimPrefix(err.Error(), "invalid method: "))
	}
	return invocation.CleanMethod(method), nil
}

// actorKey names an actor.
type actorKey struct{ actorType, id string }

// nameKey names a timer or a reminder of an actor.
type nameKey struct{ actorType, id, name string }

func (k nameKey) actor() actorKey { return actorKey{k.actorType, k.id} }

// String is the key as it stands in messages.
func (k nameKey) String() string { return k.actorType + "||" + k.id + "||" + k.name }

var _ Core = (*Runtime)(nil)
