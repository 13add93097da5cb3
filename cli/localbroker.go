package cli

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"outrigger.dev/local"
	"outrigger.dev/resource"
)

// defaultBroker is the component of the local broker. Each topic has a stream of its own there, and each app a place in it that
// its replicas share. Messages that nobody wants any more do not fill the disk for ever.
func defaultBroker(port int) string {
	return `apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: pubsub
spec:
  type: pubsub.jetstream
  version: v1
  metadata:
  - name: natsURL
    value: ` + quoteYAML(local.NATSURL(port)) + `
  - name: createStreams
    value: "true"
  - name: streamMaxAge
    value: 168h
  - name: durableName
    value: "{appID}"
  - name: queueGroupName
    value: "{appID}"
  - name: deliverPolicy
    value: all
  - name: ackWait
    value: 5s
`
}

// brokerComponent is a component that points at the local broker.
type brokerComponent struct {
	name string
	port int
}

// localBroker finds the component that points at the local broker of a runtime directory, nil if none does. An address that
// comes from a secret or from the environment is somebody else's.
func localBroker(found []*resource.Component, runtimeDir string) *brokerComponent {
	for _, c := range found {
		if !strings.EqualFold(c.Spec.Type, "pubsub.jetstream") {
			continue
		}
		for _, m := range c.Spec.Metadata {
			if !strings.EqualFold(m.Name, "natsURL") {
				continue
			}
			for address := range strings.SplitSeq(m.Value.String(), ",") {
				if port := loopbackPort(address); port != 0 && local.Owns(localDir(runtimeDir), port) {
					return &brokerComponent{name: c.Metadata.Name, port: port}
				}
			}
		}
	}
	return nil
}

// loopbackPort is the port of an address on loopback, 0 for any other.
func loopbackPort(address string) int {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		return 0
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return 0
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0
	}
	return port
}

// startBroker has the local broker run when a component of the app points at it.
func (c *command) startBroker(ctx context.Context, a *appSpec) error {
	if a.broker == nil {
		return nil
	}
	p, started, err := c.ensureLocal(ctx, a.runtimeDir, a.broker.port)
	if err != nil {
		return fmt.Errorf("the component %q needs the local broker: %w", a.broker.name, err)
	}
	if started {
		c.print.info("Started the local broker %s in the background (process %d). It keeps messages and runs on after the apps; dapr local stop ends it.", p.NATSURL(), p.PID)
	}
	return nil
}
