// Command mtls is the three apps of the example: a vault that answers whoever its sidecar lets through, an auditor that may read the
// balance and nothing else, and a stranger that may do nothing. None of them knows of certificates.
package main

import (
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
		err = errors.New("usage: main vault|auditor|stranger")
	case os.Args[1] == "vault":
		err = vault(":" + os.Getenv("APP_PORT"))
	case os.Args[1] == "auditor":
		err = ask(map[string]int{"balance": http.StatusOK, "withdraw": http.StatusForbidden})
	default:
		err = ask(map[string]int{"balance": http.StatusForbidden, "withdraw": http.StatusForbidden})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// vault serves.
func vault(address string) error {
	http.HandleFunc("GET /balance", func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("the balance, for %s\n", r.Header.Get("dapr-caller-app-id"))
		fmt.Fprint(w, "1200")
	})
	http.HandleFunc("GET /withdraw", func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("robbed by %s\n", r.Header.Get("dapr-caller-app-id"))
	})
	go func() {
		if err := http.ListenAndServe(address, nil); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}()
	term := make(chan os.Signal, 1)
	signal.Notify(term, os.Interrupt, syscall.SIGTERM)
	<-term
	return nil
}

// ask calls the vault through the sidecar, and checks the answers.
func ask(want map[string]int) error {
	client := &http.Client{Timeout: 5 * time.Second}
	for _, path := range []string{"balance", "withdraw"} {
		status, body := 0, ""
		for deadline := time.Now().Add(30 * time.Second); status != want[path]; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("/%s: %d %s, expected %d", path, status, body, want[path])
			}
			// The vault may not have started yet.
			resp, err := client.Get("http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0/invoke/vault/method/" + path)
			if err != nil {
				continue
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			status, body = resp.StatusCode, string(text)
		}
		fmt.Printf("/%s: %d %s\n", path, status, body)
	}
	return nil
}
