package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/valyala/fasthttp"
)

// runApp is the app process: GET /echo replies with a body of the given size,
// POST /echo with the body it got. It subscribes to a topic, and tells who asks
// of the messages it gets. It ends with its standard input.
func runApp(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("app: want an address and a size, not %q", args)
	}
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("app: size: %w", err)
	}
	body := bytes.Repeat([]byte("x"), size)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	var heard deliveries
	server := &fasthttp.Server{
		NoDefaultServerHeader: true,
		Handler: func(ctx *fasthttp.RequestCtx) {
			switch string(ctx.Path()) {
			case "/echo":
			case "/dapr/subscribe":
				ctx.SetContentType("application/json")
				ctx.SetBodyString(`[{"pubsubname":"broker","topic":"` + topic + `","route":"` + deliverPath + `"}]`)
				return
			case deliverPath:
				heard.add(ctx.PostBody())
				return
			case heardPath:
				heard.serve(ctx)
				return
			default:
				ctx.SetStatusCode(fasthttp.StatusNotFound)
				return
			}
			ctx.SetContentType("application/octet-stream")
			if ctx.IsPost() {
				ctx.SetBody(ctx.PostBody())
				return
			}
			ctx.SetBody(body)
		},
	}
	return server.ListenAndServe(args[0])
}
