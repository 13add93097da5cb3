// Package kubernetes tells the scheduler of namespaces that are deleted in its cluster (Dapr API, scheduler: Kubernetes). Of the programs that
// need no Kubernetes none is linked with it, as its client library is large.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"outrigger.dev/controlplane/internal/kubeconfig"
)

// Connect makes a client from a kubeconfig file, or of the pod that the process runs in if the path is empty. It does not talk to the server yet.
func Connect(path string) (kubernetes.Interface, error) {
	config, err := kubeconfig.Load(path, "the scheduler")
	if err != nil {
		return nil, err
	}
	config.Timeout = 0 // watches last
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("the Kubernetes client cannot be made: %w", err)
	}
	return client, nil
}

// Namespaces watches the namespaces of a cluster.
type Namespaces struct {
	Client kubernetes.Interface
	// Log is the log; nil discards. Clock tells when to try again; nil is the system's.
	Log   *slog.Logger
	Clock clockwork.Clock
}

// Bounds of one deletion, and when one that failed is tried again.
const (
	deleteTimeout = time.Minute
	deleteRetry   = 5 * time.Second
)

// Run calls ready once the namespaces are known, and deleted for each one that is deleted from then on, until ctx ends, which is no error. A
// deleted that fails is called again after some seconds. Namespaces that were deleted while nobody watched are not noticed.
func (n *Namespaces) Run(ctx context.Context, ready func(), deleted func(ctx context.Context, namespace string) error) error {
	log, clock := n.Log, n.Clock
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if clock == nil {
		clock = clockwork.NewRealClock()
	}
	todo := &queue{wake: make(chan struct{}, 1)}
	api := n.Client.CoreV1().Namespaces()
	informer := cache.NewSharedInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return api.Watch(ctx, o)
		},
	}, n.Client), &corev1.Namespace{}, 0)
	// Names are all that is needed of namespaces.
	err := informer.SetTransform(func(o any) (any, error) {
		if ns, ok := o.(*corev1.Namespace); ok {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, UID: ns.UID, ResourceVersion: ns.ResourceVersion}}, nil
		}
		return o, nil
	})
	registration, err2 := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if ns, ok := o.(*corev1.Namespace); ok {
			todo.push(ns.Name)
		}
	}})
	if err := errors.Join(err, err2); err != nil {
		return fmt.Errorf("namespaces cannot be watched: %w", err)
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { informer.RunWithContext(ctx) })
	tasks.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			ready()
		}
	})
	for {
		name, ok := todo.first()
		if !ok {
			select {
			case <-todo.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		call, cancel := context.WithTimeout(ctx, deleteTimeout)
		err := deleted(call, name)
		cancel()
		if err == nil {
			todo.pop()
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		log.Error(fmt.Sprintf("The jobs of the deleted namespace %q cannot be deleted: %s; it is tried again in %s", name, err, deleteRetry))
		select {
		case <-clock.After(deleteRetry):
		case <-ctx.Done():
			return nil
		}
	}
}

// queue is names in order.
type queue struct {
	wake chan struct{}

	mu    sync.Mutex
	names []string
}

func (q *queue) push(name string) {
	q.mu.Lock()
	q.names = append(q.names, name)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) first() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.names) == 0 {
		return "", false
	}
	return q.names[0], true
}

func (q *queue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.names = q.names[1:]
}
