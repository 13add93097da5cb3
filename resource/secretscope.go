package resource

import (
	"fmt"
	"slices"
	"strings"
)

// Secrets limits what the secrets API hands out, store by store.
type Secrets struct {
	Scopes []SecretScope `json:"scopes,omitempty"`
}

// SecretScope limits one secret store.
type SecretScope struct {
	StoreName string `json:"storeName"`
	// DefaultAccess is allow (default) or deny, in any case.
	DefaultAccess string `json:"defaultAccess,omitempty"`
	// AllowedSecrets, if not empty, are all that is allowed.
	AllowedSecrets []string `json:"allowedSecrets,omitempty"`
	DeniedSecrets  []string `json:"deniedSecrets,omitempty"`
}

// Allowed tells whether a secret of a store may be handed out: exactly the allowed ones if there are any, else not the denied
// ones, else by default (Dapr API, secrets: scopes). A store without scope allows everything. Names compare exactly.
func (s *Secrets) Allowed(store, name string) bool {
	for i := range s.Scopes {
		scope := &s.Scopes[i]
		switch {
		case scope.StoreName != store:
			continue
		case len(scope.AllowedSecrets) > 0:
			return slices.Contains(scope.AllowedSecrets, name)
		case slices.Contains(scope.DeniedSecrets, name):
			return false
		default:
			return !strings.EqualFold(scope.DefaultAccess, ActionDeny)
		}
	}
	return true
}

// Validate reports a store that is listed twice or an unknown defaultAccess; either is fatal at start.
func (s *Secrets) Validate() error {
	seen := make(map[string]bool, len(s.Scopes))
	for _, scope := range s.Scopes {
		if seen[scope.StoreName] {
			return fmt.Errorf("%s storeName is repeated in secrets configuration", scope.StoreName)
		}
		seen[scope.StoreName] = true
		switch strings.ToLower(scope.DefaultAccess) {
		case "", ActionAllow, ActionDeny:
		default:
			return fmt.Errorf("defaultAccess %s can be either allow or deny", scope.DefaultAccess)
		}
	}
	return nil
}
