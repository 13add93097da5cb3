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
			name: resource.KindResiliency, apiVersion: resource.V1alpha1,
			list: func(ctx context.Context, c *Client) ([][]byte, error) {
				reply, err := c.calls.ListResiliency(ctx, &operatorv1.ListResiliencyRequest{Namespace: c.options.Namespace})
				return reply.GetResiliencies(), err
			},
			watch: stream(func(ctx context.Context, c *Client) (operatorv1.Operator_ResiliencyUpdateClient, error) {
				return c.calls.ResiliencyUpdate(ctx, &operatorv1.ResiliencyUpdateRequest{Namespace: c.options.Namespace})
			}),
		}, {
			name: resource.KindHTTPEndpoint, apiVersion: resource.V1alpha1,
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
// sidecar's, as in [resource.Reload].
func (c *Client) Resources(ctx context.Context, opts resource.Options, previous *resource.Set) (*resource.Set, []resource.Problem, error) {
	var listed []resource.Listed
	for _, k := range kinds() {
		if k.list == nil {
			continue
		}
		documents, err := retry(ctx, c, func(ctx context.Context) ([][]byte, error) { return k.list(ctx, c) })
		if k.newer && status.Code(err) == codes.Unimplemented {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("the operator does not list the %s resources of namespace %s: %w", k.name, c.options.Namespace, err)
		}
		for _, data := range documents {
			listed = append(listed, resource.Listed{Kind: k.name, APIVersion: k.apiVersion, Data: data})
		}
	}
	return resource.LoadListed(ctx, "the operator's list", listed, opts, previous)
}
