package sqlite

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"

	"outrigger.dev/components/state"
)

// clients is how many callers there are per processor: a sidecar serves many requests at once.
const clients = 16

var benchValue = state.Value{Bytes: []byte(`{"item":"pizza","qty":2,"nested":{"a":[1,2.5,null,true]}}`), JSON: true}

func benchStore(b *testing.B) *Store {
	b.Helper()
	s, _ := temporary(b)
	for i := range 1000 {
		if err := s.Set(context.Background(), state.SetRequest{Key: "app||key" + strconv.Itoa(i), Value: benchValue}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	return s
}

func BenchmarkGet(b *testing.B) {
	s := benchStore(b)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Get(context.Background(), state.GetRequest{Key: "app||key" + strconv.Itoa(i%1000)}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetParallel(b *testing.B) {
	s := benchStore(b)
	b.SetParallelism(clients)
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(context.Background(), state.GetRequest{Key: "app||key" + strconv.Itoa(int(n.Add(1)%1000))}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkSet(b *testing.B) {
	s := benchStore(b)
	for i := 0; b.Loop(); i++ {
		if err := s.Set(context.Background(), state.SetRequest{Key: "app||key" + strconv.Itoa(i%1000), Value: benchValue}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSetParallel(b *testing.B) {
	s := benchStore(b)
	b.SetParallelism(clients)
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Set(context.Background(), state.SetRequest{Key: "app||key" + strconv.Itoa(int(n.Add(1)%1000)), Value: benchValue}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	path := b.TempDir() + "/data.db"
	for b.Loop() {
		s := mustOpen(b, map[string]string{"connectionString": path})
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
