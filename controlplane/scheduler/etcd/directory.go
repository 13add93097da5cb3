package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// prepare makes the directory of the server. Data without the marker are those of a cluster that was formed in another way: they are deleted
// (Dapr API, scheduler: embedded etcd).
func prepare(root, dir string, log *slog.Logger) error {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("the directory of --etcd-data-dir cannot be made: %w", err)
	}
	marker := filepath.Join(root, markerName)
	_, err := os.Stat(marker)
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the directory of --etcd-data-dir cannot be used: %w", err)
	default:
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			log.Warn(fmt.Sprintf("The data in %q are deleted, as the marker %q is not there: they belong to another form of cluster", dir, marker))
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("the data of another form of cluster cannot be deleted: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the directory of etcd cannot be made: %w", err)
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return fmt.Errorf("the marker of the cluster cannot be written: %w", err)
	}
	return nil
}

// When the database is defragmented (Dapr API, scheduler: embedded etcd).
const (
	defragInterval = 10 * time.Minute
	defragRetry    = 5 * time.Second
	defragRatio    = 2
)

// defragment gives unused space of the database file back, from time to time.
func (s *Store) defragment(ctx context.Context) {
	wait := defragInterval
	for {
		select {
		case <-s.o.Clock.After(wait):
		case <-ctx.Done():
			return
		}
		wait = defragInterval
		if err := s.defragmentNow(); err != nil {
			s.o.Log.Error(fmt.Sprintf("The database of etcd cannot be defragmented: %s", err))
			wait = defragRetry
		}
	}
}

// defragmentNow does so if the file is at least twice as large as what is in it.
func (s *Store) defragmentNow() error {
	backend := s.server.Server.Backend()
	size, used := backend.Size(), backend.SizeInUse()
	if size < defragRatio*used {
		return nil
	}
	if err := backend.Defrag(); err != nil {
		return err
	}
	s.o.Log.Debug(fmt.Sprintf("Defragmented the database of etcd from %d to %d bytes", size, backend.Size()))
	return nil
}
