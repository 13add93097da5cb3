package servers

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// playChild is the test binary as a child of TestServersEndWithBinary: it starts
// every kind of server, prints its process and directory, and waits to be ended.
func playChild(part string) {
	for _, launch := range map[kind]func(string) (cluster, error){
		kindRedis:     func(dir string) (cluster, error) { return launchRedis(dir, options{}) },
		kindPostgres:  func(dir string) (cluster, error) { return launchPostgres(dir, options{}) },
		kindMariaDB:   func(dir string) (cluster, error) { return launchMariaDB(dir, options{}) },
		kindMosquitto: func(dir string) (cluster, error) { return launchMosquitto(dir, options{}) },
		kindSFTP:      func(dir string) (cluster, error) { return launchSFTP(dir, options{}) },
		kindSMTP:      func(dir string) (cluster, error) { return launchSMTP(dir, options{}) },
		kindRabbitMQ:  func(dir string) (cluster, error) { return launchRabbitMQ(dir, options{}) },
	} {
		c, err := running.get(kindRedis, options{own: true}, launch)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		for _, p := range c.processes() {
			fmt.Println(p.current().pid, running.all[c])
		}
	}
	fmt.Println("done")
	if part == "exit" {
		os.Exit(0)
	}
	select {}
}

func TestServersEndWithBinary(t *testing.T) {
	for _, part := range []string{"exit", "killed"} {
		t.Run(part, func(t *testing.T) {
			cmd := exec.CommandContext(within(t), os.Args[0])
			cmd.Env = append(os.Environ(), childVariable+"="+part)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var pids []int
			dirs := map[string]bool{}
			lines := bufio.NewScanner(out)
			for lines.Scan() && lines.Text() != "done" {
				first, dir, _ := strings.Cut(lines.Text(), " ")
				pid, err := strconv.Atoi(first)
				if err != nil {
					t.Fatalf("child says %q", lines.Text())
				}
				pids = append(append(pids, pid), descendants(pid)...)
				dirs[dir] = true
			}
			if len(pids) == 0 {
				_ = cmd.Wait()
				t.Skip("no server is installed")
			}
			if part == "killed" {
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait() // killed is an error
			err = await(10*time.Second, func(context.Context) error {
				for _, pid := range pids {
					if alive(pid) {
						return fmt.Errorf("process %d is alive", pid)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			// The next binary removes what is left on disk.
			for dir := range dirs {
				temp := filepath.Dir(filepath.Dir(filepath.Dir(dir))) // above base, run and server
				first, err := newRunDir(temp)
				if err != nil {
					t.Fatal(err)
				}
				defer first.remove()
				second, err := newRunDir(temp)
				if err != nil {
					t.Fatal(err)
				}
				defer second.remove()
				if _, err := os.Stat(dir); !os.IsNotExist(err) {
					t.Errorf("%s is left: %v", dir, err)
				}
				if _, err := os.Stat(first.path); err != nil {
					t.Errorf("a directory in use was swept: %v", err)
				}
			}
		})
	}
}

func TestPortsAreReserved(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		port, held, err := reservePort(busPortGap)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range held {
			defer l.release()
		}
		if seen[port] || len(held) != 2 {
			t.Fatalf("port %d twice, or %d reservations instead of 2", port, len(held))
		}
		seen[port] = true
		dir := filepath.Dir(held[0].f.Name())
		if l, err := tryPort(dir, port); l != nil || err != nil {
			t.Fatalf("port %d reserved again (%v)", port, err)
		}
	}
	port, held, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	held[0].release()
	if l, err := tryPort(filepath.Dir(held[0].f.Name()), port); l != nil || err != nil {
		t.Errorf("port %d reserved while another program listens (%v)", port, err)
	}
}
