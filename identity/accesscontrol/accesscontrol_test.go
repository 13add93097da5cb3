package accesscontrol

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/identity"
	"outrigger.dev/invocation"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics/metricstest"
)

func peer(uri string) *identity.Peer {
	id, err := identity.ParseID(uri)
	return &identity.Peer{URI: uri, ID: id, Err: err}
}

const callerA = "spiffe://public/ns/default/a"

// policyOf is a list with one policy, for the app of callerA.
func policyOf(global, own string, operations ...resource.AccessOperation) resource.AccessControl {
	return resource.AccessControl{DefaultAction: global, TrustDomain: "public", Policies: []resource.AppAccessPolicy{
		{AppID: "a", Namespace: "default", TrustDomain: "public", DefaultAction: own, Operations: operations},
	}}
}

func op(name, action string, verbs ...string) resource.AccessOperation {
	return resource.AccessOperation{Name: name, Action: action, HTTPVerb: verbs}
}

func TestEvaluation(t *testing.T) {
	orders := op("/orders/*", "allow", "GET", "POST")
	for _, test := range []struct {
		name      string
		spec      resource.AccessControl
		grpc      bool
		caller    *identity.Peer
		operation string
		verb      string
		allowed   bool
	}{
		{"no specification", resource.AccessControl{}, false, nil, "x", "GET", true},
		{"no specification allows the malformed too", resource.AccessControl{}, false, peer("spiffe://public/x"), "x", "GET", true},
		{"1 malformed, though all is allowed", policyOf("allow", "allow"), false, peer("spiffe://public/ns/default"), "x", "GET", false},
		{"2 no identity, default allow", policyOf("allow", "deny"), false, nil, "x", "GET", true},
		{"2 no identity, default deny", policyOf("deny", "allow"), false, nil, "x", "GET", false},
		{"3 no policy, default allow", policyOf("allow", "deny"), false, peer("spiffe://public/ns/default/other"), "x", "GET", true},
		{"3 no policy, default deny", policyOf("deny", "allow"), false, peer("spiffe://public/ns/default/other"), "x", "GET", false},
		{"3 other namespace", policyOf("deny", "allow"), false, peer("spiffe://public/ns/other/a"), "x", "GET", false},
		{"3 app ID in another case", policyOf("deny", "allow"), false, peer("spiffe://public/ns/default/A"), "x", "GET", false},
		{"4 other trust domain, default allow", policyOf("allow", "deny"), false, peer("spiffe://other/ns/default/a"), "x", "GET", true},
		{"4 other trust domain, default deny", policyOf("deny", "allow"), false, peer("spiffe://other/ns/default/a"), "x", "GET", false},
		{"5 own default over the global", policyOf("deny", "allow"), false, peer(callerA), "x", "GET", true},
		{"5 own default is the global when empty", policyOf("deny", ""), false, peer(callerA), "x", "GET", false},
		{"5 own default is the global when empty, allow", policyOf("allow", ""), false, peer(callerA), "x", "GET", true},
		{"6 no match", policyOf("deny", "deny", orders), false, peer(callerA), "other", "GET", false},
		{"6 no slash", policyOf("deny", "deny", op("orders", "allow", "*")), false, peer(callerA), "orders", "GET", true},
		{"6 slash", policyOf("deny", "deny", op("orders", "allow", "*")), false, peer(callerA), "/orders", "GET", true},
		{"6 case of an HTTP app's operation", policyOf("deny", "deny", op("/Orders/*", "allow", "*")), false, peer(callerA), "oRDERS/X", "GET", true},
		{"6 case of a gRPC app's operation", policyOf("deny", "deny", op("/pkg.Orders/Get", "allow")), true, peer(callerA), "/pkg.orders/get", "", false},
		{"7 verb", policyOf("deny", "deny", orders), false, peer(callerA), "orders/1", "POST", true},
		{"7 other verb", policyOf("deny", "deny", orders), false, peer(callerA), "orders/1", "DELETE", false},
		{"7 other verb, own default allows", policyOf("deny", "allow", op("/orders/*", "deny", "DELETE")), false, peer(callerA), "orders/1", "GET", true},
		{"7 verb in lower case in the rule", policyOf("deny", "deny", op("/orders", "allow", "get")), false, peer(callerA), "orders", "GET", false},
		{"7 any verb", policyOf("deny", "deny", op("/orders", "allow", "*")), false, peer(callerA), "orders", "PATCH", true},
		{"7 no verbs in the rule: deny stays default", policyOf("deny", "deny", op("/orders", "allow")), false, peer(callerA), "orders", "GET", false},
		{"7 no verbs in the rule: allow stays default", policyOf("deny", "allow", op("/orders", "deny")), false, peer(callerA), "orders", "GET", true},
		{"8 match without verb: own default", policyOf("deny", "allow", op("/orders", "deny", "*")), false, peer(callerA), "orders", "", true},
		{"8 match without verb: empty own default denies", policyOf("allow", "", op("/orders", "allow", "*")), false, peer(callerA), "orders", "", false},
		{"9 gRPC app", policyOf("deny", "deny", op("/pkg.Orders/*", "allow", "GET")), true, peer(callerA), "/pkg.Orders/Get", "", true},
		{"9 gRPC app ignores verbs", policyOf("deny", "allow", op("/orders", "deny", "GET")), true, peer(callerA), "orders", "POST", false},
		{"10 allow in any case", policyOf("Deny", "", op("/orders", "ALLOW")), true, peer(callerA), "orders", "", true},
		{"10 empty action denies", policyOf("allow", "allow", op("/orders", "")), true, peer(callerA), "orders", "", false},
		{"10 unknown action denies", policyOf("allow", "allow", op("/orders", "permit")), true, peer(callerA), "orders", "", false},
		{"10 unknown default denies", policyOf("yes", ""), true, peer(callerA), "orders", "", false},
		{"empty default with policies denies", policyOf("", ""), true, peer(callerA), "orders", "", false},
		{"empty default without policies allows", resource.AccessControl{TrustDomain: "public"}, true, peer(callerA), "orders", "", true},
		{"further segments of the ID are ignored", policyOf("deny", "allow"), false, peer(callerA + "/more"), "x", "GET", true},
		{"the list's trust domain plays no part", resource.AccessControl{DefaultAction: "deny", TrustDomain: "mine", Policies: policyOf("", "allow").Policies}, false, peer(callerA), "x", "GET", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := New(test.spec, !test.grpc)
			err := l.Check(test.caller, test.operation, test.verb)
			if (err == nil) != test.allowed {
				t.Errorf("got %v, want allowed %v", err, test.allowed)
			}
			if err != nil && status.Code(err) != codes.PermissionDenied {
				t.Errorf("code of %v", err)
			}
		})
	}
}

