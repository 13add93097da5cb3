// Package cloudmap is the name resolver nameresolution.aws.cloudmap: sidecars are the healthy instances of services that
// others register in AWS Cloud Map.
package cloudmap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/awsauth"
	"outrigger.dev/components/nameresolution"
)

var _ nameresolution.ListResolver = (*Resolver)(nil)

// Options are the keys of the name resolution configuration (Dapr API, AWS Cloud Map name resolver).
type Options struct {
	NamespaceName   string `name:"namespaceName" help:"Cloud Map namespace of the apps; this or namespaceId is required"`
	NamespaceID     string `name:"namespaceId" help:"id of the namespace, such as ns-abcdef"`
	DefaultDaprPort int    `name:"defaultDaprPort" default:"50002" help:"internal gRPC port of instances that have no attribute DAPR_PORT"`
	Endpoint        string `name:"endpoint" help:"URL of a server to call in place of AWS's, such as http://localhost:4566"`

	awsauth.Options
}

// Check refuses what names no namespace or no usable port or endpoint, and what [awsauth.Options.Check] does. It implements
// [components.Checker].
func (o *Options) Check() error {
	if o.NamespaceName == "" && o.NamespaceID == "" {
		return errors.New(`metadata property "namespaceName" or "namespaceId" is required: give the Cloud Map namespace of the apps`)
	}
	if o.DefaultDaprPort == 0 {
		o.DefaultDaprPort = 50002
	}
	if o.DefaultDaprPort < 1 || o.DefaultDaprPort > 65535 {
		return fmt.Errorf(`metadata property "defaultDaprPort" is %d; it must be from 1 to 65535`, o.DefaultDaprPort)
	}
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.User != nil {
			return fmt.Errorf(`metadata property "endpoint" is %.200q; it must be a URL such as http://localhost:4566`, o.Endpoint)
		}
	}
	return o.Options.Check()
}

// Register adds nameresolution.aws.cloudmap to r.
func Register(r *components.Registry) {
	nameresolution.Register(r, components.Info{
		Name:        "aws.cloudmap",
		Version:     "v1",
		Status:      components.Alpha,
		Description: "Finds sidecars among the healthy instances of AWS Cloud Map.",
	}, func(ctx context.Context, inst components.Instance, o Options) (nameresolution.Resolver, error) {
		return open(ctx, inst, o, os.Getenv)
	})
}

// Bounds of the calls.
const (
	startTimeout = 20 * time.Second
	findTimeout  = 10 * time.Second
	// manyPages bounds the list of namespaces that is searched, of 100 each.
	manyPages = 50
)

// Resolver finds sidecars in one namespace of Cloud Map. It announces nothing.
type Resolver struct {
	client    *client
	namespace string // its name
	port      int
}

func open(ctx context.Context, inst components.Instance, o Options, getenv func(string) string) (*Resolver, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	endpoint := o.Endpoint
	if endpoint == "" && !strings.EqualFold(getenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"), "true") {
		if endpoint = getenv("AWS_ENDPOINT_URL_SERVICEDISCOVERY"); endpoint == "" {
			endpoint = getenv("AWS_ENDPOINT_URL")
		}
	}
	around := awsauth.Surroundings{OwnEndpoint: endpoint != ""}
	if own := inst.Sidecar.Identity; own != nil {
		around.Identity = func(context.Context) (*tls.Certificate, error) {
			svid, err := own.SVID()
			if err != nil {
				return nil, err
			}
			certificate := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
			for _, c := range svid.Certificates {
				certificate.Certificate = append(certificate.Certificate, c.Raw)
			}
			return certificate, nil
		}
	}
	config, err := o.Config(ctx, around)
	if err != nil {
		return nil, err
	}
	clock := inst.Clock
	if clock == nil {
		clock = clockwork.NewRealClock()
	}
	r := &Resolver{client: newClient(config, endpoint, clock), namespace: o.NamespaceName, port: o.DefaultDaprPort}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if o.NamespaceID != "" {
		err = r.byID(ctx, o.NamespaceID)
	} else {
		err = r.byName(ctx)
	}
	if err != nil {
		r.client.close()
		return nil, err
	}
	return r, nil
}

// namespace is one of Cloud Map's.
type namespace struct{ Id, Name string } //nolint:revive // as AWS names it

