// Command actors is the two apps of the example: "carts" hosts the actor type Cart, and "shopper" fills a cart, waits until it is
// reminded of what it left there, and asks for a job. Neither knows where the actors live, or what keeps time.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) < 2:
		err = errors.New("usage: main carts|shopper")
	case os.Args[1] == "carts":
		err = carts(":" + os.Getenv("APP_PORT"))
	default:
		err = shopper()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// sidecar calls the own sidecar and returns the answer's status and body.
func sidecar(method, path string, body any) (int, []byte, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, "http://127.0.0.1:"+os.Getenv("DAPR_HTTP_PORT")+"/v1.0"+path, content)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, text, err
}

// carts hosts the actors. Of one cart the sidecar runs one call at a time, so there is nothing to lock.
func carts(address string) error {
	// What this app hosts (Dapr API, actors: application configuration).
	http.HandleFunc("GET /dapr/config", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"entities": ["Cart"], "actorIdleTimeout": "1m", "reentrancy": {"enabled": true}}`)
	})
	http.HandleFunc("PUT /actors/Cart/{id}/method/add", func(w http.ResponseWriter, r *http.Request) {
		id, n := r.PathValue("id"), 0
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		items, err := load(id)
		if err == nil {
			items += n
			err = save(id, items)
		}
		if err == nil { // whoever leaves a cart is reminded of it, wherever it lives then
			err = expect(http.StatusNoContent)(sidecar("PUT", "/actors/Cart/"+id+"/reminders/abandoned", map[string]any{"dueTime": "2s"}))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Printf("cart %s has %d items\n", id, items)
		fmt.Fprint(w, items)
	})
	http.HandleFunc("PUT /actors/Cart/{id}/method/total", func(w http.ResponseWriter, r *http.Request) {
		items, err := load(r.PathValue("id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, items)
	})
	http.HandleFunc("PUT /actors/Cart/{id}/method/remind/abandoned", func(_ http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		items, err := load(id)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("cart %s was left with %d items: it is emptied\n", id, items)
		if err := save(id, 0); err != nil {
			fmt.Println(err)
		}
	})
	http.HandleFunc("DELETE /actors/Cart/{id}", func(_ http.ResponseWriter, r *http.Request) {
		fmt.Printf("cart %s leaves the memory of this app\n", r.PathValue("id"))
	})
	go func() {
		if err := http.ListenAndServe(address, nil); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}()
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	<-end
	return nil
}

// load reads how much is in a cart.
func load(id string) (int, error) {
	status, text, err := sidecar("GET", "/actors/Cart/"+id+"/state/items", nil)
	switch {
	case err != nil:
		return 0, err
	case status == http.StatusNoContent:
		return 0, nil
	case status != http.StatusOK:
		return 0, fmt.Errorf("reading the cart: %d %s", status, text)
	}
	items := 0
	return items, json.Unmarshal(text, &items)
}

// save writes how much is in a cart.
func save(id string, items int) error {
	return expect(http.StatusNoContent)(sidecar("PUT", "/actors/Cart/"+id+"/state", []any{
		map[string]any{"operation": "upsert", "request": map[string]any{"key": "items", "value": items}},
	}))
}

// expect makes an error of an answer with another status.
func expect(want int) func(int, []byte, error) error {
	return func(status int, text []byte, err error) error {
		if err == nil && status != want {
			err = fmt.Errorf("the sidecar answered %d %s", status, text)
		}
		return err
	}
}

// shopper fills a cart, and waits until it was emptied by the reminder. Then it has a job call it back.
func shopper() error {
	done := make(chan string, 1)
	http.HandleFunc("POST /job/{name}", func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		done <- fmt.Sprintf("the job %s came with %s", r.PathValue("name"), text)
	})
	go func() {
		if err := http.ListenAndServe(":"+os.Getenv("APP_PORT"), nil); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}()
	cart := fmt.Sprintf("cart-%d", time.Now().Unix())
	add := func() error { return expect(http.StatusOK)(sidecar("POST", "/actors/Cart/"+cart+"/method/add", 2)) }
	// The app with the carts may not have started yet.
	err := add()
	for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); err = add() {
		time.Sleep(100 * time.Millisecond)
	}
	if err == nil {
		err = add()
	}
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		status, text, err := sidecar("POST", "/actors/Cart/"+cart+"/method/total", nil)
		if err == nil && status == http.StatusOK && string(text) == "0" {
			fmt.Println("the cart was emptied")
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the cart was not emptied: %d %s %w", status, text, err)
		}
	}
	if err := expect(http.StatusNoContent)(sidecar("POST", "/jobs/newsletter", map[string]any{"dueTime": "1s", "data": "paddles are cheap today"})); err != nil {
		return err
	}
	select {
	case text := <-done:
		fmt.Println(text)
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the job did not come")
	}
}
