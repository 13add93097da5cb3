package servers

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What is acknowledged is there after Kill and after Stop, at the same address.
func TestNATSKeepsWhatItAcknowledged(t *testing.T) {
	s := NATS(t, Own(), Password("s3cret"))
	url, stored := s.URL(), uint64(0)
	connect := func() (*nats.Conn, jetstream.JetStream) {
		t.Helper()
		conn, err := nats.Connect(s.URL(), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		return conn, js
	}
	for _, down := range []func(){s.Kill, s.Stop, s.Kill} {
		conn, js := connect()
		stream, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "kept", Subjects: []string{"kept"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().State.Msgs; got != stored {
			t.Errorf("%d messages are stored, want %d", got, stored)
		}
		for range 100 {
			if _, err := js.Publish(t.Context(), "kept", []byte("x")); err != nil {
				t.Fatal(err)
			}
			stored++
		}
		down()
		conn.Close()
		if _, err := nats.Connect(url, nats.NoReconnect()); err == nil {
			t.Error("the server that is down takes a connection")
		}
		s.Start()
		if s.URL() != url {
			t.Errorf("the address was %s and is %s", url, s.URL())
		}
	}
	conn, js := connect()
	defer conn.Close()
	stream, err := js.Stream(t.Context(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got != stored {
		t.Errorf("%d messages are stored, want %d", got, stored)
	}
}

func TestNATSCredentials(t *testing.T) {
	for name, s := range map[string]*NATSServer{"password": NATS(t, Password("s3cret")), "token": NATS(t, Token("t0ken")), "jwt": NATS(t, UserJWT())} {
		if conn, err := nats.Connect("nats://" + s.Addr); err == nil {
			conn.Close()
			t.Errorf("%s: the server takes a client without credentials", name)
		}
	}
}
