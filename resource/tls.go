package resource

// The values of TLS.Renegotiation.
const (
	RenegotiationNever    = "Never"
	RenegotiationOnce     = "OnceAsClient"
	RenegotiationFreely   = "FreelyAsClient"
	renegotiationAccepted = RenegotiationNever + ", " + RenegotiationOnce + " or " + RenegotiationFreely
)

// TLS is the client side TLS of an HTTPEndpoint. Each document is PEM text.
type TLS struct {
	// RootCA replaces the system pool when set.
	RootCA *TLSDocument `json:"rootCA,omitempty"`
	// Certificate and PrivateKey are the client certificate, used only when PrivateKey is given.
	Certificate *TLSDocument `json:"certificate,omitempty"`
	PrivateKey  *TLSDocument `json:"privateKey,omitempty"`
	// Renegotiation is Never (default), OnceAsClient or FreelyAsClient.
	Renegotiation string `json:"renegotiation,omitempty"`
}

// TLSDocument is a PEM document given directly or as a secret.
type TLSDocument struct {
	Value        Value        `json:"value,omitzero"`
	SecretKeyRef SecretKeyRef `json:"secretKeyRef,omitzero"`
}

// Text returns the document, "" if there is none.
func (t *TLSDocument) Text() string {
	if t == nil {
		return ""
	}
	return t.Value.String()
}

// RenegotiationOrDefault returns the renegotiation mode, Never if unset.
func (t *TLS) RenegotiationOrDefault() string {
	if t.Renegotiation == "" {
		return RenegotiationNever
	}
	return t.Renegotiation
}

// validRenegotiation tells whether the mode is known; empty is.
func (t *TLS) validRenegotiation() bool {
	switch t.RenegotiationOrDefault() {
	case RenegotiationNever, RenegotiationOnce, RenegotiationFreely:
		return true
	}
	return false
}
