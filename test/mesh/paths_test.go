package mesh_test

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/identity"
	"outrigger.dev/identity/accesscontrol"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar/sidecartest"
)

// tricks are request targets, as they stand in a request, by which somebody would like to get to /admin past a rule. Those of
// HTTP are decoded once on the way; the methods of the gRPC protocol are not.
var tricks = []string{
	"/admin", "/admin/", "//admin", "/admin//", "///admin///users", "/./admin", "/public/../admin", "/public/%2e%2e/admin", "/public/.%2E/admin", "/%2e/admin",
	"/public%2f..%2fadmin", "/public/..%2fadmin", "/public%2F%2e%2e%2Fadmin", "/%2fadmin", "/%2Fadmin%2F", "/admin%2fusers", "/admin%2F..%2Fadmin",
	"/%61dmin", "/a%64min", "/%61%64%6d%69%6e", "/%2561dmin", "/%252e%252e/admin", "/public/%252e%252e%252fadmin", "/public%252f..%252fadmin", "/public/%25%32%65%25%32%65/admin",
	"/ADMIN", "/Admin", "/aDmIn/USERS", "/%41DMIN", "/admin;x=1", "/admin;/../public", "/;/admin", "/public;/../admin", "/public/..;/admin", "/admin.", "/admin..", "/admin/.", "/admin/..", "/admin/...", "/admin%20", "/%20admin", "/admin%2e",
	"/admin%00", "/admin%00/public", "/admin%0a", "/admin%0d%0aX-Injected:%201", "/admin%09", "/admin%7f",
	"/admin%3f", "/admin%3fpublic", "/admin%23", "/admin?x=/public", "/public?/../admin", "/public%3f/../admin", "/admin#x",
	"/%5cadmin", "/public%5c..%5cadmin", "/..%5cadmin", "\\admin",
	"/\u0430dmin", "/%d0%b0dmin", "/\u212Adm\u0131n", "/adm%C4%B1n", "/adm\u0130n", "/\uff0fadmin", "/%ef%bc%8fadmin", "/public\u2215admin", "/%c0%afadmin", "/%c0%ae%c0%ae/admin", "/admin%ff", "/%ff/../admin", "/\u200badmin",
	"/../admin", "/../../../admin", "/..%2f..%2fadmin", "/public/../../admin", "/public/a/../../admin", "/public/./../admin",
	"http://web/admin", "http://web//admin", "http://web/public/../admin", "https://user@web/%61dmin", "http://web:80/admin", "http:///admin", "http://admin/public", "HTTP://WEB/ADMIN",
	"admin", "*", "/", "", "/admin/*", "/adminx", "/adm", "/public", "/public/users", "/public//users/", "/admin%2A", "/v1.0/invoke/web/method/admin", "/method/admin", "/admin/%2e%2e/public", "/public/%zz/admin", "/%", "/admin%2",
	"/p%75blic", "/PUBLIC", "/public/" + strings.Repeat("../", 50) + "admin", "/" + strings.Repeat("a/../", 300) + "admin", "/" + strings.Repeat("/", 500) + "admin",
}

// judge is the access control list of a test, to be asked about the paths that the app got.
type judge struct {
	name, document string
	list           *accesscontrol.List
}

func judges(t *testing.T) []judge {
	rules := func(fallback, action, name string) resource.AccessControl {
		return resource.AccessControl{DefaultAction: "deny", TrustDomain: "public", Policies: []resource.AppAccessPolicy{{
			AppID: "friend", Namespace: "default", TrustDomain: "public", DefaultAction: fallback,
			Operations: []resource.AccessOperation{{Name: name, HTTPVerb: []string{"*"}, Action: action}},
		}}}
	}
	var all []judge
	for _, r := range []struct{ name, fallback, action, operation string }{
		{"all but admin", "allow", "deny", "/admin"}, {"all but below admin", "allow", "deny", "/admin/**"}, {"only public", "deny", "allow", "/public"}, {"only one of public", "deny", "allow", "/public/*"},
	} {
		document := fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n  accessControl:\n    defaultAction: deny\n    trustDomain: public\n    policies:\n"+
			"    - {appId: friend, namespace: default, trustDomain: public, defaultAction: %s, operations: [{name: %q, httpVerb: [\"*\"], action: %s}]}\n", r.fallback, r.operation, r.action)
		all = append(all, judge{r.name, document, accesscontrol.New(rules(r.fallback, r.action, r.operation), true)})
	}
	return all
}

