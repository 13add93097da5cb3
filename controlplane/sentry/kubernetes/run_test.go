package kubernetes

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
)

// TestSentryOnKubernetes runs the whole service on a cluster, and asks for a certificate as a sidecar does.
func TestSentryOnKubernetes(t *testing.T) {
	c := newCluster(append(bundles(), pod("prod", "shop-1", "shop-sa", map[string]string{annotationAppID: "shop"}))...)
	c.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "system:serviceaccount:prod:shop-sa"}}
		return true, review, nil
	})
	clients := &Clients{Core: c, Dynamic: dynamicOf()}
	v, err := NewValidator(ValidatorOptions{Clients: clients, TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), Namespace: controlPlane, SentryID: sentryID})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	started, done := make(chan sentry.Addresses, 1), make(chan error, 1)
	go func() {
		done <- sentry.Run(ctx, sentry.Options{
			Settings: ca.Settings{TrustDomain: "cluster.local", Namespace: controlPlane, ClockSkew: time.Minute, SelfRenewing: true},
			Store:    &Store{Clients: clients, Namespace: controlPlane}, Started: func(a sentry.Addresses) { started <- a },
			Validators:       map[validator.Name]validator.Validator{sentryv1.SignCertificateRequest_KUBERNETES: v},
			DefaultValidator: sentryv1.SignCertificateRequest_KUBERNETES,
			ListenAddress:    "127.0.0.1", HealthzListenAddress: "127.0.0.1",
		})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var addresses sentry.Addresses
	select {
	case addresses = <-started:
	case <-time.After(20 * time.Second):
		t.Fatal("Sentry does not start")
	}
	resp, err := http.Get(fmt.Sprintf("http://%s/healthz", addresses.Healthz))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}

	// A sidecar has the roots of the ConfigMap.
	block, _ := pem.Decode([]byte(c.published(t)[ca.AnchorsName]))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	bundle := x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("cluster.local"), []*x509.Certificate{root})
	conn, err := grpc.NewClient(addresses.GRPC.String(), grpc.WithTransportCredentials(credentials.NewTLS(
		tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(spiffeid.RequireFromString(sentryID))))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := &sentryv1.SignCertificateRequest{
		Id: "shop", Namespace: "prod", Token: token(t, "shop-1", ""),
		CertificateSigningRequest: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
	}
	client := sentryv1.NewCAClient(conn)
	reply, err := client.SignCertificate(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(reply.GetWorkloadCertificate())
	if leaf, err := x509.ParseCertificate(block.Bytes); err != nil || leaf.URIs[0].String() != "spiffe://public/ns/prod/shop" {
		t.Errorf("%v %v", leaf, err)
	}
	request.Id = "bank"
	if _, err := client.SignCertificate(t.Context(), request); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another app: %v", err)
	}
	request.TokenValidator = sentryv1.SignCertificateRequest_INSECURE
	if _, err := client.SignCertificate(t.Context(), request); status.Code(err) != codes.InvalidArgument {
		t.Errorf("the validator insecure on Kubernetes: %v", err)
	}
}
