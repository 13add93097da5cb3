//go:build !linux

package main

import (
	"errors"
	"syscall"
	"time"
)

// measuresProcesses says that cpuTime and memory do not work here.
const measuresProcesses = false

var errLinuxOnly = errors.New("CPU and memory figures are taken on Linux only")

func processAttributes() *syscall.SysProcAttr { return nil }

func cpuTime(int) (time.Duration, error) { return 0, errLinuxOnly }

func memory(int) (resident, anonymous float64, err error) { return 0, 0, errLinuxOnly }

func machineLoad() string { return "" }
