package placement

import (
	"encoding/json"
	"net/http"
)

// serveState answers with the tables of the leader, and null on a follower (Dapr API, placement: /placement/state).
func (s *server) serveState(w http.ResponseWriter, r *http.Request) {
	body := []byte("null")
	if t := s.present(); t != nil {
		state, err := t.state(r.Context())
		if err == nil {
			body, err = json.Marshal(state)
		}
		if err != nil {
			http.Error(w, "the tables cannot be told: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
