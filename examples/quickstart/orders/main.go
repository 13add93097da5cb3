// Command orders is app.py in Go, for machines without Python: it keeps orders in the state store of its sidecar, signs receipts
// with a secret from it, and publishes an event for each order.
//
// It knows no database, no vault and no broker, only its sidecar on DAPR_HTTP_PORT.
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

var (
	sidecar = "http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0"
	state   = sidecar + "/state/statestore"
	client  = &http.Client{Timeout: 5 * time.Second}
)

// order has its fields in the order of their names, in which they are signed.
type order struct {
	ID       string `json:"id"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
	Receipt  string `json:"receipt,omitempty"`
}

// saved is a value for the state store.
type saved struct {
	Key     string            `json:"key"`
	Value   any               `json:"value"`
	ETag    string            `json:"etag,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

// operation is one change of a transaction.
type operation struct {
	Operation string `json:"operation"`
	Request   saved  `json:"request"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "orders failed:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("APP_PORT"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: routes(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Println("listening on port", os.Getenv("APP_PORT"))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := server.Shutdown(bounded); err != nil {
		_ = server.Close()
	}
	<-served
	fmt.Println("bye")
	return nil
}

// routes is the HTTP face of the service.
func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		answer(w, func() (any, error) {
			var o order
			if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
				return nil, err
			}
			return place(o)
		})
	})
	mux.HandleFunc("GET /orders/{id...}", func(w http.ResponseWriter, r *http.Request) {
		var o json.RawMessage
		status, _, err := call(http.MethodGet, state+"/"+url.PathEscape("order-"+r.PathValue("id")), nil, &o)
		switch err := expect(status, err, http.StatusOK, http.StatusNoContent); {
		case err != nil:
			answer(w, func() (any, error) { return nil, err })
		case status == http.StatusNoContent:
			reply(w, http.StatusNotFound, map[string]string{"error": "no such order"})
		default:
			reply(w, http.StatusOK, o)
		}
	})
	mux.HandleFunc("GET /stale", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, func() (any, error) {
			status, err := refuseStaleWrite()
			return map[string]int{"status": status}, err
		})
	})
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, func() (any, error) {
			var count int
			status, _, err := call(http.MethodGet, state+"/count", nil, &count)
			return map[string]int{"count": count}, expect(status, err, http.StatusOK, http.StatusNoContent)
		})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusNotFound, map[string]string{"error": "unknown path"})
	})
	return mux
}

// answer replies with what work returns; the caller gets to know what went wrong.
func answer(w http.ResponseWriter, work func() (any, error)) {
	body, err := work()
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		reply(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
		return
	}
	reply(w, http.StatusOK, body)
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only when the caller is gone
}

// place saves an order and the pointer to the latest one, both or neither, and tells the world of it.
func place(o order) (order, error) {
	var err error
	if o.Receipt, err = receipt(o); err != nil {
		return o, err
	}
	status, _, err := call(http.MethodPost, state+"/transaction", map[string][]operation{"operations": {
		{"upsert", saved{Key: "order-" + o.ID, Value: o}},
		{"upsert", saved{Key: "latest", Value: o.ID}},
	}}, nil)
	if err := expect(status, err, http.StatusNoContent); err != nil {
		return o, err
	}
	status, _, err = call(http.MethodPost, sidecar+"/publish/pubsub/orders", o, nil) // whoever ships has subscribed to it
	if err := expect(status, err, http.StatusNoContent); err != nil {
		return o, err
	}
	number, err := countOrder()
	if err != nil {
		return o, err
	}
	fmt.Printf("order %s saved: %d x %s, number %d in the store\n", o.ID, o.Quantity, o.Item, number)
	return o, nil
}

// receipt signs an order with the secret.
func receipt(o order) (string, error) {
	var secret map[string]string
	status, _, err := call(http.MethodGet, sidecar+"/secrets/secrets/receipt-key", nil, &secret)
	if err := expect(status, err, http.StatusOK); err != nil {
		return "", err
	}
	o.Receipt = ""
	text, err := encode(o)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, []byte(secret["receipt-key"]))
	mac.Write(text)
	return hex.EncodeToString(mac.Sum(nil))[:16], nil
}

// countOrder adds one to the number of orders and returns it. The ETag makes sure that no concurrent change is lost.
func countOrder() (int, error) {
	for {
		var count int
		status, header, err := call(http.MethodGet, state+"/count", nil, &count)
		if err := expect(status, err, http.StatusOK, http.StatusNoContent); err != nil {
			return 0, err
		}
		item := saved{Key: "count", Value: count + 1, Options: map[string]string{"concurrency": "first-write"}}
		if status == http.StatusOK {
			item.ETag = etag(header)
		}
		status, _, err = call(http.MethodPost, state, []saved{item}, nil)
		if status != http.StatusConflict { // 409: somebody else was faster, so read again
			return count + 1, expect(status, err, http.StatusNoContent)
		}
		fmt.Println("the count was changed meanwhile, trying again")
	}
}

// refuseStaleWrite shows that a write with an outdated ETag does not get through. It returns the status of the answer.
func refuseStaleWrite() (int, error) {
	var latest json.RawMessage
	status, header, err := call(http.MethodGet, state+"/latest", nil, &latest)
	if err := expect(status, err, http.StatusOK); err != nil {
		return 0, err
	}
	status, _, err = call(http.MethodPost, state, []saved{{Key: "latest", Value: latest}}, nil)
	if err := expect(status, err, http.StatusNoContent); err != nil {
		return 0, err
	}
	status, _, err = call(http.MethodPost, state, []saved{{Key: "latest", Value: "lost update", ETag: etag(header)}}, nil)
	var refused *refusal
	if err != nil && !errors.As(err, &refused) {
		return 0, err
	}
	if status == http.StatusConflict {
		fmt.Println("a write with an outdated ETag was answered 409, as it should be")
	} else {
		fmt.Printf("BUG: stale write answered %d\n", status)
	}
	return status, nil
}

func etag(header http.Header) string { return strings.Trim(header.Get("ETag"), `"`) }

// refusal is an answer of the sidecar that is not a success.
type refusal struct {
	status int
	body   string
}

func (r *refusal) Error() string { return fmt.Sprintf("the sidecar answered %d: %s", r.status, r.body) }

// expect returns the error of a call, or one of its own if the call does not have one of the statuses.
func expect(status int, err error, statuses ...int) error {
	if err != nil {
		return err
	}
	for _, wanted := range statuses {
		if status == wanted {
			return nil
		}
	}
	return &refusal{status: status, body: fmt.Sprintf("expected one of %v", statuses)}
}

// call sends a request with a JSON body to the sidecar and decodes the JSON reply, if there is one. An answer of 400 and above
// is a *refusal.
func call(method, address string, in, out any) (status int, header http.Header, err error) {
	var body io.Reader
	if in != nil {
		data, err := encode(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(data)
	}
	request, err := http.NewRequest(method, address, body)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return 0, nil, err
	case response.StatusCode >= http.StatusBadRequest:
		return response.StatusCode, response.Header, &refusal{response.StatusCode, string(data)}
	case out != nil && len(data) > 0:
		err = json.Unmarshal(data, out)
	}
	return response.StatusCode, response.Header, err
}

// encode is JSON without the escapes for HTML, as in app.py: the receipts of both are the same.
func encode(v any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}
