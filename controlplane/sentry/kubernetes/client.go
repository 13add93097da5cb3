// Package kubernetes is Sentry on Kubernetes: the credentials in a Secret and a ConfigMap, the validator of service account tokens,
// and the Configuration from the cluster (Dapr API, Sentry: Kubernetes). Of the programs only sentry is linked with it, as the
// client library of Kubernetes is large.
package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"outrigger.dev/controlplane/internal/kubeconfig"
	"outrigger.dev/resource"
)

// Clients reach the API server.
type Clients struct {
	Core    kubernetes.Interface
	Dynamic dynamic.Interface
}

// Connect makes clients from a kubeconfig file, or of the pod that the process runs in if the path is empty. It does not talk to the
// server yet.
func Connect(path string) (*Clients, error) {
	config, err := kubeconfig.Load(path, "sentry")
	if err != nil {
		return nil, err
	}
	// A start of many pods at once brings as many token reviews.
	config.QPS, config.Burst = 100, 200
	config.Timeout = 0 // watches last; every other call has a context with a bound
	c := &Clients{}
	if c.Core, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("the Kubernetes client cannot be made: %w", err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("the Kubernetes client cannot be made: %w", err)
	}
	return c, nil
}

// callTimeout bounds one call of the API server.
const callTimeout = 10 * time.Second

// configurations is the kind Configuration.
func configurations() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "dapr.io", Version: "v1alpha1", Resource: "configurations"}
}

// MTLS reads spec.mtls of a Configuration.
func (c *Clients) MTLS(ctx context.Context, namespace, name string) (*resource.MTLS, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := c.Dynamic.Resource(configurations()).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("the Configuration %q in namespace %q cannot be read: %w", name, namespace, err)
	}
	text, err := json.Marshal(found.Object["spec"])
	if err != nil {
		return nil, fmt.Errorf("the Configuration %q in namespace %q cannot be read: %w", name, namespace, err)
	}
	var spec struct {
		MTLS resource.MTLS `json:"mtls"`
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("spec.mtls of the Configuration %q in namespace %q is not valid: %w", name, namespace, err)
	}
	return &spec.MTLS, nil
}
