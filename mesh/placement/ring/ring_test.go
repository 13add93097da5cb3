package ring

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"
)

func TestHash(t *testing.T) {
	for text, want := range map[string]uint64{
		"": 241225442164632184, "a": 1260069880423202611, "actor-1": 10015260465285814958, "10.0.0.1:500020": 7120362376346592644,
	} {
		if got := Hash(text); got != want {
			t.Errorf("Hash(%q) = %d, want %d", text, got, want)
		}
	}
}

func hosts(names ...string) []Host {
	list := make([]Host, len(names))
	for i, name := range names {
		list[i] = Host{Key: name, Name: name, AppID: "app"}
	}
	return list
}

func build(t testing.TB, factor int64, lists ...[]Host) []*Ring {
	t.Helper()
	rings, err := Build(factor, lists)
	if err != nil {
		t.Fatal(err)
	}
	return rings
}

func TestLookup(t *testing.T) {
	for _, names := range [][]string{
		{"10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002"}, {"10.0.0.3:50002", "10.0.0.1:50002", "10.0.0.2:50002"},
	} {
		r := build(t, 100, hosts(names...))[0]
		for id, want := range map[string]string{
			"1": "3", "2": "3", "4": "3", "5": "3", "3": "2", "6": "1", "7": "1", "8": "1", "abc": "1", "myactorid": "1",
			"d9b2d63d-a233-4123-847a-7f2b5c1e6f10": "2",
		} {
			if got, ok := r.Lookup(id); !ok || got.Name != "10.0.0."+want+":50002" {
				t.Errorf("%v: the owner of %s is %s, want .%s", names, id, got.Name, want)
			}
		}
	}
}

// naive follows the rule word by word.
func naive(list []Host, factor int, id string) Host {
	type owned struct {
		at   uint64
		host Host
	}
	var points []owned
	for _, h := range list {
		for i := range factor {
			points = append(points, owned{Hash(fmt.Sprintf("%s%d", h.Key, i)), h})
		}
	}
	sort.Slice(points, func(i, j int) bool { return points[i].at < points[j].at })
	k := Hash(id)
	for _, p := range points {
		if p.at >= k {
			return p.host
		}
	}
	return points[0].host
}

func TestBuildManyLists(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var all []Host
	for i := range 20 {
		key := fmt.Sprintf("10.0.%d.7:50002", i)
		all = append(all, Host{Key: key, Name: "n" + key, AppID: fmt.Sprint("app", i)})
	}
	var lists [][]Host
	for range 15 {
		var list []Host
		for _, i := range random.Perm(len(all))[:1+random.IntN(len(all))] {
			list = append(list, all[i])
		}
		lists = append(lists, list)
	}
	rings := build(t, 7, lists...)
	for n, list := range lists {
		for range 50 {
			id := fmt.Sprint(random.Uint64())
			if got, _ := rings[n].Lookup(id); got != naive(list, 7, id) {
				t.Fatalf("list %d: the owner of %s is %v, want %v", n, id, got, naive(list, 7, id))
			}
		}
		last := rings[n].points[len(rings[n].points)-1]
		if rings[n].At(last) != int(rings[n].owners[len(rings[n].owners)-1]) || last < 1<<64-1 && rings[n].At(last+1) != int(rings[n].owners[0]) {
			t.Errorf("list %d: the ring does not close", n)
		}
	}
}

func TestRingsAreShared(t *testing.T) {
	a := hosts("a:1", "b:1")
	other := hosts("a:1", "b:1")
	other[1].AppID = "other"
	rings := build(t, 10, a, hosts("b:1", "a:1"), hosts("a:1"), other, nil)
	if rings[0] != rings[1] {
		t.Error("the same hosts in another order have a ring of their own")
	}
	if rings[0] == rings[2] || rings[0] == rings[3] {
		t.Error("different hosts share a ring")
	}
	for id := range 50 {
		h, _ := rings[3].Lookup(fmt.Sprint(id))
		if want := map[string]string{"a:1": "app", "b:1": "other"}[h.Key]; h.AppID != want {
			t.Errorf("%s has the app %s", h.Key, h.AppID)
		}
	}
	if _, ok := rings[4].Lookup("x"); ok {
		t.Error("a ring without hosts has an owner")
	}
}

func TestFactor(t *testing.T) {
	for _, factor := range []int64{0, -1, -1 << 63} {
		if _, ok := build(t, factor, hosts("a:1"))[0].Lookup("x"); ok {
			t.Errorf("factor %d: there is an owner", factor)
		}
	}
	for _, factor := range []int64{MaxPoints, 1<<63 - 1} {
		if _, err := Build(factor, [][]Host{hosts("a:1", "b:1")}); err == nil || !strings.Contains(err.Error(), "--replicationFactor") {
			t.Errorf("factor %d: %v", factor, err)
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	r := build(t, 100, hosts("10.0.0.1:50002", "10.0.0.2:50002"))[0]
	for _, id := range []string{"1", "d9b2d63d-a233-4123-847a-7f2b5c1e6f10", strings.Repeat("x", 200)} {
		if n := testing.AllocsPerRun(100, func() { r.Lookup(id) }); n != 0 {
			t.Errorf("an id of %d bytes: %v allocations", len(id), n)
		}
	}
}

func benchmarkLists(distinct bool) [][]Host {
	var lists [][]Host
	for n := range 50 {
		var list []Host
		for i := range 100 {
			if distinct && i == n {
				continue
			}
			list = append(list, hosts(fmt.Sprintf("10.0.%d.%d:50002", i/256, i%256))...)
		}
		lists = append(lists, list)
	}
	return lists
}

// BenchmarkBuild is a table of 50 types on 100 hosts.
func BenchmarkBuild(b *testing.B) {
	for _, distinct := range []bool{false, true} {
		lists := benchmarkLists(distinct)
		b.Run(map[bool]string{false: "same hosts", true: "different hosts"}[distinct], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Build(100, lists); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	r := build(b, 100, benchmarkLists(false)[0])[0]
	b.ReportAllocs()
	for b.Loop() {
		r.Lookup("d9b2d63d-a233-4123-847a-7f2b5c1e6f10")
	}
}
