// Package kubeconfig finds out how a service of the control plane reaches the API server of Kubernetes. Only programs that may need Kubernetes
// are linked with it, as its client library is large.
package kubeconfig

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Load reads a kubeconfig file, or the service account of the pod that the process runs in if the path is empty. who is the service, by the name
// that it has in errors.
func Load(path, who string) (*rest.Config, error) {
	if path == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("%s is not in a pod: %w; run it there, or set --kubeconfig", who, err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("the file of --kubeconfig is not usable: %w", err)
	}
	return config, nil
}
