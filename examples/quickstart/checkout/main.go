// Command checkout places a few orders with the orders service and ends.
//
// It does not know where orders runs: it asks its own sidecar, on DAPR_HTTP_PORT, to call the app named "orders".
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

type order struct {
	ID       string `json:"id"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
	Receipt  string `json:"receipt,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "checkout failed:", err)
		os.Exit(1)
	}
}

func run() error {
	// Requests to an app go to the sidecar, which finds the app.
	invoke := "http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0/invoke/"
	orders, shipments := invoke+"orders/method", invoke+"shipping/method/shipments/"
	client := &http.Client{Timeout: 10 * time.Second}
	if err := waitFor(client, orders+"/count", nil); err != nil {
		return fmt.Errorf("orders does not answer: %w", err)
	}
	batch := time.Now().UTC().Format("150405")
	wanted := []order{{Item: "paddle", Quantity: 2}, {Item: "life vest", Quantity: 4}, {Item: "outrigger", Quantity: 1}}
	confirmed := 0
	for i, o := range wanted {
		o.ID = fmt.Sprintf("%s-%d", batch, i+1)
		var placed, read order
		if err := call(client, http.MethodPost, orders+"/orders", o, &placed); err != nil {
			return err
		}
		if err := call(client, http.MethodGet, orders+"/orders/"+o.ID, nil, &read); err != nil {
			return err
		}
		if read != placed || placed.Receipt == "" {
			return fmt.Errorf("order %s reads back as %+v, but was placed as %+v", o.ID, read, placed)
		}
		// Shipping hears of the order by an event, a moment later.
		var shipped struct{ Way string }
		if err := waitFor(client, shipments+o.ID, &shipped); err != nil {
			return fmt.Errorf("order %s is not shipped: %w", o.ID, err)
		}
		confirmed++
		fmt.Printf("order %s: %d x %s, receipt %s, shipped as %s\n", o.ID, o.Quantity, o.Item, placed.Receipt, shipped.Way)
	}
	var stale struct{ Status int }
	if err := call(client, http.MethodGet, orders+"/stale", nil, &stale); err != nil {
		return err
	}
	if stale.Status != http.StatusConflict {
		return fmt.Errorf("a write with an outdated ETag was answered %d instead of 409", stale.Status)
	}
	var total struct{ Count int }
	if err := call(client, http.MethodGet, orders+"/count", nil, &total); err != nil {
		return err
	}
	fmt.Printf("checkout done: %d of %d orders confirmed, %d in the store\n", confirmed, len(wanted), total.Count)
	return nil
}

// waitFor asks until there is an answer: all apps start at the same time, and events take a moment.
func waitFor(client *http.Client, url string, out any) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := call(client, http.MethodGet, url, nil, out)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// call sends a request with a JSON body and decodes the JSON reply.
func call(client *http.Client, method, url string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}
