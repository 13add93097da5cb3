package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

// TestOversized checks that the error names the size and the remedy when the server's limit is the cause, and the broker goes on.
func TestOversized(t *testing.T) {
	server := servers.Redis(t, servers.Own(), servers.Setting("proto-max-bulk-len", "1mb"))
	b := open(t, properties{"redisHost": server.Addr, "consumerID": "app"})
	topic := freshTopic(t)
	for _, test := range []struct {
		name string
		size int // bytes
		ok   bool
	}{
		{"fits", 1 << 20, true},
		{"a byte too much", 1<<20 + 1, false},
		{"far too large", 16 << 20, false}, // so that the server ends the connection while it is written
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 5 { // the server's word does not always arrive before the end of the connection
				err := b.Publish(limited(t), pubsub.PublishRequest{Topic: topic, Data: make([]byte, test.size)})
				if test.ok {
					if err != nil {
						t.Fatal(err)
					}
					continue
				}
				if err == nil {
					t.Fatal("no error")
				}
				for _, want := range []string{server.Addr, topic, fmt.Sprint(test.size, " bytes"), "proto-max-bulk-len", "smaller message"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("the error does not name %q: %v", want, err)
					}
				}
				publishStubborn(t, b, topic, "small")
			}
		})
	}
}

func TestOversizedErrors(t *testing.T) {
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	for _, test := range []struct {
		name  string
		err   error
		size  int
		named bool
	}{
		{"reset", reset, 512 << 10, true},
		{"reset, as text", errors.New("read tcp: connection reset by peer"), 1 << 20, true},
		{"reset, small", reset, 512<<10 - 1, false},
		{"broken pipe", os.NewSyscallError("write", syscall.EPIPE), 1 << 20, true},
		{"end", io.EOF, 1 << 20, true},
		{"answer", errors.New("ERR Protocol error: invalid bulk length"), 1 << 20, true},
		{"other answer", errors.New("OOM command not allowed"), 1 << 20, false},
		{"late", context.DeadlineExceeded, 1 << 20, false},
		{"refused", os.NewSyscallError("connect", syscall.ECONNREFUSED), 1 << 20, false},
	} {
		err := oversized(test.err, test.size)
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v hides %v", test.name, err, test.err)
		}
		if named := strings.Contains(err.Error(), fmt.Sprint(test.size)) && strings.Contains(err.Error(), "proto-max-bulk-len"); named != test.named {
			t.Errorf("%s: size and remedy named: %v, want %v: %v", test.name, named, test.named, err)
		}
	}
}
