package statetest

import (
	"strconv"
	"testing"

	"outrigger.dev/components/state"
)

// bulkItems reads many keys and checks that the result holds each of them exactly once.
func (s *suite) bulkItems(t *testing.T, reqs []state.GetRequest) map[string]state.BulkItem {
	t.Helper()
	items, err := s.bulk.BulkGet(bounded(t), reqs)
	if err != nil {
		t.Fatalf("BulkGet of %d keys: %v", len(reqs), err)
	}
	got := make(map[string]state.BulkItem, len(items))
	for _, item := range items {
		if _, twice := got[item.Key]; twice {
			t.Errorf("BulkGet returned %q twice", item.Key)
		}
		if item.Err != nil {
			t.Errorf("BulkGet of %q: %v", item.Key, item.Err)
		}
		got[item.Key] = item
	}
	for _, r := range reqs {
		if _, ok := got[r.Key]; !ok {
			t.Errorf("BulkGet left out %q", r.Key)
		}
	}
	if len(got) > len(reqs) {
		t.Errorf("BulkGet of %d keys returned %d", len(reqs), len(got))
	}
	return got
}

func (s *suite) bulkGet(t *testing.T) {
	s.parallel(t, "none", func(t *testing.T) {
		if items := s.bulkItems(t, nil); len(items) != 0 {
			t.Errorf("BulkGet of no keys = %v", items)
		}
		k := s.key(t, "missing")
		if item := s.bulkItems(t, []state.GetRequest{{Key: k}})[k]; item.Found || item.Data != nil || item.HasETag || item.ETag != "" {
			t.Errorf("BulkGet of a missing key = %+v", item)
		}
	})
	s.parallel(t, "mixed", func(t *testing.T) {
		raw, doc, missing := s.key(t, "raw"), s.key(t, "doc"), s.key(t, "missing")
		s.set(t, raw, text("\xff\x00raw"))
		s.set(t, doc, jsonText(`{"a":1}`))
		got := s.bulkItems(t, []state.GetRequest{{Key: missing}, {Key: raw}, {Key: doc}})
		if string(got[raw].Data) != "\xff\x00raw" {
			t.Errorf("bytes came back as %q", got[raw].Data)
		}
		if !sameJSON(t, got[doc].Data, []byte(`{"a":1}`)) {
			t.Errorf("JSON came back as %s", got[doc].Data)
		}
		if got[missing].Found {
			t.Errorf("the missing key came back as %+v", got[missing])
		}
		for _, k := range []string{raw, doc} {
			if one := s.get(t, k); got[k].ETag != one.ETag || got[k].HasETag != one.HasETag || !got[k].Found {
				t.Errorf("BulkGet of %q has found %v, etag %q; Get has %q", k, got[k].Found, got[k].ETag, one.ETag)
			}
		}
	})
	s.parallel(t, "many", func(t *testing.T) {
		var reqs []state.GetRequest
		for i := range 300 {
			k := s.key(t, strconv.Itoa(i))
			if i%3 != 0 {
				s.set(t, k, text(strconv.Itoa(i)))
			}
			reqs = append(reqs, state.GetRequest{Key: k})
		}
		got := s.bulkItems(t, reqs)
		for i, r := range reqs {
			item := got[r.Key]
			if item.Found != (i%3 != 0) || item.Found && string(item.Data) != strconv.Itoa(i) {
				t.Errorf("%q = found %v, %q", r.Key, item.Found, item.Data)
			}
		}
	})
}