// byID looks the name of the namespace up, which is what instances are found by.
func (r *Resolver) byID(ctx context.Context, id string) error {
	var answer struct{ Namespace namespace }
	if err := r.client.do(ctx, "GetNamespace", map[string]any{"Id": id}, &answer); err != nil {
		return fmt.Errorf("cannot use the Cloud Map namespace with id %q: %w", id, err)
	}
	if answer.Namespace.Name == "" {
		return fmt.Errorf("cannot use the Cloud Map namespace with id %q: the answer does not tell its name; check the metadata property \"endpoint\"", id)
	}
	if r.namespace != "" && r.namespace != answer.Namespace.Name {
		return fmt.Errorf(`metadata property "namespaceId" is %q, whose name is %q and not %q as "namespaceName" says; correct one of them or leave it out`, id, answer.Namespace.Name, r.namespace)
	}
	r.namespace = answer.Namespace.Name
	return nil
}

// byName makes sure that the namespace exists.
func (r *Resolver) byName(ctx context.Context) error {
	input := map[string]any{"MaxResults": 100}
	for range manyPages {
		var answer struct {
			Namespaces []namespace
			NextToken  string
		}
		if err := r.client.do(ctx, "ListNamespaces", input, &answer); err != nil {
			return fmt.Errorf("cannot look for the Cloud Map namespace %q: %w", r.namespace, err)
		}
		for _, n := range answer.Namespaces {
			if n.Name == r.namespace {
				return nil
			}
		}
		if answer.NextToken == "" {
			break
		}
		input["NextToken"] = answer.NextToken
	}
	return fmt.Errorf("there is no Cloud Map namespace %q in region %s; correct the metadata property \"namespaceName\" or \"region\", or make the namespace", r.namespace, r.client.region)
}

// instance is one instance of a service.
type instance struct {
	InstanceId string //nolint:revive // as AWS names it
	Attributes map[string]string
}

// ResolveAll returns the addresses of the healthy sidecars of an app: none is no error. The request's namespace is not used.
func (r *Resolver) ResolveAll(ctx context.Context, req nameresolution.Request) ([]string, error) {
	if req.ID == "" {
		return nil, errors.New("cannot find an app without id in Cloud Map")
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	var answer struct{ Instances []instance }
	err := r.client.do(ctx, "DiscoverInstances", map[string]any{"NamespaceName": r.namespace, "ServiceName": req.ID, "HealthStatus": "HEALTHY"}, &answer)
	if err != nil {
		return nil, fmt.Errorf("cannot find app id %s in the Cloud Map namespace %q: %w", req.ID, r.namespace, err)
	}
	addresses := make([]string, 0, len(answer.Instances))
	var problem error
	for _, i := range answer.Instances {
		if address, err := r.address(&i); err != nil {
			problem = err
		} else {
			addresses = append(addresses, address)
		}
	}
	if len(addresses) == 0 && problem != nil {
		return nil, fmt.Errorf("cannot use what the Cloud Map namespace %q has of app id %s: %w", r.namespace, req.ID, problem)
	}
	return addresses, nil
}

// address is where the sidecar of an instance listens.
func (r *Resolver) address(i *instance) (string, error) {
	var host string
	for _, name := range []string{"AWS_INSTANCE_IPV4", "AWS_INSTANCE_IPV6", "AWS_INSTANCE_CNAME"} {
		if host = i.Attributes[name]; host != "" {
			break
		}
	}
	if host == "" {
		return "", fmt.Errorf("instance %.100q has none of the attributes AWS_INSTANCE_IPV4, AWS_INSTANCE_IPV6 and AWS_INSTANCE_CNAME; register it with one", i.InstanceId)
	}
	port := strconv.Itoa(r.port)
	if own := i.Attributes["DAPR_PORT"]; own != "" {
		if n, err := strconv.ParseUint(own, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("instance %.100q has the attribute DAPR_PORT %.20q; it must be the internal gRPC port of its sidecar", i.InstanceId, own)
		}
		port = own
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port), nil
}

// Resolve returns one of the addresses at random, or none.
func (r *Resolver) Resolve(ctx context.Context, req nameresolution.Request) (string, error) {
	addresses, err := r.ResolveAll(ctx, req)
	if err != nil || len(addresses) == 0 {
		return "", err
	}
	return addresses[rand.IntN(len(addresses))], nil
}

// Close gives the connections up.
func (r *Resolver) Close() error {
	r.client.close()
	return nil
}
