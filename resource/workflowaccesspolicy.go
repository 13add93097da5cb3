package resource

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// WorkflowAccessPolicy says which apps may use the workflows and activities of the apps in its scopes. With no policy in
// scope everything is allowed; otherwise what no rule matches is denied.
type WorkflowAccessPolicy struct {
	Header
	Spec WorkflowAccessPolicySpec `json:"spec"`
	// Scopes are the apps that the policy protects.
	Scopes []string `json:"scopes,omitempty"`
}

// WorkflowAccessPolicySpec is the spec of a WorkflowAccessPolicy.
type WorkflowAccessPolicySpec struct {
	Rules []WorkflowAccessRule `json:"rules,omitempty"`
}

// WorkflowAccessRule allows callers to use workflows and activities.
type WorkflowAccessRule struct {
	Callers    []WorkflowCaller       `json:"callers"`
	Workflows  []WorkflowOperations   `json:"workflows,omitempty"`
	Activities []WorkflowActivityRule `json:"activities,omitempty"`
}

// WorkflowCaller is an app that a rule allows.
type WorkflowCaller struct {
	AppID string `json:"appID"`
}

// WorkflowOperations allows operations on the workflows whose name matches.
type WorkflowOperations struct {
	// Name is exact or a glob in which * does not match "/".
	Name string `json:"name"`
	// Operations are some of schedule, terminate, raise, pause, resume, purge, get and rerun.
	Operations []string `json:"operations"`
}

// WorkflowActivityRule allows scheduling the activities whose name matches.
type WorkflowActivityRule struct {
	Name string `json:"name"`
}

// AppScopes implements Resource.
func (w *WorkflowAccessPolicy) AppScopes() []string { return w.Scopes }

func (w *WorkflowAccessPolicy) identity() any { return [3]any{w.Metadata.Name, w.Spec, w.Scopes} }

// Validate checks the policy as its schema does. Load skips a policy that is not valid. The error lists everything that is wrong,
// separated by "; ".
func (w *WorkflowAccessPolicy) Validate() error {
	operations := []string{"schedule", "terminate", "raise", "pause", "resume", "purge", "get", "rerun"}
	var faults []string
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for i, rule := range w.Spec.Rules {
		at := fmt.Sprintf("spec.rules[%d]", i)
		if len(rule.Callers) == 0 {
			add("%s.callers must have at least 1 item", at)
		}
		for j, c := range rule.Callers {
			if c.AppID == "" {
				add("%s.callers[%d].appID must not be empty", at, j)
			}
		}
		if len(rule.Workflows) == 0 && len(rule.Activities) == 0 {
			add("%s: at least one of workflows or activities must contain a rule", at)
		}
		for j, wf := range rule.Workflows {
			if wf.Name == "" {
				add("%s.workflows[%d].name must not be empty", at, j)
			}
			if len(wf.Operations) == 0 {
				add("%s.workflows[%d].operations must have at least 1 item", at, j)
			}
			for k, op := range wf.Operations {
				if !slices.Contains(operations, op) {
					add("%s.workflows[%d].operations: unsupported value %q, use %s", at, j, op, strings.Join(operations, ", "))
				}
				if slices.Contains(wf.Operations[:k], op) {
					add("%s.workflows[%d].operations: duplicate value %q", at, j, op)
				}
			}
		}
		for j, a := range rule.Activities {
			if a.Name == "" {
				add("%s.activities[%d].name must not be empty", at, j)
			}
		}
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "; "))
	}
	return nil
}
