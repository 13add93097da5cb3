package logtest

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
)

func TestLog(t *testing.T) {
	var log Log
	l := log.Logger()
	l.Debug("one")
	l.With("a", 1).Warn(`a "quoted" word`, "error", errors.New("two words"))
	l.With("a", 1).WithGroup("g").With("b", true).Error("grouped", slog.Group("h", "c", "x"), slog.Group("", "d", "y"))
	want := "DEBUG one\nWARN a \"quoted\" word a=1 error=two words\nERROR grouped a=1 g.b=true g.h.c=x g.d=y"
	if log.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &log, want)
	}
	for text, want := range map[string]int{"": 3, "WARN": 1, "one": 1, "a=1": 2, "none": 0} {
		if got := log.Count(text); got != want {
			t.Errorf("%q is in %d lines, want %d", text, got, want)
		}
	}
	log.Lines()[0] = "changed" // a copy
	if log.Count("changed") != 0 {
		t.Error("the lines can be changed")
	}
}

func TestConcurrentUse(t *testing.T) {
	var log Log
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			log.Logger().Info("line")
			_ = log.String()
		})
	}
	all.Wait()
	if n := log.Count("INFO line"); n != 10 {
		t.Errorf("%d lines, want 10", n)
	}
}
