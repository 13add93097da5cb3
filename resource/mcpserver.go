package resource

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// DefaultMCPTimeout bounds connecting to an MCP server that does not say otherwise.
const DefaultMCPTimeout = 30 * time.Second

// MCPServer is a Model Context Protocol server whose tools become workflows.
type MCPServer struct {
	Header
	Spec   MCPServerSpec `json:"spec"`
	Scopes []string      `json:"scopes,omitempty"`
}

// MCPServerSpec is the spec of an MCPServer.
type MCPServerSpec struct {
	Endpoint   MCPEndpoint   `json:"endpoint"`
	Middleware MCPMiddleware `json:"middleware,omitzero"`
	// Catalog is informational.
	Catalog *MCPCatalog `json:"catalog,omitempty"`
	// IgnoreErrors makes a failing registration a log line instead of the end of the sidecar.
	IgnoreErrors bool `json:"ignoreErrors,omitempty"`
}

// MCPEndpoint says how the server is reached: exactly one of its fields is set.
type MCPEndpoint struct {
	StreamableHTTP *MCPHTTP  `json:"streamableHTTP,omitempty"`
	SSE            *MCPHTTP  `json:"sse,omitempty"`
	Stdio          *MCPStdio `json:"stdio,omitempty"`
}

// MCPHTTP is a server reached over HTTP.
type MCPHTTP struct {
	// URL is http or https, with a host.
	URL string `json:"url"`
	// ProtocolVersion is accepted but not enforced: the version is negotiated.
	ProtocolVersion string `json:"protocolVersion,omitempty"`
	// Timeout is a Go duration; see TimeoutOrDefault.
	Timeout string      `json:"timeout,omitempty"`
	Headers []NameValue `json:"headers,omitempty"`
	Auth    MCPAuth     `json:"auth,omitzero"`
}

// TimeoutOrDefault returns the connect and discovery limit: timeout, or 30 s if that is empty, invalid or not positive.
func (m *MCPHTTP) TimeoutOrDefault() time.Duration {
	if d, err := time.ParseDuration(m.Timeout); err == nil && d > 0 {
		return d
	}
	return DefaultMCPTimeout
}

// MCPAuth authenticates the sidecar to the server.
type MCPAuth struct {
	// SecretStore is used for headers and the OAuth2 secret.
	SecretStore string     `json:"secretStore,omitempty"`
	OAuth2      *MCPOAuth2 `json:"oauth2,omitempty"`
	SPIFFE      *MCPSPIFFE `json:"spiffe,omitempty"`
}

// MCPOAuth2 is the client credentials flow.
type MCPOAuth2 struct {
	// Issuer is the URL of the token endpoint.
	Issuer       string       `json:"issuer"`
	Audience     string       `json:"audience,omitempty"`
	Scopes       []string     `json:"scopes,omitempty"`
	ClientID     string       `json:"clientID,omitempty"`
	SecretKeyRef SecretKeyRef `json:"secretKeyRef,omitzero"`
}

// MCPSPIFFE sends a workload identity token.
type MCPSPIFFE struct {
	JWT *MCPSPIFFEJWT `json:"jwt,omitempty"`
}

// MCPSPIFFEJWT says in which header the token goes.
type MCPSPIFFEJWT struct {
	Header            string `json:"header"`
	HeaderValuePrefix string `json:"headerValuePrefix,omitempty"`
	Audience          string `json:"audience"`
}

// MCPStdio is a server run as a child process; standalone mode only.
type MCPStdio struct {
	Command string      `json:"command"`
	Args    []string    `json:"args,omitempty"`
	Env     []NameValue `json:"env,omitempty"`
}

// MCPMiddleware lists the workflows that run around tool calls and tool listing, in order.
type MCPMiddleware struct {
	BeforeCallTool  []MCPMutatingHook `json:"beforeCallTool,omitempty"`
	AfterCallTool   []MCPMutatingHook `json:"afterCallTool,omitempty"`
	BeforeListTools []MCPHook         `json:"beforeListTools,omitempty"`
	AfterListTools  []MCPMutatingHook `json:"afterListTools,omitempty"`
}

// MCPHook is a workflow that observes.
type MCPHook struct {
	Workflow MCPWorkflow `json:"workflow"`
}

// MCPMutatingHook is a workflow that observes or, with Mutate, changes what passes.
type MCPMutatingHook struct {
	Workflow MCPWorkflow `json:"workflow"`
	Mutate   bool        `json:"mutate,omitempty"`
}

// MCPWorkflow names a workflow, of this app if AppID is empty.
type MCPWorkflow struct {
	WorkflowName string `json:"workflowName"`
	AppID        string `json:"appID,omitempty"`
}

// MCPCatalog describes the server to people.
type MCPCatalog struct {
	DisplayName string            `json:"displayName,omitempty"`
	Description string            `json:"description,omitempty"`
	Owner       MCPOwner          `json:"owner,omitzero"`
	Tags        []string          `json:"tags,omitempty"`
	Links       map[string]string `json:"links,omitempty"`
}

