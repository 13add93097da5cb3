package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry/validator"
)

// Annotations of pods (Dapr API, Kubernetes: annotations).
const (
	annotationAppID        = "dapr.io/app-id"
	annotationConfig       = "dapr.io/config"
	annotationControlPlane = "dapr.io/control-plane"
)

// legacyAudience is what tokens of old sidecars are for.
const legacyAudience = "dapr.io/sentry"

// Validator believes service account tokens of pods (Dapr API, Sentry: validator KUBERNETES).
type Validator struct {
	o       ValidatorOptions
	pods    cache.SharedIndexInformer
	configs cache.SharedIndexInformer
	synced  atomic.Bool
}

// ValidatorOptions are what a [Validator] is made of.
type ValidatorOptions struct {
	Clients *Clients
	// TrustDomain and Namespace are those of the control plane; SentryID is the SPIFFE ID of Sentry.
	TrustDomain spiffeid.TrustDomain
	Namespace   string
	SentryID    string
}

var _ validator.Runner = (*Validator)(nil)

// NewValidator makes a validator, which decides once it runs.
func NewValidator(o ValidatorOptions) (*Validator, error) {
	v := &Validator{
		o:       o,
		pods:    informers.NewSharedInformerFactory(o.Clients.Core, 0).Core().V1().Pods().Informer(),
		configs: dynamicinformer.NewDynamicSharedInformerFactory(o.Clients.Dynamic, 0).ForResource(configurations()).Informer(),
	}
	// A cluster has many pods, of which a few words are needed.
	if err := v.pods.SetTransform(trimPod); err != nil {
		return nil, err
	}
	return v, v.configs.SetTransform(trimConfiguration)
}

func trimPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	small := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion},
		Spec:       corev1.PodSpec{ServiceAccountName: pod.Spec.ServiceAccountName},
	}
	for _, name := range []string{annotationAppID, annotationConfig, annotationControlPlane} {
		if value, ok := pod.Annotations[name]; ok {
			if small.Annotations == nil {
				small.Annotations = map[string]string{}
			}
			small.Annotations[name] = value
		}
	}
	return small, nil
}

func trimConfiguration(object any) (any, error) {
	config, ok := object.(*unstructured.Unstructured)
	if !ok {
		return object, nil
	}
	small := &unstructured.Unstructured{Object: map[string]any{"apiVersion": config.GetAPIVersion(), "kind": config.GetKind()}}
	small.SetNamespace(config.GetNamespace())
	small.SetName(config.GetName())
	small.SetResourceVersion(config.GetResourceVersion())
	td, _, err := unstructured.NestedString(config.Object, "spec", "accessControl", "trustDomain")
	if err == nil && td != "" {
		if err := unstructured.SetNestedField(small.Object, td, "spec", "accessControl", "trustDomain"); err != nil {
			return nil, err
		}
	}
	return small, nil
}

// HealthTarget implements [validator.Runner].
func (v *Validator) HealthTarget() string { return "sentry-kubernetes-validator" }

// Run implements [validator.Runner]: it fills the caches and keeps them up to date.
func (v *Validator) Run(ctx context.Context, ready func()) error {
	ended := make(chan struct{}, 2)
	for _, informer := range []cache.SharedIndexInformer{v.pods, v.configs} {
		go func() {
			informer.RunWithContext(ctx)
			ended <- struct{}{}
		}()
	}
	if cache.WaitForCacheSync(ctx.Done(), v.pods.HasSynced, v.configs.HasSynced) {
		v.synced.Store(true)
		ready()
	}
	<-ended
	<-ended
	v.synced.Store(false)
	return nil
}

// Validate implements [validator.Validator].
func (v *Validator) Validate(ctx context.Context, r *sentryv1.SignCertificateRequest) (spiffeid.TrustDomain, error) {
	td, err := v.validate(ctx, r)
	if err != nil {
		return spiffeid.TrustDomain{}, err
	}
	return td, nil
}

