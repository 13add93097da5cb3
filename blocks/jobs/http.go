package jobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/wrapperspb" // so that data of these types can be shown

	"outrigger.dev/api"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// Routes is the HTTP face of the block (Dapr API, jobs: routes).
func (j *Jobs) Routes() []api.Route {
	var routes []api.Route
	for _, version := range [][2]string{{"v1.0", "v1"}, {"v1.0-alpha1", "v1alpha1"}} {
		path, group := "/"+version[0]+"/jobs/{name}", version[1]+"/jobs"
		routes = append(routes,
			api.Route{Methods: []string{"POST"}, Path: path, Name: "ScheduleJob", Group: group, Handler: j.handleSchedule},
			api.Route{Methods: []string{"GET"}, Path: path, Name: "GetJob", Group: group, Handler: j.handleGet},
			api.Route{Methods: []string{"DELETE"}, Path: path, Name: "DeleteJob", Group: group, Handler: j.handleDelete},
		)
	}
	return routes
}

func (j *Jobs) handleSchedule(c *api.Call) error {
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrBodyRead(err)
	}
	job, overwrite, err := parse(body)
	switch {
	case err != nil:
		return api.ErrMalformedBody(err)
	case job.GetName() != "":
		return api.ErrJobNameInBody(j.options.AppID)
	}
	job.Name = strings.TrimSpace(c.Parameter("name"))
	if err := j.Schedule(c.Context(), job, overwrite); err != nil {
		return err
	}
	c.NoContent()
	return nil
}

// parse reads the body of a request: protobuf JSON. Its data may be anything, and is kept as a google.protobuf.Value (Dapr API, jobs: fields).
func parse(body []byte) (job *runtimev1.Job, overwrite bool, err error) {
	in := new(internalsv1.JobHTTPRequest)
	if len(body) > 0 {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, in); err != nil {
			return nil, false, plain(err)
		}
	}
	job = &runtimev1.Job{
		Name: in.GetName(), Schedule: in.Schedule, Repeats: in.Repeats, DueTime: in.DueTime, Ttl: in.Ttl, FailurePolicy: in.GetFailurePolicy(),
	}
	if in.GetData() != nil {
		if job.Data, err = anypb.New(in.GetData()); err != nil {
			return nil, false, plain(err)
		}
		// Protobuf reads back less depth than it writes: what nobody could read any more, app and GET included, is not stored.
		if bytes.Count(body, []byte{'['})+bytes.Count(body, []byte{'{'}) >= suspiciousDepth && proto.Unmarshal(job.Data.GetValue(), new(structpb.Value)) != nil {
			return nil, false, errors.New("data is nested too deeply: use at most 3333 levels of objects, or 5000 of arrays")
		}
	}
	return job, in.GetOverwrite(), nil
}

// suspiciousDepth is the number of brackets in a body from which on its data may be too deep.
const suspiciousDepth = 3000

// plain is an error of the protobuf library with spaces in place of those that it makes unlike spaces in some builds.
func plain(err error) error {
	return errors.New(strings.ReplaceAll(err.Error(), "\u00a0", " "))
}

func (j *Jobs) handleGet(c *api.Call) error {
	job, err := j.Get(c.Context(), c.Parameter("name"))
	if err != nil {
		return err
	}
	text, err := encode(job)
	if err != nil {
		return api.ErrEncodeResponse(err)
	}
	c.ReplyJSON(text)
	return nil
}

// encode writes a job as protobuf JSON without spaces, which the library puts in at random. It fails on data of a type that this program does
// not know.
func encode(job *runtimev1.Job) ([]byte, error) {
	text, err := protojson.Marshal(job)
	if err != nil {
		return nil, plain(err)
	}
	var out bytes.Buffer
	out.Grow(len(text))
	if err := json.Compact(&out, text); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (j *Jobs) handleDelete(c *api.Call) error {
	if err := j.Delete(c.Context(), c.Parameter("name")); err != nil {
		return err
	}
	c.NoContent()
	return nil
}
