package oauth2

import (
	"fmt"
	"net/url"
	"regexp"

	"golang.org/x/net/http/httpguts"
)

// Options are the metadata properties of the component.
type Options struct {
	ClientID       string `name:"clientID" required:"true" help:"ID of the client at the provider"`
	ClientSecret   string `name:"clientSecret" secret:"true" help:"secret of the client"`
	Scopes         string `name:"scopes" help:"scopes to ask for, separated by commas"`
	AuthURL        string `name:"authURL" required:"true" help:"URL of the provider's authorization endpoint, where users log in"`
	TokenURL       string `name:"tokenURL" required:"true" help:"URL of the provider's token endpoint"`
	RedirectURL    string `name:"redirectURL" help:"URL of this sidecar that the provider sends users back to"`
	AuthHeaderName string `name:"authHeaderName" default:"Authorization" help:"header that carries the token to the app"`
	ForceHTTPS     bool   `name:"forceHTTPS" help:"after the login, send users back to an https URL"`
	PathFilter     string `name:"pathFilter" help:"regular expression of the paths that need a login, which that of redirectURL has to be among; without it all do"`

	filter *regexp.Regexp
}

// Check refuses what cannot be used. It implements [components.Checker].
func (o *Options) Check() (err error) {
	for _, p := range []struct {
		name, value string
		optional    bool
	}{{"authURL", o.AuthURL, false}, {"tokenURL", o.TokenURL, false}, {"redirectURL", o.RedirectURL, true}} {
		if p.optional && p.value == "" {
			continue
		}
		if u, err := url.Parse(p.value); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("metadata property %q is %q, but must be an http or https URL", p.name, p.value)
		}
	}
	if !httpguts.ValidHeaderFieldName(o.AuthHeaderName) {
		return fmt.Errorf("metadata property \"authHeaderName\" is %q, which no header can be named", o.AuthHeaderName)
	}
	if o.PathFilter != "" {
		if o.filter, err = regexp.Compile(o.PathFilter); err != nil {
			return fmt.Errorf("metadata property \"pathFilter\" is %q, which is not a regular expression: %w", o.PathFilter, err)
		}
	}
	return nil
}
