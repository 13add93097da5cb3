package main

import (
	"fmt"
	"time"
)

// Concurrency and number of the loads of the scheduler.
const (
	schedulers = 256   // connections: what is stored waits for the disk, many at once
	dueAtOnce  = 20000 // jobs that are due at one moment
)

// startScheduled is one sidecar with a placement and a scheduler service, and an app that hosts actors and takes jobs. The CPU time and memory
// of the scheduler are measured beside those of the sidecar.
func startScheduled(b *bench, t target, _ string) (*bed, error) {
	bed, err := b.newBed(t)
	if err != nil {
		return nil, err
	}
	placement, err := b.startPlacement(bed)
	if err != nil {
		return bed, err
	}
	scheduler, err := b.startScheduler(bed)
	if err != nil {
		return bed, err
	}
	_, err = b.spawnHost(bed, "sidecar", b.size, "--placement-host-address", placement.addr, "--scheduler-host-address", scheduler.addr)
	bed.sidecars = append(bed.sidecars, scheduler.measured())
	return bed, err
}

// createReminder makes reminders that are due when the benchmark is long over. Every one is new.
func createReminder(s *settings, b *bed) load {
	l := load{Kind: "http", Addr: b.entry().httpAddr(), Connections: schedulers, Status: []int{204}}
	for id := range keys {
		l.Requests = append(l.Requests, request("POST", actorPath(id, "reminders/r-"+serialMark), "application/json", `{"dueTime":"24h","data":`+value(s)+`}`))
	}
	return l
}

// scheduleJob makes jobs that are due when the benchmark is long over. Every one is new.
func scheduleJob(s *settings, b *bed) load {
	return load{
		Kind: "http", Addr: b.entry().httpAddr(), Connections: schedulers, Status: []int{204},
		Requests: [][]byte{jobRequest("24h", value(s))},
	}
}

// triggerJobs has many jobs due at one moment, and measures until the app has all of them: a "request" is a job that arrived, its latency how
// late it was.
func triggerJobs(s *settings, b *bed) load {
	return load{
		Kind: "trigger", Addr: b.entry().httpAddr(), App: b.appAddr, Connections: schedulers, Status: []int{204}, Jobs: dueAtOnce, Size: s.size, Lead: 3 * time.Second,
		Patience: preparingLimit + arrivingLimit,
	}
}

// jobRequest schedules a job of a new name, with JSON data.
func jobRequest(due, data string) []byte {
	return request("POST", "/v1.0/jobs/job-"+serialMark, "application/json", fmt.Sprintf(`{"dueTime":%s,"data":%s}`, quote(due), data))
}
