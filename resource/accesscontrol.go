package resource

import (
	"fmt"
	"slices"
	"strings"
)

// Actions of access control and secret scopes.
const (
	ActionAllow = "allow"
	ActionDeny  = "deny"
)

// DefaultTrustDomain is the trust domain of an app that does not set one.
const DefaultTrustDomain = "public"

// AccessControl says which apps may invoke this app. Its evaluation belongs to the mesh; here are its form and checks.
type AccessControl struct {
	// DefaultAction applies to callers without policy. See EffectiveDefaultAction.
	DefaultAction string `json:"defaultAction,omitempty"`
	// TrustDomain is that of this app.
	TrustDomain string            `json:"trustDomain,omitempty"`
	Policies    []AppAccessPolicy `json:"policies,omitempty"`
}

// AppAccessPolicy applies to one calling app of one namespace.
type AppAccessPolicy struct {
	AppID         string            `json:"appId"`
	DefaultAction string            `json:"defaultAction,omitempty"`
	TrustDomain   string            `json:"trustDomain,omitempty"`
	Namespace     string            `json:"namespace,omitempty"`
	Operations    []AccessOperation `json:"operations,omitempty"`
}

// AccessOperation allows or denies one operation.
type AccessOperation struct {
	// Name is an HTTP path or a gRPC method, with wildcards.
	Name string `json:"name"`
	// HTTPVerb are upper-case verbs or "*"; ignored for gRPC apps.
	HTTPVerb []string `json:"httpVerb,omitempty"`
	Action   string   `json:"action"`
}

// EffectiveDefaultAction returns "allow" or "deny": an empty default action denies if there are policies and allows otherwise,
// anything but allow denies (Dapr API, access control: loading).
func (a *AccessControl) EffectiveDefaultAction() string {
	if a.DefaultAction == "" && len(a.Policies) == 0 || strings.EqualFold(a.DefaultAction, ActionAllow) {
		return ActionAllow
	}
	return ActionDeny
}

// Validate reports policies without appId, trustDomain or namespace, which are fatal at start.
func (a *AccessControl) Validate() error {
	var noDomain, noNamespace []string
	noApp := false
	for _, p := range a.Policies {
		if p.AppID == "" {
			noApp = true
		}
		if p.TrustDomain == "" {
			noDomain = append(noDomain, p.AppID)
		}
		if p.Namespace == "" {
			noNamespace = append(noNamespace, p.AppID)
		}
	}
	if noApp || len(noDomain) > 0 || len(noNamespace) > 0 {
		return fmt.Errorf("invalid access control spec. missing trustdomain for apps: %v, missing namespace for apps: %v, missing app name on at least one of the app policies: %t",
			noDomain, noNamespace, noApp)
	}
	return nil
}

// check warns about what loads but does not do what it seems to.
func (a *AccessControl) check(r *reporter, defaultWritten bool) {
	if len(a.Policies) > 0 && !defaultWritten {
		r.warn("spec.accessControl has policies but no defaultAction, so callers without a policy are allowed", "set spec.accessControl.defaultAction to deny or allow")
	}
	action := func(path, value string) {
		if value != "" && !strings.EqualFold(value, ActionAllow) && !strings.EqualFold(value, ActionDeny) {
			r.warn(path+" "+quote(value)+" is unknown and denies", "use allow or deny")
		}
	}
	action("spec.accessControl.defaultAction", a.DefaultAction)
	var seen []string
	for i, p := range a.Policies {
		at := fmt.Sprintf("spec.accessControl.policies[%d]", i)
		action(at+".defaultAction", p.DefaultAction)
		key := p.AppID + "||" + p.Namespace
		if slices.Contains(seen, key) {
			r.warn(fmt.Sprintf("%s repeats app %q in namespace %q and replaces the earlier policy", at, p.AppID, p.Namespace), "merge the two policies")
		}
		seen = append(seen, key)
		for j, op := range p.Operations {
			action(fmt.Sprintf("%s.operations[%d].action", at, j), op.Action)
		}
	}
}
