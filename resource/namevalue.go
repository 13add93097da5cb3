package resource

// NameValue is one metadata item, header or environment entry: a literal value, or a reference to a secret or to an
// environment variable of the sidecar.
type NameValue struct {
	Name string `json:"name"`
	// Value is the literal; it wins over EnvRef, and is replaced by a secret that can be read.
	Value Value `json:"value,omitzero"`
	// SecretKeyRef is used when its name is not empty.
	SecretKeyRef SecretKeyRef `json:"secretKeyRef,omitzero"`
	// EnvRef is the name of an environment variable.
	EnvRef string `json:"envRef,omitempty"`
}

// SecretKeyRef points at one key of one secret in a secret store.
type SecretKeyRef struct {
	// Name of the secret.
	Name string `json:"name,omitempty"`
	// Key within the secret; empty means the same as Name.
	Key string `json:"key,omitempty"`
}

// KeyOrName returns the key to read from the secret.
func (r SecretKeyRef) KeyOrName() string {
	if r.Key == "" {
		return r.Name
	}
	return r.Key
}

// Properties returns the items as a map of texts. Of equal names the last wins; items without value are empty texts.
func Properties(items []NameValue) map[string]string {
	m := make(map[string]string, len(items))
	for _, item := range items {
		m[item.Name] = item.Value.String()
	}
	return m
}
