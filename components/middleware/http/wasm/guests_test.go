package wasm

import "slices"

// The guests of the tests are put together here byte by byte, for there is no compiler for them where the tests run.

const (
	i32 = 0x7f
	i64 = 0x7e
)

// guest is a module under construction: imported functions come first, then handle_request and handle_response.
type guest struct {
	types   [][]byte
	imports [][]byte
	data    []byte // at address 1024
	request []byte // the instructions of handle_request, which leave an i64
	respond []byte // those of handle_response
}

func uleb(n int) (b []byte) {
	for {
		c := byte(n & 0x7f)
		if n >>= 7; n == 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func sleb(n int) (b []byte) {
	for {
		c := byte(n & 0x7f)
		n >>= 7
		if n == 0 && c&0x40 == 0 || n == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func vector(items ...[]byte) []byte { return append(uleb(len(items)), slices.Concat(items...)...) }
func bytesOf(b []byte) []byte       { return append(uleb(len(b)), b...) }
func name(s string) []byte          { return bytesOf([]byte(s)) }

func (g *guest) typ(params, results []byte) int {
	g.types = append(g.types, slices.Concat([]byte{0x60}, bytesOf(params), bytesOf(results)))
	return len(g.types) - 1
}

// use imports a function and returns its index.
func (g *guest) use(module, function string, params, results []byte) int {
	g.imports = append(g.imports, slices.Concat(name(module), name(function), []byte{0}, uleb(g.typ(params, results))))
	return len(g.imports) - 1
}

func constI32(n int) []byte { return append([]byte{0x41}, sleb(n)...) }
func constI64(n int) []byte { return append([]byte{0x42}, sleb(n)...) }

// call calls a function with constants.
func call(function int, arguments ...int) (code []byte) {
	for _, a := range arguments {
		code = append(code, constI32(a)...)
	}
	return append(append(code, 0x10), uleb(function)...)
}

var drop = []byte{0x1a}

func (g *guest) build() []byte {
	request, respond := g.typ(nil, []byte{i64}), g.typ([]byte{i32, i32}, nil)
	section := func(id byte, content []byte) []byte { return append([]byte{id}, bytesOf(content)...) }
	function := func(code []byte) []byte { return bytesOf(slices.Concat([]byte{0}, code, []byte{0x0b})) }
	export := func(n string, kind byte, index int) []byte {
		return slices.Concat(name(n), []byte{kind}, uleb(index))
	}
	if g.request == nil {
		g.request = constI64(1)
	}
	return slices.Concat(
		[]byte("\x00asm\x01\x00\x00\x00"),
		section(1, vector(g.types...)),
		section(2, vector(g.imports...)),
		section(3, vector(uleb(request), uleb(respond))),
		section(5, vector([]byte{0, 1})),
		section(7, vector(export("memory", 2, 0), export("handle_request", 0, len(g.imports)), export("handle_response", 0, len(g.imports)+1))),
		section(10, vector(function(g.request), function(g.respond))),
		section(11, vector(slices.Concat([]byte{0}, constI32(1024), []byte{0x0b}, bytesOf(g.data)))),
	)
}

// configEcho answers with its configuration, in status 201 and with a header.
func configEcho() []byte {
	g := &guest{data: []byte("x-guestyes")}
	config := g.use("http_handler", "get_config", []byte{i32, i32}, []byte{i32})
	write := g.use("http_handler", "write_body", []byte{i32, i32, i32}, nil)
	status := g.use("http_handler", "set_status_code", []byte{i32}, nil)
	header := g.use("http_handler", "set_header_value", []byte{i32, i32, i32, i32, i32}, nil)
	g.request = slices.Concat(
		call(status, 201), call(header, 1, 1024, 7, 1031, 3),
		constI32(1), constI32(0), call(config, 0, 512), call(write)[:0], []byte{0x10}, uleb(write),
		constI64(0),
	)
	return g.build()
}

// afterNext enables buffering, and changes status, header and body of the response; the body of the request becomes "REQ".
func afterNext() []byte {
	g := &guest{data: []byte("REQx-guestRESP")}
	features := g.use("http_handler", "enable_features", []byte{i32}, []byte{i32})
	write := g.use("http_handler", "write_body", []byte{i32, i32, i32}, nil)
	status := g.use("http_handler", "set_status_code", []byte{i32}, nil)
	header := g.use("http_handler", "add_header_value", []byte{i32, i32, i32, i32, i32}, nil)
	g.request = slices.Concat(call(features, 3), drop, call(write, 0, 1024, 3), call(header, 1, 1027, 7, 1024, 3), constI64(7<<32|1))
	g.respond = slices.Concat(call(status, 202), call(header, 1, 1027, 7, 1034, 4), call(write, 1, 1034, 4))
	return g.build()
}

// clock answers with eight bytes: the nanoseconds of the wall clock.
func clock() []byte {
	g := &guest{data: []byte("x")}
	now := g.use("wasi_snapshot_preview1", "clock_time_get", []byte{i32, i64, i32}, []byte{i32})
	write := g.use("http_handler", "write_body", []byte{i32, i32, i32}, nil)
	g.request = slices.Concat(constI32(0), constI64(0), constI32(8), []byte{0x10}, uleb(now), drop, call(write, 1, 8, 8), constI64(0))
	return g.build()
}

// printer prints "hello" and logs "warned", and passes the request on.
func printer() []byte {
	// The vector at 1024: address 1032, length 5.
	g := &guest{data: []byte("\x08\x04\x00\x00\x05\x00\x00\x00hellowarned")}
	print := g.use("wasi_snapshot_preview1", "fd_write", []byte{i32, i32, i32, i32}, []byte{i32})
	log := g.use("http_handler", "log", []byte{i32, i32, i32}, nil)
	g.request = slices.Concat(call(print, 1, 1024, 1, 0), drop, call(log, 1, 1037, 6), constI64(1))
	return g.build()
}

// looper never returns when the request has the method LOOP, traps for TRAP, exits for EXIT, and passes others on.
func looper() []byte {
	g := &guest{data: []byte("x")}
	method := g.use("http_handler", "get_method", []byte{i32, i32}, []byte{i32})
	exit := g.use("wasi_snapshot_preview1", "proc_exit", []byte{i32}, nil)
	when := func(first byte, code []byte) []byte {
		return slices.Concat(constI32(0), []byte{0x2d, 0, 0}, constI32(int(first)), []byte{0x46, 0x04, 0x40}, code, []byte{0x0b})
	}
	g.request = slices.Concat(call(method, 0, 16), drop,
		when('L', []byte{0x03, 0x40, 0x0c, 0, 0x0b}), when('T', []byte{0x00}), when('E', call(exit, 3)), constI64(1))
	return g.build()
}

// badStatus sets the status 7.
func badStatus() []byte {
	g := &guest{data: []byte("x")}
	status := g.use("http_handler", "set_status_code", []byte{i32}, nil)
	g.request = slices.Concat(call(status, 7), constI64(0))
	return g.build()
}

// reader reads the body of the request and passes it on.
func reader() []byte {
	g := &guest{data: []byte("x")}
	read := g.use("http_handler", "read_body", []byte{i32, i32, i32}, []byte{i64})
	g.request = slices.Concat(call(read, 0, 0, 64), drop, constI64(1))
	return g.build()
}
