// Package state is the contract of state store components (Dapr API, state management).
//
// A store implements [Store]; what else it can do it shows by the small interfaces below, which the state block discovers
// by type assertion. Keys arrive as they are to be stored: prefixing and encryption happen above.
package state

import (
	"context"
	"errors"
	"fmt"

	"outrigger.dev/components"
)

// Store is what every state store does. Its methods are safe for concurrent use.
type Store interface {
	// Get returns the item under the key. A missing or expired one is the zero Item and no error.
	Get(ctx context.Context, req GetRequest) (Item, error)
	// Set writes one item. A concurrency conflict is an [*ETagError].
	Set(ctx context.Context, req SetRequest) error
	// Delete removes one item; a missing one is no error unless an etag was given.
	Delete(ctx context.Context, req DeleteRequest) error
	// Close releases the store. No other method is running or is called again.
	Close() error
}

// ETagStore marks stores that keep versions of items and honour etags and first-write concurrency.
type ETagStore interface {
	Store
	// ETags reports whether this instance does.
	ETags() bool
}

// TTLStore marks stores whose items can expire.
type TTLStore interface {
	Store
	// TTL reports whether this instance supports it.
	TTL() bool
}

// BulkGetter is a store that reads many keys in one exchange. The result holds every requested key once, in any order.
type BulkGetter interface {
	BulkGet(ctx context.Context, reqs []GetRequest) ([]BulkItem, error)
}

// Transactor is a store that applies several operations as one.
type Transactor interface {
	Transact(ctx context.Context, req TransactionRequest) error
}

// TransactionLimiter is a Transactor that takes a limited number of operations.
type TransactionLimiter interface {
	// MaxOperations is the limit; 0 or less means none.
	MaxOperations() int
}

// Querier is a store that answers queries on the values (Dapr API, state query, alpha).
type Querier interface {
	// Queries reports whether this instance can, for some need an extension of their server.
	Queries() bool
	Query(ctx context.Context, q Query, metadata map[string]string) (QueryResult, error)
}

// KeysLister is a store that lists keys by an SQL LIKE pattern (%, _ and backslash escape) against the full stored key, in
// order of insertion or of key, without expired ones.
type KeysLister interface {
	// KeysLike returns at most limit keys (0: all) after the opaque token, and the token of the next page, "" at the end.
	KeysLike(ctx context.Context, pattern, token string, limit int) (keys []string, next string, err error)
}

// PrefixDeleter is a store that deletes all keys directly below a prefix: "||" is appended to the prefix when missing, and
// keys with a further "||" behind it stay.
type PrefixDeleter interface {
	DeleteWithPrefix(ctx context.Context, prefix string) (deleted int64, err error)
}

// Value is what an item holds: JSON text, or bytes of any kind, which stores may have to lay out differently.
type Value struct {
	// Bytes are the value; for JSON compact text with sorted object keys, and without HTML escaping.
	Bytes []byte
	// JSON tells which of both it is.
	JSON bool
}

// Concurrency is the rule for a write without an etag (Dapr API, state: concurrency).
type Concurrency string

// Consistency is the guarantee asked of a read or write (Dapr API, state: consistency).
type Consistency string

// The known options; the empty text is the store's default.
const (
	FirstWrite Concurrency = "first-write"
	LastWrite  Concurrency = "last-write"
	Eventual   Consistency = "eventual"
	Strong     Consistency = "strong"
)

// Options are the concurrency and consistency of a write.
type Options struct {
	Concurrency Concurrency
	Consistency Consistency
}

// Validate refuses unknown options with the messages of the Dapr API. Stores that honour options call it first.
func (o Options) Validate() error {
	switch o.Concurrency {
	case "", FirstWrite, LastWrite:
	default:
		return fmt.Errorf("unrecognized concurrency model '%s'", o.Concurrency)
	}
	switch o.Consistency {
	case "", Eventual, Strong:
	default:
		return fmt.Errorf("unrecognized consistency model '%s'", o.Consistency)
	}
	return nil
}

