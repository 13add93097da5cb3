// Package oidc publishes how the JWT-SVIDs of Sentry are verified: the OpenID Connect discovery document and the key set
// (Dapr API, Sentry: OIDC server). There is no authorization endpoint.
package oidc

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Options are what the server answers.
type Options struct {
	// Issuer is the claim iss of the tokens, a URL; empty means that of the request's host.
	Issuer string
	// JWKSURI is where the key set is found; empty means at this server.
	JWKSURI string
	// PathPrefix is put before the paths.
	PathPrefix string
	// AllowedHosts are the hosts that requests may be for, with or without port; "*" allows all. Empty: every host, by its header Host alone.
	AllowedHosts []string
	// Algorithm is that of the signatures.
	Algorithm string
	// TLS tells that the server is reached by https.
	TLS bool
	// JWKS is the present key set; nil if there is none.
	JWKS func() []byte
}

const (
	discoveryPath = "/.well-known/openid-configuration"
	jwksPath      = "/jwks.json"
)

// Handler answers the two documents.
func Handler(o Options) http.Handler {
	if o.PathPrefix = strings.Trim(o.PathPrefix, "/"); o.PathPrefix != "" {
		o.PathPrefix = "/" + o.PathPrefix
	}
	h := &handler{o}
	// Not http.ServeMux, which answers some methods and paths by itself.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var serve func(http.ResponseWriter, string)
		switch r.URL.Path {
		case o.PathPrefix + discoveryPath:
			serve = h.discovery
		case o.PathPrefix + jwksPath:
			serve = h.jwks
		default:
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
			return
		}
		host, ok := h.host(r)
		if !ok {
			http.Error(w, "Forbidden: unauthorized domain", http.StatusForbidden)
			return
		}
		serve(w, host)
	})
}

type handler struct{ o Options }

// host is the host that documents are written for. It is false when requests for that host are not answered.
func (h *handler) host(r *http.Request) (string, bool) {
	forwarded := r.Header.Get("X-Forwarded-Host")
	switch {
	case len(h.o.AllowedHosts) == 0:
		return r.Host, true
	case slices.Contains(h.o.AllowedHosts, "*"):
		// Everybody may ask, so what they say of proxies is not to be believed.
		return r.Host, true
	case forwarded == "":
		return r.Host, h.allowed(r.Host)
	}
	return forwarded, h.allowed(forwarded)
}

func (h *handler) allowed(host string) bool {
	bare := host
	if name, _, err := net.SplitHostPort(host); err == nil {
		bare = name
	}
	return slices.ContainsFunc(h.o.AllowedHosts, func(a string) bool {
		return strings.EqualFold(a, host) || strings.EqualFold(a, bare)
	})
}

// document is the discovery document.
type document struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	Scopes        []string `json:"scopes_supported"`
	Claims        []string `json:"claims_supported"`
}

func (h *handler) discovery(w http.ResponseWriter, host string) {
	scheme := "http"
	if h.o.TLS {
		scheme = "https"
	}
	origin := scheme + "://" + host
	issuer := origin
	if h.o.Issuer != "" {
		issuer = h.o.Issuer
		if u, err := url.Parse(issuer); err == nil && u.Scheme != "" && u.Host != "" {
			origin = u.Scheme + "://" + u.Host
		}
	}
	d := document{
		Issuer: issuer, JWKSURI: h.o.JWKSURI,
		ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"}, Algorithms: []string{h.o.Algorithm},
		Scopes: []string{"openid"}, Claims: []string{"sub", "iss", "aud", "exp", "iat", "nbf", "use"},
	}
	if d.JWKSURI == "" {
		d.JWKSURI = origin + h.o.PathPrefix + jwksPath
	}
	body, err := json.Marshal(d)
	if err != nil {
		http.Error(w, "The discovery document cannot be written", http.StatusInternalServerError)
		return
	}
	answer(w, body)
}

func (h *handler) jwks(w http.ResponseWriter, _ string) {
	set := h.o.JWKS()
	if len(set) == 0 {
		http.Error(w, "JWKS not available", http.StatusNotFound)
		return
	}
	answer(w, set)
}

func answer(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(body) // a client that has gone needs no answer
}
