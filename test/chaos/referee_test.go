package chaos

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// referee sees to it that an actor has one turn at a time. Every app process holds one connection to it, on which its turns enter and leave; with
// the process its turns end. It also counts what was fired.
type referee struct {
	t        *testing.T
	listener net.Listener
	tasks    sync.WaitGroup

	mu       sync.Mutex
	conns    map[*player]bool
	byPID    map[string]*player
	closed   bool
	holder   map[string]*player // by actor
	turns    int
	ended    int // turns that ended with their process
	overlaps []string
	fired    map[string]int // by kind and name, "job/x" or "reminder/a1/x"
	changed  chan struct{}
}

// player is one app process.
type player struct {
	name string
	conn net.Conn
	// dying is set before the process is killed: what it holds is free as soon as its connection ends.
	dying bool
	gone  chan struct{}
}

// deathLimit bounds the time between the kill of a process and the end of its connection.
const deathLimit = 20 * time.Second

func newReferee(t *testing.T) *referee {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &referee{
		t: t, listener: l, conns: map[*player]bool{}, byPID: map[string]*player{}, holder: map[string]*player{}, fired: map[string]int{}, changed: make(chan struct{}),
	}
	r.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p := &player{conn: conn, gone: make(chan struct{})}
			r.mu.Lock()
			if r.closed {
				_ = conn.Close()
			}
			r.conns[p] = true
			r.mu.Unlock()
			r.tasks.Go(func() { r.serve(p) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		r.closed = true
		for p := range r.conns {
			_ = p.conn.Close()
		}
		r.mu.Unlock()
		r.tasks.Wait()
	})
	return r
}

// serve listens to one process.
func (r *referee) serve(p *player) {
	defer func() {
		_ = p.conn.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, p)
		for actor, holder := range r.holder {
			if holder == p {
				delete(r.holder, actor)
				r.ended++
			}
		}
		close(p.gone)
	}()
	var writing sync.Mutex
	answer := func(number string) {
		writing.Lock()
		defer writing.Unlock()
		_, _ = io.WriteString(p.conn, number+"\n") // a process that is gone needs none
	}
	for lines := bufio.NewScanner(p.conn); lines.Scan(); {
		words := strings.Split(lines.Text(), " ")
		number, verb, words := words[0], words[1], words[2:]
		switch verb {
		case "hello":
			r.mu.Lock()
			p.name = words[0]
			r.byPID[words[1]] = p
			r.mu.Unlock()
		case "enter":
			if r.enter(p, words[0]) {
				break
			}
			r.tasks.Go(func() { // the one that holds the actor is being killed
				for !r.enter(p, words[0]) {
					r.awaitDeath(words[0])
				}
				answer(number)
			})
			continue
		case "leave":
			r.mu.Lock()
			if r.holder[words[0]] == p {
				delete(r.holder, words[0])
			}
			r.mu.Unlock()
		case "fired":
			r.mu.Lock()
			r.fired[strings.Join(words, "/")]++
			close(r.changed)
			r.changed = make(chan struct{})
			r.mu.Unlock()
		}
		answer(number)
	}
}

// enter begins a turn. It is false while a process that is being killed still holds the actor.
func (r *referee) enter(p *player, actor string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if holder := r.holder[actor]; holder != nil {
		if holder.dying {
			return false
		}
		r.overlaps = append(r.overlaps, fmt.Sprintf("%s: a turn of %s began at %s while one ran at %s", time.Now().Format(clockFormat), actor, p.name, holder.name))
	}
	r.holder[actor] = p
	r.turns++
	return true
}

// awaitDeath waits until the process that holds the actor is gone.
func (r *referee) awaitDeath(actor string) {
	r.mu.Lock()
	holder := r.holder[actor]
	r.mu.Unlock()
	if holder == nil {
		return
	}
	select {
	case <-holder.gone:
	case <-time.After(deathLimit):
		r.mu.Lock()
		r.overlaps = append(r.overlaps, fmt.Sprintf("the connection of %s did not end within %s after it was killed", holder.name, deathLimit))
		delete(r.holder, actor)
		r.mu.Unlock()
	}
}

// condemn is called before a process is killed.
func (r *referee) condemn(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.byPID[fmt.Sprint(pid)]; p != nil {
		p.dying = true
	}
}

// count is how often something fired.
func (r *referee) count(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fired[what]
}

// await waits until a condition on what was fired holds.
func (r *referee) await(limit time.Duration, ok func() bool) bool {
	deadline := time.After(limit)
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if ok() {
			return true
		}
		select {
		case <-changed:
		case <-deadline:
			return false
		}
	}
}

// TestReferee shows that two turns at once are seen, and what is none: a turn ends with its process.
func TestReferee(t *testing.T) {
	r := newReferee(t)
	dial := func(name, pid string) (*bufio.Scanner, net.Conn, func(line string)) {
		conn, err := net.Dial("tcp", r.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(limit))
		replies := bufio.NewScanner(conn)
		send := func(line string) {
			if _, err := io.WriteString(conn, line+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		send("1 hello " + name + " " + pid)
		replies.Scan()
		return replies, conn, send
	}
	fromA, connA, a := dial("a", "1")
	fromB, _, b := dial("b", "2")
	say := func(replies *bufio.Scanner, send func(string), line string) {
		t.Helper()
		send(line)
		if number, _, _ := strings.Cut(line, " "); !replies.Scan() || replies.Text() != number {
			t.Fatalf("%s was answered by %q, %v", line, replies.Text(), replies.Err())
		}
	}
	seen := func(want int) {
		t.Helper()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.overlaps) != want {
			t.Fatalf("want %d turns at once, have %q", want, r.overlaps)
		}
	}
	say(fromA, a, "2 enter x")
	say(fromB, b, "2 enter y")
	say(fromA, a, "3 leave x")
	say(fromB, b, "3 enter x")
	seen(0)
	say(fromA, a, "4 enter x")
	seen(1)
	say(fromA, a, "5 enter z")
	r.condemn(1)
	b("4 enter z")
	_ = connA.Close()
	if !fromB.Scan() || fromB.Text() != "4" {
		t.Fatalf("the turn did not end with its process: %q, %v", fromB.Text(), fromB.Err())
	}
	seen(1)
	say(fromB, b, "5 fired job n")
	if got := r.count("job/n"); got != 1 {
		t.Errorf("the job fired %d times", got)
	}
}
