//go:build unix

package cli

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// actorsApp hosts the actor type Cart. It calls one, which asks for a reminder, and it asks for a job. When all have come it ends with 0.
func actorsApp() int {
	came := make(chan string, 10)
	go func() {
		err := http.ListenAndServe("127.0.0.1:"+os.Getenv("APP_PORT"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			switch {
			case r.URL.Path == "/dapr/config":
				fmt.Fprint(w, `{"entities":["Cart"]}`)
			case strings.HasPrefix(r.URL.Path, "/actors/Cart/one/method/remind/"), strings.HasPrefix(r.URL.Path, "/job/"):
				came <- fmt.Sprintf("came: %s %s %s", r.Method, r.URL.Path, body)
			case r.URL.Path == "/actors/Cart/one/method/fill":
				fmt.Fprint(w, "filled")
			}
		}))
		fmt.Println("the app cannot listen:", err)
	}()
	ask := func(path, body string, want int) bool {
		deadline := time.Now().Add(patience)
		for {
			resp, err := http.Post("http://127.0.0.1:"+os.Getenv("DAPR_HTTP_PORT")+"/v1.0"+path, "application/json", strings.NewReader(body))
			if err == nil {
				text, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode == want {
					fmt.Printf("%s: %s\n", path, text)
					return true
				}
				err = fmt.Errorf("%d %s", resp.StatusCode, text)
			}
			if time.Now().After(deadline) {
				fmt.Println(path, err)
				return false
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if !ask("/actors/Cart/one/method/fill", "", 200) || !ask("/actors/Cart/one/reminders/abandoned", `{"dueTime":"10ms","data":{"n":12345678901234567890}}`, 204) ||
		!ask("/jobs/letter", `{"dueTime":"10ms","data":"cheap"}`, 204) {
		return 1
	}
	for range 2 {
		select {
		case text := <-came:
			fmt.Println(text)
		case <-time.After(patience):
			fmt.Println("not everything came")
			return 1
		}
	}
	return 0
}

// TestRunActorsAndJobs runs an app with actors, a reminder and a job where nothing was started before, once with identities and once without.
func TestRunActorsAndJobs(t *testing.T) {
	t.Parallel()
	for name, home := range map[string]string{"plain": t.TempDir(), "mTLS": mtlsHome(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := dapr(t, home, "actors", "run", "--app-id", id("carts"), "--app-port", freePort(t), "--", self(t))
			p.exit(0, "/actors/Cart/one/method/fill: filled", `came: PUT /actors/Cart/one/method/remind/abandoned {"data":{"n":12345678901234567890},"dueTime":"","period":""}`, `came: POST /job/letter "cheap"`)
			b := broker(t, home)
			if b == nil || b.Placement == nil || !b.Placement.Ready || b.Scheduler == nil || !b.Scheduler.Ready || b.Scheduler.EtcdPort == 0 {
				t.Errorf("the local services: %+v", b)
			}
			status := dapr(t, home, "", "local", "status")
			status.exit(0, "PLACEMENT", "SCHEDULER", b.Placement.Address(), b.Scheduler.Address())
		})
	}
}
