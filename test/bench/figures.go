package main

import (
	"fmt"
	"strings"
)

// budget is what a figure may cost; a zero is no budget.
type budget struct {
	CPU  float64 // microseconds of all sidecars together per request
	Rate float64 // requests per second
	P50  float64 // microseconds
	Size float64 // milliseconds or MiB, of figures without load
}

// figure is one line of the table.
type figure struct {
	name   string
	budget budget
	// load makes the load of a bed of the figure's group; nil for figures that
	// the group measures in its own way.
	load func(s *settings, b *bed) load
}

// group is figures that share running processes.
type group struct {
	name    string
	figures []figure
	// server is what the group's component needs: "redis", "postgres" or nothing.
	server string
	// start brings up what the loads of the figures need for one target.
	start func(b *bench, t target, server string) (*bed, error)
	// once is set where the sidecar plays no part: the figures are taken once, in the name of the first target.
	once bool
	// special measures figures without load.
	special func(b *bench, wanted []figure, r *report) error
}

// Keys and concurrency of the loads.
const (
	keys       = 256 // distinct keys of the state figures
	saturation = 32  // connections that keep two cores busy
)

// The app IDs of the beds.
const (
	callerID = "bench-caller"
	calleeID = "bench-callee"
)

func groups() []group {
	return []group{
		{name: "floor", start: startFloor, figures: []figure{
			{name: "floor/echo/32", load: func(s *settings, b *bed) load {
				return load{
					Kind: "http", Addr: b.entry().httpAddr(), Connections: saturation, Status: []int{200}, Body: s.size,
					Requests: [][]byte{request("GET", "/echo", "", "")},
				}
			}},
		}},
		{name: "invoke", start: startPair, figures: []figure{
			invoke("get", saturation, budget{CPU: 80, Rate: 15000}),
			invoke("post", saturation, budget{CPU: 80, Rate: 15000}),
			invoke("get", 8, budget{}),
			invoke("post", 8, budget{}),
			invoke("get", 4, budget{P50: 350}),
			invoke("get", 1, budget{P50: 350}),
			invoke("post", 1, budget{P50: 350}),
		}},
		{name: "invoke-mtls", start: startSecuredPair, figures: []figure{
			invoke("get", saturation, budget{}).as("invoke-mtls"),
			invoke("post", saturation, budget{}).as("invoke-mtls"),
			invoke("get", 4, budget{}).as("invoke-mtls"),
			invoke("get", 1, budget{}).as("invoke-mtls"),
		}},
		stateGroup("in-memory", "", budget{CPU: 15}, budget{CPU: 20}),
		stateGroup("redis", "redis", budget{CPU: 30, Rate: 30000}, budget{CPU: 35, Rate: 30000}),
		stateGroup("sqlite", "", budget{CPU: 45, Rate: 25000}, budget{CPU: 90, Rate: 10000}),
		stateGroup("postgresql", "postgres", budget{}, budget{}),
		{name: "grpc", start: startStore("in-memory"), figures: []figure{
			{name: "grpc/in-memory/get", budget: budget{Rate: 25000}, load: grpcLoad("get")},
			{name: "grpc/in-memory/save", budget: budget{Rate: 25000}, load: grpcLoad("save")},
		}},
		{name: "publish/redis", server: "redis", start: startBroker("redis", false), figures: []figure{
			{name: "publish/redis", budget: budget{CPU: 40, Rate: 28000}, load: publish("unheard")},
		}},
		{name: "publish/in-memory", start: startBroker("in-memory", false), figures: []figure{
			{name: "publish/in-memory", load: publish("unheard")},
		}},
		{name: "delivery/in-memory", start: startBroker("in-memory", true), figures: []figure{
			{name: "delivery/in-memory", budget: budget{CPU: 75, Rate: 13000}, load: delivery},
		}},
		{name: "delivery/redis", server: "redis", start: startBroker("redis", true), figures: []figure{
			{name: "delivery/redis", load: delivery},
		}},
		{name: "actors", start: startActors, figures: []figure{
			{name: "actors/call-local", budget: budget{Rate: 15000}, load: actorCall},
			{name: "actors/state/get", load: actorStateGet},
			{name: "actors/state/transaction", load: actorStateSet},
		}},
		{name: "actors/call-remote", start: startActorPair, figures: []figure{
			{name: "actors/call-remote", load: actorCall},
		}},
		{name: "reminders", start: startScheduled, figures: []figure{
			{name: "reminders/create", budget: budget{Rate: 8000}, load: createReminder},
		}},
		{name: "jobs", start: startScheduled, figures: []figure{
			{name: "jobs/trigger", load: triggerJobs},
			{name: "jobs/schedule", budget: budget{Rate: 8000}, load: scheduleJob},
		}},
		{name: "placement", start: startPlacementOnly, once: true, figures: []figure{
			dissemination("join", 1),
			dissemination("join", 10),
			dissemination("join", 100),
			dissemination("leave", 1),
			dissemination("leave", 10),
			dissemination("leave", 100),
		}},
		{name: "start", special: measureStart, figures: []figure{
			{name: "start to healthy, ms", budget: budget{Size: 20}},
		}},
		{name: "memory", special: measureMemory, figures: []figure{
			{name: "memory/idle resident, MiB", budget: budget{Size: 35}},
			{name: "memory/idle anonymous, MiB", budget: budget{Size: 9}},
			{name: "memory/loaded resident, MiB"},
			{name: "memory/loaded anonymous, MiB"},
		}},
		{name: "binary", special: measureBinary, figures: []figure{
			{name: "binary, MiB", budget: budget{Size: 75}},
		}},
	}
}