// MCPOwner says who runs the server.
type MCPOwner struct {
	Team    string `json:"team,omitempty"`
	Contact string `json:"contact,omitempty"`
}

// AppScopes implements Resource.
func (m *MCPServer) AppScopes() []string { return m.Scopes }

func (m *MCPServer) identity() any { return [3]any{m.Metadata.Name, m.Spec, m.Scopes} }

// transports lists the endpoints that are set over HTTP, with their field names.
func (m *MCPServer) transports() (names []string, endpoints []*MCPHTTP) {
	if e := m.Spec.Endpoint.StreamableHTTP; e != nil {
		names, endpoints = append(names, "streamableHTTP"), append(endpoints, e)
	}
	if e := m.Spec.Endpoint.SSE; e != nil {
		names, endpoints = append(names, "sse"), append(endpoints, e)
	}
	return names, endpoints
}

// Validate checks the resource as its schema does. The error starts `MCPServer "<name>" failed validation: `.
func (m *MCPServer) Validate() error {
	var faults []string
	need := func(value, path string) {
		if value == "" {
			faults = append(faults, path+" must not be empty")
		}
	}
	names, endpoints := m.transports()
	count := len(endpoints)
	if m.Spec.Endpoint.Stdio != nil {
		count++
	}
	if count != 1 {
		faults = append(faults, "exactly one of streamableHTTP, sse, or stdio must be set")
	}
	for i, e := range endpoints {
		at := "spec.endpoint." + names[i]
		need(e.URL, at+".url")
		if o := e.Auth.OAuth2; o != nil {
			need(o.Issuer, at+".auth.oauth2.issuer")
		}
		if s := e.Auth.SPIFFE; s != nil && s.JWT != nil {
			need(s.JWT.Header, at+".auth.spiffe.jwt.header")
			need(s.JWT.Audience, at+".auth.spiffe.jwt.audience")
		}
	}
	if s := m.Spec.Endpoint.Stdio; s != nil {
		need(s.Command, "spec.endpoint.stdio.command")
	}
	mutating := func(name string, hooks []MCPMutatingHook) {
		for i, h := range hooks {
			need(h.Workflow.WorkflowName, fmt.Sprintf("spec.middleware.%s[%d].workflow.workflowName", name, i))
		}
	}
	mutating("beforeCallTool", m.Spec.Middleware.BeforeCallTool)
	mutating("afterCallTool", m.Spec.Middleware.AfterCallTool)
	mutating("afterListTools", m.Spec.Middleware.AfterListTools)
	for i, h := range m.Spec.Middleware.BeforeListTools {
		need(h.Workflow.WorkflowName, fmt.Sprintf("spec.middleware.beforeListTools[%d].workflow.workflowName", i))
	}
	if len(faults) > 0 {
		return fmt.Errorf("MCPServer %q failed validation: %s", m.Metadata.Name, strings.Join(faults, "; "))
	}
	return nil
}

// ValidateSecurity checks what the schema cannot: URL schemes, and that a child process is allowed and stays within the
// working directory. workDir is the working directory of the sidecar, against which relative commands resolve.
// The error starts `MCPServer "<name>" failed security validation: MCPServer "<name>": `.
func (m *MCPServer) ValidateSecurity(kubernetes bool, workDir string) error {
	if err := m.securityFault(kubernetes, workDir); err != nil {
		return fmt.Errorf("MCPServer %q failed security validation: MCPServer %[1]q: %w", m.Metadata.Name, err)
	}
	return nil
}

func (m *MCPServer) securityFault(kubernetes bool, workDir string) error {
	if s := m.Spec.Endpoint.Stdio; s != nil {
		if kubernetes {
			return errors.New("stdio transport is not allowed in Kubernetes mode")
		}
		if s.Command == "" {
			return errors.New("stdio.command must not be empty")
		}
		if !filepath.IsAbs(s.Command) && strings.ContainsAny(s.Command, `/\`) && !within(workDir, s.Command) {
			return errors.New("stdio.command must not escape working directory")
		}
		for _, e := range s.Env {
			if strings.ContainsAny(e.Name, "=\n\r\x00") {
				return fmt.Errorf("stdio.env name %q contains invalid characters", e.Name)
			}
		}
	}
	names, endpoints := m.transports()
	for i, e := range endpoints {
		u, err := url.Parse(e.URL)
		if err != nil {
			return fmt.Errorf("%s.url is not a valid URL: %w", names[i], err)
		}
		if u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("%s.url scheme must be http or https, got %q", names[i], u.Scheme)
		}
		if u.Hostname() == "" {
			return fmt.Errorf("%s.url must have a host", names[i])
		}
	}
	return nil
}

// within tells whether a relative path stays inside dir, also after following symbolic links. A path that does not exist
// (yet) is judged by its text.
func within(dir, relative string) bool {
	if !filepath.IsLocal(filepath.Clean(filepath.FromSlash(relative))) {
		return false
	}
	target, err := filepath.EvalSymlinks(filepath.Join(dir, relative))
	if err != nil {
		return true
	}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	rel, err := filepath.Rel(dir, target)
	return err == nil && filepath.IsLocal(rel)
}
