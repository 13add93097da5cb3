package redis

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/redis/rueidis"

	"outrigger.dev/components/state"
)

// Get returns the item under the key.
func (s *Store) Get(ctx context.Context, req state.GetRequest) (state.Item, error) {
	return s.item(ctx, &req, s.client.Do(ctx, s.getCommand(&req)))
}

// BulkGet reads all keys in one pipeline. The items have the order of the requests.
func (s *Store) BulkGet(ctx context.Context, reqs []state.GetRequest) ([]state.BulkItem, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	commands := make([]rueidis.Completed, len(reqs))
	for i := range reqs {
		commands[i] = s.getCommand(&reqs[i])
	}
	results := s.client.DoMulti(ctx, commands...)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	items := make([]state.BulkItem, len(reqs))
	for i := range reqs {
		items[i].Key = reqs[i].Key
		items[i].Item, items[i].Err = s.item(ctx, &reqs[i], results[i])
	}
	return items, nil
}

func (s *Store) getCommand(req *state.GetRequest) rueidis.Completed {
	if s.jsonLayout(req.Metadata) {
		return s.client.B().JsonGet().Key(req.Key).Build()
	}
	return s.client.B().Hmget().Key(req.Key).Field("data", "version").Build()
}

// item reads the reply to getCommand.
func (s *Store) item(ctx context.Context, req *state.GetRequest, r rueidis.RedisResult) (state.Item, error) {
	if s.jsonLayout(req.Metadata) {
		text, err := r.AsBytes()
		if rueidis.IsRedisNil(err) {
			return state.Item{}, nil
		}
		if err != nil {
			return state.Item{}, err
		}
		return parseDocument(text)
	}
	fields, err := r.ToArray()
	if err != nil {
		if answer, ok := rueidis.IsRedisErr(err); ok && hasCode(answer, "WRONGTYPE") {
			return s.plain(ctx, req.Key)
		}
		return state.Item{}, err
	}
	if len(fields) != 2 {
		return state.Item{}, fmt.Errorf("redis at %s answered HMGET of 2 fields with %d", s.client.Address, len(fields))
	}
	data, version := &fields[0], &fields[1]
	if data.IsNil() && version.IsNil() {
		// This is how a missing key shows. So does a foreign hash, which is none of ours.
		return state.Item{}, nil
	}
	if data.IsNil() || version.IsNil() {
		return state.Item{}, errors.New("required hash field 'data' or 'version' was not found")
	}
	item := state.Item{Found: true, HasETag: true}
	if item.ETag, err = version.ToString(); err == nil {
		item.Data, err = data.AsBytes()
	}
	return item, err
}

// plain reads what is not a hash as a string, which has no version.
func (s *Store) plain(ctx context.Context, key string) (state.Item, error) {
	text, err := s.client.Do(ctx, s.client.B().Get().Key(key).Build()).AsBytes()
	if rueidis.IsRedisNil(err) {
		return state.Item{}, nil
	}
	if err != nil {
		return state.Item{}, err
	}
	return state.Item{Found: true, Data: text}, nil
}

// hasCode reports whether an error of the server begins with the code.
func hasCode(err *rueidis.RedisError, code string) bool {
	text := err.Error()
	return len(text) >= len(code) && text[:len(code)] == code
}

// parseDocument reads an item of the JSON layout.
func parseDocument(text []byte) (state.Item, error) {
	var doc struct {
		Data    json.RawMessage `json:"data"`
		Version json.Number     `json:"version"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return state.Item{}, fmt.Errorf("the stored document is not of the form {\"data\":...,\"version\":...}: %w", err)
	}
	if doc.Data == nil {
		return state.Item{}, errors.New("the stored document is not of the form {\"data\":...,\"version\":...}: it has no data")
	}
	return state.Item{Found: true, Data: doc.Data, ETag: doc.Version.String(), HasETag: doc.Version != ""}, nil
}

// Set writes one item.
func (s *Store) Set(ctx context.Context, req state.SetRequest) error {
	firstWrite := req.Options.Concurrency == state.FirstWrite
	sc, args, err := s.setCall(&req, s.jsonLayout(req.Metadata), firstWrite)
	if err != nil {
		return err
	}
	n, err := s.run(ctx, sc, req.Options.Consistency == state.Strong, req.Key, args[:])
	switch {
	case err != nil:
		return failed("set", req.Key, err)
	case n < 0:
		return refused("set", req.Key, req.ETag)
	}
	return nil
}

// setCall is the script for a write and its arguments.
func (s *Store) setCall(req *state.SetRequest, asJSON, firstWrite bool) (sc *script, args [4]string, err error) {
	if err := req.Options.Validate(); err != nil {
		return nil, args, err
	}
	version, err := expectedVersion(req.ETag, req.Options.Concurrency)
	if err != nil {
		return nil, args, err
	}
	expiry, err := s.expiry(req.Metadata)
	if err != nil {
		return nil, args, err
	}
	mark := "0"
	if firstWrite {
		mark = "1"
	}
	if asJSON {
		return &s.setJSON, [4]string{version, documentData(req.Value), mark, expiry}, nil
	}
	// The text is a copy: a command may still wait to be sent when a cancelled caller takes its bytes back.
	return &s.setHash, [4]string{version, string(req.Value.Bytes), mark, expiry}, nil
}

// documentData is a value as part of a JSON document, where bytes are a string in base64.
func documentData(v state.Value) string {
	if v.JSON {
		return string(v.Bytes)
	}
	return `"` + base64.StdEncoding.EncodeToString(v.Bytes) + `"`
}

// Delete removes one item.
func (s *Store) Delete(ctx context.Context, req state.DeleteRequest) error {
	sc, version, err := s.deleteCall(&req, s.jsonLayout(req.Metadata))
	if err != nil {
		return err
	}
	strong := req.Options.Consistency == state.Strong
	var n int64
	if sc == nil && !(strong && s.replicas > 0) {
		err = s.client.RetryUnsent(ctx, func() error {
			return s.client.Do(ctx, s.client.B().Del().Key(req.Key).Build()).Error()
		})
	} else {
		if sc == nil {
			sc = &s.deleteHash
		}
		n, err = s.run(ctx, sc, strong, req.Key, []string{version})
	}
	switch {
	case err != nil:
		return failed("delete", req.Key, err)
	case n < 0:
		return refused("delete", req.Key, req.ETag)
	}
	return nil
}

// deleteCall is the script for a removal and the expected version; it is nil when nothing is expected, so that a plain DEL
// does it.
func (s *Store) deleteCall(req *state.DeleteRequest, asJSON bool) (sc *script, version string, err error) {
	if err := req.Options.Validate(); err != nil {
		return nil, "", err
	}
	version, err = expectedVersion(req.ETag, req.Options.Concurrency)
	switch {
	case err != nil || version == "0":
		return nil, version, err
	case asJSON:
		return &s.deleteJSON, version, nil
	default:
		return &s.deleteHash, version, nil
	}
}
