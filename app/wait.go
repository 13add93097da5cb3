package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/jonboulle/clockwork"
)

// WaitOptions say which app to wait for.
type WaitOptions struct {
	Protocol Protocol
	// Address is the app's host name or IP; empty means 127.0.0.1.
	Address string
	Port    int
	// Log is the logger of the sidecar; nil discards.
	Log *slog.Logger
	// Clock times the pauses; nil means the real time.
	Clock clockwork.Clock
}

const (
	waitDialTimeout = 500 * time.Millisecond
	waitPause       = 100 * time.Millisecond
	waitLogEvery    = 100
)

// WaitForPort waits until the app accepts connections, with a TLS handshake when its protocol has one (Dapr API, app
// channel: start-up order). It fails only when ctx ends.
func WaitForPort(ctx context.Context, o WaitOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	if o.Protocol == "" {
		o.Protocol = HTTP
	}
	target := Options{Address: o.Address, Port: o.Port}
	dial := dialer(o.Protocol, target.hostPort(), waitDialTimeout)
	o.Log.Info(fmt.Sprintf("application protocol: %s. waiting on port %d.  This will block until the app is listening on that port.",
		o.Protocol, o.Port))
	pause := o.Clock.NewTicker(waitPause)
	defer pause.Stop()
	for tries := 1; ; tries++ {
		if err := try(ctx, dial); err == nil {
			o.Log.Info(fmt.Sprintf("application discovered on port %d", o.Port))
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if tries%waitLogEvery == 0 {
			o.Log.Info(fmt.Sprintf("waiting for application to listen on port %d", o.Port))
		}
		select {
		case <-pause.Chan():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try opens a connection, TLS included, within the time for one, and closes it.
func try(ctx context.Context, dial func(context.Context) (net.Conn, error)) error {
	ctx, cancel := context.WithTimeout(ctx, waitDialTimeout)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}
