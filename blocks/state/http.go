package state

import (
	"net/textproto"

	"outrigger.dev/api"
	stores "outrigger.dev/components/state"
	"outrigger.dev/jsontext"
)

// Routes is the HTTP face of the block (Dapr API, API surface: state).
func (s *State) Routes() []api.Route {
	const group = "v1/state"
	get, save, remove := []string{"GET"}, []string{"POST", "PUT"}, []string{"DELETE"}
	return []api.Route{
		{Methods: get, Path: "/v1.0/state/{storeName}/{key}", Name: "GetState", Group: group, Handler: s.handleGet},
		{Methods: save, Path: "/v1.0/state/{storeName}", Name: "SaveState", Group: group, Handler: s.handleSave},
		{Methods: remove, Path: "/v1.0/state/{storeName}/{key}", Name: "DeleteState", Group: group, Handler: s.handleDelete},
		{Methods: save, Path: "/v1.0/state/{storeName}/bulk", Name: "GetBulkState", Group: group, Handler: s.handleBulkGet},
		{Methods: save, Path: "/v1.0/state/{storeName}/transaction", Name: "ExecuteStateTransaction", Group: group, Handler: s.handleTransaction},
		{Methods: save, Path: "/v1.0-alpha1/state/{storeName}/query", Name: "QueryStateAlpha1", Group: "v1alpha1/state", Handler: s.handleQuery},
	}
}

// option is a query parameter, "" when it is absent.
func option(c *api.Call, name string) string {
	if c.RawQuery() == "" {
		return ""
	}
	value, _ := c.Query(name)
	return value
}

func (s *State) handleGet(c *api.Call) error {
	item, err := s.Get(c.Context(), c.Parameter("storeName"), c.Parameter("key"), stores.Consistency(option(c, "consistency")), c.Metadata())
	if err != nil {
		return err
	}
	if !item.Found {
		c.NoContent()
		return nil
	}
	if item.HasETag {
		c.SetHeader("Etag", item.ETag)
	}
	for name, value := range item.Metadata {
		c.SetHeader(textproto.CanonicalMIMEHeaderKey("metadata."+name), value)
	}
	c.ReplyJSON(item.Data)
	return nil
}

func (s *State) handleSave(c *api.Call) error {
	e, err := s.open(c.Parameter("storeName"))
	if err != nil {
		return err
	}
	defer e.Release()
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrMalformed(err.Error())
	}
	scratch := s.buffer()
	defer s.recycle(scratch)
	items, err := readItems(body, scratch)
	if err != nil {
		return api.ErrMalformed(err.Error())
	}
	if metadata := c.Metadata(); metadata != nil {
		for i := range items {
			items[i].Metadata = api.MergeMetadata(items[i].Metadata, metadata)
		}
	}
	if err := s.save(c.Context(), e.Component, items); err != nil {
		return err
	}
	c.NoContent()
	return nil
}

func (s *State) handleDelete(c *api.Call) error {
	err := s.Delete(c.Context(), c.Parameter("storeName"), stores.DeleteRequest{
		Key:      c.Parameter("key"),
		ETag:     string(c.Header("If-Match")),
		Metadata: c.Metadata(),
		Options: stores.Options{
			Concurrency: stores.Concurrency(option(c, "concurrency")),
			Consistency: stores.Consistency(option(c, "consistency")),
		},
	})
	if err != nil {
		return err
	}
	c.NoContent()
	return nil
}

func (s *State) handleBulkGet(c *api.Call) error {
	e, err := s.open(c.Parameter("storeName"))
	if err != nil {
		return err
	}
	defer e.Release()
	text, err := c.ReadBody()
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	body, err := readBulkGet(text)
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	items, err := s.bulkGet(c.Context(), e.Component, body.Keys, body.Parallelism, api.MergeMetadata(body.Metadata, c.Metadata()))
	if err != nil {
		return err
	}
	b := s.buffer()
	defer s.recycle(b)
	out := append(b.bytes[:0], '[')
	for i := range items {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendBulkItem(out, &items[i])
	}
	b.bytes = append(out, "]\n"...)
	c.ReplyJSON(b.bytes)
	return nil
}

func appendBulkItem(out []byte, item *stores.BulkItem) []byte {
	out = jsontext.AppendString(append(out, `{"key":`...), item.Key)
	if len(item.Data) > 0 {
		out = jsontext.AppendData(append(out, `,"data":`...), item.Data)
	}
	if item.HasETag {
		out = jsontext.AppendString(append(out, `,"etag":`...), item.ETag)
	}
	if len(item.Metadata) > 0 {
		out = jsontext.AppendStrings(append(out, `,"metadata":`...), item.Metadata)
	}
	if item.Err != nil {
		out = jsontext.AppendString(append(out, `,"error":`...), item.Err.Error())
	}
	return append(out, '}')
}

