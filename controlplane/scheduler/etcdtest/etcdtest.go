// Package etcdtest runs etcd inside of a test.
package etcdtest

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// startTimeout bounds the start of a server.
const startTimeout = 30 * time.Second

// Server is an etcd server of a test.
type Server struct {
	t      testing.TB
	dir    string
	etcd   *embed.Etcd
	client *clientv3.Client
}

// Start runs a server with an empty store until the test ends. It listens on Unix sockets only.
func Start(t testing.TB) *Server {
	t.Helper()
	// The folder of the test is too long for the path of a socket.
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir}
	t.Cleanup(func() {
		s.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("the folder of etcd stays behind: %v", err)
		}
	})
	s.Restart()
	return s
}

// Stop ends the server. The store remains for Restart.
func (s *Server) Stop() {
	if s.etcd == nil {
		return
	}
	_ = s.client.Close()
	s.etcd.Close()
	s.etcd, s.client = nil, nil
}

// Restart runs a stopped server again on its store.
func (s *Server) Restart() {
	s.t.Helper()
	config := embed.NewConfig()
	config.Dir = filepath.Join(s.dir, "data")
	client := url.URL{Scheme: "unix", Path: filepath.Join(s.dir, "client")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(s.dir, "peer")}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.InitialElectionTickAdvance = true
	config.TickMs, config.ElectionMs = 10, 50
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		s.t.Fatalf("etcd did not start: %v", err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case <-time.After(startTimeout):
		etcd.Close()
		s.t.Fatalf("etcd was not ready in %s", startTimeout)
	}
	s.etcd, s.client = etcd, v3client.New(etcd.Server)
}

// Client speaks to the server by function calls. It is of no use after Stop.
func (s *Server) Client() *clientv3.Client { return s.client }

// Dial makes a client that speaks to the server over its socket, as to any other etcd, and is closed when the test ends.
func (s *Server) Dial() *clientv3.Client {
	s.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.etcd.Clients[0].Addr().Network() + "://" + s.etcd.Clients[0].Addr().String()}, DialTimeout: startTimeout, Logger: zap.NewNop()})
	if err != nil {
		s.t.Fatalf("no client of etcd: %v", err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}
