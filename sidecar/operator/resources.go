package operator

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	operatorv1 "outrigger.dev/api/gen/operator/v1"
	"outrigger.dev/resource"
)

// kind is one kind of resource that the operator lists and reports changes of.
type kind struct {
	name, apiVersion string
	// list is nil for kinds that are read otherwise.
	list func(ctx context.Context, c *Client) ([][]byte, error)
	// watch opens the stream of changes; the function it returns waits for one.
	watch func(ctx context.Context, c *Client) (next func() error, err error)
	// newer kinds are not known to operators of earlier versions.
	newer bool
	// optional kinds do not keep a sidecar from starting when they cannot be listed.
	optional bool
}

// stream makes the watch function of a kind.
func stream[E any, S interface{ Recv() (E, error) }](open func(ctx context.Context, c *Client) (S, error)) func(ctx context.Context, c *Client) (func() error, error) {
	return func(ctx context.Context, c *Client) (func() error, error) {
		s, err := open(ctx, c)
		if err != nil {
			return nil, err
		}
		return func() error {
			_, err := s.Recv()
			return err
		}, nil
	}
}

func kinds() []kind {
	return []kind{
		{
			name: resource.KindComponent, apiVersion: resource.V1alpha1,
			list: func(ctx context.Context, c *Client) ([][]byte, error) {
				reply, err := c.calls.ListComponents(ctx, &operatorv1.ListComponentsRequest{Namespace: c.options.Namespace})
				return reply.GetComponents(), err
			},
			watch: stream(func(ctx context.Context, c *Client) (operatorv1.Operator_ComponentUpdateClient, error) {
				return c.calls.ComponentUpdate(ctx, &operatorv1.ComponentUpdateRequest{Namespace: c.options.Namespace})
			}),
		}, {
			name: resource.KindSubscription, apiVersion: resource.V2alpha1,
			list: func(ctx context.Context, c *Client) ([][]byte, error) {
				reply, err := c.calls.ListSubscriptionsV2(ctx, &operatorv1.ListSubscriptionsRequest{Namespace: c.options.Namespace})
				return reply.GetSubscriptions(), err
			},
			watch: stream(func(ctx context.Context, c *Client) (operatorv1.Operator_SubscriptionUpdateClient, error) {
				return c.calls.SubscriptionUpdate(ctx, &operatorv1.SubscriptionUpdateRequest{Namespace: c.options.Namespace})
			}),
		}, {
			name: resource.KindResiliency, apiVersion: resource.V1alpha1, optional: true,
			list: func(ctx context.Context, c *Client) ([][]byte, error) {
				reply, err := c.calls.ListResiliency(ctx, &operatorv1.ListResiliencyRequest{Namespace: c.options.Namespace})
				return reply.GetResiliencies(), err
			},
			watch: stream(func(ctx context.Context, c *Client) (operatorv1.Operator_ResiliencyUpdateClient, error) {
				return c.calls.ResiliencyUpdate(ctx, &operatorv1.ResiliencyUpdateRequest{Namespace: c.options.Namespace})
			}),
		}, {
			name: resource.KindHTTPEndpoint, apiVersion: resource.V1alpha1, optional: true,
			list: func(ctx context.Context, c *Client) ([][]byte, error) {
				reply, err := c.calls.ListHTTPEndpoints(ctx, &operatorv1.ListHTTPEndpointsRequest{Namespace: c.options.Namespace})
				return reply.GetHttpEndpoints(), err
			},
			watch: stream(func(ctx context.Context, c *Client) (operatorv1.Operator_HTTPEndpointUpdateClient, error) {
				return c.calls.HTTPEndpointUpdate(ctx, &operatorv1.HTTPEndpointUpdateRequest{Namespace: c.options.Namespace})
			}),
		}, {
			name: resource.KindMCPServer, apiVersion: resource.V1alpha1, newer: true,
			list: func(ctx context.Context, c *Client) ([][]byte, error) {
				reply, err := c.calls.ListMCPServers(ctx, &operatorv1.ListMCPServersRequest{Namespace: c.options.Namespace})
				return reply.GetMcpServers(), err
			},
			watch: stream(func(ctx context.Context, c *Client) (operatorv1.Operator_MCPServerUpdateClient, error) {
				return c.calls.MCPServerUpdate(ctx, &operatorv1.MCPServerUpdateRequest{Namespace: c.options.Namespace})
			}),
		}, {
			name: resource.KindWorkflowAccessPolicy, apiVersion: resource.V1alpha1, newer: true,
			list: func(ctx context.Context, c *Client) ([][]byte, error) {
				reply, err := c.calls.ListWorkflowAccessPolicy(ctx, &operatorv1.ListWorkflowAccessPolicyRequest{Namespace: c.options.Namespace})
				return reply.GetPolicies(), err
			},
			watch: stream(func(ctx context.Context, c *Client) (operatorv1.Operator_WorkflowAccessPolicyUpdateClient, error) {
				return c.calls.WorkflowAccessPolicyUpdate(ctx, &operatorv1.WorkflowAccessPolicyUpdateRequest{Namespace: c.options.Namespace})
			}),
		}, {
			name: resource.KindConfiguration, apiVersion: resource.V1alpha1, newer: true,
			watch: stream(func(ctx context.Context, c *Client) (operatorv1.Operator_ConfigurationUpdateClient, error) {
				return c.calls.ConfigurationUpdate(ctx, &operatorv1.ConfigurationUpdateRequest{Namespace: c.options.Namespace})
			}),
		},
	}
}

