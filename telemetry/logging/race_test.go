//go:build race

package logging_test

// raceEnabled: the race detector makes sync.Pool drop items, so that allocations cannot be counted.
const raceEnabled = true
