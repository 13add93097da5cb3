package resource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/jonboulle/clockwork"
)

// WatchOptions say what a Watcher looks at.
type WatchOptions struct {
	// Dirs are directories of which every file counts, subdirectories excepted.
	Dirs []string
	// Files are single files; so that it is noticed when one is replaced, their directories are watched.
	Files []string
	// Interval is how often a change is supposed without notice, for file systems that give none. 0 means 60 s.
	Interval time.Duration
	Clock    clockwork.Clock
}

const (
	// settle is how long files must be quiet before they are read, and settleLimit how long that can put off reading.
	settle      = 10 * time.Millisecond
	settleLimit = 250 * time.Millisecond

	defaultReconcile = time.Minute
)

// Watcher tells when files may have changed. Its channel C holds one notice, however many changes there were.
type Watcher struct {
	// C has a value after changes and, at every interval, without any.
	C <-chan struct{}

	out  chan struct{}
	dirs []string
	// whole are the directories of which every file counts, files the single files.
	whole, files map[string]bool
	events       *fsnotify.Watcher
	stop         context.CancelFunc
	done         sync.WaitGroup
}

// Watch begins to look at files. The error names a directory that cannot be watched (Dapr API, hot reload).
func Watch(o WatchOptions) (*Watcher, error) {
	if o.Interval <= 0 {
		o.Interval = defaultReconcile
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("failed to create watcher: %w; raise the limit of inotify instances (fs.inotify.max_user_instances), or switch the feature HotReload off", err)
	}
	w := &Watcher{out: make(chan struct{}, 1), events: events, whole: map[string]bool{}, files: map[string]bool{}}
	w.C = w.out
	watched := map[string]bool{}
	for _, dir := range o.Dirs {
		w.whole[filepath.Clean(dir)] = true
		watched[filepath.Clean(dir)] = true
	}
	for _, file := range o.Files {
		w.files[filepath.Clean(file)] = true
		watched[filepath.Dir(file)] = true
	}
	w.dirs = slices.Sorted(maps.Keys(watched))
	for _, dir := range w.dirs {
		if err := events.Add(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("failed to create watcher: failed to add target %s: %w", dir, err), events.Close())
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.done.Go(func() { w.run(ctx, o) })
	return w, nil
}

// Close ends the watching.
func (w *Watcher) Close() error {
	w.stop()
	err := w.events.Close()
	w.done.Wait()
	return err
}

func (w *Watcher) run(ctx context.Context, o WatchOptions) {
	ticker := o.Clock.NewTicker(o.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.events.Events:
			if ok && !w.counts(e.Name) {
				continue
			}
			if !ok || !w.quiet(ctx) {
				return
			}
		case _, ok := <-w.events.Errors: // events were lost: look
			if !ok {
				return
			}
		case <-ticker.Chan():
			for _, dir := range w.dirs { // one that had gone may be there again; adding twice changes nothing
				_ = w.events.Add(dir)
			}
		}
		select {
		case w.out <- struct{}{}:
		default:
		}
	}
}

// counts reports whether a file is one of those that are watched, or a link by which Kubernetes replaces a whole volume.
func (w *Watcher) counts(name string) bool {
	name = filepath.Clean(name)
	return w.whole[filepath.Dir(name)] || w.files[name] || strings.HasPrefix(filepath.Base(name), "..")
}

// quiet waits until files are not being written any more, and reports whether to go on. It is about what happens on a disk, so
// it goes by real time.
func (w *Watcher) quiet(ctx context.Context) bool {
	limit := time.NewTimer(settleLimit)
	defer limit.Stop()
	pause := time.NewTimer(settle)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			return true
		case <-pause.C:
			return true
		case _, ok := <-w.events.Events:
			if !ok {
				return false
			}
			pause.Reset(settle)
		}
	}
}
