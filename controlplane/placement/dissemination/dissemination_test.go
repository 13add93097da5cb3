package dissemination

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

// script runs a namespace through steps, written as
//
//	join a T,U     report a U     ack a lock 1     old a T     close a     tick 8s
//
// and writes what it does as "a:lock1 b:update2{T:x,y} c:expelled1".
type script struct {
	t     *testing.T
	n     *Namespace
	now   time.Time
	ids   map[string]ID
	names map[ID]string
	said  []string
}

func newScript(t *testing.T, o Options) *script {
	if o.Timeout == 0 {
		o.Timeout = 8 * time.Second
	}
	s := &script{t: t, now: time.Unix(1000, 0), ids: map[string]ID{}, names: map[ID]string{}}
	s.n = New(o, s)
	return s
}

func (s *script) Send(id ID, o Order) {
	text := fmt.Sprintf("%s:%s%d", s.names[id], o.Phase, o.Version)
	if o.Phase == Update {
		if want := fmt.Sprint(o.Version); o.Table.Version != want {
			s.t.Errorf("the table of update %s has version %s", want, o.Table.Version)
		}
		text += "{" + tableText(o.Table) + "}"
	} else if o.Table != nil {
		s.t.Errorf("%s has a table", o.Phase)
	}
	s.said = append(s.said, text)
}

func (s *script) Expel(id ID, version uint64) {
	s.said = append(s.said, fmt.Sprintf("%s:expelled%d", s.names[id], version))
}

// tableText is a table as "T:a,b U:c".
func tableText(t *placementv1.PlacementTables) string {
	var types []string
	for name, entry := range t.GetEntries() {
		var hosts []string
		for key, h := range entry.LoadMap {
			if key != h.Name {
				key += "=" + h.Name
			}
			hosts = append(hosts, key)
		}
		slices.Sort(hosts)
		types = append(types, name+":"+strings.Join(hosts, ","))
	}
	slices.Sort(types)
	return strings.Join(types, " ")
}

// host reports types; a stream "a2" has the name of "a".
func host(name string, types ...string) *placementv1.Host {
	return &placementv1.Host{Name: name[:1], Id: "app-" + name[:1], Namespace: "ns", Entities: types}
}

func (s *script) step(step string) string {
	s.t.Helper()
	s.said = nil
	f := append(strings.Fields(step), "", "", "")
	name, id := f[1], s.ids[f[1]]
	var types []string
	if f[2] != "" {
		types = strings.Split(f[2], ",")
	}
	switch f[0] {
	case "join":
		id = ID(len(s.names) + 1)
		s.ids[name], s.names[id] = id, name
		s.n.Join(s.now, id, host(name, types...))
	case "report":
		s.n.Report(s.now, id, host(name, types...))
	case "old":
		s.n.Unversioned(s.now, id, host(name, types...))
	case "ack":
		var version uint64
		fmt.Sscan(f[3], &version)
		s.n.Ack(s.now, id, Phase(slices.Index([]string{"idle", "lock", "update", "unlock"}, f[2])), version)
	case "close":
		s.n.Close(s.now, id)
	case "tick":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
		s.n.Tick(s.now)
	default:
		s.t.Fatalf("no step %q", step)
	}
	slices.SortStableFunc(s.said, func(a, b string) int { return strings.Compare(a[:strings.Index(a, ":")], b[:strings.Index(b, ":")]) })
	return strings.Join(s.said, " ")
}

// settled has a host a of T.
var settled = []string{
	"join a T > a:lock1", "ack a lock 1 > a:update1{T:a}", "ack a update 1 > a:unlock1", "ack a unlock 1 >",
}

