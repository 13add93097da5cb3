package local

import (
	"context"
	"fmt"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Usage is what the broker holds.
type Usage struct {
	Streams   int    `json:"streams"`
	Consumers int    `json:"consumers"`
	Bytes     uint64 `json:"bytes"`
}

// askTimeout bounds asking the broker.
const askTimeout = 5 * time.Second

// Used asks the broker of a running process what it holds.
func Used(ctx context.Context, p *Process) (Usage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := client.Connect(p.NATSURL(), client.Name("dapr local status"), client.Timeout(askTimeout), client.NoReconnect())
	if err != nil {
		return Usage{}, fmt.Errorf("the local broker at %s does not answer: %w", p.NATSURL(), err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return Usage{}, err
	}
	account, err := js.AccountInfo(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("the local broker at %s does not tell what it holds: %w", p.NATSURL(), err)
	}
	return Usage{Streams: account.Streams, Consumers: account.Consumers, Bytes: account.Store}, nil
}
