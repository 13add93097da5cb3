package resource

import "net/url"

// HTTPEndpoint is a service outside Dapr that apps invoke by name.
type HTTPEndpoint struct {
	Header
	Spec   HTTPEndpointSpec `json:"spec"`
	Auth   Auth             `json:"auth,omitzero"`
	Scopes []string         `json:"scopes,omitempty"`
}

// HTTPEndpointSpec is the spec of an HTTPEndpoint.
type HTTPEndpointSpec struct {
	BaseURL string `json:"baseUrl"`
	// Headers are set on each request.
	Headers   []NameValue `json:"headers,omitempty"`
	ClientTLS *TLS        `json:"clientTLS,omitempty"`
}

// AppScopes implements Resource.
func (h *HTTPEndpoint) AppScopes() []string { return h.Scopes }

func (h *HTTPEndpoint) identity() any {
	return [4]any{h.Metadata.Name, h.Spec, h.Auth, h.Scopes}
}

func (h *HTTPEndpoint) check(r *reporter) {
	r.required("spec.baseUrl", h.Spec.BaseURL)
	if h.Spec.BaseURL != "" {
		u, err := url.Parse(h.Spec.BaseURL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			r.warn("spec.baseUrl "+quote(h.Spec.BaseURL)+" is not an http or https URL with a host", "write it like https://api.example.com")
		}
	}
	if t := h.Spec.ClientTLS; t != nil && !t.validRenegotiation() {
		r.warn("invalid renegotiation value "+t.Renegotiation+" for http endpoint "+h.Metadata.Name, "use "+renegotiationAccepted)
	}
	r.items("spec.headers", h.Spec.Headers)
}
