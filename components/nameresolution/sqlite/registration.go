package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/google/uuid"

	"outrigger.dev/components"
)

// registration is the row of the own sidecar.
type registration struct {
	id, address, appID string
}

func newRegistration(s components.Sidecar) (registration, error) {
	switch {
	case s.AppID == "":
		return registration{}, errors.New("the sqlite name resolver needs the app id of the sidecar; start it with --app-id")
	case s.HostAddress == "":
		return registration{}, errors.New("the sqlite name resolver needs the host address of the sidecar; set the environment variable DAPR_HOST_IP")
	case s.InternalPort <= 0:
		return registration{}, fmt.Errorf("the sqlite name resolver needs the internal gRPC port of the sidecar, which is %d", s.InternalPort)
	}
	return registration{
		id:      uuid.NewString(),
		address: net.JoinHostPort(s.HostAddress, strconv.Itoa(s.InternalPort)),
		appID:   s.AppID,
	}, nil
}

// register writes the row, in place of any other with the same address: its sidecar must be gone, for the port is ours.
// The namespace stays empty, as Dapr writes it.
func (r *Resolver) register(ctx context.Context) error {
	return r.persist(ctx, func(ctx context.Context) error {
		_, err := r.handle.Load().db.ExecContext(ctx, `REPLACE INTO `+r.options.TableName+` (registration_id, address, app_id, namespace, last_update) VALUES (?, ?, ?, '', ?)`,
			r.row.id, r.row.address, r.row.appID, r.clock.Now().Unix())
		return err
	})
}

// persist tries an operation again while it fails, within the timeout.
func (r *Resolver) persist(ctx context.Context, operation func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	for {
		err := operation(ctx)
		if err == nil || !pause(ctx, 50*time.Millisecond) {
			return err
		}
	}
}

// renewal is how often a registration is renewed. Dapr does so after the update interval less the timeout; but the table has whole
// seconds, so that a registration made late in a second would be renewed at the very moment at which it counts as dead.
func (o *Options) renewal() time.Duration { return (o.UpdateInterval - o.Timeout) / 2 }

// keep renews the registration until the resolver is closed.
func (r *Resolver) keep() {
	every := r.options.renewal()
	wait := every
	contested := false
	for {
		t := r.clock.NewTimer(wait)
		select {
		case <-r.ctx.Done():
			t.Stop()
			return
		case <-t.Chan():
		}
		wait = every
		r.tidy()
		if err := r.followFile(); err != nil && r.ctx.Err() == nil {
			r.log.Warn("the database file for name resolution is gone and cannot be made again, so that other sidecars may not find this one; trying again", "error", err)
		}
		switch holder, err := r.renew(); {
		case r.ctx.Err() != nil:
			return
		case err != nil:
			wait = time.Second
			r.log.Warn("cannot renew the registration of this sidecar for name resolution, so others may not find it; trying again",
				"database", redact(r.options.ConnectionString), "error", err)
		case holder != "":
			if !contested {
				r.log.Warn("another live sidecar is registered for name resolution with the address of this one; give each its own --dapr-internal-grpc-port",
					"address", r.row.address, "otherAppID", holder)
			}
			contested = true
		default:
			contested = false
		}
	}
}

// renew marks the registration as live. When the row is gone it registers again, unless a live registration of another
// sidecar has taken the address: then it returns the app id of that one, for two that replace each other help nobody.
func (r *Resolver) renew() (holder string, err error) {
	t := r.options.TableName
	err = r.persist(r.ctx, func(ctx context.Context) error {
		holder = ""
		now := r.clock.Now().Unix()
		result, err := r.handle.Load().db.ExecContext(ctx, `UPDATE `+t+` SET last_update = ? WHERE registration_id = ? AND address = ?`, now, r.row.id, r.row.address)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n > 0 {
			return err
		}
		tx, err := r.handle.Load().db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		err = tx.QueryRowContext(ctx, `SELECT app_id FROM `+t+` WHERE address = ? AND registration_id <> ? AND last_update > ?`,
			r.row.address, r.row.id, now-int64(r.options.UpdateInterval/time.Second)).Scan(&holder)
		if err == nil {
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if _, err := tx.ExecContext(ctx, `REPLACE INTO `+t+` (registration_id, address, app_id, namespace, last_update) VALUES (?, ?, ?, '', ?)`,
			r.row.id, r.row.address, r.row.appID, now); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		r.log.Warn("the registration of this sidecar for name resolution was lost and has been made again", "database", redact(r.options.ConnectionString), "address", r.row.address)
		return nil
	})
	return holder, err
}

// deregister deletes the row.
func (r *Resolver) deregister() error {
	err := r.persist(context.Background(), func(ctx context.Context) error {
		_, err := r.handle.Load().db.ExecContext(ctx, `DELETE FROM `+r.options.TableName+` WHERE registration_id = ? AND address = ?`, r.row.id, r.row.address)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot delete the registration of this sidecar from the SQLite database %q: %w", redact(r.options.ConnectionString), err)
	}
	return nil
}

// sweep deletes dead registrations every cleanup interval until the resolver is closed.
func (r *Resolver) sweep() {
	for {
		t := r.clock.NewTimer(r.options.CleanupInterval)
		select {
		case <-r.ctx.Done():
			t.Stop()
			return
		case <-t.Chan():
		}
		if err := r.clean(r.ctx); err != nil && r.ctx.Err() == nil {
			r.log.Warn("cannot delete dead registrations from the database for name resolution; trying again later",
				"database", redact(r.options.ConnectionString), "error", err)
		}
	}
}

// timestamp is how SQLite writes CURRENT_TIMESTAMP, in UTC.
const timestamp = "2006-01-02 15:04:05"

// clean deletes dead registrations, unless another sidecar has done so within the interval: the note in the metadata
// table decides who does.
func (r *Resolver) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	m := r.options.MetadataTableName
	now := r.clock.Now()
	// Timers of equal length drift a little; the slack lets the same sidecar win again.
	due := now.Add(100*time.Millisecond - r.options.CleanupInterval)
	result, err := r.handle.Load().db.ExecContext(ctx, `INSERT INTO `+m+` (key, value) VALUES ('nr-last-cleanup', ?)
		ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE unixepoch(value) IS NULL OR unixepoch(value) <= ?`,
		now.UTC().Format(timestamp), due.Unix())
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return err
	}
	_, err = r.handle.Load().db.ExecContext(ctx, `DELETE FROM `+r.options.TableName+` WHERE last_update < ?`, now.Add(-r.options.UpdateInterval).Unix())
	return err
}
