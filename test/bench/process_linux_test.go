package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte("12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 20 0 9 0\n"))
	if err != nil || got != 2*time.Second {
		t.Errorf("%s, %v instead of 2s", got, err)
	}
	for _, bad := range []string{"", "12 (a) S 1 2", "12 (a) S 1 2 3 4 5 6 7 8 9 10 x 50", "12 (a) S 1 2 3 4 5 6 7 8 9 10 1 y"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParseStatus(t *testing.T) {
	resident, anonymous, err := parseStatus("Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t 512 kB\nRssFile:\t 1 kB\n")
	if err != nil || resident != 2 || anonymous != 0.5 {
		t.Errorf("%g, %g, %v instead of 2 and 0.5", resident, anonymous, err)
	}
	for _, bad := range []string{"", "VmRSS:\tmany kB\n"} {
		if _, _, err := parseStatus(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestOwnFigures(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for sink := 0; ; sink += len(strings.Repeat("x", 1000)) {
		now, err := cpuTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now-before >= 50*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("work takes no CPU time")
		}
	}
	resident, anonymous, err := memory(os.Getpid())
	if err != nil || anonymous <= 0 || resident < anonymous {
		t.Errorf("%g resident, %g anonymous, %v", resident, anonymous, err)
	}
}
