package routerchecker

import (
	"strings"
	"testing"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

var opener = middlewaretest.Opener{Register: Register, Name: "http.routerchecker"}

func TestRule(t *testing.T) {
	mw := opener.Open(t, map[string]string{"rule": `^/v1\.0/invoke/[a-z]+/method/[A-Za-z0-9/]*(\?a=[0-9])?$`})
	for target, ok := range map[string]bool{
		"/v1.0/invoke/app/method/x":      true,
		"/v1.0/invoke/app/method/x?a=1":  true,
		"/v1.0/invoke/app/method/x?a=b":  false,
		"/v1.0/invoke/app/method/x%2Fy":  false,
		"/v1.0/state/s":                  false,
		"/x/v1.0/invoke/app/method/":     false,
		"/v1.0/invoke/app/method/x?a=1%": false,
	} {
		r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", target))
		if ok {
			if r.Status != 200 || r.Seen == nil {
				t.Errorf("%s: %d %s", target, r.Status, r.Text)
			}
			continue
		}
		r.Refused(t, 400, "invalid router")
	}
}

func TestOptions(t *testing.T) {
	for rule, want := range map[string]string{"": `"rule" is required`, "(": `metadata property "rule" is "(", which is not a regular expression`} {
		if _, err := opener.Try(t, map[string]string{"rule": rule}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", rule, err)
		}
	}
}

func TestSuite(t *testing.T) {
	middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware { return opener.Open(t, map[string]string{"rule": "^/ok"}) },
		func() *middleware.Request { return middlewaretest.Request("POST", "/ok") })
}
