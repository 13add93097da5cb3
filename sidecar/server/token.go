package server

import (
	"crypto/subtle"
	"strings"
)

// TokenHeader carries the API token (Dapr API, API token).
const TokenHeader = "Dapr-Api-Token"

// authorised checks the token of a request and takes it out, so that it is not passed on. Reading the health of the
// sidecar needs none.
func (s *HTTP) authorised(x exchange) bool {
	if x.Method() == "GET" {
		switch strings.Trim(x.Path(), "/") {
		case "v1.0/healthz", "v1.0/healthz/outbound":
			return true
		}
	}
	if subtle.ConstantTimeCompare(x.Header(TokenHeader), []byte(s.options.Token)) != 1 {
		return false
	}
	x.RemoveHeader(TokenHeader)
	return true
}
