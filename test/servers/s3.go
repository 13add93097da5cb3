package servers

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
)

// Credentials of the S3 server's root user. They guard nothing: the server is
// on loopback and its data is thrown away.
const (
	s3AccessKey = "outrigger"
	s3SecretKey = "outrigger-secret"
	s3Region    = "us-east-1"
)

// S3Server is one server of the S3 protocol, the Versity S3 Gateway on a
// directory. Buckets are addressed by path.
type S3Server struct {
	Server
	// Endpoint is its URL.
	Endpoint string
	// AccessKey and SecretKey are the root user's; Region is what requests are signed for.
	AccessKey, SecretKey, Region string
	// TLS is what clients need under the option [TLS]; nil without it.
	TLS *Certificates

	core *s3Core
}

// S3 returns a running S3 server. Tests that share it keep apart by a [S3Server.Bucket] each.
func S3(tb testing.TB, opts ...Option) *S3Server {
	tb.Helper()
	core := acquire(tb, kindS3, opts, launchS3)
	return &S3Server{
		Server: bind(tb, core.process), Endpoint: core.scheme() + "://" + loopback(core.process.port),
		AccessKey: s3AccessKey, SecretKey: s3SecretKey, Region: s3Region, TLS: core.tls, core: core,
	}
}

// Bucket makes an empty bucket for the test alone and returns its name. It is removed when the test ends.
func (s *S3Server) Bucket() string {
	s.tb.Helper()
	name := fmt.Sprintf("test-%d", s.core.buckets.Add(1))
	dir := filepath.Join(s.core.data, name) // a directory is a bucket
	s.check(os.Mkdir(dir, 0o755))
	s.tb.Cleanup(func() { _ = os.RemoveAll(dir) }) // what stays is removed with the server's directory
	return name
}

type s3Core struct {
	process *process
	tls     *Certificates
	data    string
	buckets atomic.Int64
}

func (c *s3Core) processes() []*process { return []*process{c.process} }

func (c *s3Core) ready() error { return nil } // it answers, which is all there is

func (c *s3Core) scheme() string {
	if c.tls != nil {
		return "https"
	}
	return "http"
}

// ping takes any answer of HTTP: without a signature it is a refusal.
func (c *s3Core) ping(ctx context.Context) error {
	transport := &http.Transport{DisableKeepAlives: true}
	if c.tls != nil {
		transport.TLSClientConfig = c.tls.Client()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.scheme()+"://"+loopback(c.process.port)+"/", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func launchS3(dir string, o options) (*s3Core, error) {
	program, err := lookS3()
	if err != nil {
		return nil, err
	}
	c := &s3Core{data: filepath.Join(dir, "data")}
	sidecar, versions := filepath.Join(dir, "metadata"), filepath.Join(dir, "versions")
	for _, d := range []string{c.data, sidecar, versions} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, fmt.Errorf("servers: %w", err)
		}
	}
	port, held, err := reservePort()
	if err != nil {
		return nil, err
	}
	args := []string{"--access", s3AccessKey, "--secret", s3SecretKey, "--region", s3Region, "--port", "127.0.0.1:" + strconv.Itoa(port), "--quiet"}
	if o.tls {
		var files serverFiles
		if c.tls, files, err = makeCertificates(dir); err != nil {
			return nil, err
		}
		args = append(args, "--cert", files.cert, "--key", files.key)
	}
	for _, s := range o.settings {
		args = append(args, "--"+s.name, s.value)
	}
	// Metadata goes to files, as not every file system has room for it in attributes.
	args = append(args, "posix", "--sidecar", sidecar, "--versioning-dir", versions, c.data)
	c.process = &process{
		name: "S3", command: program, args: args, dir: dir, port: port, held: held,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: c.ping,
	}
	if err := c.process.start(); err != nil {
		c.process.discard()
		return nil, err
	}
	return c, nil
}

// lookS3 finds the program on the PATH, or where test/setup/install.sh puts it.
func lookS3() (string, error) {
	const name = "versitygw"
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	if cache, err := cacheDir(); err == nil {
		if path, err := exec.LookPath(filepath.Join(cache, "bin", name)); err == nil {
			return path, nil
		}
	}
	return "", &missingError{"an S3 server (versitygw)", "sh test/setup/install.sh, or go install github.com/versity/versitygw/cmd/versitygw@v1.8.0 with the result on the PATH"}
}
