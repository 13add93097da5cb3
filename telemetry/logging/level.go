package logging

import (
	"fmt"
	"log/slog"
	"strings"
)

// LevelFatal is the level of a failure that ends the process. Logging at this level does not end anything by itself: whoever
// logs it also returns the error that does. It stands above [slog.LevelError] (Dapr API, sidecar: logging).
const LevelFatal = slog.Level(12)

// LevelError reports a word that names no log level. The caller wraps it in the name of its own flag, for example
// "invalid value for --log-level: x", where x is Value.
type LevelError struct {
	// Value is the word as it was given.
	Value string
}

// Error names the value and the words that would have been accepted.
func (e *LevelError) Error() string {
	return fmt.Sprintf("invalid log level %q: use debug, info, warn, error or fatal", e.Value)
}

// ParseLevel turns one of debug, info, warn, error and fatal, in any case, into its level. Any other word gives a *[LevelError]
// (Dapr API, sidecar: flag log-level).
func ParseLevel(word string) (slog.Level, error) {
	switch strings.ToLower(word) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "fatal":
		return LevelFatal, nil
	}
	return 0, &LevelError{Value: word}
}

// LevelWord is the word a line carries for a level: debug, info, warning, error or fatal. A level between two named ones takes
// the word of the lower; everything below info is debug. Note that a line says "warning" where the flag says "warn"
// (Dapr API, sidecar: logging).
func LevelWord(level slog.Level) string {
	switch {
	case level < slog.LevelInfo:
		return "debug"
	case level < slog.LevelWarn:
		return "info"
	case level < slog.LevelError:
		return "warning"
	case level < LevelFatal:
		return "error"
	}
	return "fatal"
}
