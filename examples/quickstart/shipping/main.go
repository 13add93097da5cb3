// Command shipping ships what was ordered. It learns of orders by the events that the orders service publishes: a resource,
// resources/orders.yaml, subscribes it to them and decides which go to /parcel and which to /freight.
//
// It knows no broker and no other app; its sidecar calls it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// event is what the sidecar delivers: a CloudEvent with an order inside.
type event struct {
	ID   string `json:"id"`
	Data struct {
		ID       string `json:"id"`
		Item     string `json:"item"`
		Quantity int    `json:"quantity"`
	} `json:"data"`
}

// shipments are the ways in which orders were shipped, by the order's ID.
type shipments struct {
	mu  sync.Mutex
	way map[string]string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "shipping failed:", err)
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
	s := &shipments{way: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /parcel", s.ship("parcel"))
	mux.HandleFunc("POST /freight", s.ship("freight"))
	mux.HandleFunc("GET /shipments/{id}", s.show)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
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

// ship takes the events of a route. Status 200 says that the event is done; with any other, the broker would deliver it again.
// It may also come twice, so the order's ID decides.
func (s *shipments) ship(way string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var e event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		_, again := s.way[e.Data.ID]
		s.way[e.Data.ID] = way
		s.mu.Unlock()
		if !again {
			fmt.Printf("order %s: %d x %s shipped as %s\n", e.Data.ID, e.Data.Quantity, e.Data.Item, way)
		}
	}
}

// show tells how an order was shipped, if it was.
func (s *shipments) show(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	way, ok := s.way[r.PathValue("id")]
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusNotFound)
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"way": way}) // fails only when the caller is gone
}
