package http

import (
	"crypto/tls"
	"strings"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/clienttls"
)

// Options are the metadata properties of the component.
type Options struct {
	URL                 string              `name:"url" required:"true" help:"base URL of the endpoint, such as https://example.com/api"`
	ResponseTimeout     time.Duration       `name:"responseTimeout" help:"bound of one call with its response, such as 10s; without it only the caller's own bound holds"`
	MaxResponseBodySize components.ByteSize `name:"maxResponseBodySize" default:"100Mi" help:"longest response body; a longer one is an error; 0 sets no limit"`
	RootCA              string              `name:"MTLSRootCA" help:"certificate authorities to trust: a file, or the PEM text"`
	ClientCert          string              `name:"MTLSClientCert" help:"client certificate: a file, or the PEM text"`
	ClientKey           string              `name:"MTLSClientKey" secret:"true" help:"key of the client certificate: a file, or the PEM text"`
	Renegotiation       string              `name:"MTLSRenegotiation" allowed:"RenegotiateNever,RenegotiateOnceAsClient,RenegotiateFreelyAsClient" help:"whether the server may renegotiate TLS, for which HTTP/1.1 is used"`
	SecurityToken       string              `name:"securityToken" secret:"true" help:"value of the header securityTokenHeader of every call"`
	SecurityTokenHeader string              `name:"securityTokenHeader" help:"name of the header that carries securityToken"`
	ErrorIfNot2XX       string              `name:"errorIfNot2XX" default:"true" help:"whether a status other than 2xx is an error; a request can override it with the metadata entry of the same name"`
}

// tlsConfig is nil when the options say nothing of TLS.
func (o *Options) tlsConfig() (*tls.Config, error) {
	if o.RootCA == "" && o.ClientCert == "" && o.ClientKey == "" && o.Renegotiation == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if config.RootCAs, err = clienttls.Authorities(clienttls.Property{Name: "MTLSRootCA", Value: o.RootCA}); err != nil {
		return nil, err
	}
	cert, key := clienttls.Property{Name: "MTLSClientCert", Value: o.ClientCert}, clienttls.Property{Name: "MTLSClientKey", Value: o.ClientKey}
	if config.Certificates, err = clienttls.Pair(cert, key); err != nil {
		return nil, err
	}
	switch strings.ToLower(o.Renegotiation) {
	case "renegotiateonceasclient":
		config.Renegotiation = tls.RenegotiateOnceAsClient
	case "renegotiatefreelyasclient":
		config.Renegotiation = tls.RenegotiateFreelyAsClient
	}
	return config, nil
}
