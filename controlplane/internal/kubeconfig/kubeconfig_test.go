package kubeconfig

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestErrors(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, tt := range []struct{ path, prefix, suffix string }{
		{"", "the demo is not in a pod: ", "; run it there, or set --kubeconfig"},
		{filepath.Join(t.TempDir(), "none"), "the file of --kubeconfig is not usable: ", ""},
	} {
		if _, err := Load(tt.path, "the demo"); err == nil || !strings.HasPrefix(err.Error(), tt.prefix) || !strings.HasSuffix(err.Error(), tt.suffix) {
			t.Errorf("%q: error %v, want one that begins with %q and ends with %q", tt.path, err, tt.prefix, tt.suffix)
		}
	}
}
