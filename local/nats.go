package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Settings of NATS.
const (
	// maxPayload is the largest message, far above what sidecars take by default: the most that NATS allows.
	maxPayload = 64 << 20
	// memoryStore bounds streams that are kept in memory only.
	memoryStore = 256 << 20
	// recoveryTimeout bounds the start, which reads the streams that are there.
	recoveryTimeout = 60 * time.Second
	readyPoll       = 50 * time.Millisecond
)

// nats is the embedded server.
type nats struct {
	server *server.Server
	// failed gets the error that ends the server.
	failed  chan error
	running sync.WaitGroup
}

// startNATS starts the server and returns when it takes connections, all streams recovered.
func startNATS(ctx context.Context, dir string, port int, log *slog.Logger) (*nats, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "outrigger-local",
		Host:       "127.0.0.1",
		Port:       port,
		JetStream:  true,
		StoreDir:   dir, // it adds the directory jetstream
		// By default NATS answers first and syncs every two minutes, which loses acknowledged messages when the power fails.
		SyncAlways:         true,
		JetStreamMaxMemory: memoryStore,
		MaxPayload:         maxPayload,
		NoSigs:             true,
		// Sidecars come and go, and are on this machine: a dead one is noticed by its connection.
		PingInterval:           time.Minute,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("NATS cannot be set up: %w", err)
	}
	n := &nats{server: s, failed: make(chan error, 1)}
	s.SetLoggerV2(&logger{log: log.With("service", "nats"), fatal: n.fail}, false, false, false)
	n.running.Go(func() {
		s.Start()
		s.WaitForShutdown()
		n.fail(errors.New("it was shut down"))
	})
	deadline := time.NewTimer(recoveryTimeout)
	defer deadline.Stop()
	for !s.ReadyForConnections(readyPoll) {
		select {
		case err = <-n.failed:
			err = fmt.Errorf("NATS cannot start with the data in %s: %w", DataDir(dir), err)
		case <-ctx.Done():
			err = ctx.Err()
		case <-deadline.C:
			err = fmt.Errorf("NATS did not start within %s; see the log", recoveryTimeout)
		default:
			continue
		}
		n.stop()
		return nil, err
	}
	return n, nil
}

func (n *nats) fail(err error) {
	select {
	case n.failed <- err:
	default: // the first reason counts
	}
}

// stop shuts the server down and returns when it is gone.
func (n *nats) stop() {
	n.server.Shutdown()
	n.running.Wait()
}

// logger passes on what the server has to say.
type logger struct {
	log   *slog.Logger
	fatal func(error)
}

func (l *logger) Noticef(format string, v ...any) { l.log.Info(fmt.Sprintf(format, v...)) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *logger) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l *logger) Debugf(string, ...any)           {}
func (l *logger) Tracef(string, ...any)           {}

// Fatalf is what the server calls when it cannot go on; it expects the program to end.
func (l *logger) Fatalf(format string, v ...any) {
	l.log.Error(fmt.Sprintf(format, v...))
	l.fatal(fmt.Errorf(format, v...))
}
