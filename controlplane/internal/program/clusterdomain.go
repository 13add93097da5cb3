package program

import (
	"context"
	"net"
	"strings"
	"time"
)

// domainTimeout bounds the question for the cluster's domain.
const domainTimeout = 10 * time.Second

// ClusterDomain finds the domain of the Kubernetes cluster by DNS, such as cluster.local, within 10 seconds. It is empty if DNS does not tell.
func ClusterDomain(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, domainTimeout)
	defer cancel()
	name, err := net.DefaultResolver.LookupCNAME(ctx, "kubernetes.default.svc")
	if err != nil {
		return ""
	}
	return domainOf(name)
}

func domainOf(name string) string {
	_, domain, _ := strings.Cut(name, ".svc.")
	return strings.TrimSuffix(domain, ".")
}
