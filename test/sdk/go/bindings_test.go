package sdk

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
)

func testOutputBindings(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	invoke := func(name, operation, data string, metadata map[string]string) *client.BindingEvent {
		t.Helper()
		out, err := a.c.InvokeBinding(ctx, &client.InvokeBindingRequest{Name: name, Operation: operation, Data: []byte(data), Metadata: metadata})
		noError(t, err)
		return out
	}
	file := map[string]string{"fileName": "go-" + a.name + "/file.bin"}
	noError(t, a.c.InvokeOutputBinding(ctx, &client.InvokeBindingRequest{Name: "files", Operation: "create", Data: []byte("\x00content\xff"), Metadata: file}))
	if got := invoke("files", "get", "", file).Data; string(got) != "\x00content\xff" {
		t.Errorf("the file holds %q", got)
	}
	var list []string
	if err := json.Unmarshal(invoke("files", "list", "", map[string]string{"fileName": "go-" + a.name}).Data, &list); err != nil || len(list) != 1 || !strings.HasSuffix(list[0], "/go-"+a.name+"/file.bin") {
		t.Errorf("the files are %q, %v", list, err)
	}
	invoke("files", "delete", "", file)
	_, err := a.c.InvokeBinding(ctx, &client.InvokeBindingRequest{Name: "files", Operation: "get", Metadata: file})
	wantStatus(t, err, codes.Internal, "error invoking output binding files: ", "ERR_INVOKE_OUTPUT_BINDING")

	for operation, method := range map[string]string{"create": "POST", "post": "POST", "put": "PUT", "patch": "PATCH", "get": "GET", "delete": "DELETE"} {
		data := ""
		if operation != "get" && operation != "delete" {
			data = "body of " + operation
		}
		out := invoke("web", operation, data, map[string]string{"path": "/some/path", "X-Own": "header", "Content-Type": "text/plain"})
		var asked struct {
			Method, Path, Body string
			Header             map[string][]string
		}
		if err := json.Unmarshal(out.Data, &asked); err != nil || asked.Method != method || asked.Path != "/some/path" || asked.Body != data || !slices.Equal(asked.Header["X-Own"], []string{"header"}) {
			t.Errorf("%s: the web server was asked %s: %v", operation, out.Data, err)
		}
		if out.Metadata["statusCode"] != "200" || out.Metadata["X-Web"] != "yes" {
			t.Errorf("%s: the metadata are %v", operation, out.Metadata)
		}
	}
	out := invoke("web", "get", "", map[string]string{"path": "/fail", "errorIfNot2XX": "false"})
	if out.Metadata["statusCode"] != "418" {
		t.Errorf("the metadata are %v", out.Metadata)
	}
}

func testOutputBindingErrors(t *testing.T, a *eventApp) {
	for _, test := range []struct{ name, operation, path, text string }{
		{"web", "get", "/fail", "error invoking output binding web: received status code 418"},
		{"web", "dance", "", "binding web does not support operation dance. supported operations:"},
		{"nothing", "create", "", "couldn't find output binding nothing"},
		{"tick", "create", "", "couldn't find output binding tick"}, // it is an input only
	} {
		_, err := a.c.InvokeBinding(bounded(t), &client.InvokeBindingRequest{Name: test.name, Operation: test.operation, Metadata: map[string]string{"path": test.path}})
		wantStatus(t, err, codes.Internal, test.text, "ERR_INVOKE_OUTPUT_BINDING")
	}
}

// testInputBinding gets ticks also after a failure.
func testInputBinding(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	for range 2 {
		select {
		case in := <-a.ticks:
			found := false
			for k := range in.Metadata {
				found = found || strings.EqualFold(k, "readTimeUTC")
			}
			if len(in.Data) != 0 || !found {
				t.Errorf("a tick with the data %q and metadata %v", in.Data, in.Metadata)
			}
		case <-ctx.Done():
			t.Fatal("no tick")
		}
	}
}
