package redis

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fakeServer speaks the Redis protocol and answers from a script. It stands for a server with RedisJSON and RediSearch,
// which are not to be had for tests: what is sent to it is checked, and what the real one would answer is replayed.
type fakeServer struct {
	address string
	answer  func(command []string) string

	mu   sync.Mutex
	seen [][]string
}

// newFakeServer starts a server whose answers are RESP as it is sent; an empty one is an unknown command.
func newFakeServer(t *testing.T, answer func(command []string) string) *fakeServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{address: l.Addr().String(), answer: answer}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait() // The clients have been closed before, which ends their connections.
	})
	return f
}

func (f *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		command, err := readCommand(r)
		if err != nil {
			return
		}
		if _, err := io.WriteString(conn, f.reply(command)); err != nil {
			return
		}
	}
}

func (f *fakeServer) reply(command []string) string {
	switch strings.ToUpper(command[0]) {
	case "HELLO":
		return "%3\r\n+server\r\n+redis\r\n+version\r\n+7.4.0\r\n+proto\r\n:3\r\n"
	case "PING":
		return "+PONG\r\n"
	case "INFO":
		return bulk("role:master\r\nconnected_slaves:0\r\n")
	}
	f.mu.Lock()
	f.seen = append(f.seen, command)
	f.mu.Unlock()
	if text := f.answer(command); text != "" {
		return text
	}
	return "-ERR unknown command '" + command[0] + "'\r\n"
}

// commands are those seen since the last call, but for the ones of connecting.
func (f *fakeServer) commands() [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := f.seen
	f.seen = nil
	return seen
}

func bulk(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }

func readCommand(r *bufio.Reader) ([]string, error) {
	length := func(mark byte) (int, error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line[0] != mark {
			return 0, fmt.Errorf("got %q, want a line with %q", line, mark)
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := length('*')
	if err != nil {
		return nil, err
	}
	command := make([]string, n)
	for i := range command {
		size, err := length('$')
		if err != nil {
			return nil, err
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return nil, err
		}
		command[i] = string(word[:size])
	}
	return command, nil
}
