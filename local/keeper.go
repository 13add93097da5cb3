package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
)

// Times of the keeper.
const (
	// retrySentry is how soon a Sentry that failed is tried again without anybody asking.
	retrySentry = 30 * time.Second
	// pollRequest is how often the request is read when the system cannot watch files.
	pollRequest = time.Second
	// validatorTimeout bounds reading the sources of token validators.
	validatorTimeout = 30 * time.Second
)

// keeper runs Sentry as requests want it. That Sentry fails is told, and does not end the process: the broker has nothing to do
// with it.
type keeper struct {
	dir  string
	told *state
	// identities is told where identities are from, for the other services.
	identities *trusted
	log        *slog.Logger
	watcher    *fsnotify.Watcher // nil when the system cannot watch
	cancel     context.CancelFunc
	working    sync.WaitGroup

	// What follows belongs to the goroutine of run.
	request *SentryRequest
	sentry  *runningSentry // nil when it does not run
}

// runningSentry is a Sentry that was started.
type runningSentry struct {
	cancel context.CancelFunc
	// ready gets its address once, ended its error when it is gone.
	ready chan sentry.Addresses
	ended chan error
}

// startKeeper begins to follow the requests.
func startKeeper(ctx context.Context, dir string, told *state, identities *trusted, log *slog.Logger) (*keeper, error) {
	if err := os.MkdirAll(sentryDir(dir), 0o700); err != nil {
		return nil, unusable("the directory of the local services cannot be made", err)
	}
	k := &keeper{dir: dir, told: told, identities: identities, log: log}
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		if err = watcher.Add(sentryDir(dir)); err != nil {
			_ = watcher.Close()
		} else {
			k.watcher = watcher
		}
	}
	if err != nil {
		log.Warn("the system does not watch files, so requests for Sentry are polled", "error", err)
	}
	ctx, k.cancel = context.WithCancel(ctx)
	k.working.Go(func() { k.run(ctx) })
	return k, nil
}

// stop ends Sentry and returns when it is gone.
func (k *keeper) stop() {
	k.cancel()
	k.working.Wait()
	if k.watcher != nil {
		_ = k.watcher.Close()
	}
}

func (k *keeper) run(ctx context.Context) {
	defer k.end()
	var events <-chan fsnotify.Event
	var troubles <-chan error
	var polls <-chan time.Time
	if k.watcher != nil {
		events, troubles = k.watcher.Events, k.watcher.Errors
	} else {
		ticker := time.NewTicker(pollRequest)
		defer ticker.Stop()
		polls = ticker.C
	}
	retry := time.NewTimer(retrySentry)
	retry.Stop()
	defer retry.Stop()
	for {
		if k.follow(ctx) {
			retry.Reset(retrySentry)
		}
		var ready chan sentry.Addresses
		var ended chan error
		if k.sentry != nil {
			ready, ended = k.sentry.ready, k.sentry.ended
		}
		select {
		case <-ctx.Done():
			return
		case <-events:
		case <-polls:
		case <-troubles: // some event was lost
		case at := <-ready:
			k.sentry.ready = nil
			k.identities.set(trust{sentry: at.GRPC.String(), anchors: anchorsOf(k.request)})
			k.tell(func(s *Sentry) { s.Ready, s.Error = true, "" })
			k.log.Info("the local Sentry is ready", "address", at.GRPC.String(), "credentials", k.request.Credentials)
		case err := <-ended:
			if ctx.Err() != nil {
				k.sentry = nil
				return
			}
			if err == nil {
				err = errors.New("it ended")
			}
			k.failed(err)
			retry.Reset(retrySentry)
		case <-retry.C:
			if k.sentry == nil {
				k.request = nil // as if it had just been asked for
			}
		}
	}
}

// follow makes Sentry what the present request wants. True means that it failed.
func (k *keeper) follow(ctx context.Context) (failed bool) {
	wanted, err := readRequest(k.dir)
	if err != nil {
		k.log.Error("the request for Sentry cannot be read", "error", err)
		return true
	}
	if wanted == nil || k.request != nil && k.request.At == wanted.At {
		return false
	}
	if k.sentry != nil && k.request != nil && k.request.same(wanted) {
		k.request = wanted
		k.tell(func(s *Sentry) { s.Request = *wanted })
		return false
	}
	k.end()
	k.request = wanted
	if err := k.start(ctx); err != nil {
		k.failed(err)
		return true
	}
	return false
}

// start starts Sentry for the present request.
func (k *keeper) start(ctx context.Context) error {
	r := k.request
	port, err := reserveOther(k.dir, 0, func(p *ports) *int { return &p.Sentry })
	if err != nil {
		return err
	}
	k.told.set(&Sentry{Request: *r, Port: port}, k.log)
	log := k.log.With("service", "sentry")
	o := sentry.Options{
		Settings: r.Authority(), Store: &ca.Files{Directory: r.Credentials}, Validators: map[validator.Name]validator.Validator{},
		ListenAddress: "127.0.0.1", Port: port, HealthzListenAddress: "127.0.0.1", Log: log,
	}
	if err := r.validators(ctx, &o, log); err != nil {
		return err
	}
	s := &runningSentry{ready: make(chan sentry.Addresses, 1), ended: make(chan error, 1)}
	ready := s.ready
	o.Started = func(at sentry.Addresses) {
		release(port)
		ready <- at
	}
	ctx, s.cancel = context.WithCancel(ctx)
	k.working.Go(func() { s.ended <- sentry.Run(ctx, o) })
	k.sentry = s
	return nil
}

// validators decides who gets a certificate.
func (r *SentryRequest) validators(ctx context.Context, o *sentry.Options, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, validatorTimeout)
	defer cancel()
	configured, err := validator.Configured(r.TokenValidators)
	if err != nil {
		return err
	}
	if len(configured) == 0 {
		o.Validators[sentryv1.SignCertificateRequest_INSECURE] = validator.Insecure{}
		o.DefaultValidator = sentryv1.SignCertificateRequest_INSECURE
		return nil
	}
	for _, jo := range configured {
		jo.Audience, jo.Log = o.Settings.SentryID(), log
		v, err := validator.NewJWKS(ctx, jo)
		if err != nil {
			return err
		}
		o.Validators[sentryv1.SignCertificateRequest_JWKS] = v
	}
	return nil
}

// end ends Sentry, if it runs, and returns when it is gone.
func (k *keeper) end() {
	if k.sentry == nil {
		return
	}
	k.sentry.cancel()
	<-k.sentry.ended
	k.sentry = nil
}

// failed tells that Sentry does not run.
func (k *keeper) failed(err error) {
	if k.sentry != nil {
		k.sentry.cancel()
		k.sentry = nil
	}
	k.log.Error("the local Sentry failed", "error", err)
	k.told.set(&Sentry{Request: *k.request, Error: fmt.Sprint(err)}, k.log)
}

// tell changes what is told of Sentry.
func (k *keeper) tell(change func(*Sentry)) {
	told := Sentry{}
	if present := k.told.present().Sentry; present != nil {
		told = *present
	}
	change(&told)
	k.told.set(&told, k.log)
}

// set replaces what is told of Sentry, which is never changed in place: others may be reading it.
func (s *state) set(told *Sentry, log *slog.Logger) {
	if err := s.change(func(p *Process) { p.Sentry = told }); err != nil {
		log.Error("the state of Sentry cannot be told", "error", err)
	}
}
