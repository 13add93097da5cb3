package bearer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jonboulle/clockwork"
)

const (
	// fetchTimeout bounds asking the provider (Dapr API, middleware.http.bearer).
	fetchTimeout = 30 * time.Second
	// maxDocument bounds the provider's answers, in bytes.
	maxDocument = 1 << 20
	// maxAge is how old the keys may be before they are fetched again: at most every so often.
	maxAge = 10 * time.Minute
	// unknownPause is the least time between two fetches for keys that tokens name and the provider did not have.
	unknownPause = 30 * time.Second
	// staleAge is how long keys are used while the provider does not answer.
	staleAge = 6 * time.Hour
)

// errNoKeys is a lack of keys, which is no fault of the client's.
var errNoKeys = errors.New("the keys of the provider are not available")

// keys are a provider's public keys, kept and fetched again.
type keys struct {
	url    string
	client *http.Client
	clock  clockwork.Clock
	log    *slog.Logger
	ctx    context.Context // of the fetches in the background
	stop   context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	set      []jose.JSONWebKey
	fetched  time.Time     // the last success
	tried    time.Time     // the last attempt
	fetching chan struct{} // closed at the end of the fetch that runs; nil when none does
	closed   bool
}

func newKeys(url string, client *http.Client, clock clockwork.Clock, log *slog.Logger) *keys {
	k := &keys{url: url, client: client, clock: clock, log: log}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k
}

// first fetches the keys for the first time.
func (k *keys) first(ctx context.Context) error {
	set, err := k.fetch(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set, k.fetched = set, k.clock.Now()
	k.tried = k.fetched
	return nil
}

func (k *keys) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.stop()
	k.tasks.Wait()
}

// find returns the keys that a token with the given key ID may be signed with, all if it names none. Old keys are fetched again in
// the background; for an unknown ID the caller waits for that.
func (k *keys) find(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	now := k.clock.Now()
	if now.Sub(k.fetched) >= maxAge && now.Sub(k.tried) >= unknownPause {
		k.start(now)
	}
	found := k.byID(id)
	if len(found) == 0 && (k.fetching != nil || now.Sub(k.tried) >= unknownPause) {
		running := k.start(now)
		k.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		k.mu.Lock()
		found = k.byID(id)
	}
	age := now.Sub(k.fetched)
	running := k.fetching
	k.mu.Unlock()
	if age < staleAge {
		return found, nil
	}
	// These are too old to be trusted: only fresh ones will do.
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.clock.Since(k.fetched) < staleAge {
			return k.byID(id), nil
		}
	}
	return nil, errNoKeys
}

func (k *keys) byID(id string) []jose.JSONWebKey {
	if id == "" {
		return k.set
	}
	var found []jose.JSONWebKey
	for i := range k.set {
		if k.set[i].KeyID == id {
			found = append(found, k.set[i])
		}
	}
	return found
}

// start begins a fetch in the background, unless one runs, and returns what is closed at its end. It is called with the lock held.
func (k *keys) start(now time.Time) <-chan struct{} {
	if k.fetching != nil {
		return k.fetching
	}
	done := make(chan struct{})
	if k.closed {
		close(done)
		return done
	}
	k.fetching, k.tried = done, now
	k.tasks.Go(func() {
		set, err := k.fetch(k.ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		if err == nil {
			k.set, k.fetched = set, k.clock.Now()
		} else if k.ctx.Err() == nil {
			k.log.Warn("the provider's keys could not be fetched again; those that are known stay in use for a while", "url", k.url, "error", err)
		}
		k.fetching = nil
		close(done)
	})
	return done
}

// fetch asks the provider. Keys that cannot check signatures are left out.
func (k *keys) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	// Key by key, for one of a kind that is not known must not spoil the others.
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := get(ctx, k.client, k.url, &document); err != nil {
		return nil, fmt.Errorf("failed to fetch the keys of the token issuer: %w", err)
	}
	var set []jose.JSONWebKey
	for _, raw := range document.Keys {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(raw); err == nil && key.Valid() && key.IsPublic() {
			set = append(set, key)
		}
	}
	if len(set) == 0 {
		return nil, fmt.Errorf("failed to fetch the keys of the token issuer: %s has no public keys; correct jwksURL", k.url)
	}
	return set, nil
}

// discover finds the URL of an issuer's keys (OpenID Connect Discovery 1.0, section 4).
func discover(ctx context.Context, client *http.Client, issuer string) (string, error) {
	var document struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	address := strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
	if err := get(ctx, client, address, &document); err != nil {
		return "", fmt.Errorf("failed to read the OpenID Connect configuration of the token issuer: %w", err)
	}
	if document.Issuer != issuer {
		return "", fmt.Errorf("the issuer in the OpenID Connect configuration at %s is %q, but the metadata property \"issuer\" is %q; they must be equal", address, document.Issuer, issuer)
	}
	if document.JWKSURI == "" {
		return "", fmt.Errorf("the OpenID Connect configuration at %s has no jwks_uri; set the metadata property \"jwksURL\"", address)
	}
	return document.JWKSURI, nil
}

// get reads a JSON document.
func get(ctx context.Context, client *http.Client, address string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s answered %s", address, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return fmt.Errorf("GET %s: %w", address, err)
	}
	if len(body) > maxDocument {
		return fmt.Errorf("GET %s answered with more than %d bytes", address, maxDocument)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s answered with what is not the expected JSON: %w", address, err)
	}
	return nil
}
