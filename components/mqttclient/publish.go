package mqttclient

import (
	"context"
	"fmt"
)

// Publication is a message to publish.
type Publication struct {
	Topic   string
	Payload []byte
	// QoS is 0, 1 or 2.
	QoS byte
	// Retain makes the broker keep the message for those who subscribe later.
	Retain bool
}

// Publish returns when the broker has acknowledged the message, or, for qos 0, when it has been written to the connection.
// A connection that is lost meanwhile is waited for. When ctx ends first the broker may or may not have the message.
func (c *Client) Publish(ctx context.Context, m Publication) error {
	if err := CheckTopic(m.Topic); err != nil {
		return &RefusedError{err.Error()}
	}
	if most := largestPacket - len(m.Topic) - 4; len(m.Payload) > most {
		return &RefusedError{fmt.Sprintf("the message has %d bytes, but MQTT carries at most %d", len(m.Payload), most)}
	}
	if m.QoS == 0 {
		return c.publishOnce(ctx, &m)
	}
	done := make(chan error, 1)
	f := &flow{answer: typePuback, done: func(err error) { done <- err }}
	if m.QoS == 2 {
		f.answer = typePubcomp
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	id, err := c.begin(f)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	data := publishFrame(&m, id)
	f.frame = data
	conn := c.conn
	f.sent = conn != nil // else attach sends it
	c.mu.Unlock()
	queued := conn != nil && conn.send(ctx, frame{data: data}) == nil // on the next connection otherwise
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		err = nil
	case <-c.ctx.Done():
		err = ErrClosed
	}
	c.mu.Lock()
	lost := c.lost
	if c.flows[id] == f {
		if f.sent && (queued || c.conn != conn) {
			f.abandoned, f.frame = true, nil
		} else {
			delete(c.flows, id)
		}
	}
	c.mu.Unlock()
	select {
	case err := <-done: // just now
		return err
	default:
	}
	if err == nil {
		err = c.late(ctx, "the acknowledgement", lost)
	}
	return err
}

// publishOnce sends a message that the broker does not acknowledge.
func (c *Client) publishOnce(ctx context.Context, m *Publication) error {
	conn, err := c.wait(ctx)
	if err != nil {
		return err
	}
	written := make(chan struct{})
	if err := conn.send(ctx, frame{publishFrame(m, 0), written}); err != nil {
		if ctx.Err() != nil {
			return c.late(ctx, "the connection to take the message", nil)
		}
		return fmt.Errorf("the message could not be written to the MQTT broker at %s: %w; %s", c.target.shown, err, remedy)
	}
	select {
	case <-written:
		return nil
	case <-conn.dead:
		return fmt.Errorf("the connection to the MQTT broker at %s was lost while the message was written: %w; %s", c.target.shown, conn.err, remedy)
	case <-ctx.Done():
		return c.late(ctx, "the connection to take the message", nil)
	}
}

// release is the second half of a publish of qos 2: the broker has the message, and hands it on once told to.
func (c *Client) release(conn *connection, id uint16) error {
	c.mu.Lock()
	if f := c.flows[id]; f != nil {
		if f.answer != typePubcomp {
			c.mu.Unlock()
			return &malformedError{fmt.Sprintf("PUBREC in answer to request %d, which is no message of qos 2", id)}
		}
		f.released = true
	}
	c.mu.Unlock()
	// Also for a message whose publisher waits no longer: else the broker waits for ever.
	_ = conn.send(c.ctx, frame{data: idFrame(firstPubrel, id)})
	return nil
}

// released is the same for a message that was received: the broker will not send it again.
func (c *Client) released(conn *connection, id uint16) {
	c.mu.Lock()
	delete(c.received, id)
	c.mu.Unlock()
	_ = conn.send(c.ctx, frame{data: idFrame(firstPubcomp, id)})
}
