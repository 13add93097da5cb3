package http

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

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

// endpoint is the property url.
func (o *Options) endpoint() (*url.URL, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("metadata property \"url\" is %q, but must be an http or https URL such as \"https://example.com/api\"", o.URL)
	}
	if u.Fragment != "" {
		return nil, fmt.Errorf("metadata property \"url\" is %q, but must not have a part behind \"#\", which no server gets to see", o.URL)
	}
	return u, nil
}

// Check refuses what no call could be made with. It implements [components.Checker].
func (o *Options) Check() error {
	if _, err := o.endpoint(); err != nil {
		return err
	}
	if (o.SecurityToken == "") != (o.SecurityTokenHeader == "") {
		return errors.New(`metadata properties "securityToken" and "securityTokenHeader" must be given together: the token, and the header that carries it`)
	}
	if o.SecurityToken != "" && (!httpguts.ValidHeaderFieldName(o.SecurityTokenHeader) || !httpguts.ValidHeaderFieldValue(o.SecurityToken)) {
		return fmt.Errorf("metadata properties \"securityToken\" and \"securityTokenHeader\" (%q) do not make a header; a name has letters, digits and dashes, and a value is one line", o.SecurityTokenHeader)
	}
	if o.ResponseTimeout < 0 {
		return fmt.Errorf("metadata property \"responseTimeout\" is %s, but must not be negative", o.ResponseTimeout)
	}
	_, err := o.tlsConfig()
	return err
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
