// Package imagepages gives back the memory that a program's own file takes after its start.
//
// Starting reads nearly all of a large Go program once: the runtime walks the types of every package, and every package sets itself up. Tens
// of megabytes stay resident that serving never looks at.
package imagepages

import (
	"log/slog"
	"time"
)

// settling is how long it takes until a program has done what starts it.
const settling = 2 * time.Second

// ReleaseLater calls [Release] a little later, when the start is over. stop calls that off, or waits for its end.
func ReleaseLater(log *slog.Logger) (stop func()) {
	done := make(chan struct{})
	timer := time.AfterFunc(settling, func() {
		defer close(done)
		if err := Release(); err != nil {
			log.Debug("The memory of the start was not given back", "error", err)
		}
	})
	return func() {
		if !timer.Stop() {
			<-done
		}
	}
}
