package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
)

// symbolsWanted tells whether status lines start with a symbol (Dapr CLI, output conventions).
const symbolsWanted = runtime.GOOS != "windows"

// printer writes status lines (Dapr CLI, output conventions). It is safe for concurrent use.
type printer struct {
	mu       sync.Mutex
	out, err io.Writer
	json     bool
	symbols  bool
}

func (p *printer) success(format string, args ...any) {
	p.line(p.out, "success", "✅  ", format, args)
}

func (p *printer) failure(format string, args ...any) {
	p.line(p.err, "failure", "❌  ", format, args)
}

func (p *printer) warning(format string, args ...any) {
	p.line(p.out, "warning", "⚠  ", format, args)
}

func (p *printer) info(format string, args ...any) { p.line(p.out, "info", "ℹ️  ", format, args) }

func (p *printer) line(w io.Writer, status, symbol, format string, args []any) {
	text := fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.json:
		line, err := json.Marshal(struct {
			Time   string `json:"time"`
			Status string `json:"status"`
			Msg    string `json:"msg"`
		}{time.Now().UTC().Format(time.RFC3339Nano), status, text})
		if err == nil {
			fmt.Fprintf(w, "%s\n", line)
		}
	case p.symbols:
		fmt.Fprintf(w, "%s%s\n", symbol, text)
	default:
		fmt.Fprintln(w, text)
	}
}

// plain writes text as it is.
func (p *printer) plain(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format, args...)
}
