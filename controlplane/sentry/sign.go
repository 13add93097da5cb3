package sentry

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/jonboulle/clockwork"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
)

// signer is the gRPC service CA.
type signer struct {
	sentryv1.UnimplementedCAServer

	authority        func() *ca.Authority
	validators       map[validator.Name]validator.Validator
	defaultValidator validator.Name
	trustDomain      string
	namespace        string
	clusterDomain    string
	maxAudiences     int
	clock            clockwork.Clock
	metrics          *metrics
	log              *slog.Logger
}

// SignCertificate implements the service (Dapr API, Sentry: SignCertificate, processing order and errors).
func (s *signer) SignCertificate(ctx context.Context, r *sentryv1.SignCertificateRequest) (*sentryv1.SignCertificateResponse, error) {
	s.metrics.received.Inc()
	reply, err := s.sign(ctx, r)
	if err != nil {
		s.metrics.signFailed.Inc()
		s.log.Error("Refused a certificate", "id", bounded(r.GetId()), "namespace", bounded(r.GetNamespace()), "error", status.Convert(err).Message())
		return nil, err
	}
	s.metrics.signed.Inc()
	return reply, nil
}

// bounded is a text of a client as it is logged.
func bounded(text string) string {
	if len(text) > 128 {
		return text[:128] + "..."
	}
	return text
}

func (s *signer) sign(ctx context.Context, r *sentryv1.SignCertificateRequest) (*sentryv1.SignCertificateResponse, error) {
	id, err := s.validate(ctx, r)
	if err != nil {
		return nil, err
	}
	csr, err := parseRequest(r.GetCertificateSigningRequest())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	authority, now := s.authority(), s.clock.Now()
	leaf, err := authority.Sign(ca.Workload{ID: id, PublicKey: csr.PublicKey, DNSNames: s.dnsNames(id, r)}, now)
	if err != nil {
		s.log.Error("Signing failed", "id", id.String(), "error", err)
		return nil, status.Error(codes.Internal, "failed to sign certificate")
	}
	reply := &sentryv1.SignCertificateResponse{
		WorkloadCertificate: authority.EncodeChain(leaf),
		// All roots: a sidecar that reads them knows the next one before it signs.
		TrustChainCertificates: [][]byte{authority.TrustAnchors()},
		ValidUntil:             timestamppb.New(leaf.NotAfter),
	}
	if authority.JWKS() == nil {
		return reply, nil
	}
	audiences := []string{id.TrustDomain().Name()}
	for _, a := range r.GetJwtAudiences() {
		if a != "" && !slices.Contains(audiences, a) {
			audiences = append(audiences, a)
		}
	}
	token, err := authority.JWT(id.String(), audiences, now)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "failed to generate JWT: %v", err)
	}
	reply.Jwt = wrapperspb.String(token)
	reply.PerAudienceJwts = make(map[string]*wrapperspb.StringValue, len(audiences))
	for _, a := range audiences {
		token, err := authority.JWT(id.String(), []string{a}, now)
		if err != nil {
			return nil, status.Errorf(codes.Internal, "failed to generate JWT for audience %s: %v", a, err)
		}
		reply.PerAudienceJwts[a] = wrapperspb.String(token)
	}
	return reply, nil
}

// validate finds out which identity may be given.
func (s *signer) validate(ctx context.Context, r *sentryv1.SignCertificateRequest) (id spiffeid.ID, err error) {
	name := r.GetTokenValidator()
	if name == sentryv1.SignCertificateRequest_UNKNOWN {
		name = s.defaultValidator
	}
	if name == sentryv1.SignCertificateRequest_UNKNOWN {
		return id, status.Error(codes.InvalidArgument, "a validator name must be specified in this environment")
	}
	v, ok := s.validators[name]
	if !ok {
		return id, status.Error(codes.InvalidArgument, "the requested validator is not enabled")
	}
	if n := len(r.GetJwtAudiences()); n > s.maxAudiences {
		return id, status.Errorf(codes.InvalidArgument, "the request has %d JWT audiences: at most %d are allowed", n, s.maxAudiences)
	}
	if err := validator.Check(r); err != nil {
		return id, status.Error(codes.PermissionDenied, err.Error())
	}
	td, err := v.Validate(ctx, r)
	if err == nil {
		id, err = spiffeid.FromSegments(td, "ns", r.GetNamespace(), r.GetId())
	}
	if err != nil {
		return id, status.Error(codes.PermissionDenied, err.Error())
	}
	return id, nil
}

// parseRequest reads a certificate signing request and checks that its maker has the key. The texts of its errors are Dapr's.
func parseRequest(document []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(document)
	// Old clients write the block type of a certificate.
	if block == nil || (block.Type != "CERTIFICATE REQUEST" && block.Type != "CERTIFICATE") {
		return nil, errors.New("invalid certificate signing request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		// Before the signature, whose cost depends on the key.
		err = ca.CheckPublicKey(csr.PublicKey)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to parse certificate signing request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errors.New("invalid signature")
	}
	return csr, nil
}

// dnsNames are the names under which the control plane's own services are also reached.
func (s *signer) dnsNames(id spiffeid.ID, r *sentryv1.SignCertificateRequest) []string {
	ns := r.GetNamespace()
	if ns != s.namespace || id.TrustDomain().Name() != s.trustDomain {
		return nil
	}
	switch r.GetId() {
	case "dapr-injector":
		return []string{"dapr-sidecar-injector." + ns + ".svc"}
	case "dapr-operator":
		return []string{"dapr-webhook." + ns + ".svc"}
	case "dapr-scheduler":
		names := make([]string, 3)
		for i := range names {
			names[i] = fmt.Sprintf("dapr-scheduler-server-%d.dapr-scheduler-server.%s.svc.%s", i, ns, s.clusterDomain)
		}
		return names
	}
	return nil
}