// Whatever is sent, by whatever way, the path that the app gets is the very one that access control has judged: it is clean, it
// means the same however often it is cleaned, and the list says yes to it. What the list refuses does not reach the app.
func TestPathTricks(t *testing.T) {
	for _, j := range judges(t) {
		t.Run(j.name, func(t *testing.T) {
			t.Parallel()
			network := sidecartest.NewNetwork()
			m := newMansion(t, network, sidecartest.Config(j.document))
			caller := sidecartest.Start(t, network.Join("friend"), m.member())
			peer := m.attack(t, m.web, m.forge(friend, nil))
			who := &identity.Peer{URI: friend, ID: identity.ID{TrustDomain: "public", Namespace: "default", AppID: "friend"}}
			reached, refused := 0, 0
			check := func(way, trick, said string, denied bool) {
				t.Helper()
				got := m.app.take()
				if len(got) > 1 {
					t.Fatalf("%s %q: the app got %d requests", way, trick, len(got))
				}
				if len(got) == 0 {
					if refused++; !denied {
						return // refused as no method at all
					}
					_, operation, found := strings.Cut(said, " operation: ")
					operation, _, verb := strings.Cut(operation, " verb: GET")
					if !found || !verb {
						t.Fatalf("%s %q: the refusal is %q", way, trick, said)
					}
					if j.list.Check(who, operation, "GET") == nil {
						t.Errorf("%s %q: %q was refused, which the list allows", way, trick, operation)
					}
					return
				}
				reached++
				r := got[0]
				target, _, _ := strings.Cut(r.target, "?")
				decoded, err := url.PathUnescape(target)
				if err != nil || decoded != r.path || !strings.HasPrefix(r.path, "/") || path.Clean(r.path) != r.path || strings.ContainsAny(r.path, "?#\x00\r\n") {
					t.Errorf("%s %q: the app got the path %q (%q), which is not clean", way, trick, r.path, r.target)
				}
				if err := j.list.Check(who, r.path, r.verb); denied || err != nil {
					t.Errorf("%s %q: the app got %q, which the list denies: %v", way, trick, r.path, err)
				}
				if r.header.Get("X-Injected") != "" {
					t.Errorf("%s %q: a header was injected: %v", way, trick, r.header)
				}
			}
			for _, trick := range tricks {
				for _, way := range ways {
					got := peer.call(way, call{verb: "GET", method: trick})
					check(way, trick, got.err, got.denied())
					if way == "exchange" {
						continue
					}
					// The query is a part of its own there.
					got = peer.call(way, call{verb: "GET", method: "public", query: strings.TrimPrefix(trick, "/") + " HTTP/1.1\r\nX-Injected: 1\r\n\r\n"})
					check(way+" by query", trick, got.err, got.denied())
				}
				apis := []string{"/v1.0/invoke/web/method" + trick, "/v1.0/invoke//web/method/" + trick, "/v1.0/invoke/web%2Fmethod" + trick}
				for _, target := range append(apis, trick) {
					header := ""
					if target == trick {
						header = "dapr-app-id: web\r\n"
					}
					resp, body, err := raw(t, caller.HTTPAddress(), "GET "+target+" HTTP/1.1\r\nHost: x\r\n"+header+"Connection: close\r\n\r\n")
					if err != nil {
						t.Fatalf("%q: %v", target, err)
					}
					check("HTTP API", target, strings.ReplaceAll(body, `\"`, `"`), resp.StatusCode == 403)
				}
				_, err := caller.Dapr().InvokeService(to(t, "web"), &runtimev1.InvokeServiceRequest{Id: "web", Message: &commonv1.InvokeRequest{
					Method: strings.ToValidUTF8(trick, "?"), HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET},
				}})
				check("InvokeService", trick, fmt.Sprint(err), strings.Contains(fmt.Sprint(err), "PermissionDenied"))
			}
			t.Logf("%d reached the app, %d did not", reached, refused)
			if reached == 0 || refused == 0 {
				t.Errorf("%d reached the app, %d did not: this tests nothing", reached, refused)
			}
		})
	}
}

// The full name of a proxied method is judged as it is called.
func TestProxiedPathTricks(t *testing.T) {
	const real = "grpc.testing.TestService/UnaryCall"
	config := "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n  accessControl:\n    defaultAction: deny\n    trustDomain: public\n    policies:\n" +
		"    - {appId: friend, namespace: default, trustDomain: public, defaultAction: allow, operations: [{name: /" + real + ", action: deny}]}\n"
	network := sidecartest.NewNetwork()
	m := newMansion(t, network, sidecartest.Config(config))
	caller := sidecartest.Start(t, network.Join("friend"), m.member())
	peer := m.attack(t, m.service, m.forge(friend, nil)).conn()
	for _, method := range []string{
		"/" + real, "//" + real, "/./" + real, "/x/../" + real, "/" + real + "/", "/" + real + "//", "/grpc.testing.TestService//UnaryCall", "/grpc.testing.TestService/./UnaryCall",
		"/grpc.testing.TestService/x/../UnaryCall", "/%67rpc.testing.TestService/UnaryCall", "/grpc.testing.TestService%2fUnaryCall", "/" + real + "?x", "/" + real + "#x", "/GRPC.testing.TestService/UnaryCall", "/" + real + ";x",
	} {
		for name, cc := range map[string]*grpc.ClientConn{"peer": peer, "API": caller.Conn()} {
			err := cc.Invoke(to(t, "service"), method, &testpb.SimpleRequest{}, &testpb.SimpleResponse{})
			if calls := m.rpc.take(); err == nil || len(calls) != 0 {
				t.Errorf("%s, %s: %v, %d calls", name, method, err, len(calls))
			}
			switch code := status.Code(err); code {
			case codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented, codes.Unknown, codes.Internal:
			default:
				t.Errorf("%s, %s: %v", name, method, err)
			}
		}
	}
	// The whole of what a message of the callback names would be hidden from the rules.
	err := peer.Invoke(to(t, "service"), runtimev1.AppCallback_OnInvoke_FullMethodName, &commonv1.InvokeRequest{Method: real}, &commonv1.InvokeResponse{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("OnInvoke: %v", err)
	}
	// Others are allowed.
	stream, err := testpb.NewTestServiceClient(peer).FullDuplexCall(to(t, "service"))
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.CloseSend()
	_, _ = stream.Recv()
	if calls := m.rpc.take(); len(calls) != 1 {
		t.Errorf("an allowed method: %d calls", len(calls))
	}
}
