package pluggable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/secretstores"
	"outrigger.dev/components/state"
)

// register adds the types of sockets that answered to the registry. Of two sockets that offer the same service under the same
// name the first one counts, and the other's Err says so.
func (f *Folder) register(sockets []Socket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	type place struct{ service, name string }
	taken := map[place]string{}
	for i := range sockets {
		s := &sockets[i]
		offered := s.Services
		s.Services = nil
		for _, service := range offered {
			at := place{service, strings.ToLower(s.Name)}
			if first, ok := taken[at]; ok {
				s.Err = errors.Join(s.Err, fmt.Errorf("%s is offered under the name %s by the socket %s already: rename one of both files", service, s.Name, first))
				continue
			}
			taken[at] = s.Path
			s.Services = append(s.Services, service)
		}
	}
	for i := range sockets {
		s := &sockets[i]
		s.Services = slices.DeleteFunc(s.Services, func(service string) bool {
			at := strings.ToLower(s.Name)
			var err error
			switch services[service] {
			case components.Bindings:
				err = f.registerBinding(s, taken[place{componentsv1.InputBinding_ServiceDesc.ServiceName, at}], taken[place{componentsv1.OutputBinding_ServiceDesc.ServiceName, at}])
			default:
				err = f.registerType(s, service)
			}
			if err != nil {
				s.Err = errors.Join(s.Err, err)
				return true
			}
			f.announce(s, service)
			return false
		})
	}
}

// announce says once in the log that a service of a socket is of use.
func (f *Folder) announce(s *Socket, service string) {
	if f.known[s.Path][service] {
		return
	}
	if f.known[s.Path] == nil {
		f.known[s.Path] = map[string]bool{}
	}
	f.known[s.Path][service] = true
	f.options.Log.Info(fmt.Sprintf("pluggable component '%s' was successfully registered for '%s'", s.Name, service), "socket", s.Path)
}

func info(s *Socket) components.Info {
	return components.Info{Name: s.Name, Status: components.Stable, Description: "A pluggable component, served on the socket " + s.Path + "."}
}

func (f *Folder) registerType(s *Socket, service string) error {
	path := s.Path
	switch services[service] {
	case components.State:
		return components.Replace(f.options.Registry, components.State, info(s), func(ctx context.Context, inst components.Instance, p Properties) (state.Store, error) {
			return f.openState(ctx, path, inst, p)
		})
	case components.PubSub:
		return components.Replace(f.options.Registry, components.PubSub, info(s), func(ctx context.Context, inst components.Instance, p Properties) (pubsub.Broker, error) {
			return f.openBroker(ctx, path, inst, p)
		})
	default:
		return components.Replace(f.options.Registry, components.SecretStores, info(s), func(ctx context.Context, inst components.Instance, p Properties) (secretstores.Store, error) {
			return f.openSecrets(ctx, path, inst, p)
		})
	}
}

// registerBinding registers the two directions of a name, which may be on two sockets, as one type.
func (f *Folder) registerBinding(s *Socket, input, output string) error {
	about := info(s)
	if input != "" {
		about.Capabilities = append(about.Capabilities, bindings.CapabilityInput)
	}
	if output != "" {
		about.Capabilities = append(about.Capabilities, bindings.CapabilityOutput)
	}
	return components.Replace(f.options.Registry, components.Bindings, about, func(ctx context.Context, inst components.Instance, p Properties) (bindings.Binding, error) {
		return f.openBinding(ctx, input, output, inst, p)
	})
}
