package state

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// defaultParallelism is how many single operations of one bulk operation run at a time when nobody says otherwise: enough to
// fill a connection to a server, and few enough not to flood it.
const defaultParallelism = 32

// maxParallelism bounds what apps ask for.
const maxParallelism = 256

// each calls do with 0 to n-1, at most parallelism calls at a time, and returns their errors when all have ended. The caller's
// goroutine does its share. A panic of one call is its error.
func each(n, parallelism int, do func(i int) error) []error {
	if parallelism <= 0 {
		parallelism = defaultParallelism
	}
	errs := make([]error, n)
	var next atomic.Int64
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			errs[i] = guarded(i, do)
		}
	}
	var helpers sync.WaitGroup
	for range min(n, parallelism, maxParallelism) - 1 {
		helpers.Go(work)
	}
	work()
	helpers.Wait()
	return errs
}

func guarded(i int, do func(i int) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the state store panicked: %v", r)
		}
	}()
	return do(i)
}
