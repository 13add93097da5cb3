package servers

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// rabbitDial connects as the administrator, or by certificate.
func rabbitDial(s *RabbitMQServer, config *tls.Config, sasl ...amqp.Authentication) (*amqp.Connection, error) {
	return amqp.DialConfig(s.ConnectionString(), amqp.Config{TLSClientConfig: config, SASL: sasl})
}

func TestRabbitMQKeepsData(t *testing.T) {
	s := measured(t, "start", func() *RabbitMQServer { return RabbitMQ(t, Own()) })
	use := func(what string, f func(ch *amqp.Channel) error) {
		t.Helper()
		conn, err := rabbitDial(s, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, s.Log())
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err == nil {
			err = f(ch)
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, s.Log())
		}
	}
	const queue = "kept"
	use("declare", func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(queue, true, false, false, false, nil)
		return err
	})
	for i, end := range []func(){s.Stop, s.Kill} {
		use("publish", func(ch *amqp.Channel) error {
			if err := ch.Confirm(false); err != nil {
				return err
			}
			dc, err := ch.PublishWithDeferredConfirm("", queue, false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: fmt.Append(nil, i)})
			if err == nil && !dc.Wait() {
				err = fmt.Errorf("not confirmed")
			}
			return err
		})
		end()
		if s.Running() {
			t.Error("runs after its end")
		}
		if _, err := rabbitDial(s, nil); err == nil {
			t.Error("answers after its end")
		}
		measured(t, "start again", func() bool { s.Start(); return true })
		use("get", func(ch *amqp.Channel) error {
			d, ok, err := ch.Get(queue, true)
			if err == nil && (!ok || string(d.Body) != fmt.Sprint(i)) {
				err = fmt.Errorf("got %q, %v; want %d", d.Body, ok, i)
			}
			return err
		})
	}
}

// TestRabbitMQKeepsQuorumQueues is a queue that was declared just before the end.
func TestRabbitMQKeepsQuorumQueues(t *testing.T) {
	s := RabbitMQ(t, Own())
	conn, err := rabbitDial(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	const queue = "young"
	declare := func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
		return err
	}
	if err := declare(ch); err != nil {
		t.Fatal(err)
	}
	measured(t, "kill", func() bool { s.Kill(); return true })
	if s.Running() {
		t.Error("runs after its end")
	}
	s.Start()
	conn, err = rabbitDial(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if ch, err = conn.Channel(); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() { answer <- declare(ch) }()
	select {
	case err := <-answer:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(startLimit):
		t.Error("the queue cannot be used any more")
	}
}

func TestRabbitMQTLS(t *testing.T) {
	for _, test := range []struct {
		name   string
		opt    Option
		noCert bool // whether clients without a certificate are let in
	}{
		{"TLS", TLS(), true},
		{"MutualTLS", MutualTLS(), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := RabbitMQ(t, test.opt)
			conn, err := rabbitDial(s, s.TLS.Client())
			if err != nil {
				t.Fatalf("%v\n%s", err, s.Log())
			}
			conn.Close()
			anonymous := s.TLS.Client()
			anonymous.Certificates = nil
			if conn, err := rabbitDial(s, anonymous); (err == nil) != test.noCert {
				t.Errorf("without a certificate: %v", err)
			} else if err == nil {
				conn.Close()
			}
			if _, err := rabbitDial(s, &tls.Config{ServerName: "localhost"}); err == nil {
				t.Error("a client that does not know the authority trusts the server")
			}
			conn, err = rabbitDial(s, s.TLS.Client(), &amqp.ExternalAuth{})
			if (err == nil) == test.noCert {
				t.Errorf("log-in by certificate: %v", err)
			}
			if err == nil {
				conn.Close()
			}
		})
	}
}
