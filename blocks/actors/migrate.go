package actors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	stores "outrigger.dev/components/state"
)

// MigrationOptions are what a migration needs to know of its sidecar.
type MigrationOptions struct {
	State     *State
	Reminders *Reminders
	// Clock is what the reminders' times are told by; nil is the system's clock.
	Clock clockwork.Clock
	// Log may be nil.
	Log *slog.Logger
}

// Migration brings the reminders that former versions of Dapr kept in the actor state store to the scheduler (Dapr API, actors: legacy
// reminders), once per type that is hosted here. All sidecars that host a type may do so at the same time: a reminder that the
// scheduler has already stays as it is. The old rows go when the scheduler has acknowledged all of them, and only if they are still
// as they were read.
type Migration struct {
	options MigrationOptions
	wake    chan struct{}

	mu      sync.Mutex
	types   []string // those to look at
	checked map[migrated]bool
}

// migrated is a type that was looked at in a store.
type migrated struct{ store, actorType string }

// NewMigration makes a Migration; nothing happens before [Migration.Run].
func NewMigration(o MigrationOptions) *Migration {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Migration{options: o, wake: make(chan struct{}, 1), checked: map[migrated]bool{}}
}

// Settled tells which types are hosted here from now on. It does not wait for anything.
func (m *Migration) Settled(types []string) {
	m.mu.Lock()
	m.types = slices.Clone(types)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default: // it is awake already, and will see them
	}
}

// Bounds of the migration.
const (
	migrationRetry     = time.Second
	migrationRetryMost = 5 * time.Minute
	// migrationParallel is how many reminders are registered at a time.
	migrationParallel = 16
	// migrationCall bounds one call of the scheduler.
	migrationCall = 30 * time.Second
)

// Run migrates until the context ends. What fails for the moment is tried again, after longer and longer pauses.
func (m *Migration) Run(ctx context.Context) {
	pause := migrationRetry
	for ctx.Err() == nil {
		wait := time.Duration(never)
		if m.all(ctx) {
			pause = migrationRetry
		} else {
			wait, pause = pause, min(2*pause, migrationRetryMost)
		}
		again, stop := alarm(m.options.Clock, wait)
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-again:
		}
		stop()
	}
}

// all migrates the types that are new, and reports whether none is left.
func (m *Migration) all(ctx context.Context) (complete bool) {
	m.mu.Lock()
	types := m.types
	m.mu.Unlock()
	complete = true
	for _, actorType := range types {
		key := migrated{m.options.State.Store(), actorType}
		if key.store == "" || m.checked[key] || strings.HasPrefix(actorType, ReservedPrefix) {
			continue
		}
		err := m.Migrate(ctx, actorType)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			complete = false
			m.options.Log.Warn("the reminders in the actor state store could not be brought to the scheduler yet; trying again",
				"store", key.store, "type", actorType, "error", err)
			continue
		}
		m.checked[key] = true // only Run's goroutine uses it
	}
	return complete
}

// legacyReminder is a reminder in the state store. Times are RFC 3339.
type legacyReminder struct {
	ActorID    string          `json:"actorID"`
	ActorType  string          `json:"actorType"`
	Name       string          `json:"name"`
	Data       json.RawMessage `json:"data"`
	Period     string          `json:"period"`
	DueTime    string          `json:"dueTime"`
	Registered string          `json:"registeredTime"`
	Expiration string          `json:"expirationTime"`
}

// legacyTrack is how far a legacy reminder has come.
type legacyTrack struct {
	LastFired      string `json:"lastFiredTime"`
	RepetitionLeft int    `json:"repetitionLeft"`
}

// legacyMetadata is the row that says how the reminders of a type are partitioned.
type legacyMetadata struct {
	ID       string `json:"id"`
	Metadata struct {
		PartitionCount int `json:"partitionCount"`
	} `json:"actorRemindersMetadata"`
}

// mostPartitions bounds what a metadata row can ask to be read.
const mostPartitions = 10_000

// legacyRow is a row with reminders.
type legacyRow struct {
	key, etag string
	// partition is the partition that the row is in.
	partition string
	reminders []json.RawMessage
	// left are those that cannot be migrated.
	left []json.RawMessage
	// broken rows stay as they are.
	broken bool
}

