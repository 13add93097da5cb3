package logging_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"

	"outrigger.dev/telemetry/logging"
)

// at is the time of every golden line.
var at = time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("", 3600))

func options(out io.Writer) logging.Options {
	return logging.Options{
		Level: slog.LevelDebug, Out: out, AppID: "myapp", Instance: "host1", Version: "1.18.3",
		Clock: func() time.Time { return at },
	}
}

type secret struct{}

func (secret) LogValue() slog.Value { return slog.StringValue("***") }

type explosive struct{}

func (explosive) Error() string { panic("boom") }

func (explosive) MarshalJSON() ([]byte, error) { panic("boom") }

type jsonBomb struct{ N int }

func (jsonBomb) MarshalJSON() ([]byte, error) { panic("boom") }

func TestGoldenLines(t *testing.T) {
	const (
		textHead = `time="2026-01-02T03:04:05.6789+01:00" `
		textTail = ` app_id=myapp instance=host1 scope=dapr.runtime type=log ver=1.18.3` + "\n"
		jsonTime = `"time":"2026-01-02T03:04:05.6789+01:00"`
	)
	tests := []struct {
		name       string
		log        func(*slog.Logger)
		text, json string
	}{
		{
			"plain",
			func(l *slog.Logger) { l.Info("dapr initialized. Status: Running. Init Elapsed 12ms") },
			textHead + `level=info msg="dapr initialized. Status: Running. Init Elapsed 12ms"` + textTail,
			`{"app_id":"myapp","instance":"host1","level":"info","msg":"dapr initialized. Status: Running. Init Elapsed 12ms","scope":"dapr.runtime",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"no quotes needed",
			func(l *slog.Logger) { l.Debug("a-Z.0_9/@^+") },
			textHead + `level=debug msg=a-Z.0_9/@^+` + textTail,
			`{"app_id":"myapp","instance":"host1","level":"debug","msg":"a-Z.0_9/@^+","scope":"dapr.runtime",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"fields are sorted in",
			func(l *slog.Logger) {
				l.Warn("w", "zone", "z", "component", "N (state.redis/v1)", "b", "")
			},
			textHead + `level=warning msg=w app_id=myapp b= component="N (state.redis/v1)" instance=host1 scope=dapr.runtime type=log ver=1.18.3 zone=z` + "\n",
			`{"app_id":"myapp","b":"","component":"N (state.redis/v1)","instance":"host1","level":"warning","msg":"w","scope":"dapr.runtime",` + jsonTime + `,"type":"log","ver":"1.18.3","zone":"z"}` + "\n",
		},
		{
			"scope",
			func(l *slog.Logger) { logging.Scope(logging.Scope(l, "x"), "dapr.runtime.http").Error("e") },
			textHead + `level=error msg=e app_id=myapp instance=host1 scope=dapr.runtime.http type=log ver=1.18.3` + "\n",
			`{"app_id":"myapp","instance":"host1","level":"error","msg":"e","scope":"dapr.runtime.http",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"scope by With and inside a group",
			func(l *slog.Logger) { logging.Scope(l.With("scope", "y").WithGroup("g"), "z").Info("i", "k", 1) },
			textHead + `level=info msg=i app_id=myapp g.k=1 instance=host1 scope=z type=log ver=1.18.3` + "\n",
			`{"app_id":"myapp","g.k":1,"instance":"host1","level":"info","msg":"i","scope":"z",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"fatal and an empty message",
			func(l *slog.Logger) { logging.Fatal(context.Background(), l, "") },
			textHead + `level=fatal` + textTail,
			`{"app_id":"myapp","instance":"host1","level":"fatal","msg":"","scope":"dapr.runtime",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"no line can be forged",
			func(l *slog.Logger) { l.Info("a\nlevel=fatal \"<b>&", "k\n1", "v\x00\xff\u2028é") },
			textHead + `level=info msg="a\nlevel=fatal \"<b>&" app_id=myapp instance=host1 "k\n1"="v\x00\xff\u2028é" scope=dapr.runtime type=log ver=1.18.3` + "\n",
			`{"app_id":"myapp","instance":"host1","k\n1":"v\u0000\ufffd\u2028é","level":"info","msg":"a\nlevel=fatal \"\u003cb\u003e\u0026","scope":"dapr.runtime",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"values",
			func(l *slog.Logger) {
				l.Info("v", "a", -3, "b", uint64(7), "c", 1.5, "d", true, "e", 1500*time.Millisecond, "f", at,
					"g", errors.New("bad thing"), "h", []string{"x", "y"}, "i1", secret{}, "j", nil,
					slog.Group("p", "q", 1, slog.Group("r", "s", 2)), slog.Group("", "t", 3), slog.Group("none"))
			},
			textHead + `level=info msg=v a=-3 app_id=myapp b=7 c=1.5 d=true e=1.5s f="2026-01-02T03:04:05.6789+01:00" g="bad thing" h="[x y]" i1="***" instance=host1 j="<nil>" p.q=1 p.r.s=2 scope=dapr.runtime t=3 type=log ver=1.18.3` + "\n",
			`{"a":-3,"app_id":"myapp","b":7,"c":1.5,"d":true,"e":1500000000,"f":"2026-01-02T03:04:05.6789+01:00","g":"bad thing","h":["x","y"],"i1":"***","instance":"host1","j":null,"level":"info","msg":"v","p.q":1,"p.r.s":2,"scope":"dapr.runtime","t":3,` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"a field cannot pass for the line's own; the later of two wins",
			func(l *slog.Logger) {
				l.With("k", 1).Info("m", "k", 2, "level", "fatal", "msg", "x", "time", "y")
			},
			textHead + `level=info msg=m app_id=myapp fields.level=fatal fields.msg=x fields.time=y instance=host1 k=2 scope=dapr.runtime type=log ver=1.18.3` + "\n",
			`{"app_id":"myapp","fields.level":"fatal","fields.msg":"x","fields.time":"y","instance":"host1","k":2,"level":"info","msg":"m","scope":"dapr.runtime",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"what JSON does not know",
			func(l *slog.Logger) { l.Info("m", "a", math.Inf(1), "b", make(chan int) == nil, "c", complex(1, 2)) },
			textHead + `level=info msg=m a=+Inf app_id=myapp b=false c="(1+2i)" instance=host1 scope=dapr.runtime type=log ver=1.18.3` + "\n",
			`{"a":"+Inf","app_id":"myapp","b":false,"c":"(1+2i)","instance":"host1","level":"info","msg":"m","scope":"dapr.runtime",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
		{
			"a value that panics",
			func(l *slog.Logger) { l.Info("m", "a", explosive{}, "b", jsonBomb{5}) },
			textHead + `level=info msg=m a="%!v(PANIC=Error method: boom)" app_id=myapp b="{5}" instance=host1 scope=dapr.runtime type=log ver=1.18.3` + "\n",
			`{"a":"%!v(PANIC=Error method: boom)","app_id":"myapp","b":"{5}","instance":"host1","level":"info","msg":"m","scope":"dapr.runtime",` + jsonTime + `,"type":"log","ver":"1.18.3"}` + "\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, asJSON := range []bool{false, true} {
				var out bytes.Buffer
				o := options(&out)
				o.JSON = asJSON
				tt.log(logging.New(o))
				want := tt.text
				if asJSON {
					want = tt.json
				}
				if got := out.String(); got != want {
					t.Errorf("json=%v\n got %s\nwant %s", asJSON, got, want)
				}
				if asJSON && !json.Valid(out.Bytes()) {
					t.Errorf("not JSON: %s", out.Bytes())
				}
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	var out bytes.Buffer
	l := logging.New(logging.Options{Out: &out})
	l.Debug("hidden")
	l.Info("shown")
	host, err := os.Hostname()
	if err != nil {
		t.Skip("this host has no name:", err)
	}
	got := out.String()
	if strings.Contains(got, "hidden") || strings.Contains(got, "app_id") {
		t.Fatalf("got %s", got)
	}
	if want := " level=info msg=shown instance=" + host + " scope=dapr.runtime type=log ver=edge\n"; !strings.HasSuffix(got, want) {
		t.Fatalf("got %s want ..%s", got, want)
	}
	stamp := strings.TrimSuffix(strings.TrimPrefix(strings.Fields(got)[0], `time="`), `"`)
	if parsed, err := time.Parse(time.RFC3339Nano, stamp); err != nil || time.Since(parsed) > time.Minute {
		t.Fatalf("time %q: %v", stamp, err)
	}
}

func TestLevels(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	o := options(&out)
	o.Level = level
	l := logging.New(o)
	api := logging.Always(logging.Scope(l, logging.ScopeHTTPInfo))
	count := func(log func()) int {
		out.Reset()
		log()
		return strings.Count(out.String(), "\n")
	}
	all := func() {
		l.Debug("x")
		l.Info("x")
		l.Warn("x")
		l.Error("x")
		l.Log(context.Background(), logging.LevelFatal, "x")
	}
	for lvl, want := range map[slog.Level]int{slog.LevelDebug: 5, slog.LevelInfo: 4, slog.LevelWarn: 3, slog.LevelError: 2, logging.LevelFatal: 1} {
		level.Set(lvl)
		if got := count(all); got != want {
			t.Errorf("level %v wrote %d lines, want %d", lvl, got, want)
		}
		if got := count(func() { api.Debug("x"); api.With("a", 1).Info("x") }); got != 1 {
			t.Errorf("level %v: the API logger wrote %d lines, want 1", lvl, got)
		}
	}
}

func TestHelpersOnOtherHandlers(t *testing.T) {
	var out bytes.Buffer
	l := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}))
	l = logging.Scope(logging.Always(l).WithGroup("").With("a", 1), "s")
	l.Debug("hidden")
	l.Info("shown")
	if got := out.String(); strings.Contains(got, "hidden") || !strings.HasSuffix(got, "level=INFO msg=shown a=1 scope=s\n") {
		t.Fatalf("got %s", got)
	}
}

func TestParseLevel(t *testing.T) {
	for word, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "WARN": slog.LevelWarn, "Error": slog.LevelError, "fatal": logging.LevelFatal,
	} {
		if got, err := logging.ParseLevel(word); err != nil || got != want {
			t.Errorf("%s: got %v, %v", word, got, err)
		}
	}
	for _, word := range []string{"", "warning", "trace", " info"} {
		_, err := logging.ParseLevel(word)
		var bad *logging.LevelError
		if !errors.As(err, &bad) || bad.Value != word || !strings.Contains(err.Error(), "debug, info, warn, error or fatal") {
			t.Errorf("%q: got %v", word, err)
		}
	}
	for level, want := range map[slog.Level]string{-8: "debug", -1: "debug", 0: "info", 3: "info", 4: "warning", 8: "error", 11: "error", 12: "fatal", 20: "fatal"} {
		if got := logging.LevelWord(level); got != want {
			t.Errorf("level %d: got %s want %s", level, got, want)
		}
	}
}

// TestSlogContract runs the standard library's own suite, with flattened groups taken apart again.
func TestSlogContract(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return logging.NewHandler(logging.Options{Out: &out, JSON: true})
	}, func(t *testing.T) map[string]any {
		var flat map[string]any
		if err := json.Unmarshal(out.Bytes(), &flat); err != nil {
			t.Fatal(err)
		}
		nested := map[string]any{}
		for key, value := range flat {
			at := nested
			parts := strings.Split(key, ".")
			for _, p := range parts[:len(parts)-1] {
				if at[p] == nil {
					at[p] = map[string]any{}
				}
				at = at[p].(map[string]any)
			}
			at[parts[len(parts)-1]] = value
		}
		return nested
	})
}

// writes keeps each Write apart and fails if two overlap.
type writes struct {
	busy  sync.Mutex
	lines []string
	t     *testing.T
}

func (w *writes) Write(p []byte) (int, error) {
	if !w.busy.TryLock() {
		w.t.Error("two writes at a time")
		return 0, nil
	}
	defer w.busy.Unlock()
	w.lines = append(w.lines, string(p))
	runtime.Gosched()
	return len(p), nil
}

func TestOneWritePerLine(t *testing.T) {
	w := &writes{t: t}
	l := logging.New(options(w))
	var wg sync.WaitGroup
	for i := range 8 {
		derived := logging.Scope(l.With("worker", i), "s")
		wg.Go(func() {
			for range 50 {
				derived.Info("hello")
			}
		})
	}
	wg.Wait()
	if len(w.lines) != 400 {
		t.Fatalf("%d writes", len(w.lines))
	}
	for _, line := range w.lines {
		if !strings.HasPrefix(line, "time=") || strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("mixed line %q", line)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteErrorIsReturned(t *testing.T) {
	h := logging.NewHandler(options(failing{}))
	if err := h.Handle(context.Background(), slog.NewRecord(at, slog.LevelInfo, "m", 0)); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatalf("got %v", err)
	}
}

func TestOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daprd.log")
	for range 2 {
		f, err := logging.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		logging.New(options(f)).Info("line")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil || bytes.Count(content, []byte("\n")) != 2 {
		t.Fatalf("got %q, %v", content, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^0o644 != 0 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	missing := filepath.Join(t.TempDir(), "no", "such.log")
	if _, err := logging.OpenFile(missing); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Fatalf("got %v", err)
	}
}

func TestNoAllocations(t *testing.T) {
	ctx := context.Background()
	for _, asJSON := range []bool{false, true} {
		o := options(io.Discard)
		o.JSON = asJSON
		l := logging.Always(logging.Scope(logging.New(o), logging.ScopeHTTPInfo))
		got := testing.AllocsPerRun(200, func() { apiCall(ctx, l) })
		if got > 0 && !raceEnabled {
			t.Errorf("json=%v: %v allocations per line", asJSON, got)
		}
	}
}

func apiCall(ctx context.Context, l *slog.Logger) {
	l.LogAttrs(ctx, slog.LevelInfo, "HTTP API Called", slog.String("method", "GET /v1.0/state/s/k"), slog.Int("code", 200),
		slog.Int64("duration", 1), slog.Int64("size", 12), slog.String("useragent", "dapr-sdk-go/1.0"))
}

func BenchmarkAPILine(b *testing.B) {
	for _, asJSON := range []bool{false, true} {
		b.Run(map[bool]string{false: "text", true: "json"}[asJSON], func(b *testing.B) {
			o := options(io.Discard)
			o.JSON = asJSON
			l := logging.New(o)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				apiCall(ctx, l)
			}
		})
	}
}
