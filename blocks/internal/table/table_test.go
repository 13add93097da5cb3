package table

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestTable(t *testing.T) {
	var tab Table[int]
	if !tab.Empty() || tab.Use("a") != nil {
		t.Fatal("not empty at first")
	}
	if err := tab.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := tab.Add("a", 1); err != nil {
		t.Fatal(err)
	}
	if err := tab.Add("a", 2); err == nil {
		t.Fatal("the name was given twice")
	}
	e := tab.Use("a")
	if tab.Empty() || e == nil || e.Component != 1 {
		t.Fatalf("found %+v", e)
	}
	if tab.Use("A") != nil {
		t.Error("names are case-sensitive")
	}

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tab.Remove(gone, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("removing what is in use: %v", err)
	}
	if tab.Use("a") != nil || !tab.Empty() {
		t.Error("found though removed")
	}
	e.Release()
	<-e.idle
}

func TestRemoveWaits(t *testing.T) {
	var tab Table[*bool]
	for range 200 {
		closed := false
		if err := tab.Add("a", &closed); err != nil {
			t.Fatal(err)
		}
		var users sync.WaitGroup
		for range 4 {
			users.Go(func() {
				for {
					e := tab.Use("a")
					if e == nil {
						return
					}
					if *e.Component { // the race detector, too, sees a use after the removal
						t.Error("used after its removal")
					}
					e.Release()
				}
			})
		}
		if err := tab.Remove(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		closed = true
		users.Wait()
	}
}