// Migrate brings the reminders of a type to the scheduler. An error is worth another try; reminders that can never be migrated stay
// where they are, and are logged.
func (m *Migration) Migrate(ctx context.Context, actorType string) error {
	s := m.options.State
	in, err := s.use(ctx)
	if err != nil {
		return err
	}
	h := s.hold(in, nil)
	defer h.done()
	prefix := "actors||" + actorType
	metaItem, err := m.read(ctx, h, prefix+"||metadata", prefix+"||metadata")
	if err != nil {
		return err
	}
	var meta legacyMetadata
	if metaItem.Found {
		if err := json.Unmarshal(metaItem.Data, &meta); err != nil || meta.Metadata.PartitionCount > mostPartitions {
			m.unreadable(prefix+"||metadata", err)
			return nil
		}
	}
	rows, err := m.rows(ctx, h, prefix, meta)
	if err != nil {
		return err
	}
	var tracks []string
	count, left := 0, 0
	for _, row := range rows {
		keys, err := m.register(ctx, h, actorType, row)
		if err != nil {
			return err
		}
		tracks = append(tracks, keys...)
		count, left = count+len(keys), left+len(row.left)
		if row.broken {
			left++
		}
	}
	if err := m.clear(ctx, h, rows); err != nil {
		return err
	}
	if metaItem.Found && left == 0 {
		if err := m.write(ctx, h, prefix+"||metadata", stores.Operation{Delete: &stores.DeleteRequest{Key: prefix + "||metadata", ETag: metaItem.ETag}}); err != nil {
			return err
		}
	}
	// From here on nothing depends on them; what stays does not matter to anybody.
	for _, key := range tracks {
		if err := m.write(ctx, h, key, stores.Operation{Delete: &stores.DeleteRequest{Key: key}}); err != nil {
			m.options.Log.Debug("a row about a migrated reminder stays in the state store", "key", key, "error", err)
		}
	}
	if len(rows) > 0 {
		m.options.Log.Info("the reminders in the actor state store are with the scheduler now", "store", in.name, "type", actorType, "migrated", count, "left", left)
	}
	return nil
}

func (m *Migration) unreadable(key string, err error) {
	m.options.Log.Error("reminders in the actor state store cannot be read and stay there; register them anew", "key", key, "error", err)
}

// rows reads the rows that have reminders of a type.
func (m *Migration) rows(ctx context.Context, h *hold, prefix string, meta legacyMetadata) (rows []*legacyRow, err error) {
	add := func(key, partition string) error {
		item, err := m.read(ctx, h, key, partition)
		if err != nil || !item.Found {
			return err
		}
		row := &legacyRow{key: key, partition: partition, etag: item.ETag}
		if err := json.Unmarshal(item.Data, &row.reminders); err != nil {
			m.unreadable(key, err)
			row.broken, row.reminders = true, nil
		}
		rows = append(rows, row)
		return nil
	}
	if err := add(prefix, prefix); err != nil {
		return nil, err
	}
	for n := range meta.Metadata.PartitionCount {
		if err := add(prefix+"||"+meta.ID+"||reminders||"+strconv.Itoa(n+1), meta.ID); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// register registers the reminders of a row with the scheduler. It returns the keys of the rows that say how far those that are done
// with have come.
func (m *Migration) register(ctx context.Context, h *hold, actorType string, row *legacyRow) (tracks []string, err error) {
	keys := make([]string, len(row.reminders))
	errs := make([]error, len(row.reminders))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(migrationParallel, len(row.reminders)) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(row.reminders) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				keys[i], errs[i] = m.one(ctx, h, actorType, row.reminders[i])
			}
		})
	}
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i, err := range errs {
		var permanent *permanentError
		switch {
		case err == nil:
			tracks = append(tracks, keys[i])
		case errors.As(err, &permanent):
			row.left = append(row.left, row.reminders[i])
			m.options.Log.Error("a reminder in the actor state store cannot be brought to the scheduler and stays there; register it anew", "row", row.key, "reminder", keys[i], "error", err)
		default:
			return nil, fmt.Errorf("reminder %s: %w", keys[i], err)
		}
	}
	return tracks, nil
}

