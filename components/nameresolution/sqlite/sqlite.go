// Package sqlite is the name resolver nameresolution.sqlite: a table in an SQLite file, shared by the sidecars of one
// machine, in which each keeps a row with its address fresh.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

// Options are the keys of the name resolution configuration (Dapr API, component schema: SQLite name resolver).
type Options struct {
	ConnectionString  string        `name:"connectionString" aliases:"url" required:"true" help:"path or file: URI of the database that the sidecars share"`
	Timeout           time.Duration `name:"timeout" aliases:"timeoutInSeconds" default:"1s" help:"limit of one database operation, at least 1s"`
	BusyTimeout       time.Duration `name:"busyTimeout" default:"800ms" help:"how long to wait for a lock of another process"`
	DisableWAL        bool          `name:"disableWAL" default:"false" help:"whether to do without the write-ahead log, as network file systems need"`
	TableName         string        `name:"tableName" default:"hosts" help:"table of the registered sidecars"`
	MetadataTableName string        `name:"metadataTableName" default:"metadata" help:"table of what the resolver notes about the database"`
	UpdateInterval    time.Duration `name:"updateInterval" default:"5s" help:"age at which a registration counts as dead; whole seconds, at least 1s more than timeout"`
	CleanupInterval   time.Duration `name:"cleanupInterval" aliases:"cleanupIntervalInSeconds" default:"1h" help:"how often dead registrations are deleted; 0 or less: never"`
	// AnnounceMDNS and ResolveMDNS are ours; Dapr has no such keys.
	AnnounceMDNS bool `name:"announceMDNS" default:"false" help:"whether to announce the sidecar over mDNS too, so that sidecars that resolve over mDNS find it"`
	ResolveMDNS  bool `name:"resolveMDNS" default:"false" help:"whether to look over mDNS for apps that are not in the table"`
}

// OpenMDNS opens an mDNS resolver that announces the sidecar of inst, or only looks for others when inst names no app.
type OpenMDNS func(ctx context.Context, inst components.Instance) (nameresolution.Resolver, error)

// Register adds nameresolution.sqlite, without mDNS beside it, to r.
func Register(r *components.Registry) { RegisterWith(r, nil) }

// RegisterWith adds nameresolution.sqlite to r. openMDNS serves instances that ask for announceMDNS or resolveMDNS; when
// it is nil, asking is an error.
func RegisterWith(r *components.Registry, openMDNS OpenMDNS) {
	nameresolution.Register(r, components.Info{
		Name:        "sqlite",
		Version:     "v1",
		Status:      components.Stable,
		Description: "Finds sidecars of one machine through a shared SQLite file.",
	}, func(ctx context.Context, inst components.Instance, o Options) (nameresolution.Resolver, error) {
		return open(ctx, inst, o, openMDNS)
	})
}

// check fills what was given as empty and refuses what cannot work.
func (o *Options) check() error {
	if o.TableName == "" {
		o.TableName = "hosts"
	}
	if o.MetadataTableName == "" {
		o.MetadataTableName = "metadata"
	}
	for property, name := range map[string]string{"tableName": o.TableName, "metadataTableName": o.MetadataTableName} {
		if !identifier(name) {
			return fmt.Errorf("metadata property %q is %q; use only letters, digits and _", property, name)
		}
	}
	if o.Timeout < time.Second {
		return fmt.Errorf("metadata property \"timeout\" is %s; it must be at least 1s", o.Timeout)
	}
	if o.UpdateInterval%time.Second != 0 {
		return fmt.Errorf("metadata property \"updateInterval\" is %s; it must be whole seconds", o.UpdateInterval)
	}
	if o.UpdateInterval < o.Timeout+time.Second {
		return fmt.Errorf("metadata property \"updateInterval\" is %s; it must be at least %s, which is 1s more than timeout", o.UpdateInterval, o.Timeout+time.Second)
	}
	return nil
}

func identifier(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		default:
			return false
		}
	}
	return name != ""
}

// errNotFound is what callers see of an app without a live registration (Dapr API, SQLite name resolver).
var errNotFound = errors.New("no host found with the given ID")

// errClosed is what callers get of a resolver that was closed.
var errClosed = errors.New("the sqlite name resolver was closed")
