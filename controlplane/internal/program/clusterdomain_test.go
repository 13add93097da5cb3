package program

import "testing"

func TestDomainOf(t *testing.T) {
	for name, want := range map[string]string{
		"kubernetes.default.svc.cluster.local.": "cluster.local", "kubernetes.default.svc.a.b": "a.b", "kubernetes.default.svc": "", "": "",
	} {
		if got := domainOf(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
