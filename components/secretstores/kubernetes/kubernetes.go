// Package kubernetes is the secret store secretstores.kubernetes: the Secrets of the cluster, read from its API server with the
// service account of the pod or, outside a cluster, with a kubeconfig file. It speaks the few calls of the Kubernetes API that
// it needs over HTTP, since the usual client library would double the size of the sidecar.
package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/secretstores"
)

var _ secretstores.Store = (*Store)(nil)

// Options are the metadata properties of the component (Dapr API, secret store components: kubernetes).
type Options struct {
	DefaultNamespace string `name:"defaultNamespace" help:"the namespace of the Secrets when neither the request nor the environment (NAMESPACE) names one"`
	KubeconfigPath   string `name:"kubeconfigPath" help:"the path of a kubeconfig file, for use outside a cluster; when empty the service account of the pod is used, then the file that KUBECONFIG names, then ~/.kube/config"`
}

// serviceAccount is where Kubernetes mounts the service account into a pod.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// Environment is where the store finds its cluster.
type Environment struct {
	// Lookup returns the value of an environment variable and whether there is one.
	Lookup func(name string) (string, bool)
	// ServiceAccount is the folder with the pod's service account: token, ca.crt and namespace.
	ServiceAccount string
}

// Register adds secretstores.kubernetes, with the environment of the process, to r.
func Register(r *components.Registry) {
	RegisterWith(r, Environment{Lookup: os.LookupEnv, ServiceAccount: serviceAccount})
}

// RegisterWith adds secretstores.kubernetes, with another environment, to r.
func RegisterWith(r *components.Registry, env Environment) {
	secretstores.Register(r, components.Info{
		Name:        "kubernetes",
		Version:     "v1",
		Status:      components.Stable,
		Description: "Reads the Secrets of a Kubernetes cluster; built into sidecars that run there.",
	}, func(_ context.Context, inst components.Instance, o Options) (secretstores.Store, error) {
		return open(inst, o, env)
	})
}

// Store reads Secrets. Nothing is kept: a Secret that changes counts at the next read.
type Store struct {
	client *client
	// namespace is that of requests that name none; it may be empty.
	namespace string
}

func open(inst components.Instance, o Options, env Environment) (*Store, error) {
	if env.Lookup == nil {
		env.Lookup = func(string) (string, bool) { return "", false }
	}
	clock := inst.Clock
	if clock == nil {
		clock = clockwork.NewRealClock()
	}
	from, err := find(o.KubeconfigPath, env)
	if err != nil {
		return nil, err
	}
	c, err := newClient(from, clock)
	if err != nil {
		return nil, err
	}
	own, _ := env.Lookup("NAMESPACE")
	if n := inst.Sidecar.Namespace; n != "" && n != "default" { // "default" may only say that nothing was set
		own = n
	}
	return &Store{client: c, namespace: first(own, o.DefaultNamespace, from.namespace)}, nil
}

// first is the first text that is not empty.
func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// secret is what is read of a Secret.
type secret struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	// Data is base64 in JSON.
	Data map[string][]byte `json:"data"`
}

func (s *secret) entries() map[string]string {
	entries := make(map[string]string, len(s.Data))
	for key, value := range s.Data {
		entries[key] = string(value)
	}
	return entries
}

// Get returns the entries of a Secret of the namespace that the request's metadata names under "namespace", else of the
// sidecar's own, else of the component's default (Dapr API, secret store components: kubernetes).
func (s *Store) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	path, err := s.path(metadata)
	if err != nil {
		return nil, err
	}
	if err := segment("name of the Secret", name); err != nil {
		return nil, err
	}
	body, err := s.client.get(ctx, "get", path+"/"+url.PathEscape(name), nil, maxSecret)
	if err != nil {
		return nil, err
	}
	var found secret
	if err := json.Unmarshal(body, &found); err != nil {
		return nil, fmt.Errorf("the answer of the Kubernetes API server %s is no Secret: %w", s.client.cluster.server, err)
	}
	return found.entries(), nil
}

// BulkGet returns all Secrets of a namespace, chosen as in Get, with their entries.
func (s *Store) BulkGet(ctx context.Context, metadata map[string]string) (map[string]map[string]string, error) {
	path, err := s.path(metadata)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		all, err := s.list(ctx, path)
		// The list that the pages are of is kept by the server for some minutes only.
		if gone := (*statusError)(nil); errors.As(err, &gone) && gone.code == http.StatusGone && attempt < attempts {
			continue
		}
		return all, err
	}
}

// list reads the Secrets page by page.
func (s *Store) list(ctx context.Context, path string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	for left := maxList; ; {
		body, err := s.client.get(ctx, "list", path, query, left)
		if err != nil {
			return nil, err
		}
		left -= len(body)
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []secret `json:"items"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, fmt.Errorf("the answer of the Kubernetes API server %s is no list of Secrets: %w", s.client.cluster.server, err)
		}
		for i := range page.Items {
			all[page.Items[i].Metadata.Name] = page.Items[i].entries()
		}
		if page.Metadata.Continue == "" || page.Metadata.Continue == query.Get("continue") {
			return all, nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
}

// path is that of the Secrets of the request's namespace.
func (s *Store) path(metadata map[string]string) (string, error) {
	namespace := first(metadata["namespace"], s.namespace)
	if namespace == "" {
		return "", errors.New("namespace is missing: give the request metadata namespace, set the environment variable NAMESPACE, or the component's metadata defaultNamespace")
	}
	if err := segment("namespace", namespace); err != nil {
		return "", err
	}
	return "/api/v1/namespaces/" + url.PathEscape(namespace) + "/secrets", nil
}

// segment refuses names that would lead elsewhere in the API.
func segment(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the %s is empty", what)
	case name == "." || name == "..", strings.ContainsAny(name, "/%\\\x00"), len(name) > 253:
		return fmt.Errorf("the %s %q is none that Kubernetes has: it must consist of lower case letters, digits, '-' and '.', at most 253 of them", what, name)
	}
	return nil
}

// Close closes idle connections.
func (s *Store) Close() error {
	s.client.close()
	return nil
}
