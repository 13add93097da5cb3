package secrets

import (
	"maps"
	"slices"

	"outrigger.dev/api"
	"outrigger.dev/jsontext"
)

// Routes is the HTTP face of the block (Dapr API, API surface: secrets).
func (s *Secrets) Routes() []api.Route {
	const group = "v1/secrets"
	get := []string{"GET"}
	return []api.Route{
		{Methods: get, Path: "/v1.0/secrets/{secretStoreName}/bulk", Name: "GetBulkSecret", Group: group, Handler: s.handleBulkGet},
		{Methods: get, Path: "/v1.0/secrets/{secretStoreName}/{key}", Name: "GetSecret", Group: group, Handler: s.handleGet},
	}
}

func (s *Secrets) handleGet(c *api.Call) error {
	entries, err := s.Get(c.Context(), c.Parameter("secretStoreName"), c.Parameter("key"), c.Metadata())
	if err != nil {
		return err
	}
	if entries == nil {
		c.NoContent()
		return nil
	}
	c.ReplyJSON(append(jsontext.AppendStrings(nil, entries), '\n'))
	return nil
}

func (s *Secrets) handleBulkGet(c *api.Call) error {
	secrets, err := s.BulkGet(c.Context(), c.Parameter("secretStoreName"), c.Metadata())
	if err != nil {
		return err
	}
	if secrets == nil {
		c.NoContent()
		return nil
	}
	out := []byte{'{'}
	for i, name := range slices.Sorted(maps.Keys(secrets)) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(jsontext.AppendString(out, name), ':')
		out = jsontext.AppendStrings(out, secrets[name])
	}
	c.ReplyJSON(append(out, "}\n"...))
	return nil
}
