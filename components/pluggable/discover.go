package pluggable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
)

// Socket is what was found out about a socket of the folder.
type Socket struct {
	// Path is the file, Name what its types are called: the file's name without its last extension.
	Path, Name string
	// Services are the full names of the component services that it offers, sorted.
	Services []string
	// Err says why some or all of it cannot be used.
	Err error
}

// services are the ones that make a component type, with the category of each (Dapr API, pluggable components: services).
var services = map[string]components.Category{
	componentsv1.StateStore_ServiceDesc.ServiceName:    components.State,
	componentsv1.PubSub_ServiceDesc.ServiceName:        components.PubSub,
	componentsv1.InputBinding_ServiceDesc.ServiceName:  components.Bindings,
	componentsv1.OutputBinding_ServiceDesc.ServiceName: components.Bindings,
	componentsv1.SecretStore_ServiceDesc.ServiceName:   components.SecretStores,
}

// Discover asks all sockets in the folder, side by side, for their services, and registers the types. It may be called again to
// find what has changed. A socket that is stale, mute or of something else is reported with its error, and in the log, and keeps
// neither the others nor the caller waiting for longer than [Options.Bound]. A missing folder holds no sockets; one that cannot be
// read is an error.
func (f *Folder) Discover(ctx context.Context) ([]Socket, error) {
	sockets, err := f.list(true)
	if err != nil {
		err = fmt.Errorf("could not initialize pluggable components: the folder %s cannot be read: %w; make it readable for the sidecar, or name another one in DAPR_COMPONENTS_SOCKETS_FOLDER", f.options.Folder, err)
		f.options.Log.Error(err.Error())
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.options.Bound)
	defer cancel()
	var asking sync.WaitGroup
	for i := range sockets {
		if s := &sockets[i]; s.Err == nil {
			asking.Go(func() { s.Services, s.Err = f.ask(ctx, s.Path) })
		}
	}
	asking.Wait()
	f.register(sockets)
	for _, s := range sockets {
		if s.Err != nil {
			f.options.Log.Error(fmt.Sprintf("could not initialize pluggable components of %s: %s", s.Path, s.Err), "socket", s.Path)
		}
	}
	return sockets, nil
}

// retryInterval is how often a socket is tried again that refuses connections, as it does while its process starts.
const retryInterval = 100 * time.Millisecond

// Lookup finds a type as [components.Registry.Lookup] does. For one that is not registered it looks into the folder for a socket
// of that name, which may have come after [Folder.Discover] or not have answered then, and waits for it within
// [Options.Bound].
func (f *Folder) Lookup(ctx context.Context, category components.Category, name, version string) (*components.Descriptor, error) {
	d, missing := f.options.Registry.Lookup(category, name, version)
	if missing == nil || !pluggable(category) {
		return d, missing
	}
	switch strings.ToLower(version) {
	case "", "v0", "v1":
	default:
		return nil, missing
	}
	sockets, err := f.list(false)
	if err != nil {
		return nil, missing // which Discover has reported
	}
	sockets = slices.DeleteFunc(sockets, func(s Socket) bool { return s.Err != nil || !strings.EqualFold(s.Name, name) })
	if len(sockets) == 0 {
		return nil, missing
	}
	ctx, cancel := context.WithTimeout(ctx, f.options.Bound)
	defer cancel()
	var failures []error
	for i := range sockets {
		s := &sockets[i]
		for {
			if s.Services, s.Err = f.ask(ctx, s.Path); s.Err == nil || !errors.Is(s.Err, syscall.ECONNREFUSED) {
				break
			}
			if !f.sleep(ctx, retryInterval) {
				break
			}
		}
	}
	f.register(sockets)
	for _, s := range sockets {
		if s.Err != nil {
			failures = append(failures, fmt.Errorf("socket %s: %w", s.Path, s.Err))
		}
	}
	if d, err := f.options.Registry.Lookup(category, name, version); err == nil {
		return d, nil
	}
	return nil, errors.Join(append([]error{missing}, failures...)...)
}

// pluggable reports whether components of the category can be.
func pluggable(category components.Category) bool {
	for _, c := range services {
		if c == category {
			return true
		}
	}
	return false
}

// sleep waits, and reports whether ctx has not ended.
func (f *Folder) sleep(ctx context.Context, d time.Duration) bool {
	timer := f.options.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return true
	case <-ctx.Done():
		return false
	}
}

// list returns the sockets in the folder, by file name. With warn, files that are no sockets are told of.
func (f *Folder) list(warn bool) ([]Socket, error) {
	if runtime.GOOS == "windows" {
		return nil, nil
	}
	entries, err := os.ReadDir(f.options.Folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var sockets []Socket
	for _, e := range entries {
		path := filepath.Join(f.options.Folder, e.Name())
		info, err := os.Stat(path) // of what a link leads to
		switch {
		case err == nil && info.IsDir():
			continue
		case err != nil || info.Mode().Type() != fs.ModeSocket:
			if warn {
				f.options.Log.Warn(fmt.Sprintf("%s is not a socket, and no pluggable component; remove it from the folder", path))
			}
			continue
		}
		s := Socket{Path: path, Name: strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))}
		if s.Name == "" {
			s.Err = fmt.Errorf("the file name %q has nothing before its extension to name the component by: rename it", e.Name())
		}
		sockets = append(sockets, s)
	}
	return sockets, nil
}

// ask lists the component services of a socket, sorted.
func (f *Folder) ask(ctx context.Context, path string) ([]string, error) {
	conn, err := dial(ctx, path)
	if err != nil {
		remedy, err := explainDial(err)
		return nil, fmt.Errorf("%w; %s", err, remedy)
	}
	c, err := newConn(conn, nil)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var all []string
	for _, method := range reflections {
		if all, err = listServices(ctx, c.cc, method); status.Code(err) != codes.Unimplemented {
			break
		}
	}
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil, errors.New("the process behind it does not offer gRPC reflection, by which its services are found: turn reflection on in it")
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("the process behind it did not answer within %s; restart it, or remove the socket", f.options.Bound)
	case err != nil:
		return nil, fmt.Errorf("its services cannot be listed: %w", err)
	}
	found := []string{}
	for _, name := range all {
		if _, ok := services[name]; ok {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	if len(found) == 0 {
		return nil, fmt.Errorf("it offers no component service, only %s; remove it from the folder", strings.Join(all, ", "))
	}
	return slices.Compact(found), nil
}

// The reflection services, of the same messages; many components have the older one alone.
var reflections = []string{reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}

// listServices asks by reflection for the full names of all services.
func listServices(ctx context.Context, cc grpc.ClientConnInterface, method string) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := cc.NewStream(ctx, &reflectionv1.ServerReflection_ServiceDesc.Streams[0], method)
	if err != nil {
		return nil, err
	}
	request := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) { // receiving tells why
		return nil, err
	}
	var answer reflectionv1.ServerReflectionResponse
	if err := stream.RecvMsg(&answer); err != nil {
		return nil, err
	}
	if refused := answer.GetErrorResponse(); refused != nil {
		return nil, status.Error(codes.Code(refused.GetErrorCode()), refused.GetErrorMessage())
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names, nil
}
