package rabbitmq

import (
	"context"
	"maps"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/pubsub/pubsubtest"
	"outrigger.dev/test/servers"
)

// typed is a broker whose subscriptions have queues of a type.
type typed struct {
	*Broker
	queueType string
}

func (b typed) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	metadata := maps.Clone(req.Metadata)
	if metadata == nil {
		metadata = props{}
	}
	metadata["queueType"] = b.queueType
	req.Metadata = metadata
	return b.Broker.Subscribe(ctx, req, handler)
}

func TestConformance(t *testing.T) {
	for _, test := range []struct {
		name string
		own  bool   // a server that can be restarted
		kind string // of queues
		p    props
		cfg  pubsubtest.Config
	}{
		{
			"classic", true, "classic", kept(props{"requeueInFailure": "true"}),
			pubsubtest.Config{Durable: true, Competing: true, Redelivers: 10 * time.Second, NativeTTL: true, LargestMessage: 8 << 20},
		},
		{
			"quorum", true, "quorum", kept(props{"requeueInFailure": "true", "prefetchCount": "200"}),
			pubsubtest.Config{Durable: true, Competing: true, Redelivers: 10 * time.Second, NativeTTL: true},
		},
		{
			"in order", false, "classic", kept(props{"concurrencyMode": "single", "prefetchCount": "10", "requeueInFailure": "true"}),
			pubsubtest.Config{Durable: true, Competing: true, Redelivers: 10 * time.Second, NativeTTL: true, Ordered: true},
		},
		{"defaults", false, "", nil, pubsubtest.Config{Competing: true, NativeTTL: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var opts []servers.Option
			if test.own {
				opts = append(opts, servers.Own())
			}
			s := servers.RabbitMQ(t, opts...)
			cfg := test.cfg
			if test.own {
				ends, n := []func(){s.Stop, s.Kill}, 0
				cfg.Restart = func(testing.TB) {
					ends[n%len(ends)]()
					n++
					s.Start()
				}
			}
			cfg.Open = func(tb testing.TB, appID string, properties map[string]string) pubsub.Broker {
				p := maps.Clone(test.p)
				if p == nil {
					p = props{}
				}
				maps.Copy(p, properties)
				p["consumerID"] = appID
				return typed{open(tb, s, p), test.kind}
			}
			pubsubtest.Run(t, cfg)
		})
	}
}
