package server

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"outrigger.dev/api"
)

// APILog writes one line for each request of the API (Dapr API, API logging).
type APILog struct {
	// HTTP and GRPC are the loggers; they write whatever the log level.
	HTTP, GRPC *slog.Logger
	// ObfuscateURLs writes the endpoint's name instead of the path.
	ObfuscateURLs bool
	// OmitActorIDs leaves the actor's ID out of the name of calls of actors (Dapr API, Configuration: spec.metrics.http
	// increasedCardinality).
	OmitActorIDs bool
	// OmitHealthChecks leaves requests of the health endpoints out.
	OmitHealthChecks bool
	// InvokeTarget tells the app id that a request of the invocation endpoint goes to, "" if there is none.
	InvokeTarget func(*api.Call) string
}

func (l *APILog) http(call *api.Call, status int, size int64, took time.Duration) {
	if l.OmitHealthChecks && call.Route != nil && call.Route.Health {
		return
	}
	method := call.Method() + " " + call.Path()
	if l.ObfuscateURLs {
		method = l.obfuscated(call)
	}
	attrs := []slog.Attr{slog.String("method", method), slog.Int("code", status), slog.Int64("size", size), slog.Int64("duration", took.Milliseconds())}
	if agent := call.Header("User-Agent"); len(agent) > 0 {
		attrs = append(attrs, slog.String("useragent", string(agent)))
	}
	l.HTTP.LogAttrs(context.Background(), slog.LevelInfo, "HTTP API Called", attrs...)
}

func (l *APILog) obfuscated(call *api.Call) string {
	if call.Route == nil {
		return ""
	}
	if call.Route.Name == "InvokeService" && l.InvokeTarget != nil {
		if target := l.InvokeTarget(call); target != "" {
			return "InvokeService/" + target
		}
	}
	if call.Route.Name == "InvokeActor" {
		name := "InvokeActor/" + call.Parameter("actorType")
		if l.OmitActorIDs {
			return name
		}
		return name + "." + call.Parameter("actorId")
	}
	return call.Route.Name
}

func (l *APILog) grpc(fullMethod string, code codes.Code, took time.Duration, userAgent string) {
	attrs := []slog.Attr{slog.String("method", fullMethod), slog.Int("code", int(code)), slog.Int64("duration", took.Milliseconds())}
	if userAgent = strings.TrimSpace(userAgent); userAgent != "" {
		attrs = append(attrs, slog.String("useragent", userAgent))
	}
	l.GRPC.LogAttrs(context.Background(), slog.LevelInfo, "gRPC API Called", attrs...)
}
