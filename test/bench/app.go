package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"
)

// runApp is the app process: GET /echo replies with a body of the given size,
// POST /echo with the body it got, and so do calls of actors if types are given.
// It subscribes to a topic, and tells who asks of the messages and jobs it gets.
// It ends with its standard input.
func runApp(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("app: want an address, a size and types of actors, not %q", args)
	}
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("app: size: %w", err)
	}
	server, err := newApp(size, args[2:])
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return server.ListenAndServe(args[0])
}

// newApp is the app's server. size is the length of the bodies that it makes itself.
func newApp(size int, types []string) (*fasthttp.Server, error) {
	body := bytes.Repeat([]byte("x"), size)
	var heard deliveries
	config, err := json.Marshal(map[string]any{"entities": types})
	if err != nil {
		return nil, fmt.Errorf("app: types: %w", err)
	}
	return &fasthttp.Server{
		NoDefaultServerHeader: true,
		Handler: func(ctx *fasthttp.RequestCtx) {
			path := string(ctx.Path())
			switch {
			case path == "/echo" || ctx.IsPut() && strings.HasPrefix(path, "/actors/"):
			case strings.HasPrefix(path, "/job/"):
				heard.add(ctx.PostBody())
				return
			case path == "/dapr/config" && len(types) > 0:
				ctx.SetContentType("application/json")
				ctx.SetBody(config)
				return
			case strings.HasPrefix(path, "/actors/"): // the end of an actor
				return
			case path == "/dapr/subscribe":
				ctx.SetContentType("application/json")
				ctx.SetBodyString(`[{"pubsubname":"broker","topic":"` + topic + `","route":"` + deliverPath + `"}]`)
				return
			case path == deliverPath:
				heard.add(ctx.PostBody())
				return
			case path == heardPath:
				heard.serve(ctx)
				return
			default:
				ctx.SetStatusCode(fasthttp.StatusNotFound)
				return
			}
			ctx.SetContentType("application/octet-stream")
			if sent := ctx.PostBody(); len(sent) > 0 {
				ctx.SetBody(sent)
				return
			}
			ctx.SetBody(body)
		},
	}, nil
}