func TestCourses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		o     Options
		steps []string
	}{
		{"one host", Options{}, settled},
		{"an equal report changes nothing", Options{}, append(slices.Clone(settled), "report a T >", "report a T,T >", "old a T >")},
		{"the first round waits for the sidecars to return", Options{Gather: time.Unix(1001, 500)}, []string{
			"join a T >", "join b > b:lock0 b:update0{} b:unlock0", "tick 500ms >",
			"join c T,U >", "tick 1s > a:lock1 b:lock1 c:lock1", "ack a lock 1 >", "ack c lock 1 > a:update1{T:a,c U:c} b:update1{T:a,c U:c} c:update1{T:a,c U:c}",
		}},
		{"they have returned before the first of them comes", Options{Gather: time.Unix(900, 0)}, []string{"join a T >", "tick 0s > a:lock1"}},
		{"more types", Options{}, append(slices.Clone(settled), "report a U,T > a:lock2", "ack a lock 2 > a:update2{T:a U:a}")},
		{"types withdrawn: the host is waited for", Options{}, append(slices.Clone(settled), "join b T > a:lock2 b:lock2", "ack a lock 2 >",
			"ack b lock 2 > a:update2{T:a,b} b:update2{T:a,b}", "ack a update 2 >", "ack b update 2 > a:unlock2 b:unlock2", "ack a unlock 2 >", "ack b unlock 2 >",
			"report a > a:lock3 b:lock3", "ack b lock 3 >", "ack a lock 3 > a:update3{T:b} b:update3{T:b}", "ack b update 3 >", "ack a update 3 > a:unlock3 b:unlock3")},
		{"a sidecar without types, idle and empty", Options{}, []string{"join a > a:lock0 a:update0{} a:unlock0", "ack a lock 0 >", "ack a unlock 0 >"}},
		{"a sidecar without types, idle", Options{}, append(slices.Clone(settled), "join b > b:lock1 b:update1{T:a} b:unlock1")},
		{"a sidecar without types is not waited for", Options{}, []string{
			"join b > b:lock0 b:update0{} b:unlock0", "join a T > a:lock1 b:lock1", "ack a lock 1 > a:update1{T:a} b:update1{T:a}", "ack a update 1 > a:unlock1 b:unlock1",
			"ack a unlock 1 >", "tick 100s >",
		}},
		{"a sidecar without types joins the first round", Options{}, []string{
			"join a T > a:lock1", "join b > b:lock1", "ack a lock 1 > a:update1{T:a} b:update1{T:a}", "join c > c:lock1 c:update1{T:a}",
			"ack a update 1 > a:unlock1 b:unlock1 c:unlock1",
		}},
		{"a sidecar without types joins a later round: the settled table first", Options{}, append(slices.Clone(settled), "report a T,U > a:lock2",
			"join b > b:lock1 b:update1{T:a} b:unlock1 b:lock2", "ack a lock 2 > a:update2{T:a U:a} b:update2{T:a U:a}")},
		{"a sidecar without types that has returned waits until the tables do not have it any more", Options{}, append(slices.Clone(settled), "join b T > a:lock2 b:lock2", "ack a lock 2 >",
			"close b > a:update2{T:a,b}", "join b2 >", "ack a update 2 > a:unlock2", "ack a unlock 2 > a:lock3 b2:lock3", "ack a lock 3 > a:update3{T:a} b2:update3{T:a}")},
		{"a sidecar without types that has returned while collecting waits", Options{Window: time.Second}, append(slices.Clone(settled), "join b U >", "close a >", "join a2 >",
			"tick 1s > a2:lock2 b:lock2", "ack b lock 2 > a2:update2{U:b} b:update2{U:b}")},
		{"hosts of other types are not waited for", Options{}, append(slices.Clone(settled), "join b U > a:lock2 b:lock2", "ack b lock 2 > a:update2{T:a U:b} b:update2{T:a U:b}",
			"ack b update 2 > a:unlock2 b:unlock2", "ack b unlock 2 >", "tick 7s >", "tick 1s > a:expelled2 b:lock3 b:update3{U:b} b:unlock3")},
		{"hosts of other types that answer stay", Options{}, append(slices.Clone(settled), "join b U > a:lock2 b:lock2", "ack b lock 2 > a:update2{T:a U:b} b:update2{T:a U:b}",
			"ack b update 2 > a:unlock2 b:unlock2", "ack b unlock 2 >", "ack a lock 2 >", "ack a update 2 >", "tick 7s >", "ack a unlock 2 >", "tick 1s >", "tick 100s >")},
		{"joins wait for the round, and share the next", Options{}, []string{
			"join a T > a:lock1", "join b T >", "join c T >", "ack a lock 1 > a:update1{T:a}", "ack a update 1 > a:unlock1",
			"ack a unlock 1 > a:lock2 b:lock2 c:lock2", "ack a lock 2 >", "ack b lock 2 >", "ack c lock 2 > a:update2{T:a,b,c} b:update2{T:a,b,c} c:update2{T:a,b,c}",
		}},
		{"one that waited and went causes no round", Options{}, []string{
			"join a T > a:lock1", "join b T >", "close b >", "ack a lock 1 > a:update1{T:a}", "ack a update 1 > a:unlock1", "ack a unlock 1 >",
		}},
		{"one that waits withdraws its types", Options{}, []string{
			"join a T > a:lock1", "join b T >", "report b > b:lock1", "ack a lock 1 > a:update1{T:a} b:update1{T:a}", "ack a update 1 > a:unlock1 b:unlock1", "ack a unlock 1 >",
		}},
		{"one that waits changes its types", Options{}, []string{
			"join a T > a:lock1", "join b T >", "report b U >", "ack a lock 1 > a:update1{T:a}", "ack a update 1 > a:unlock1", "ack a unlock 1 > a:lock2 b:lock2",
			"ack b lock 2 > a:update2{T:a U:b} b:update2{T:a U:b}",
		}},
		{"a change during a round starts another", Options{}, []string{
			"join a T > a:lock1", "join b T >", "ack a lock 1 > a:update1{T:a}", "report a T,U > a:lock2 b:lock2", "ack a update 1 >", "ack a lock 2 >",
			"ack b lock 2 > a:update2{T:a,b U:a} b:update2{T:a,b U:a}",
		}},
		{"closing completes a phase", Options{}, append(slices.Clone(settled), "join b T > a:lock2 b:lock2", "ack a lock 2 >", "close b > a:update2{T:a,b}", "ack a update 2 > a:unlock2",
			"ack a unlock 2 > a:lock3", "ack a lock 3 > a:update3{T:a}")},
		{"closing of a sidecar without types completes nothing and causes no round", Options{}, append(slices.Clone(settled), "join b > b:lock1 b:update1{T:a} b:unlock1", "close b >",
			"join c > c:lock1 c:update1{T:a} c:unlock1", "report a U > a:lock2 c:lock2", "close c >", "ack a lock 2 > a:update2{U:a}", "ack a update 2 > a:unlock2", "ack a unlock 2 >")},
		{"closing of one that withdrew completes the phase", Options{}, append(slices.Clone(settled), "join b U > a:lock2 b:lock2", "ack b lock 2 > a:update2{T:a U:b} b:update2{T:a U:b}",
			"ack b update 2 > a:unlock2 b:unlock2", "ack b unlock 2 >", "report b > a:lock3 b:lock3", "close b > a:update3{T:a} a:unlock3")},
		{"closing while idle starts a round", Options{}, append(slices.Clone(settled), "join b > b:lock1 b:update1{T:a} b:unlock1", "close a > b:lock2 b:update2{} b:unlock2")},
		{"the last one closes", Options{}, append(slices.Clone(settled), "close a >", "tick 100s >")},
		{"acknowledgements that mean nothing", Options{}, []string{
			"join a T > a:lock1", "join b T >", "ack b lock 1 >", "ack a lock 0 >", "ack a lock 2 >", "ack a update 1 >", "ack a unlock 1 >", "ack a idle 1 >", "ack x lock 1 >", "report x T >", "close x >", "old x T >",
			"ack a lock 1 > a:update1{T:a}", "ack a lock 1 >",
		}},
		{"a sidecar that knows no versions", Options{}, []string{
			"join a T > a:lock1", "old a T > a:update1{T:a}", "old a U > a:unlock1", "old a U >", "old a U > a:lock2", "old a U > a:update2{U:a}",
		}},
		{"a round that takes too long", Options{}, append(slices.Clone(settled), "join b T > a:lock2 b:lock2", "join c U >", "ack a lock 2 >", "tick 7999ms >",
			"tick 1ms > a:lock3 b:expelled2 c:lock3", "ack b lock 3 >", "ack c lock 3 >", "ack a lock 3 > a:update3{T:a U:c} c:update3{T:a U:c}")},
		{"nobody answers", Options{}, []string{"join a T > a:lock1", "tick 8s > a:expelled1", "tick 8s >"}},
		{"rounds that follow each other keep nobody that does not answer", Options{}, append(slices.Clone(settled), "join b T > a:lock2 b:lock2", "ack a lock 2 >", "tick 5s >",
			"report a T,U > a:lock3 b:lock3", "ack a lock 3 >", "tick 3s > a:update3{T:a,b U:a} b:expelled3", "ack a update 3 > a:unlock3", "ack a unlock 3 > a:lock4")},
		{"rounds that follow each other keep one that answers late", Options{}, append(slices.Clone(settled), "join b T > a:lock2 b:lock2", "ack a lock 2 >", "tick 5s >",
			"report a T,U > a:lock3 b:lock3", "ack a lock 3 >", "ack b lock 2 >", "tick 3s >", "ack b lock 3 > a:update3{T:a,b U:a} b:update3{T:a,b U:a}")},
		{"two streams of one name", Options{}, append(slices.Clone(settled), "join a2 T > a:lock2 a2:lock2", "ack a lock 2 >", "ack a2 lock 2 > a:update2{T:a} a2:update2{T:a}",
			"ack a update 2 >", "ack a2 update 2 > a:unlock2 a2:unlock2", "ack a unlock 2 >", "ack a2 unlock 2 >", "close a > a2:lock3", "ack a2 lock 3 > a2:update3{T:a}")},
		{"collecting", Options{Window: time.Second}, append(slices.Clone(settled), "join b T >", "join c > c:lock1 c:update1{T:a} c:unlock1", "close a >", "join d U >", "tick 999ms >",
			"tick 1ms > b:lock2 c:lock2 d:lock2", "ack b lock 2 >", "ack d lock 2 > b:update2{T:b U:d} c:update2{T:b U:d} d:update2{T:b U:d}")},
		{"nothing to collect", Options{Window: time.Second}, append(slices.Clone(settled), "tick 1s >", "join b T > a:lock2 b:lock2")},
		{"a changed report does not wait for collecting", Options{Window: time.Second}, append(slices.Clone(settled), "join b T >", "report a T,U > a:lock2 b:lock2")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t, tt.o)
			for _, line := range tt.steps {
				step, want, _ := strings.Cut(line, ">")
				if got := s.step(step); got != strings.TrimSpace(want) {
					t.Fatalf("%s\n got %s\nwant %s", step, got, want)
				}
			}
		})
	}
}

