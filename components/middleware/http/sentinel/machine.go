package sentinel

import (
	"runtime"
	"time"

	"github.com/jonboulle/clockwork"
)

// machine has figures of the machine and the process, read at most once a second. Its owner guards it.
type machine struct {
	clock clockwork.Clock

	loadAt, cpuAt, memoryAt time.Time
	lastLoad, lastCPU       float64
	cpuTime                 time.Duration
	lastMemory              int64

	readLoad   func() float64       // of the last minute; 0 when nobody knows
	readCPU    func() time.Duration // that the process has used
	readMemory func() int64         // that the process uses, in bytes
}

func newMachine(clock clockwork.Clock) *machine {
	return &machine{clock: clock, readLoad: loadAverage, readCPU: cpuTime, readMemory: memoryUse}
}

// due reports whether a figure is a second old, and if so takes it for read.
func (m *machine) due(at *time.Time) (passed time.Duration, due bool) {
	now := m.clock.Now()
	if passed = now.Sub(*at); passed < time.Second && !at.IsZero() {
		return 0, false
	}
	if at.IsZero() {
		passed = 0
	}
	*at = now
	return passed, true
}

func (m *machine) load() float64 {
	if _, due := m.due(&m.loadAt); due {
		m.lastLoad = m.readLoad()
	}
	return m.lastLoad
}

// cpu is the share of the machine's processors that the process uses, from 0 to 1.
func (m *machine) cpu() float64 {
	if passed, due := m.due(&m.cpuAt); due {
		used := m.readCPU()
		if passed > 0 {
			m.lastCPU = float64(used-m.cpuTime) / float64(passed) / float64(runtime.NumCPU())
		}
		m.cpuTime = used
	}
	return m.lastCPU
}

func (m *machine) memory() int64 {
	if _, due := m.due(&m.memoryAt); due {
		m.lastMemory = m.readMemory()
	}
	return m.lastMemory
}
