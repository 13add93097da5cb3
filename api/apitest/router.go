package apitest

import (
	"io"
	"net/url"
	"slices"
	"strings"

	"outrigger.dev/api"
)

// Router finds the route of a request, as the server does for paths that are in order already.
type Router []api.Route

// Do serves a request and returns the reply. Headers are given as name, value, name, value.
func (r Router) Do(method, target, body string, headers ...string) Reply {
	return r.Serve(New(method, target, body, headers...))
}

// Serve serves a prepared request, reads a streamed body to its end and closes it.
func (r Router) Serve(x *Exchange) Reply {
	route, params := r.find(x)
	if route == nil {
		x.Answer = Reply{Status: 404, Unrouted: true}
		return x.Answer
	}
	route.Parameters() // makes the server's table of names
	call := &api.Call{Exchange: x, Route: route}
	for i, p := range params {
		call.SetParameter(i, p)
	}
	x.Answer.Status = 200
	if err := route.Handler(call); err != nil {
		e := api.AsError(err)
		x.SetStatus(e.HTTP)
		x.SetHeader("Content-Type", "application/json")
		x.Reply(e.AppendJSON(nil))
		x.Answer.Error = err
	}
	if s := x.Answer.stream; s != nil {
		x.Answer.Body, x.Answer.StreamError = io.ReadAll(s)
		if err := s.Close(); x.Answer.StreamError == nil {
			x.Answer.StreamError = err
		}
		x.Answer.stream = nil
	}
	return x.Answer
}

// find returns the route with the most literal path, and the values of its parameters.
func (r Router) find(x *Exchange) (found *api.Route, params []string) {
	best := -1
	for i := range r {
		if !slices.Contains(r[i].Methods, x.Verb) {
			continue
		}
		values, ok := match(r[i].Path, x.RawPath())
		if ok && (best < 0 || len(values) < len(params)) {
			best, params = i, values
		}
	}
	if best < 0 {
		return nil, nil
	}
	return &r[best], params
}

// match compares a path with a template and returns the decoded values of the parameters. A parameter is not empty.
func match(template, path string) (values []string, ok bool) {
	for template != "" {
		want, restOfTemplate, _ := strings.Cut(template, "/")
		if strings.HasSuffix(want, "...}") {
			return decoded(values, path)
		}
		got, restOfPath, more := strings.Cut(path, "/")
		switch {
		case strings.HasPrefix(want, "{"):
			if values, ok = decoded(values, got); !ok {
				return nil, false
			}
		case want != got:
			return nil, false
		}
		if restOfTemplate == "" {
			return values, !more
		}
		template, path = restOfTemplate, restOfPath
	}
	return values, path == ""
}

func decoded(values []string, raw string) ([]string, bool) {
	value, err := url.QueryUnescape(raw)
	if err != nil || value == "" {
		return nil, false
	}
	return append(values, value), true
}