func TestLaterPolicyReplaces(t *testing.T) {
	spec := policyOf("deny", "allow", op("/x", "allow", "*"))
	spec.Policies = append(spec.Policies, resource.AppAccessPolicy{AppID: "a", Namespace: "default", TrustDomain: "public", DefaultAction: "deny"})
	if err := New(spec, true).Check(peer(callerA), "x", "GET"); err == nil {
		t.Error("the earlier policy was used")
	}
}

func TestErrorText(t *testing.T) {
	const denied = "access control policy has denied access to id: "
	for _, test := range []struct {
		http            bool
		caller          *identity.Peer
		operation, verb string
		want            string
	}{
		{true, peer(callerA), "Orders/1", "GET", denied + callerA + " operation: Orders/1 verb: GET"},
		{true, nil, "orders", "", denied + " operation: orders verb: NONE"},
		{false, peer(callerA), "/pkg.S/M", "POST", denied + callerA + " operation: /pkg.S/M verb: NONE"},
		{true, peer("spiffe://public/odd"), "x", "GET", "malformed SPIFFE ID: spiffe://public/odd"},
	} {
		err := New(policyOf("deny", "deny"), test.http).Check(test.caller, test.operation, test.verb)
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

// TestMatching has a row for each numbered rule of operation matching; the rules are those of a gRPC app, so that the
// action of the node shows.
func TestMatching(t *testing.T) {
	for _, test := range []struct {
		rule     string
		patterns []string // those that begin with "!" deny
		want     map[string]string
	}{
		{"1 a rule covers what is below", []string{"/public"}, map[string]string{
			"/public": "allow", "/public/extra/deep": "allow", "/publicity": "none", "/pub": "none", "/": "none",
		}},
		{"1 a glob covers what is below", []string{"/foo*"}, map[string]string{"/foobar/x": "allow", "/foo": "allow", "/fo": "none", "/xfoo": "none"}},
		{"1 a rule hides those below, in order", []string{"/a", "!/a/b"}, map[string]string{"/a/b": "allow", "/a": "allow"}},
		{"1 a rule hides those below, whatever the order", []string{"!/a/b", "/a"}, map[string]string{"/a/b": "allow", "/a/b/c": "allow"}},
		{"2 below a node without action", []string{"/a/b/c"}, map[string]string{"/a/b/c": "allow", "/a/b": "none", "/a/b/d": "none", "/a": "none"}},
		{"3 a star covers its parent", []string{"/a/*"}, map[string]string{"/a": "allow", "/a/b": "allow", "/a/b/c": "none", "/ab": "none", "/a/": "allow"}},
		{"3 two stars cover their parent", []string{"/a/**"}, map[string]string{"/a": "allow", "/a/b": "allow", "/a/b/c/d": "allow"}},
		{"4 a star in the middle is literal", []string{"/a/*/b"}, map[string]string{"/a/x/b": "none", "/a/*/b": "allow", "/a/x": "none", "/a": "none"}},
		{"4 two stars in the middle are one segment", []string{"/a/**/b"}, map[string]string{
			"/a/x/b": "allow", "/a/x/y/b": "none", "/a/b": "none", "/a": "none", "/a/x": "none",
		}},
		{"4 two stars alone", []string{"/**"}, map[string]string{"/a": "allow", "/a/b": "allow", "/": "allow"}},
		{"4 a star alone", []string{"/*"}, map[string]string{"/a": "allow", "/a/b": "none", "/": "allow"}},
		{"5 of equal patterns the first", []string{"/a", "!/a"}, map[string]string{"/a": "allow"}},
		{"5 of siblings the first that fits", []string{"!/a*", "/ab"}, map[string]string{"/ab": "deny", "/ac": "deny"}},
		{"5 of siblings the first that fits, the other way", []string{"/ab", "!/a*"}, map[string]string{"/ab": "allow", "/ac": "deny"}},
		{"no way back", []string{"/a*/x", "/ab/y"}, map[string]string{"/ab/y": "none", "/ab/x": "allow"}},
		{"no way back from two stars", []string{"/**/x", "/a/y"}, map[string]string{"/a/y": "none"}},
		{"globs", []string{"/a*b*c", "!/*z", "/q*"}, map[string]string{
			"/abc": "allow", "/axxbyyc": "allow", "/acb": "none", "/ab": "none", "/z": "deny", "/xyz": "deny", "/q": "allow", "/abcz": "deny",
		}},
		{"characters of other pattern languages", []string{"/a?b", "/[ab]", "/a.c", `/\*`}, map[string]string{
			"/axb": "none", "/a?b": "allow", "/a": "none", "/[ab]": "allow", "/abc": "none", "/a.c": "allow",
		}},
		{"segments of nothing", []string{"/a//b", "/c/"}, map[string]string{"/a//b": "allow", "/a/b": "none", "/c/": "allow", "/c": "none"}},
	} {
		t.Run(test.rule, func(t *testing.T) {
			var tree node
			for _, pattern := range test.patterns {
				r := &rule{allow: pattern[0] != '!'}
				if !r.allow {
					pattern = pattern[1:]
				}
				tree.add(pattern, r)
			}
			for operation, want := range test.want {
				if got := verdictOf(tree.find(operation)); got != want {
					t.Errorf("%s: %s, want %s", operation, got, want)
				}
			}
		})
	}
}

func verdictOf(r *rule) string {
	switch {
	case r == nil:
		return "none"
	case r.allow:
		return "allow"
	default:
		return "deny"
	}
}

// TestPathTricks has an app whose /admin is closed, and callers who try to reach it by other spellings. The operation is
// what the edge makes of the path: it is also what the app gets, so a spelling is harmless if the app does not see /admin.
func TestPathTricks(t *testing.T) {
	list := New(policyOf("allow", "allow", op("/admin", "deny", "*"), op("/secret/**", "deny", "*")), true)
	for _, test := range []struct {
		path string // decoded
		seen string // by the app
		ok   bool
	}{
		{"admin", "admin", false},
		{"/admin", "admin", false},
		{"//admin", "admin", false},
		{"admin/", "admin", false},
		{"admin//", "admin", false},
		{"./admin", "admin", false},
		{"public/../admin", "admin", false},
		{"../admin", "admin", false},
		{"../../admin/x", "admin/x", false},
		{"public/./../admin/.", "admin", false},
		{"public//..//admin", "admin", false},
		{"ADMIN", "ADMIN", false},
		{"Admin/Users", "Admin/Users", false},
		{"secret", "secret", false},
		{"secret/a/b", "secret/a/b", false},
		{"admin/../public", "public", true},
		{"%61dmin", "%61dmin", true},                         // decoded once, and never again
		{"public/%2e%2e/admin", "public/%2e%2e/admin", true}, // stays below public
		{"public%2f..%2fadmin", "public%2f..%2fadmin", true},
		{"...admin", "...admin", true},
		{"admin.", "admin.", true},
		{"ad\u200bmin", "ad\u200bmin", true},
		{"аdmin", "аdmin", true}, // a Cyrillic letter
		{`public\..\admin`, `public\..\admin`, true},
		{"admin;x", "admin;x", true},
		{"admın", "admın", true},  // has no plain i in lower case
		{"ADMİN", "ADMİN", false}, // İ is i in lower case: refused for a likeness

		{"secret/ſ", "secret/ſ", false},
	} {
		operation := invocation.CleanMethod(test.path)
		if operation != test.seen {
			t.Errorf("%q: the app sees %q, want %q", test.path, operation, test.seen)
		}
		if err := list.Check(peer(callerA), operation, "GET"); (err == nil) != test.ok {
			t.Errorf("%q: got %v", test.path, err)
		}
	}
	for _, bad := range []string{"admin?x", "admin#x", "admin\x00", "admin\r\n"} {
		if invocation.CheckMethod(invocation.CleanMethod(bad)) == nil {
			t.Errorf("%q passes the edge", bad)
		}
	}
}

func TestVerdictsAreCounted(t *testing.T) {
	m := metricstest.New(t, "b")
	l := New(policyOf("deny", "", op("/x", "allow", "GET")), true, WithMetrics(m))
	for range 2 {
		_ = l.Check(peer(callerA), "x", "GET")
	}
	_ = l.Check(peer(callerA), "x", "")
	_ = l.Check(peer(callerA), "y", "GET")
	_ = l.Check(peer("spiffe://td/ns/n/c"), "x", "GET")
	_ = l.Check(nil, "x", "GET")
	for name, want := range map[string]map[string]float64{
		"dapr_runtime_acl_app_policy_action_allowed_total":    {"a public default": 2},
		"dapr_runtime_acl_app_policy_action_blocked_total":    {"a public default": 1},
		"dapr_runtime_acl_global_policy_action_blocked_total": {"a public default": 1, "c td n": 1, "  ": 1},
		"dapr_runtime_acl_global_policy_action_allowed_total": {},
	} {
		got := metricstest.Counted(t, m, name, "app_id", "trustDomain", "namespace")
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	caller := peer(callerA)
	for _, bench := range []struct {
		name string
		list *List
	}{
		{"none", New(resource.AccessControl{}, true)},
		{"default", New(resource.AccessControl{DefaultAction: "allow", TrustDomain: "public"}, true)},
		{"policy", New(policyOf("deny", "deny", op("/a", "deny", "*"), op("/orders/*", "allow", "GET")), true, WithMetrics(metricstest.New(b, "b")))},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if err := bench.list.Check(caller, "orders/123", "GET"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
