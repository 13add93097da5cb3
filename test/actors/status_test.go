package actors_test

import "encoding/json"

// active is how many actors of a type are active at the member's sidecar, as its metadata say.
func (m *member) active(actorType string) int {
	m.t.Helper()
	r := m.Get("/v1.0/metadata")
	var metadata struct {
		ActorRuntime struct {
			ActiveActors []struct {
				Type  string
				Count int
			}
		}
	}
	if err := json.Unmarshal([]byte(r.Body), &metadata); err != nil {
		m.t.Fatalf("%v: %s", err, r.Body)
	}
	for _, a := range metadata.ActorRuntime.ActiveActors {
		if a.Type == actorType {
			return a.Count
		}
	}
	return 0
}
