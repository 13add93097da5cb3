package daprd

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// The times of --wait (Dapr API, sidecar: command line).
const (
	waitPoll    = 100 * time.Millisecond
	waitRequest = 500 * time.Millisecond
	waitTotal   = 60 * time.Second
	waitReport  = time.Second
)

// wait returns when the sidecar on the port can be called, or after a minute.
func wait(stderr io.Writer, httpPort string) {
	url := "http://localhost:" + httpPort + "/v1.0/healthz/outbound"
	ctx, cancel := context.WithTimeout(context.Background(), waitTotal)
	defer cancel()
	// The sidecar is on this machine, so a proxy of the environment does not apply.
	client := &http.Client{Timeout: waitRequest, Transport: &http.Transport{Proxy: nil}}
	defer client.CloseIdleConnections()
	fmt.Fprintf(stderr, "waiting for the sidecar at %s\n", url)
	ticker := time.NewTicker(waitPoll)
	defer ticker.Stop()
	var reported time.Time
	for {
		err := outboundReady(ctx, client, url)
		if err == nil {
			fmt.Fprintln(stderr, "the sidecar is ready")
			return
		}
		if time.Since(reported) >= waitReport {
			fmt.Fprintf(stderr, "the sidecar is not ready yet: %s\n", err)
			reported = time.Now()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			fmt.Fprintf(stderr, "the sidecar was not ready within %s; look at its log for the reason\n", waitTotal)
			return
		}
	}
}

func outboundReady(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}
