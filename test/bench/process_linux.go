package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// measuresProcesses says that cpuTime and memory work here.
const measuresProcesses = true

// tick is the unit of the CPU times in /proc: USER_HZ, 100 per second for every program.
const tick = time.Second / 100

// processAttributes ends a child with the benchmark.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// cpuTime is the time that all threads of a process have used, in user and kernel mode.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(text)
}

func parseStat(text []byte) (time.Duration, error) {
	// The program's name is in parentheses and may hold any byte: fields are counted behind it, from 3.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/<pid>/stat: %q has no CPU times", text)
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/<pid>/stat: utime: %w", err)
	}
	system, err := strconv.ParseInt(fields[stime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/<pid>/stat: stime: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}

// memory is the resident and the anonymous memory of a process in MiB.
func memory(pid int) (resident, anonymous float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	return parseStatus(string(text))
}

func parseStatus(text string) (resident, anonymous float64, err error) {
	for line := range strings.Lines(text) {
		name, v, _ := strings.Cut(line, ":")
		var into *float64
		switch name {
		case "VmRSS":
			into = &resident
		case "RssAnon":
			into = &anonymous
		default:
			continue
		}
		kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/<pid>/status: %q: %w", line, err)
		}
		*into = kib / 1024
	}
	if resident == 0 {
		return 0, 0, fmt.Errorf("/proc/<pid>/status has no VmRSS")
	}
	return resident, anonymous, nil
}

// machineLoad says how busy the machine is, for people.
func machineLoad() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	one, _, _ := strings.Cut(string(text), " ")
	return ", load average " + one
}
