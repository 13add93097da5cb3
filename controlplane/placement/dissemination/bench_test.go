package dissemination

import (
	"fmt"
	"testing"
	"time"
)

// answering is a receiver whose sidecars answer everything.
type answering struct{ queue []sent }

type sent struct {
	id    ID
	order Order
}

func (a *answering) Send(id ID, o Order) { a.queue = append(a.queue, sent{id, o}) }
func (a *answering) Expel(ID, uint64)    {}

// BenchmarkRound is a round without transport: one of the hosts changes its types, all answer.
func BenchmarkRound(b *testing.B) {
	for _, count := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			a := &answering{}
			n := New(Options{ReplicationFactor: 100, Timeout: 8 * time.Second}, a)
			now := time.Unix(1000, 0)
			drain := func() {
				for len(a.queue) > 0 {
					queue := a.queue
					a.queue = nil
					for _, s := range queue {
						n.Ack(now, s.id, s.order.Phase, s.order.Version)
					}
				}
			}
			for i := range count {
				h := host("a", "T", fmt.Sprintf("U%d", i%10))
				h.Name = fmt.Sprint(i)
				n.Join(now, ID(i+1), h)
			}
			drain()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				h := host("a", "T", fmt.Sprintf("U%d", i%10), fmt.Sprintf("V%d", i%2))
				h.Name = "0"
				n.Report(now, 1, h)
				drain()
			}
		})
	}
}