func figureNames() (names []string) {
	for _, g := range groups() {
		for _, f := range g.figures {
			names = append(names, f.name)
		}
	}
	return names
}

// invoke is a call of the echo app over two sidecars. GET brings a body back,
// POST carries it both ways.
func invoke(method string, connections int, want budget) figure {
	name := fmt.Sprintf("invoke/%s/%d", method, connections)
	return figure{name: name, budget: want, load: func(s *settings, b *bed) load {
		body := ""
		if method == "post" {
			body = octets(s)
		}
		return load{
			Kind: "http", Addr: b.entry().httpAddr(), Connections: connections, Status: []int{200}, Body: s.size,
			Requests: [][]byte{request(strings.ToUpper(method), "/v1.0/invoke/"+calleeID+"/method/echo", "application/octet-stream", body)},
		}
	}}
}

// as is the figure under another group's name.
func (f figure) as(group string) figure {
	_, rest, _ := strings.Cut(f.name, "/")
	f.name = group + "/" + rest
	return f
}

func stateGroup(store, server string, get, set budget) group {
	return group{name: "state/" + store, server: server, start: startStore(store), figures: []figure{
		{name: "state/" + store + "/get", budget: get, load: stateGet},
		{name: "state/" + store + "/set", budget: set, load: stateSet},
	}}
}

func stateGet(s *settings, b *bed) load {
	l := load{Kind: "http", Addr: b.entry().httpAddr(), Connections: saturation, Status: []int{200}, Body: len(value(s))}
	for i := range keys {
		l.Requests = append(l.Requests, request("GET", fmt.Sprintf("/v1.0/state/store/key-%d", i), "", ""))
	}
	return l
}

func stateSet(s *settings, b *bed) load {
	l := load{Kind: "http", Addr: b.entry().httpAddr(), Connections: saturation, Status: []int{204}}
	for i := range keys {
		l.Requests = append(l.Requests, request("POST", "/v1.0/state/store", "application/json",
			fmt.Sprintf(`[{"key":"key-%d","value":%s}]`, i, value(s))))
	}
	return l
}

// publish sends messages to a topic.
func publish(topic string) func(*settings, *bed) load {
	return func(s *settings, b *bed) load {
		return load{
			Kind: "http", Addr: b.entry().httpAddr(), Connections: saturation, Status: []int{204},
			Requests: [][]byte{request("POST", "/v1.0/publish/broker/"+topic, "application/json", value(s))},
		}
	}
}

// delivery sends messages to the topic that the app is subscribed to; a request is over when the app has the message.
func delivery(s *settings, b *bed) load {
	l := load{Kind: "delivery", Addr: b.entry().httpAddr(), App: b.appAddr, Connections: saturation, Status: []int{204}}
	for i := range saturation {
		l.Requests = append(l.Requests, request("POST", "/v1.0/publish/broker/"+topic, "application/json", message(i, s.size)))
	}
	return l
}

func grpcLoad(what string) func(*settings, *bed) load {
	return func(s *settings, b *bed) load {
		return load{Kind: "grpc-" + what, Addr: b.entry().grpcAddr(), Connections: saturation, Keys: keys, Body: s.size}
	}
}

// octets is a body of the size that is asked for.
func octets(s *settings) string { return strings.Repeat("x", s.size) }

// value is the JSON value that the state figures store, of the size that is asked for.
func value(s *settings) string { return `"` + strings.Repeat("v", s.size-2) + `"` }

// seed is one request that stores all keys.
func seed(s *settings) []byte {
	var items []string
	for i := range keys {
		items = append(items, fmt.Sprintf(`{"key":"key-%d","value":%s}`, i, value(s)))
	}
	return request("POST", "/v1.0/state/store", "application/json", "["+strings.Join(items, ",")+"]")
}

// request is an HTTP/1.1 request as it goes over the wire.
func request(method, path, contentType, body string) []byte {
	head := method + " " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
	if body != "" {
		head += fmt.Sprintf("Content-Type: %s\r\nContent-Length: %d\r\n", contentType, len(body))
	}
	return []byte(head + "\r\n" + body)
}
