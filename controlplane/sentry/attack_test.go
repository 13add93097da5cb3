package sentry

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry/validator"
)

func fastLimits(o *Options) {
	o.Limits = Limits{Handshake: 300 * time.Millisecond, Request: 500 * time.Millisecond, Idle: 500 * time.Millisecond}
}

// closed fails unless the other end closes the connection in time.
func closed(t *testing.T, conn net.Conn, within time.Duration) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, conn)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Errorf("the connection is still open after %s", within)
	}
}

func TestSlowHandshakes(t *testing.T) {
	t.Parallel()
	r := run(t, fastLimits)
	t.Run("silence", func(t *testing.T) {
		conn, err := net.Dial("tcp", r.addresses.GRPC.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		closed(t, conn, 10*time.Second)
	})
	t.Run("drip", func(t *testing.T) {
		conn, err := net.Dial("tcp", r.addresses.GRPC.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() { // ends with the connection
			for _, b := range []byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc} {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
		closed(t, conn, 10*time.Second)
	})
	t.Run("TLS without HTTP/2", func(t *testing.T) {
		config := r.tlsConfig(r.anchors())
		config.NextProtos = []string{"h2"}
		conn, err := tls.Dial("tcp", r.addresses.GRPC.String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		closed(t, conn, 10*time.Second)
	})
	if _, err := r.client().SignCertificate(t.Context(), request(t)); err != nil {
		t.Errorf("somebody else in the meantime: %v", err)
	}
}

// TestSlowRequest sends the message of a request byte by byte, and never all of it.
func TestSlowRequest(t *testing.T) {
	t.Parallel()
	r := run(t, fastLimits)
	config := r.tlsConfig(r.anchors())
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", r.addresses.GRPC.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"},
		{":scheme", "https"},
		{":path", sentryv1.CA_SignCertificate_FullMethodName},
		{":authority", "sentry"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		if err := encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	prefix := make([]byte, 5)
	binary.BigEndian.PutUint32(prefix[1:], 1000)
	if err := framer.WriteData(1, false, prefix); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	dripped := make(chan struct{})
	go func() {
		defer close(dripped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				if framer.WriteData(1, false, []byte{0}) != nil {
					return
				}
			}
		}
	}()
	defer func() { close(stop); conn.Close(); <-dripped }()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	reader := http2.NewFramer(io.Discard, conn)
	for {
		frame, err := reader.ReadFrame()
		if err != nil {
			t.Fatalf("no end of the request: %v", err)
		}
		switch f := frame.(type) {
		case *http2.RSTStreamFrame:
			return
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				return
			}
		}
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	r := run(t, fastLimits)
	config := r.tlsConfig(r.anchors())
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", r.addresses.GRPC.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := http2.NewFramer(conn, conn).WriteSettings(); err != nil {
		t.Fatal(err)
	}
	closed(t, conn, 15*time.Second)
}

func TestOldTLSIsRefused(t *testing.T) {
	r := run(t, nil)
	conn, err := tls.Dial("tcp", r.addresses.GRPC.String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.1 is accepted")
	}
}

// faulty is a validator with a defect.
type faulty struct{}

func (faulty) Validate(context.Context, *sentryv1.SignCertificateRequest) (spiffeid.TrustDomain, error) {
	panic("a defect")
}

func TestPanicEndsTheRequestAlone(t *testing.T) {
	r := run(t, func(o *Options) {
		o.Validators = map[validator.Name]validator.Validator{
			sentryv1.SignCertificateRequest_INSECURE: validator.Insecure{}, sentryv1.SignCertificateRequest_JWKS: faulty{},
		}
	})
	client := r.client()
	bad := request(t)
	bad.TokenValidator = sentryv1.SignCertificateRequest_JWKS
	if _, err := client.SignCertificate(t.Context(), bad); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "defect") {
		t.Errorf("error %v", err)
	}
	if _, err := client.SignCertificate(t.Context(), request(t)); err != nil {
		t.Errorf("the next request: %v", err)
	}
	if r.log.Count("a defect") == 0 {
		t.Error("the panic is not in the log")
	}
}

func FuzzCertificateRequest(f *testing.F) {
	f.Add(csr(f, edKey(f)))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a"}}, edKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, document []byte) {
		parsed, err := parseRequest(document)
		if err == nil && parsed.CheckSignature() != nil {
			t.Error("accepted without a valid signature")
		}
	})
}

func TestHTTPServersAreBounded(t *testing.T) {
	t.Parallel()
	r := run(t, nil)
	for name, at := range map[string]net.Addr{"healthz": r.addresses.Healthz, "metrics": r.addresses.Metrics} {
		t.Run(name+", slow header", func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: a\r\nX: "); err != nil {
				t.Fatal(err)
			}
			closed(t, conn, 15*time.Second)
		})
		t.Run(name+", large header", func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// The server may hang up before it is all written.
			_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(io.LimitReader(conn, 1<<10))
			if len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 431") {
				t.Errorf("the answer is %q", answer)
			}
		})
	}
}
