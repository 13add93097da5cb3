// Command app is the app of the chaos test: it hosts the actor type Counter and takes jobs, by the bare HTTP callbacks of the Dapr API. Every
// turn of an actor enters and leaves at a referee, whose address it gets; it ends when the referee does.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

func main() {
	listen := flag.String("listen", "", "the address to listen on, host:port")
	sidecar := flag.String("sidecar", "", "the HTTP API of the sidecar, host:port")
	referee := flag.String("referee", "", "the address of the referee, host:port")
	name := flag.String("name", "", "the name to tell the referee")
	flag.Parse()
	if err := run(*listen, *sidecar, *referee, *name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(listen, sidecar, referee, name string) error {
	conn, err := net.Dial("tcp", referee)
	if err != nil {
		return fmt.Errorf("the referee: %w", err)
	}
	defer conn.Close()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("the app's port: %w", err)
	}
	w := &whistle{conn: conn, asked: map[string]chan struct{}{}, gone: make(chan struct{})}
	ended := make(chan error, 2)
	go func() { ended <- w.listen() }()
	if err := w.tell(context.Background(), "hello", name, fmt.Sprint(os.Getpid())); err != nil {
		return err
	}
	server := &http.Server{Handler: handler(w, &store{base: "http://" + sidecar + "/v1.0/actors/Counter/", client: &http.Client{}})}
	go func() { ended <- server.Serve(l) }()
	return <-ended
}

// handler serves the callbacks.
func handler(w *whistle, s *store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/config", func(rw http.ResponseWriter, _ *http.Request) {
		// Idle actors come and go all the time; draining is given the time that it may need on a busy machine.
		_, _ = io.WriteString(rw, `{"entities":["Counter"],"actorIdleTimeout":"3s","drainOngoingCallTimeout":"6s"}`)
	})
	mux.HandleFunc("DELETE /actors/Counter/{id}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("PUT /actors/Counter/{id}/method/inc", turn(w, func(ctx context.Context, r *http.Request) (string, error) {
		op, err := io.ReadAll(r.Body)
		if err != nil {
			return "", err
		}
		return s.increment(ctx, r.PathValue("id"), string(op))
	}))
	mux.HandleFunc("PUT /actors/Counter/{id}/method/remind/{name}", turn(w, func(ctx context.Context, r *http.Request) (string, error) {
		return "", w.tell(ctx, "fired", "reminder", r.PathValue("id")+"/"+r.PathValue("name"))
	}))
	mux.HandleFunc("PUT /actors/Counter/{id}/method/timer/{name}", turn(w, func(ctx context.Context, r *http.Request) (string, error) {
		return "", w.tell(ctx, "fired", "timer", r.PathValue("id")+"/"+r.PathValue("name"))
	}))
	mux.HandleFunc("POST /job/{name}", func(rw http.ResponseWriter, r *http.Request) {
		if err := w.tell(r.Context(), "fired", "job", r.PathValue("name")); err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// turn wraps what an actor does.
func turn(w *whistle, do func(context.Context, *http.Request) (string, error)) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		// The referee is told whatever becomes of the request.
		id := r.PathValue("id")
		if err := w.tell(context.Background(), "enter", id); err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		reply, err := do(r.Context(), r)
		if left := w.tell(context.Background(), "leave", id); err == nil {
			err = left
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(rw, reply)
	}
}

// whistle is the connection to the referee: lines of a number, a verb and words, each answered by its number.
type whistle struct {
	mu    sync.Mutex
	conn  net.Conn
	last  uint64
	asked map[string]chan struct{}
	gone  chan struct{}
}

// tell tells the referee, and returns when it knows.
func (w *whistle) tell(ctx context.Context, words ...string) error {
	answered := make(chan struct{})
	w.mu.Lock()
	w.last++
	number := fmt.Sprint(w.last)
	w.asked[number] = answered
	_, err := io.WriteString(w.conn, number+" "+strings.Join(words, " ")+"\n")
	w.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-answered:
		return nil
	case <-w.gone:
		return io.ErrUnexpectedEOF
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listen takes the answers until the connection ends.
func (w *whistle) listen() error {
	defer close(w.gone)
	lines := bufio.NewScanner(w.conn)
	for lines.Scan() {
		w.mu.Lock()
		if answered := w.asked[lines.Text()]; answered != nil {
			close(answered)
			delete(w.asked, lines.Text())
		}
		w.mu.Unlock()
	}
	return fmt.Errorf("the referee has left: %v", lines.Err())
}

// store is the actor state, reached by the sidecar.
type store struct {
	base   string
	client *http.Client
}

// stateTimeout bounds one call of the state API.
const stateTimeout = 15 * time.Second

// slowTurn is how long operations take whose name begins with slow.
const slowTurn = time.Second

// increment counts an operation of an actor once, however often it is asked for, and returns the count.
func (s *store) increment(ctx context.Context, id, op string) (string, error) {
	done, err := s.call(ctx, http.MethodGet, id+"/state/op-"+op, nil)
	if err != nil {
		return "", err
	}
	text, err := s.call(ctx, http.MethodGet, id+"/state/count", nil)
	if err != nil || len(done) > 0 {
		return text, err
	}
	count := 0
	if text != "" {
		if err := json.Unmarshal([]byte(text), &count); err != nil {
			return "", fmt.Errorf("the count of %s is %q: %w", id, text, err)
		}
	}
	count++
	if strings.HasPrefix(op, "slow") {
		select {
		case <-time.After(slowTurn):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	_, err = s.call(ctx, http.MethodPost, id+"/state", []map[string]any{
		{"operation": "upsert", "request": map[string]any{"key": "count", "value": count}},
		{"operation": "upsert", "request": map[string]any{"key": "op-" + op, "value": count}},
	})
	return fmt.Sprint(count), err
}

func (s *store) call(ctx context.Context, method, path string, body any) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return "", err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	return string(text), err
}
