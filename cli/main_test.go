//go:build unix

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/local"
	"outrigger.dev/telemetry/logging/logtest"
)

// appVariable makes the test program behave as an app of a kind.
const appVariable = "OUTRIGGER_TEST_APP"

// binDir is the directory of the programs, which the first test that needs them builds.
var binDir = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dapr-cli-")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "outrigger.dev/cmd/daprd", "outrigger.dev/cmd/dapr")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	return dir, nil
})

// built tells that binDir made a directory.
var built atomic.Bool

func TestMain(m *testing.M) {
	if kind := os.Getenv(appVariable); kind != "" {
		os.Exit(testApp(kind))
	}
	code := m.Run()
	if built.Load() {
		dir, _ := binDir()
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// testApp is an app: what it does depends on the kind.
func testApp(kind string) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Printf("app %s: id %s\n", kind, os.Getenv("APP_ID"))
	switch kind {
	case "state": // saves and reads a value through its sidecar
		base := "http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0/state/statestore"
		resp, err := http.Post(base, "application/json", strings.NewReader(`[{"key":"k","value":"kept"}]`))
		if err != nil || resp.StatusCode != http.StatusNoContent {
			fmt.Println("saving:", resp, err)
			return 1
		}
		resp, err = http.Get(base + "/k")
		if err != nil {
			fmt.Println("reading:", err)
			return 1
		}
		body, err := io.ReadAll(resp.Body)
		fmt.Printf("read back %s %v\n", body, err)
		return 0
	case "call": // calls the app "server" through its sidecar until it answers
		deadline := time.Now().Add(20 * time.Second)
		for time.Now().Before(deadline) {
			resp, err := http.Get("http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0/invoke/server/method/hello")
			if err == nil && resp.StatusCode == http.StatusOK {
				body, _ := io.ReadAll(resp.Body)
				fmt.Printf("answer: %s\n", body)
				return 3
			}
			time.Sleep(20 * time.Millisecond)
		}
		return 1
	case "server":
		go func() {
			_ = http.ListenAndServe("127.0.0.1:"+os.Getenv("APP_PORT"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/fails" {
					w.WriteHeader(http.StatusTeapot)
				}
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
			}))
		}()
		<-term
		fmt.Println("app was asked to end")
		return 0
	case "publish": // publishes what its arguments say to the topic orders
		for _, text := range os.Args[1:] {
			resp, err := http.Post("http://127.0.0.1:"+os.Getenv("DAPR_HTTP_PORT")+"/v1.0/publish/pubsub/orders", "text/plain", strings.NewReader(text))
			if err != nil || resp.StatusCode != http.StatusNoContent {
				fmt.Println("publishing:", resp, err)
				return 1
			}
		}
		fmt.Println("published all")
		return 0
	case "stream": // publishes m1, m2, ... to the topic orders until it is asked to end, and prints which were acknowledged
		for n := 1; ; n++ {
			select {
			case <-term:
				fmt.Println("stream ended")
				return 0
			default:
			}
			text := fmt.Sprintf("m%d", n)
			resp, err := http.Post("http://127.0.0.1:"+os.Getenv("DAPR_HTTP_PORT")+"/v1.0/publish/pubsub/orders", "text/plain", strings.NewReader(text))
			if err != nil {
				fmt.Println("publishing:", err)
				continue
			}
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusNoContent {
				fmt.Printf("acknowledged %s\n", text)
			}
		}
	case "subscribe": // prints what comes on the topic orders
		go func() {
			err := http.ListenAndServe("127.0.0.1:"+os.Getenv("APP_PORT"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/dapr/subscribe" {
					fmt.Fprint(w, `[{"pubsubname":"pubsub","topic":"orders","route":"/orders"}]`)
					return
				}
				var event struct {
					Data any `json:"data"`
				}
				if json.NewDecoder(r.Body).Decode(&event) == nil {
					fmt.Printf("got %v\n", event.Data)
				}
			}))
			fmt.Println("the app cannot listen:", err)
		}()
		<-term
		return 0
	case "actors":
		return actorsApp()
	case "wait":
		<-term
		fmt.Println("app was asked to end")
		return 0
	case "stubborn":
		for range term {
			fmt.Println("app stays")
		}
	case "fail":
		return 3
	}
	return 99
}

// program is a started dapr command.
type program struct {
	*exec.Cmd
	t    *testing.T
	out  logtest.Output
	done chan struct{}
}

// bounds of what tests wait for.
const patience = 30 * time.Second

// dapr starts the command with a runtime directory of the test's own.
func dapr(t *testing.T, home, app string, args ...string) *program {
	t.Helper()
	return daprWith(t, home, app, nil, args...)
}

// daprWith is dapr with more in its environment.
func daprWith(t *testing.T, home, app string, env []string, args ...string) *program {
	t.Helper()
	dir, err := binDir()
	built.Store(true)
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Cmd: exec.Command(filepath.Join(dir, binaryName("dapr")), args...), t: t, done: make(chan struct{})}
	p.Env = append(os.Environ(), "DAPR_RUNTIME_PATH="+home, "DAPR_HOST_IP=127.0.0.1")
	p.Env = append(p.Env, env...)
	if app != "" {
		p.Env = append(p.Env, appVariable+"="+app)
	}
	p.Stdout, p.Stderr = &p.out, &p.out
	p.WaitDelay = patience
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Wait()
		close(p.done)
	}()
	t.Cleanup(func() { // after the command, which is ended below
		if _, err := local.Stop(context.Background(), localDir(filepath.Join(home, ".dapr"))); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		_ = p.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(patience):
			_ = p.Process.Kill()
		}
	})
	return p
}

// await returns when the output has the text.
func (p *program) await(text string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%q appears", text), func() bool { return strings.Contains(p.out.String(), text) })
}

// until returns when the condition holds.
func (p *program) until(what string, condition func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			p.t.Fatalf("it did not come true that %s; output:\n%s", what, &p.out)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// exit waits for the end and checks the code and the output.
func (p *program) exit(code int, wants ...string) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("the command does not end; output:\n%s", &p.out)
	}
	if got := p.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit code %d, want %d", got, code)
	}
	for _, want := range wants {
		if !strings.Contains(p.out.String(), want) {
			p.t.Errorf("the output has no %q", want)
		}
	}
	if p.t.Failed() {
		p.t.Fatalf("output:\n%s", &p.out)
	}
}

// self is this program, which dapr starts as the app.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
