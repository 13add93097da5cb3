package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// daprdProcesses reads the process table of Linux.
func daprdProcesses(ctx context.Context) ([]daprdProcess, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	boot := bootTime()
	var found []daprdProcess
	for _, e := range entries {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		// Processes that end meanwhile, or that we may not look at, are passed over.
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		args := strings.Split(string(bytes.TrimSuffix(line, []byte{0})), "\x00")
		program := args[0]
		if link, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
			program = strings.TrimSuffix(link, " (deleted)")
		}
		if filepath.Base(program) != "daprd" {
			continue
		}
		p := daprdProcess{pid: pid, args: args[1:], started: startTime(dir, boot)}
		p.dir, _ = os.Readlink(filepath.Join(dir, "cwd")) // only for relative socket paths
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b daprdProcess) int { return a.pid - b.pid })
	return found, nil
}

// bootTime is when the system started, zero if it does not tell.
func bootTime() time.Time {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(stat)) {
		if value, ok := strings.CutPrefix(line, "btime "); ok {
			if seconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
				return time.Unix(seconds, 0)
			}
		}
	}
	return time.Time{}
}

// clockTicks is the unit of times in /proc, per second; it is 100 on every architecture that Go runs on.
const clockTicks = 100

// startTime is when a process started, zero if unknown: field 22 of its stat, counted after the name in brackets, which may
// hold blanks.
func startTime(dir string, boot time.Time) time.Time {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil || boot.IsZero() {
		return time.Time{}
	}
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	fields := strings.Fields(string(after))
	if len(fields) < 20 {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return boot.Add(time.Duration(ticks) * (time.Second / clockTicks))
}