func (s *State) handleTransaction(c *api.Call) error {
	e, err := s.open(c.Parameter("storeName"))
	if err != nil {
		return err
	}
	defer e.Release()
	in := e.Component
	transactor, err := in.transactor()
	if err != nil {
		return err
	}
	text, err := c.ReadBody()
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	body, err := readTransaction(text)
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	if len(body.Operations) == 0 {
		c.NoContent()
		return nil
	}
	scratch := s.buffer()
	defer s.recycle(scratch)
	metadata := c.Metadata()
	tx := transaction{operations: make([]stores.Operation, len(body.Operations)), metadata: api.MergeMetadata(body.Metadata, metadata)}
	if s.published(in) {
		tx.contentTypes = make([]string, len(body.Operations))
		tx.traceFrom(c.Context())
	}
	for i, o := range body.Operations {
		var contentType string
		if tx.operations[i], contentType, err = in.operation(i, o, metadata, scratch); err != nil {
			return err
		}
		if tx.contentTypes != nil {
			tx.contentTypes[i] = contentType
		}
	}
	if err := s.transact(c.Context(), in, transactor, tx); err != nil {
		return err
	}
	c.NoContent()
	return nil
}

// operation checks and reads the i-th operation of a transaction, and the content type that it gives its value.
func (in *instance) operation(i int, o operationBody, metadata map[string]string, scratch *buffer) (_ stores.Operation, contentType string, _ error) {
	if o.Operation != upsert && o.Operation != remove {
		return stores.Operation{}, "", api.ErrStateOperation(o.Operation)
	}
	var item stores.SetRequest
	contentType, err := readRequest(i, o, &item, scratch)
	if err != nil {
		return stores.Operation{}, "", api.ErrMalformedBody(err)
	}
	if err := in.legal(item.Key); err != nil {
		return stores.Operation{}, "", err
	}
	item.Metadata = api.MergeMetadata(item.Metadata, metadata)
	if o.Operation == upsert {
		return stores.Operation{Set: &item}, contentType, nil
	}
	return stores.Operation{Delete: &stores.DeleteRequest{Key: item.Key, ETag: item.ETag, Metadata: item.Metadata, Options: item.Options}}, "", nil
}

func (s *State) handleQuery(c *api.Call) error {
	e, err := s.use(c.Parameter("storeName"), "")
	if err != nil {
		return err
	}
	defer e.Release()
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrBodyRead(err)
	}
	result, err := s.query(c.Context(), e.Component, body, c.Metadata())
	if err != nil {
		return err
	}
	if len(result.Items) == 0 {
		c.NoContent()
		return nil
	}
	b := s.buffer()
	defer s.recycle(b)
	b.bytes = appendQueryResult(b.bytes[:0], &result)
	c.ReplyJSON(b.bytes)
	return nil
}

func appendQueryResult(out []byte, result *stores.QueryResult) []byte {
	out = append(out, `{"results":[`...)
	for i := range result.Items {
		item := &result.Items[i]
		if i > 0 {
			out = append(out, ',')
		}
		out = jsontext.AppendString(append(out, `{"key":`...), item.Key)
		out = append(out, `,"data":`...)
		if len(item.Data) == 0 {
			out = append(out, "null"...)
		} else {
			out = jsontext.AppendData(out, item.Data)
		}
		if item.HasETag {
			out = jsontext.AppendString(append(out, `,"etag":`...), item.ETag)
		}
		if item.Err != nil {
			out = jsontext.AppendString(append(out, `,"error":`...), item.Err.Error())
		}
		out = append(out, '}')
	}
	out = append(out, ']')
	if result.Token != "" {
		out = jsontext.AppendString(append(out, `,"token":`...), result.Token)
	}
	if len(result.Metadata) > 0 {
		out = jsontext.AppendStrings(append(out, `,"metadata":`...), result.Metadata)
	}
	return append(out, "}\n"...)
}

// buffer is reused room for replies and for values under way.
type buffer struct{ bytes []byte }

// maxKept is the size, in bytes, of the largest buffer that is kept for reuse.
const maxKept = 256 << 10

func (s *State) buffer() *buffer { return s.buffers.Get().(*buffer) }

func (s *State) recycle(b *buffer) {
	if cap(b.bytes) <= maxKept {
		s.buffers.Put(b)
	}
}
