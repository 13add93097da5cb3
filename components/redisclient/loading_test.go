package redisclient

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// loadingServer answers as a Redis server does that is reading its data: the first writes are refused.
func loadingServer(t *testing.T, refusals int) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	var mu sync.Mutex
	reply := func(command string) string {
		mu.Lock()
		defer mu.Unlock()
		switch command {
		case "HELLO":
			return "-ERR unknown command 'HELLO'\r\n"
		case "PING":
			return "+PONG\r\n"
		case "SET":
			if refusals--; refusals >= 0 {
				return "-LOADING Redis is loading the dataset in memory\r\n"
			}
		}
		return "+OK\r\n"
	}
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					words, err := readCommand(r)
					if err != nil {
						return
					}
					if _, err := io.WriteString(conn, reply(strings.ToUpper(words[0]))); err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().String()
}

// readCommand reads an array of bulk strings.
func readCommand(r *bufio.Reader) ([]string, error) {
	number := func(mark string) (int, error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), mark)
		if !ok {
			return 0, fmt.Errorf("%q does not begin with %s", line, mark)
		}
		return strconv.Atoi(rest)
	}
	n, err := number("*")
	words := make([]string, 0, max(n, 0))
	for err == nil && len(words) < n {
		var size int
		if size, err = number("$"); err != nil {
			break
		}
		text := make([]byte, size+2)
		_, err = io.ReadFull(r, text)
		words = append(words, string(text[:size]))
	}
	return words, err
}

// A server that has just been started refuses commands until its data is in memory; nothing was done, so a write is tried again.
func TestRetryWhileLoading(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		refusals int
		works    bool
	}{{2, true}, {4, false}} {
		o := decode(t, map[string]string{"redisHost": loadingServer(t, test.refusals), "redisMaxRetries": "3", "redisMinRetryInterval": "1ms", "redisMaxRetryInterval": "2ms"})
		c, err := o.Open(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		err = c.RetryUnsent(t.Context(), func() error { return c.Do(t.Context(), c.B().Set().Key("k").Value("v").Build()).Error() })
		if (err == nil) != test.works {
			t.Errorf("after %d refusals: %v, want success %t", test.refusals, err, test.works)
		}
		c.Close()
	}
}