func TestTable(t *testing.T) {
	s := newScript(t, Options{ReplicationFactor: 7})
	var table *placementv1.PlacementTables
	s.n.out = receiver(func(_ ID, o Order) {
		if o.Phase == Update {
			table = o.Table
		}
	})
	report := &placementv1.Host{
		Name: "10.0.0.1:50002", Port: 50002, Id: "shop", Namespace: "ns", ApiLevel: 20, Pod: "p", Load: 3, Entities: []string{"U", "T", "U"},
		Operation: placementv1.HostOperation_REPORT,
	}
	s.n.Join(s.now, 1, report)
	s.n.Ack(s.now, 1, Lock, 1)
	if table.GetReplicationFactor() != 7 || table.GetVersion() != "1" || table.GetApiLevel() != 0 || len(table.GetEntries()) != 2 {
		t.Errorf("table %v", table)
	}
	entry := table.GetEntries()["T"]
	h := entry.GetLoadMap()["10.0.0.1:50002"]
	if len(entry.GetLoadMap()) != 1 || len(entry.GetHosts()) != 0 || len(entry.GetSortedSet()) != 0 || entry.GetTotalLoad() != 0 {
		t.Errorf("entry %v", entry)
	}
	if h.GetId() != "shop" || h.GetNamespace() != "ns" || h.GetPort() != 50002 || h.GetApiLevel() != 20 || h.GetOperation() != placementv1.HostOperation_REPORT || h.Version != nil ||
		!slices.Equal(h.GetEntities(), []string{"T", "U"}) {
		t.Errorf("host %v", h)
	}
	if !slices.Equal(report.Entities, []string{"U", "T", "U"}) {
		t.Error("the report was changed")
	}
}

type receiver func(ID, Order)

func (r receiver) Send(id ID, o Order) { r(id, o) }
func (r receiver) Expel(ID, uint64)    {}

func TestHosts(t *testing.T) {
	s := newScript(t, Options{})
	for _, step := range []string{"join b T", "join c T", "join d", "ack b lock 1", "ack b update 1", "ack b unlock 1", "join a U"} {
		s.step(step)
	}
	var names []string
	for _, h := range s.n.Hosts() {
		names = append(names, h.Name)
	}
	if got := strings.Join(names, ""); got != "bc" || s.n.Version() != 2 || s.n.phase != Lock {
		t.Errorf("hosts %s version %d phase %s", got, s.n.Version(), s.n.phase)
	}
}
