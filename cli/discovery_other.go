//go:build !linux

package cli

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// daprdProcesses asks ps, which knows neither where an argument with blanks ends nor working directories.
func daprdProcesses(ctx context.Context) ([]daprdProcess, error) {
	if runtime.GOOS == "windows" {
		return nil, fmt.Errorf("finding sidecars is not available on Windows in this version; look for daprd.exe in the task manager")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-axww", "-o", "pid=,lstart=,command=").Output()
	if err != nil {
		return nil, fmt.Errorf("the processes cannot be listed with ps: %w", err)
	}
	var found []daprdProcess
	for line := range strings.Lines(string(out)) {
		// The pid, five words of the start time, the program and its arguments.
		fields := strings.Fields(line)
		if len(fields) < 7 || filepath.Base(fields[6]) != "daprd" {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil {
			continue
		}
		started, _ := time.ParseInLocation("Mon Jan 2 15:04:05 2006", strings.Join(fields[1:6], " "), time.Local)
		found = append(found, daprdProcess{pid: pid, args: fields[7:], started: started})
	}
	return found, nil
}
