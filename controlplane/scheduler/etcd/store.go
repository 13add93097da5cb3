// Package etcd is where the scheduler keeps its jobs: an etcd server in the process itself, spoken to by function calls, or one that others
// run (Dapr API, scheduler: embedded etcd).
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jonboulle/clockwork"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Store is an open etcd.
type Store struct {
	o      Options
	client *clientv3.Client
	// server is nil for an external etcd.
	server   *embed.Etcd
	identity *identityFiles

	closing   atomic.Bool
	closeOnce sync.Once
	closed    error

	// failed ends when the store is of no use any more; its cause says why. fail ends it.
	failed context.Context
	fail   context.CancelCauseFunc
}

// Open starts the embedded server, or makes the client of an external one. It does not wait for either: see [Store.Ready]. The store is to be
// closed. The error names the setting that is wrong or what could not be used, such as a port.
func Open(o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Store{o: o}
	s.failed, s.fail = context.WithCancelCause(context.Background())
	if o.External != nil {
		return s, s.connect()
	}
	return s, s.embed()
}

// Milliseconds between ticks, and until an election begins, of a member that is alone.
const (
	singleTick     = 20
	singleElection = 100
)

// dialTimeout bounds connecting to an external etcd, and a question whether it is there.
const dialTimeout = 5 * time.Second

func (s *Store) connect() (err error) {
	x := s.o.External
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints: x.Endpoints, Username: x.Username, Password: x.Password,
		DialTimeout: dialTimeout, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize: math.MaxInt32, MaxCallRecvMsgSize: math.MaxInt32,
		Logger: s.zap(),
	})
	if err != nil {
		return fmt.Errorf("the etcd at %q of --etcd-client-endpoints cannot be used: %w", x.Endpoints, err)
	}
	return nil
}

func (s *Store) embed() (err error) {
	e := s.o.Embedded
	advertised, listen, err := e.peers()
	if err != nil {
		return err
	}
	dir := e.directory()
	if err := prepare(e.DataDir, dir, s.o.Log); err != nil {
		return err
	}
	c := embed.NewConfig()
	c.Name, c.Dir, c.InitialCluster = e.ID, dir, e.InitialCluster
	c.AdvertisePeerUrls, c.ListenPeerUrls = advertised, listen
	c.ListenClientUrls = append(c.ListenClientUrls[:0], e.clientURL())
	c.AdvertiseClientUrls = append(c.AdvertiseClientUrls[:0], e.clientURL())
	c.QuotaBackendBytes = e.SpaceQuota
	c.AutoCompactionMode, c.AutoCompactionRetention = e.CompactionMode, e.CompactionRetention
	c.SnapshotCount, c.MaxSnapFiles, c.MaxWalFiles = e.SnapshotCount, e.MaxSnapshots, e.MaxWALs
	c.BackendBatchLimit, c.BackendBatchInterval = e.BackendBatchLimit, e.BackendBatchInterval
	c.MaxTxnOps, c.MaxRequestBytes = max(e.MaxTxnOps, leastTxnOps), maxRequestBytes
	c.BootstrapDefragThresholdMegabytes = e.DefragThresholdMegabytes
	c.InitialElectionTickAdvance, c.Metrics = e.InitialElectionTickAdvance, e.Metrics
	if _, count := e.members(); count == 1 {
		// Nobody else votes, so that there is nothing to wait for.
		c.TickMs, c.ElectionMs = singleTick, singleElection
	}
	// The gateway would let any web page that is open on the machine read and write jobs.
	c.EnableGRPCGateway = false
	// A commit of the log on a slow disk is no news.
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = time.Second, time.Second
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(s.zap())
	if e.Source != nil {
		if s.identity, err = newIdentityFiles(e.IdentityDir, e.Source); err != nil {
			return err
		}
		s.identity.configure(&c.PeerTLSInfo, e.allowedPeers())
		for _, u := range advertised {
			if u.Scheme != "https" {
				s.o.Log.Warn(fmt.Sprintf("The peer URL %s of --etcd-initial-cluster has no TLS, although mTLS is on: anybody who reaches it can change jobs; write https", u.String()))
			}
		}
	}
	if s.server, err = embed.StartEtcd(c); err != nil {
		s.server = nil
		remedy := ""
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			remedy = "; stop what holds the port, or choose another by --etcd-initial-cluster or --etcd-client-port"
		case strings.Contains(err.Error(), "already been bootstrapped"):
			remedy = "; the data of this member are lost while the others have theirs: remove and add the member by etcdctl, or restore its --etcd-data-dir"
		}
		return fmt.Errorf("the embedded etcd in %q did not start: %w%s", dir, err, remedy)
	}
	s.client = v3client.New(s.server.Server)
	return nil
}

