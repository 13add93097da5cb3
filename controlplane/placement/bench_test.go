package placement

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"outrigger.dev/controlplane/placement/placementtest"
)

// BenchmarkDissemination is the time from a sidecar's change of its types to the moment when all sidecars have settled with the new table, over
// loopback; all of them host the type that is changed.
func BenchmarkDissemination(b *testing.B) {
	for _, count := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			o, err := Options{}.normalised()
			if err != nil {
				b.Fatal(err)
			}
			s := &server{o: o, metrics: newMetrics()}
			r := serve(b, s)
			s.lead()
			ctx, cancel := context.WithCancel(b.Context())
			var runs sync.WaitGroup
			defer runs.Wait()
			defer cancel()
			var hosts []*placementtest.Host
			for i := range count {
				h := &placementtest.Host{
					Addresses: []string{r.addresses.GRPC.String()}, Name: fmt.Sprintf("10.0.0.%d:50002", i), AppID: "app", Namespace: "ns",
					Types: []string{"T", fmt.Sprintf("U%d", i%10)},
				}
				hosts = append(hosts, h)
				runs.Add(1)
				go func() { defer runs.Done(); h.Run(ctx) }()
			}
			last := func(st placementtest.State) bool { return st.Settled && st.Hosts == count }
			for _, h := range hosts {
				if err := h.Await(ctx, last); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			version := hosts[0].State().Version
			for b.Loop() {
				types := []string{"U0"}
				if version%2 == 0 {
					types = append(types, "T")
				}
				if err := hosts[0].Report(types...); err != nil {
					b.Fatal(err)
				}
				version++
				for _, h := range hosts {
					if err := h.Await(ctx, func(st placementtest.State) bool { return st.Settled && st.Version >= version }); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
