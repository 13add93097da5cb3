package invoke

import (
	"encoding/base64"
	"net/url"
	"strings"

	"outrigger.dev/api"
	"outrigger.dev/invocation"
)

const prefix = "/v1.0/invoke/"

// address finds the target and the method of an HTTP call: by header, by the user and password of basic authentication, or
// by the path, in this order (Dapr API, service invocation: addressing). ok is false when the call names no target.
// byHeader tells that the dapr-app-id header did.
func address(call *api.Call) (target, method string, byHeader, ok bool) {
	if id := call.Header("Dapr-App-Id"); len(id) > 0 {
		return string(id), invocation.CleanMethod(strings.TrimPrefix(call.Path(), "/")), true, true
	}
	if id := basic(string(call.Header("Authorization"))); id != "" {
		return id, invocation.CleanMethod(strings.TrimPrefix(call.Path(), "/")), false, true
	}
	target, method, ok = addressInPath(call.Path())
	return target, method, false, ok
}

// basic is the app id in "Basic base64(dapr-app-id:<id>)", or "".
func basic(header string) string {
	const scheme = "basic "
	if len(header) <= len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return ""
	}
	decoded, err := base64.StdEncoding.DecodeString(header[len(scheme):])
	if err != nil {
		return ""
	}
	user, id, found := strings.Cut(string(decoded), ":")
	if !found || strings.Contains(id, ":") || !strings.EqualFold(user, invocation.AppID) {
		return ""
	}
	return id
}

// addressInPath takes /v1.0/invoke/<target>/method/<method> apart. Repeated slashes between the parts of the prefix are
// tolerated; the target ends at the first "/method/".
func addressInPath(path string) (target, method string, ok bool) {
	rest, found := strings.CutPrefix(path, prefix)
	if !found {
		if rest, found = cutTolerant(path); !found {
			return "", "", false
		}
	}
	rest = strings.TrimLeft(rest, "/")
	target, method, found = strings.Cut(rest, "/method/")
	if !found || target == "" {
		return "", "", false
	}
	if strings.ContainsAny(target, "%+") {
		if decoded, err := url.QueryUnescape(target); err == nil && decoded != "" {
			target = decoded
		}
	}
	return target, invocation.CleanMethod(method), true
}

// cutTolerant cuts the prefix off a path that may have more slashes in it.
func cutTolerant(path string) (rest string, ok bool) {
	for _, part := range [...]string{"v1.0", "invoke"} {
		path = strings.TrimLeft(path, "/")
		var found bool
		if path, found = strings.CutPrefix(path, part); !found || !strings.HasPrefix(path, "/") {
			return "", false
		}
	}
	return path, true
}

// Target is the target that an HTTP call names, "" if none; the API log shows it.
func Target(call *api.Call) string {
	target, _, _, _ := address(call)
	return target
}
