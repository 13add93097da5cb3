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
// POST /echo with the body it got. It ends with its standard input.
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
	server := &fasthttp.Server{
		NoDefaultServerHeader: true,
		Handler: func(ctx *fasthttp.RequestCtx) {
			if string(ctx.Path()) != "/echo" {
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
