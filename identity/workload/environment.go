package workload

import (
	"errors"
	"fmt"
)

// Environment variables (Dapr API, mTLS: inputs). EnvTrustAnchorsFile and EnvKeyType, a [KeyType], are additions.
const (
	EnvTrustAnchors            = "DAPR_TRUST_ANCHORS"
	EnvTrustAnchorsFile        = "DAPR_TRUST_ANCHORS_FILE"
	EnvControlPlaneTrustDomain = "DAPR_CONTROLPLANE_TRUST_DOMAIN"
	EnvControlPlaneNamespace   = "DAPR_CONTROLPLANE_NAMESPACE"
	EnvNamespace               = "NAMESPACE"
	EnvTokenFile               = "DAPR_SENTRY_TOKEN_FILE"
	EnvLocalIdentity           = "SENTRY_LOCAL_IDENTITY"
	EnvKeyType                 = "DAPR_IDENTITY_KEY_TYPE"
	EnvSkipUserCheck           = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK"
)

// Environment fills in the options that are empty from the environment. lookup stands for os.LookupEnv. The error is a token
// file that is named by an empty text.
func (o *Options) Environment(lookup func(string) (string, bool)) error {
	if path, set := lookup(EnvTokenFile); set && o.TokenFile == "" {
		if path == "" {
			return fmt.Errorf("the environment variable %s is set but empty: give the path of the file with the token for Sentry, or unset it", EnvTokenFile)
		}
		o.TokenFile = path
	}
	for name, into := range map[string]*string{
		EnvControlPlaneTrustDomain: &o.ControlPlaneTrustDomain,
		EnvControlPlaneNamespace:   &o.ControlPlaneNamespace,
		EnvNamespace:               &o.Namespace,
		EnvLocalIdentity:           &o.LocalIdentity,
	} {
		if value, _ := lookup(name); *into == "" {
			*into = value
		}
	}
	if text, _ := lookup(EnvKeyType); text != "" && o.KeyType == "" {
		o.KeyType = KeyType(text)
	}
	if len(o.TrustAnchors) > 0 || o.TrustAnchorsFile != "" {
		return nil
	}
	if text, _ := lookup(EnvTrustAnchors); text != "" {
		o.TrustAnchors = []byte(text)
		return nil
	}
	o.TrustAnchorsFile, _ = lookup(EnvTrustAnchorsFile)
	return nil
}

// CheckUser refuses to run as root in Kubernetes, where it is never needed. uid is the process's effective user, and lookup
// stands for os.LookupEnv.
func CheckUser(kubernetes bool, uid int, lookup func(string) (string, bool)) error {
	if !kubernetes || uid != 0 {
		return nil
	}
	if skip, _ := lookup(EnvSkipUserCheck); skip == "true" {
		return nil
	}
	return errors.New("running as root (UID 0) in Kubernetes is refused: set runAsNonRoot and runAsUser in the pod's securityContext, or " + EnvSkipUserCheck + "=true to accept the risk")
}