// permanentError says that a reminder can never be migrated.
type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// one brings one reminder to the scheduler, if it has not ended yet. It returns the key of the row that says how far it has come.
func (m *Migration) one(ctx context.Context, h *hold, actorType string, text json.RawMessage) (key string, err error) {
	var legacy legacyReminder
	if err := json.Unmarshal(text, &legacy); err != nil {
		return "", &permanentError{err}
	}
	key = nameKey{actorType, legacy.ActorID, legacy.Name}.String()
	if legacy.ActorID == "" || legacy.Name == "" {
		return key, &permanentError{errors.New("it has no actorID or no name")}
	}
	item, err := m.read(ctx, h, key, key)
	if err != nil {
		return key, err
	}
	var track *legacyTrack
	if item.Found {
		track = new(legacyTrack)
		if err := json.Unmarshal(item.Data, track); err != nil {
			return key, &permanentError{fmt.Errorf("the row about it cannot be read: %w", err)}
		}
	}
	job, err := legacy.job(track, m.options.Clock.Now())
	if err != nil {
		return key, &permanentError{err}
	}
	if job == nil {
		return key, nil
	}
	ctx, cancel := context.WithTimeout(ctx, migrationCall)
	defer cancel()
	r := m.options.Reminders
	_, err = r.options.Scheduler.Schedule(ctx, &schedulerv1.ScheduleJobRequest{
		Name: legacy.Name, Job: job, Metadata: r.metadata(actorType, legacy.ActorID),
	})
	switch status.Code(err) {
	case codes.OK, codes.AlreadyExists:
		return key, nil
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted, codes.Aborted, codes.Unauthenticated, codes.PermissionDenied:
		return key, err
	}
	if _, refused := status.FromError(err); refused {
		return key, &permanentError{err}
	}
	return key, err
}

// clear removes rows, all of a partition together. Rows with reminders that stay are written with these alone.
func (m *Migration) clear(ctx context.Context, h *hold, rows []*legacyRow) error {
	limit := 0
	if l, ok := h.in.store.(stores.TransactionLimiter); ok {
		limit = l.MaxOperations()
	}
	partitions := map[string][]stores.Operation{}
	var order []string
	for _, row := range rows {
		if row.broken {
			continue
		}
		o := stores.Operation{Delete: &stores.DeleteRequest{Key: row.key, ETag: row.etag}}
		if len(row.left) > 0 {
			if len(row.left) == len(row.reminders) {
				continue
			}
			text, err := json.Marshal(row.left)
			if err != nil {
				return err
			}
			o = stores.Operation{Set: &stores.SetRequest{Key: row.key, ETag: row.etag, Value: stores.Value{Bytes: text, JSON: true}}}
		}
		if _, known := partitions[row.partition]; !known {
			order = append(order, row.partition)
		}
		partitions[row.partition] = append(partitions[row.partition], o)
	}
	for _, partition := range order {
		operations := partitions[partition]
		for len(operations) > 0 {
			n := len(operations)
			if limit > 0 {
				n = min(n, limit)
			}
			if err := m.write(ctx, h, partition, operations[:n]...); err != nil {
				return err
			}
			operations = operations[n:]
		}
	}
	return nil
}

func (m *Migration) read(ctx context.Context, h *hold, key, partition string) (stores.Item, error) {
	item, err := m.options.State.get(ctx, h, stores.GetRequest{Key: key, Metadata: map[string]string{partitionKey: partition}})
	if err != nil {
		return item, fmt.Errorf("reading %s: %w", key, err)
	}
	item.Found = item.Found && len(item.Data) > 0
	return item, nil
}

func (m *Migration) write(ctx context.Context, h *hold, partition string, operations ...stores.Operation) error {
	err := m.options.State.transact(ctx, h, stores.TransactionRequest{Operations: operations, Metadata: map[string]string{partitionKey: partition}})
	if err != nil {
		return fmt.Errorf("writing %s: %w", operations[0].Key(), err)
	}
	return nil
}
