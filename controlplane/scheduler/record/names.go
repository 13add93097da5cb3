// Package record is what the scheduler keeps in etcd: its keys, the stored messages, the full names of jobs, and how all that
// looks to clients of the scheduler (Dapr API, scheduler service: storage).
package record

import (
	"fmt"
	"strings"
	"unicode"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// The folders of the keys. A job and its counter are under its full name, an instance of the scheduler under its id.
const (
	Jobs       = "dapr/jobs/"
	Counters   = "dapr/counters/"
	Leadership = "dapr/leadership/"
)

// JobKey is where the job of a full name is.
func JobKey(name string) string { return Jobs + name }

// CounterKey is where the counter of a full name is.
func CounterKey(name string) string { return Counters + name }

// LeadershipKey is where the scheduler instance of an id is.
func LeadershipKey(id string) string { return Leadership + id }

// separator is between the parts of a full name. It may also be inside of a part, so that names are never split at it.
const separator = "||"

// longestName is how many bytes a full name may have.
const longestName = 512

// InvalidNameError tells why a job cannot have its name.
type InvalidNameError struct {
	Name   string // the full name
	Reason string
}

func (e *InvalidNameError) Error() string {
	return fmt.Sprintf("job name is invalid %q: %s", e.Name, e.Reason)
}

// CheckName says whether a full name may be stored (Dapr API, scheduler service: job names). The error is an
// [*InvalidNameError].
func CheckName(name string) error {
	switch {
	case name == "":
		return &InvalidNameError{name, "must not be empty"}
	case len(name) > longestName:
		return &InvalidNameError{name, fmt.Sprintf("must be at most %d characters", longestName)}
	case strings.ContainsAny(name, `/\#?`):
		return &InvalidNameError{name, `must not contain '/', '\', '#' or '?'`}
	case strings.ContainsFunc(name, unicode.IsControl):
		return &InvalidNameError{name, "must not contain control characters"}
	}
	return nil
}

// prefix joins the parts of a name, with a separator behind each.
func prefix(parts ...string) string { return strings.Join(parts, separator) + separator }

// appPrefix begins the full names of all jobs of an app.
func appPrefix(namespace, appID string) string { return prefix("app", namespace, appID) }

// typePrefix begins the full names of all reminders of an actor type. The apps of a namespace share its types.
func typePrefix(namespace, actorType string) string {
	return prefix("actorreminder", namespace, actorType)
}

// NamespacePrefixes begin the full names of everything in a namespace.
func NamespacePrefixes(namespace string) []string {
	return []string{prefix("actorreminder", namespace), prefix("app", namespace)}
}

// prefixOf is what stands before the short name of a job with this metadata. An actor that has no id stands for all of its type.
func prefixOf(m *schedulerv1.JobMetadata) (string, error) {
	switch t := m.GetTarget().GetType().(type) {
	case *schedulerv1.JobTargetMetadata_Job:
		return appPrefix(m.GetNamespace(), m.GetAppId()), nil
	case *schedulerv1.JobTargetMetadata_Actor:
		if t.Actor.GetId() == "" {
			return typePrefix(m.GetNamespace(), t.Actor.GetType()), nil
		}
		return prefix("actorreminder", m.GetNamespace(), t.Actor.GetType(), t.Actor.GetId()), nil
	default:
		return "", fmt.Errorf("unknown job type: %v; give a target of type job or actor", m.GetTarget())
	}
}

// Selection is the prefix of the jobs that the metadata mean: those of the app, of the actor, or, without an actor id, of the
// actor type. With partial the last part of the metadata is itself a prefix (Dapr API, scheduler service: DeleteByMetadata).
func Selection(m *schedulerv1.JobMetadata, partial bool) (string, error) {
	p, err := prefixOf(m)
	if partial {
		p = strings.TrimSuffix(p, separator)
	}
	return p, err
}

// Name is the full name of a job. It is checked when the job is stored, by [CheckName].
func Name(short string, m *schedulerv1.JobMetadata) (string, error) {
	if t, ok := m.GetTarget().GetType().(*schedulerv1.JobTargetMetadata_Actor); ok {
		return prefix("actorreminder", m.GetNamespace(), t.Actor.GetType(), t.Actor.GetId()) + short, nil
	}
	p, err := prefixOf(m)
	if err != nil {
		return "", err
	}
	return p + short, nil
}

// ShortName is the name that the client gave a job, found by taking away what its stored metadata put before it.
func ShortName(name string, m *schedulerv1.JobMetadata) (string, error) {
	before, err := Name("", m)
	if err != nil {
		return "", err
	}
	short, ok := strings.CutPrefix(name, before)
	if !ok {
		return "", fmt.Errorf("the job %q does not begin with %q as its metadata say; it was stored by something else", name, before)
	}
	return short, nil
}
