package redis

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"outrigger.dev/components/pubsub"
)

// limited is a context for one step of a test.
func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// command runs a command on a key at the server, as another program would.
func command(t testing.TB, b *Broker, words ...string) rueidis.RedisResult {
	t.Helper()
	c := b.client.B().Arbitrary(words[0])
	switch words[0] {
	case "XGROUP", "XINFO":
		return b.client.Do(limited(t), c.Args(words[1]).Keys(words[2]).Args(words[3:]...).Build())
	}
	return b.client.Do(limited(t), c.Keys(words[1]).Args(words[2:]...).Build())
}

// pending is how many messages of the group wait for an acknowledgement.
func pending(t testing.TB, b *Broker, topic, group string) int64 {
	t.Helper()
	summary, err := command(t, b, "XPENDING", topic, group).ToArray()
	if err != nil {
		t.Fatalf("XPENDING: %v", err)
	}
	n, err := summary[0].AsInt64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var topics atomic.Int64

// freshTopic is one that no other test has.
func freshTopic(t testing.TB) string {
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), topics.Add(1))
}

func publish(t testing.TB, b *Broker, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := b.Publish(limited(t), pubsub.PublishRequest{Topic: topic, Data: []byte(text)}); err != nil {
			t.Fatalf("Publish %s: %v", text, err)
		}
	}
}

// publishStubborn publishes as an app with a retry policy does.
func publishStubborn(t testing.TB, b *Broker, topic, text string) {
	t.Helper()
	waitFor(t, "a publish to succeed", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		return b.Publish(ctx, pubsub.PublishRequest{Topic: topic, Data: []byte(text)}) == nil
	})
}

func subscribe(t testing.TB, b *Broker, topic string, handler pubsub.Handler) pubsub.Subscription {
	t.Helper()
	s, err := b.Subscribe(limited(t), pubsub.SubscribeRequest{Topic: topic}, handler)
	if err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	return s
}

// tally counts messages by their text.
type tally struct {
	mu    sync.Mutex
	count map[string]int
	// running and most are the handlers at one time.
	running, most int
}

// handler counts and then does what verdict says; nil accepts.
func (c *tally) handler(verdict func(ctx context.Context, text string, attempt int) error) pubsub.Handler {
	return func(ctx context.Context, msg *pubsub.Message) error {
		text := string(msg.Data)
		c.mu.Lock()
		if c.count == nil {
			c.count = map[string]int{}
		}
		c.count[text]++
		attempt := c.count[text]
		c.running++
		c.most = max(c.most, c.running)
		c.mu.Unlock()
		defer func() {
			c.mu.Lock()
			c.running--
			c.mu.Unlock()
		}()
		if verdict == nil {
			return nil
		}
		return verdict(ctx, text, attempt)
	}
}

func (c *tally) times(text string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[text]
}

func (c *tally) total() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, times := range c.count {
		n += times
	}
	return n
}

// await waits until each of the texts has come.
func (c *tally) await(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		waitFor(t, "message "+text, func() bool { return c.times(text) > 0 })
	}
}

// hold is a verdict that comes when release is closed, or not at all.
func hold(release <-chan struct{}) func(context.Context, string, int) error {
	return func(ctx context.Context, _ string, _ int) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// proxy stands between the client and the server, and can fall silent.
type proxy struct {
	addr   string
	target string
	l      net.Listener
	mu     sync.Mutex
	conns  []*proxied
	ended  bool
	group  sync.WaitGroup
}

type proxied struct {
	client, server net.Conn
	silent         atomic.Bool
	// reads says that the client waits for messages here.
	reads atomic.Bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), target: target, l: l}
	p.group.Go(p.serve)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.ended = true
		for _, c := range p.conns {
			_ = c.client.Close()
			_ = c.server.Close()
		}
		p.mu.Unlock()
		p.group.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &proxied{client: client, server: server}
		p.mu.Lock()
		if p.ended {
			_, _ = client.Close(), server.Close()
		}
		p.conns = append(p.conns, c)
		p.mu.Unlock()
		p.group.Go(func() { c.copy(server, client) })
		p.group.Go(func() { c.copy(client, server) })
	}
}

// copy passes on what comes, or swallows it once the connection is silent, as a network does that has lost the way.
func (c *proxied) copy(to, from net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if from == c.client && bytes.Contains(buffer[:n], []byte("XREADGROUP")) {
			c.reads.Store(true)
		}
		if n > 0 && !c.silent.Load() {
			_, _ = to.Write(buffer[:n])
		}
		if err != nil {
			if err == io.EOF && c.silent.Load() {
				return // not even the end gets through
			}
			_ = to.Close()
			return
		}
	}
}

// silence makes connections silent that there are: all, or those on which a client waits for messages. New ones work.
func (p *proxy) silence(all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if all || c.reads.Load() {
			c.silent.Store(true)
		}
	}
}