func (v *Validator) validate(ctx context.Context, r *sentryv1.SignCertificateRequest) (td spiffeid.TrustDomain, err error) {
	if !v.synced.Load() {
		return td, errors.New("validator not ready")
	}
	account, err := v.review(ctx, r.GetToken())
	if err != nil {
		return td, err
	}
	claims, err := podClaims(r.GetToken())
	if err != nil {
		return td, err
	}
	pod, err := v.pod(ctx, account.namespace, claims.Pod.Name)
	if err != nil {
		return td, err
	}
	if account.namespace != r.GetNamespace() {
		return td, fmt.Errorf("namespace mismatch; received namespace: %s", r.GetNamespace())
	}
	if pod.Spec.ServiceAccountName != account.name {
		return td, errors.New("pod service account mismatch")
	}
	// The name may have been given to another pod since the token was made.
	if claims.Pod.UID != "" && pod.UID != "" && claims.Pod.UID != string(pod.UID) {
		return td, errors.New("pod uid mismatch: the token is that of an earlier pod of this name")
	}
	expected, isControlPlane := v.expectedID(pod)
	if expected != r.GetId() {
		return td, fmt.Errorf("app-id mismatch. expected: %s, received: %s", expected, r.GetId())
	}
	if isControlPlane {
		return v.o.TrustDomain, nil
	}
	return v.trustDomain(pod)
}

// account is a service account.
type account struct{ namespace, name string }

// review has the API server verify a token.
func (v *Validator) review(ctx context.Context, token string) (account, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	audiences := []string{legacyAudience, v.o.SentryID}
	review, err := v.o.Clients.Core.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return account{}, fmt.Errorf("token review failed: %w", err)
	case review.Status.Error != "":
		return account{}, fmt.Errorf("invalid token: %s", review.Status.Error)
	case !review.Status.Authenticated:
		return account{}, errors.New("authentication failed")
	case len(review.Status.Audiences) > 0 && !slices.ContainsFunc(review.Status.Audiences, func(a string) bool { return slices.Contains(audiences, a) }):
		// A server that knows audiences has checked them already.
		return account{}, errors.New("authentication failed")
	}
	parts := strings.Split(review.Status.User.Username, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" || parts[2] == "" || parts[3] == "" {
		return account{}, errors.New("provided token is not a properly structured service account token")
	}
	return account{namespace: parts[2], name: parts[3]}, nil
}

// kubernetesClaims are those of a token that is bound to a pod.
type kubernetesClaims struct {
	Pod struct {
		Name string `json:"name"`
		UID  string `json:"uid"`
	} `json:"pod"`
}

// podClaims reads a token that the API server has verified.
func podClaims(token string) (*kubernetesClaims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	})
	if err != nil {
		return nil, fmt.Errorf("failed to parse Kubernetes token: %w", err)
	}
	var claims struct {
		Kubernetes kubernetesClaims `json:"kubernetes.io"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return nil, fmt.Errorf("failed to parse Kubernetes token: %w", err)
	}
	if claims.Kubernetes.Pod.Name == "" {
		return nil, errors.New("kubernetes.io/pod/name claim is missing from Kubernetes token")
	}
	return &claims.Kubernetes, nil
}

// pod finds a pod in the cache, or at the server: the cache may not have heard yet of one that has just started.
func (v *Validator) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	object, found, err := v.pods.GetStore().GetByKey(namespace + "/" + name)
	if pod, ok := object.(*corev1.Pod); found && ok && err == nil {
		return pod, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pod, err := v.o.Clients.Core.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, errors.New("failed to get pod of identity")
	}
	if err != nil {
		return nil, fmt.Errorf("failed to get pod of identity: %w", err)
	}
	return pod, nil
}

// expectedID is the app id that a pod may ask for.
func (v *Validator) expectedID(pod *corev1.Pod) (id string, isControlPlane bool) {
	if id, ok := pod.Annotations[annotationAppID]; ok {
		return id, false
	}
	if pod.Namespace == v.o.Namespace {
		switch service := pod.Annotations[annotationControlPlane]; service {
		case "operator", "placement", "injector", "sentry", "scheduler":
			return "dapr-" + service, true
		}
	}
	return pod.Name, false
}

// trustDomain is that of an app, from the Configuration of its pod.
func (v *Validator) trustDomain(pod *corev1.Pod) (td spiffeid.TrustDomain, err error) {
	name := validator.DefaultTrustDomain
	if config := pod.Annotations[annotationConfig]; config != "" {
		object, found, err := v.configs.GetStore().GetByKey(pod.Namespace + "/" + config)
		u, ok := object.(*unstructured.Unstructured)
		if err != nil || !found || !ok {
			return td, errors.New("failed to get configuration")
		}
		if set, _, err := unstructured.NestedString(u.Object, "spec", "accessControl", "trustDomain"); err == nil && set != "" {
			name = set
		}
	}
	if td, err = spiffeid.TrustDomainFromString(name); err != nil {
		return td, fmt.Errorf("the Configuration %q has an invalid trust domain: %w", pod.Annotations[annotationConfig], err)
	}
	return td, nil
}
