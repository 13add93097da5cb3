package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// ledger is what was asked for, and what was acknowledged.
type ledger struct {
	mu sync.Mutex
	// increments are operations by their actor: true once acknowledged.
	increments map[string]map[string]bool
	counts     map[string]int // by actor, the largest that was acknowledged
	backwards  []string       // counts that went back
	// due are acknowledged reminders and jobs, with how often they have to fire.
	due map[string]int
	// never are reminders whose deletion was acknowledged long before they were due.
	never    []string
	refusals map[string]int // by kind of request and reply, of what was not acknowledged
	last     int
}

func newLedger() *ledger {
	return &ledger{increments: map[string]map[string]bool{}, counts: map[string]int{}, due: map[string]int{}, refusals: map[string]int{}}
}

// name is one that was never given before.
func (l *ledger) name(prefix string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	return fmt.Sprint(prefix, l.last)
}

// numbers tell reasons apart that are the same.
var numbers = regexp.MustCompile(`\b[a-z]*\d+\b|slow\d+`)

func (l *ledger) refused(what string, status int, reply string) {
	const most = 240
	reason := fmt.Sprintf("%s: %d %s", what, status, numbers.ReplaceAllString(reply[:min(len(reply), most)], "N"))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusals[reason]++
}

// increment asks an actor to count, and tells whether it did.
func (l *ledger) increment(c *caller, p *pod, actor, prefix string) bool {
	op := l.name(prefix)
	l.mu.Lock()
	if l.increments[actor] == nil {
		l.increments[actor] = map[string]bool{}
	}
	l.increments[actor][op] = false
	before := l.counts[actor]
	l.mu.Unlock()
	status, reply := c.do("POST", p.base+"/v1.0/actors/Counter/"+actor+"/method/inc", op)
	if status != 200 {
		l.refused("increment", status, reply)
		return false
	}
	count, err := strconv.Atoi(reply)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.increments[actor][op] = true
	if err != nil || count <= before {
		l.backwards = append(l.backwards, fmt.Sprintf("%s: %q at %s, after %d was acknowledged", op, reply, actor, before))
	}
	l.counts[actor] = max(l.counts[actor], count)
	return true
}

// endless is a failure policy that never gives up.
const endless = `{"constant":{"interval":"0.5s"}}`

// remind registers a reminder.
func (l *ledger) remind(c *caller, p *pod, actor string, rng *rand.Rand) {
	name := l.name("r")
	fires, period := 1, ""
	if rng.IntN(4) == 0 {
		fires, period = 3, `,"period":"R3/PT1S"`
	}
	body := fmt.Sprintf(`{"dueTime":"%dms"%s,"failure_policy":%s}`, rng.IntN(5000), period, endless)
	status, reply := c.do("POST", p.base+"/v1.0/actors/Counter/"+actor+"/reminders/"+name, body)
	if status != 204 {
		l.refused("reminder", status, reply)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due["reminder/"+actor+"/"+name] = fires
}

// farOff is when deleted reminders would be due; one whose deletion is acknowledged after half of it may fire meanwhile.
const farOff = 8 * time.Second

// forget registers a reminder and deletes it again.
func (l *ledger) forget(c *caller, p, q *pod, actor string) {
	name := l.name("f")
	begun := time.Now()
	path := "/v1.0/actors/Counter/" + actor + "/reminders/" + name
	if status, reply := c.do("POST", p.base+path, fmt.Sprintf(`{"dueTime":%q}`, farOff)); status != 204 {
		l.refused("reminder", status, reply)
		return
	}
	if status, reply := c.do("DELETE", q.base+path, ""); status != 204 {
		l.refused("deletion", status, reply)
		return
	}
	if time.Since(begun) < farOff/2 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.never = append(l.never, "reminder/"+actor+"/"+name)
	}
}

// schedule schedules a job.
func (l *ledger) schedule(c *caller, p *pod, rng *rand.Rand) {
	name := l.name("j")
	fires, more := 1, ""
	if rng.IntN(4) == 0 {
		fires, more = 3, `,"schedule":"@every 1s","repeats":3`
	}
	body := fmt.Sprintf(`{"dueTime":"%dms","data":{"n":1},"failurePolicy":%s%s}`, rng.IntN(5000), endless, more)
	status, reply := c.do("POST", p.base+"/v1.0/jobs/"+name, body)
	if status != 204 {
		l.refused("job", status, reply)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due["job/"+name] = fires
}

// Load is made by clients that each ask for something every pace.
const (
	clients = 6
	pace    = 25 * time.Millisecond
)

// callTimeout bounds a call of the load: there are others to make.
const callTimeout = 15 * time.Second

func actorName(i int) string { return fmt.Sprint("a", i) }

// load is one client: it asks for things through random sidecars until ctx ends.
func (w *world) load(ctx context.Context, l *ledger, rng *rand.Rand) {
	c := newCaller(callTimeout)
	defer c.close()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		p, q, actor := w.pods[rng.IntN(podCount)], w.pods[rng.IntN(podCount)], actorName(rng.IntN(actorCount))
		switch dice := rng.IntN(100); {
		case dice < 1: // in the middle of it, much can happen
			l.increment(c, p, actor, "slow")
		case dice < 65:
			l.increment(c, p, actor, "i")
		case dice < 77:
			l.remind(c, p, actor, rng)
		case dice < 90:
			l.schedule(c, p, rng)
		case dice < 95:
			l.forget(c, p, q, actor)
		default: // a timer, which may be lost, for the sake of its turns
			body := fmt.Sprintf(`{"dueTime":"%dms","period":"R3/PT0.1S"}`, rng.IntN(500))
			c.do("POST", p.base+"/v1.0/actors/Counter/"+actor+"/timers/"+l.name("t"), body)
		}
	}
}

// owed are the acknowledged reminders and jobs that have not fired often enough.
func (l *ledger) owed(r *referee) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, fires := range l.due {
		if fired := r.count(name); fired < fires {
			names = append(names, fmt.Sprintf("%s: fired %d of %d times", name, fired, fires))
		}
	}
	slices.Sort(names)
	return names
}

// refusalLines are the most frequent reasons why something was not acknowledged.
func (l *ledger) refusalLines(most int) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reasons := slices.SortedFunc(maps.Keys(l.refusals), func(a, b string) int { return l.refusals[b] - l.refusals[a] })
	for _, reason := range reasons[:min(most, len(reasons))] {
		lines = append(lines, fmt.Sprintf("%5d  %s", l.refusals[reason], reason))
	}
	return lines
}
