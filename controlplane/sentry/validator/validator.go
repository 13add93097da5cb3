// Package validator decides whether somebody who asks for a certificate is who they say (Dapr API, Sentry: validators).
package validator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
)

// Name names a validator on the wire.
type Name = sentryv1.SignCertificateRequest_TokenValidator

// Validator decides about requests. It is safe for concurrent use.
type Validator interface {
	// Validate returns the trust domain of the identity that is asked for. The error says what does not hold; the caller gets its text.
	// The request has passed [Check].
	Validate(ctx context.Context, r *sentryv1.SignCertificateRequest) (spiffeid.TrustDomain, error)
}

// Runner is a validator that does something in the background.
type Runner interface {
	Validator
	// HealthTarget is the name of its part in the readiness of the process.
	HealthTarget() string
	// Run works until the context ends, and calls ready when requests can be decided about. An error ends the process.
	Run(ctx context.Context, ready func()) error
}

// DefaultTrustDomain is that of apps whose trust domain nobody has set (Dapr API, access control: trust domain).
const DefaultTrustDomain = "public"

// MaxAppID is the longest app id, in characters.
const MaxAppID = 64

// Check checks what has to hold of every request (Dapr API, Sentry: common request validation). All that does not is in the error.
func Check(r *sentryv1.SignCertificateRequest) error {
	var errs []error
	id := r.GetId()
	if id == "" {
		errs = append(errs, errors.New("parameter app-id cannot be empty"))
	}
	if strings.Contains(id, ".") {
		errs = append(errs, errors.New("parameter app-id cannot contain dots"))
	}
	if len(id) > MaxAppID {
		errs = append(errs, errors.New("app ID must be 64 characters or less"))
	}
	if len(r.GetCertificateSigningRequest()) == 0 {
		errs = append(errs, errors.New("CSR is required"))
	}
	if r.GetNamespace() == "" {
		errs = append(errs, errors.New("namespace is required"))
	}
	if len(errs) == 0 {
		// What is left of a name that cannot stand in a SPIFFE ID: a slash in it would make it another identity.
		if err := spiffeid.ValidatePathSegment(id); err != nil {
			errs = append(errs, fmt.Errorf("app-id %q cannot be part of a SPIFFE ID: %w", id, err))
		}
		if err := spiffeid.ValidatePathSegment(r.GetNamespace()); err != nil {
			errs = append(errs, fmt.Errorf("namespace %q cannot be part of a SPIFFE ID: %w", r.GetNamespace(), err))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("invalid request: %w", errors.Join(errs...))
	}
	return nil
}

// RequestedTrustDomain is the trust domain in the request, or the default.
func RequestedTrustDomain(r *sentryv1.SignCertificateRequest) (spiffeid.TrustDomain, error) {
	name := r.GetTrustDomain()
	if name == "" {
		name = DefaultTrustDomain
	}
	// Not FromString, which would read a whole SPIFFE ID and leave most of it out.
	if strings.Contains(name, "/") {
		return spiffeid.TrustDomain{}, fmt.Errorf("invalid request: invalid trust domain %q", name)
	}
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return spiffeid.TrustDomain{}, fmt.Errorf("invalid request: invalid trust domain %q: %w", name, err)
	}
	return td, nil
}

// Insecure believes everybody (Dapr API, Sentry: validator INSECURE).
type Insecure struct{}

// Validate implements [Validator].
func (Insecure) Validate(_ context.Context, r *sentryv1.SignCertificateRequest) (spiffeid.TrustDomain, error) {
	return RequestedTrustDomain(r)
}