// GetRequest asks for one item.
type GetRequest struct {
	Key         string
	Metadata    map[string]string
	Consistency Consistency
}

// Item is a stored item.
type Item struct {
	// Found is false for a missing or expired item; all else is then empty.
	Found bool
	// Data are the value's bytes as the application wrote them: raw bytes, or JSON text.
	Data []byte
	// ETag is the version; HasETag is false for stores, or layouts, without one.
	ETag    string
	HasETag bool
	// Metadata is told to the application, e.g. ttlExpireTime; see [MetadataTTLExpireTime].
	Metadata map[string]string
}

// BulkItem is the result for one key of a bulk read: an item, or what went wrong with it.
type BulkItem struct {
	Key string
	Item
	Err error
}

// SetRequest writes one item.
type SetRequest struct {
	Key   string
	Value Value
	// ETag, when not empty, must equal the stored version.
	ETag     string
	Metadata map[string]string
	Options  Options
}

// FirstWrite reports whether the item must not exist yet: that concurrency was asked for and there is no etag, which would
// win over it.
func (r SetRequest) FirstWrite() bool { return r.ETag == "" && r.Options.Concurrency == FirstWrite }

// DeleteRequest removes one item.
type DeleteRequest struct {
	Key string
	// ETag, when not empty, must equal the stored version.
	ETag     string
	Metadata map[string]string
	Options  Options
}

// Operation is one step of a transaction: exactly one of its fields is set.
type Operation struct {
	Set    *SetRequest
	Delete *DeleteRequest
}

// Key is the key the operation works on.
func (o Operation) Key() string {
	if o.Set != nil {
		return o.Set.Key
	}
	return o.Delete.Key
}

// TransactionRequest is a list of operations that succeed or fail together, and metadata of the whole.
type TransactionRequest struct {
	Operations []Operation
	Metadata   map[string]string
}

// ETagError says that an item was not written or deleted because of the given etag.
type ETagError struct {
	// Invalid etags cannot be versions of the store at all; the others do not match the stored one.
	Invalid bool
	Err     error
}

// Mismatch is the error for an etag that is not the stored one (or an item that exists on first-write). err may be nil.
func Mismatch(err error) error { return &ETagError{Err: err} }

// Invalid is the error for an etag that cannot be parsed. err may be nil.
func Invalid(err error) error { return &ETagError{Invalid: true, Err: err} }

func (e *ETagError) Error() string {
	text := "possible etag mismatch. error from state store"
	if e.Invalid {
		text = "invalid etag value"
	}
	if e.Err == nil {
		return text
	}
	return text + ": " + e.Err.Error()
}

func (e *ETagError) Unwrap() error { return e.Err }

// AsETagError returns the first ETagError in err's tree.
func AsETagError(err error) (*ETagError, bool) {
	var e *ETagError
	ok := errors.As(err, &e)
	return e, ok
}

// Register adds a state store type to r.
func Register[O any](r *components.Registry, info components.Info, open func(ctx context.Context, inst components.Instance, options O) (Store, error)) {
	components.Register(r, components.State, info, open)
}

// Capabilities are the feature names that the metadata API lists for a store. ACTOR stands
// for a store that can hold actor state.
func Capabilities(s Store) []string {
	var names []string
	etag := false
	if e, ok := s.(ETagStore); ok && e.ETags() {
		etag = true
		names = append(names, "ETAG")
	}
	_, transactional := s.(Transactor)
	if transactional {
		names = append(names, "TRANSACTIONAL")
	}
	if t, ok := s.(TTLStore); ok && t.TTL() {
		names = append(names, "TTL")
	}
	if _, ok := s.(PrefixDeleter); ok {
		names = append(names, "DELETE_WITH_PREFIX")
	}
	if q, ok := s.(Querier); ok && q.Queries() {
		names = append(names, "QUERY_API")
	}
	if _, ok := s.(KeysLister); ok {
		names = append(names, "KEYS_LIKE")
	}
	if etag && transactional {
		names = append(names, "ACTOR")
	}
	return names
}