// Resources lists the resources that are meant for the sidecar. With previous they are taken as a change of a running
// sidecar's, as in [resource.Reload]: a kind that cannot be listed, for example because a Secret that one of its resources refers to
// is missing, stays as it was. An operator that is not there is an error, and so is a list that fails at start, except for
// kinds that a sidecar can do without, Resiliency and HTTPEndpoint, whose failure is a problem (Dapr API, Kubernetes: operator).
func (c *Client) Resources(ctx context.Context, opts resource.Options, previous *resource.Set) (*resource.Set, []resource.Problem, error) {
	var listed []resource.Listed
	var problems []resource.Problem
	var keep []string
	for _, k := range kinds() {
		if k.list == nil {
			continue
		}
		documents, err := retry(ctx, c, func(ctx context.Context) ([][]byte, error) { return k.list(ctx, c) })
		if k.newer && status.Code(err) == codes.Unimplemented {
			continue
		}
		if err != nil {
			err = fmt.Errorf("the operator does not list the %s resources of namespace %s: %w", k.name, c.options.Namespace, err)
			if ctx.Err() != nil || previous == nil && !k.optional || previous != nil && transient(status.Code(err)) {
				return nil, problems, err
			}
			problems = append(problems, resource.Problem{
				Origin: resource.Origin{File: from + ", " + k.name}, Severity: resource.Error, Kind: k.name, Message: err.Error(),
				Remedy: "correct what the operator complains of, such as a reference to a Secret that is missing",
			})
			keep = append(keep, k.name)
			continue
		}
		for _, data := range documents {
			listed = append(listed, resource.Listed{Kind: k.name, APIVersion: k.apiVersion, Data: data})
		}
	}
	set, more, err := resource.LoadListed(ctx, from, listed, opts, previous)
	problems = append(problems, more...)
	if err != nil {
		return nil, problems, err
	}
	if previous != nil {
		for _, kind := range keep {
			retain(set, previous, kind)
		}
	}
	return set, problems, nil
}

// from is where resources come from, for messages.
const from = "the operator's list"

// retain leaves the resources of a kind as they were.
func retain(set, previous *resource.Set, kind string) {
	switch kind {
	case resource.KindComponent:
		set.Components = previous.Components
	case resource.KindSubscription:
		set.Subscriptions = previous.Subscriptions
	case resource.KindResiliency:
		set.Resiliencies = previous.Resiliencies
	case resource.KindHTTPEndpoint:
		set.HTTPEndpoints = previous.HTTPEndpoints
	case resource.KindMCPServer:
		set.MCPServers = previous.MCPServers
	case resource.KindWorkflowAccessPolicy:
		set.WorkflowAccessPolicies = previous.WorkflowAccessPolicies
	}
}