// Client speaks to the etcd. For the embedded one this is by function calls, without the network. It is to be used after [Store.Ready].
func (s *Store) Client() *clientv3.Client { return s.client }

// ClientAddress is where the embedded server serves other clients; empty for an external etcd.
func (s *Store) ClientAddress() string {
	if s.server == nil || len(s.server.Clients) == 0 {
		return ""
	}
	return s.server.Clients[0].Addr().String()
}

// Ready waits until etcd can be used: the embedded server has joined its cluster, the external one answers. The error is that of the context,
// or why it will never be ready.
func (s *Store) Ready(ctx context.Context) error {
	if s.server != nil {
		select {
		case <-s.server.Server.ReadyNotify():
			return nil
		case <-s.server.Server.StopNotify():
			return errors.Join(errors.New("the embedded etcd stopped before it was ready"), context.Cause(s.failed))
		case <-s.failed.Done():
			return context.Cause(s.failed)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for warned := false; ; {
		call, cancel := context.WithTimeout(ctx, dialTimeout)
		_, err := s.client.Get(call, "dapr/leadership/", clientv3.WithCountOnly())
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !warned {
			warned = true
			s.o.Log.Warn(fmt.Sprintf("The etcd at %q does not answer: %s; the scheduler waits for it. See --etcd-client-endpoints", s.o.External.Endpoints, err))
		}
		select {
		case <-s.o.Clock.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run defragments the embedded server and renews its identity until the context ends, which is no error. An error says why the server is not
// of use any more. For an external etcd there is nothing to do.
func (s *Store) Run(ctx context.Context) error {
	if s.server == nil {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { s.defragment(ctx) })
	if s.identity != nil {
		wg.Go(func() { s.renew(ctx) })
	}
	select {
	case <-ctx.Done():
		return nil
	case <-s.failed.Done():
		return context.Cause(s.failed)
	case <-s.server.Server.StopNotify():
		if ctx.Err() != nil {
			return nil
		}
		return errors.Join(errors.New("the embedded etcd stopped; its log says why"), context.Cause(s.failed))
	case err := <-s.server.Err():
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("the embedded etcd does not serve any more: %w", err)
	}
}

// closeTimeout bounds the end of the embedded server. A server that had failed may never come to it.
const closeTimeout = 10 * time.Second

// Close ends the client and the embedded server. Closing twice does no harm.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.closed = s.close()
		s.fail(errors.New("the etcd was closed"))
	})
	return s.closed
}

func (s *Store) close() error {
	s.closing.Store(true)
	if s.client != nil {
		s.client.Close()
	}
	if s.server == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-s.server.Server.ReadyNotify():
		default:
			// Its listeners wait until it is ready, and do not end before it does.
			s.server.Server.HardStop()
		}
		s.server.Close()
	}()
	select {
	case <-done:
		return nil
	case <-time.After(closeTimeout):
		return fmt.Errorf("the embedded etcd did not end within %s", closeTimeout)
	}
}

// zap is the log for etcd.
func (s *Store) zap() *zap.Logger { return newZap(s.o.Log, &s.closing, s.fail) }
