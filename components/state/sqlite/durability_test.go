package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/state"
)

// childDatabase is the environment variable that turns the test binary into the writer of TestKilled.
const childDatabase = "OUTRIGGER_TEST_SQLITE_DATABASE"

// writeForever writes items from several goroutines and prints each key once its write is acknowledged.
func writeForever(path string) {
	s, err := Open(context.Background(), components.Instance{}, Options{ConnectionString: path, BusyTimeout: 20 * time.Second})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	for w := range 8 {
		go func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, n)
				set := &state.SetRequest{Key: key, Value: state.Value{Bytes: []byte(key)}}
				var err error
				if n%5 == 4 {
					twin := &state.SetRequest{Key: key + "-twin", Value: set.Value}
					err = s.Transact(context.Background(), state.TransactionRequest{Operations: []state.Operation{{Set: set}, {Set: twin}}})
				} else {
					err = s.Set(context.Background(), *set)
				}
				if err != nil {
					fmt.Println("error:", err)
					os.Exit(1)
				}
				// One system call per line, so that the parent sees all lines or part of the last.
				_, _ = os.Stdout.WriteString(key + "\n")
			}
		}()
	}
	select {}
}

// TestKilled kills two processes that write to one file, several times, and checks that each write they acknowledged is
// there, and that of the others each transaction is there as a whole or not at all.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.db")
	acknowledged := map[string]bool{}
	for round := range 4 {
		lines := make(chan string)
		var children []*exec.Cmd
		var reading sync.WaitGroup
		for range 2 {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childDatabase+"="+path)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			children = append(children, cmd)
			reading.Go(func() {
				for scanner := bufio.NewScanner(out); scanner.Scan(); {
					lines <- scanner.Text()
				}
				_ = cmd.Wait() // it was killed
			})
		}
		go func() {
			reading.Wait()
			close(lines)
		}()
		n, enough := 0, 200+137*round
		kill := func() {
			for _, c := range children {
				_ = c.Process.Kill() // it may have ended, with an error that is reported
			}
		}
		for line := range lines {
			switch {
			case strings.HasPrefix(line, "error:"):
				t.Error(line)
				kill()
			case strings.Count(line, "-") == 2:
				acknowledged[line] = true
				if n++; n == enough {
					kill()
				}
			}
		}
	}
	s := mustOpen(t, map[string]string{"connectionString": path})
	defer s.Close()
	for key := range acknowledged {
		if got := get(t, s, key); got != key {
			t.Errorf("the acknowledged item %s reads %q", key, got)
		}
	}
	keys, _, err := s.KeysLike(context.Background(), "%", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) < len(acknowledged) {
		t.Errorf("%d keys, but %d were acknowledged", len(keys), len(acknowledged))
	}
	for _, key := range keys {
		if whole, twin := strings.CutSuffix(key, "-twin"); twin && get(t, s, whole) != whole {
			t.Errorf("half of the transaction of %s is there", whole)
		}
	}
	var verdict string
	if err := database(t, path).QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity check: %s, %v", verdict, err)
	}
	t.Logf("%d acknowledged writes survived", len(acknowledged))
}
