package resource

import (
	"fmt"
	"strings"
)

// Env reads the environment variables that resources may refer to with envRef.
type Env struct {
	lookup  func(string) (string, bool)
	allowed map[string]bool // upper-case names; nil is no list
}

// NewEnv returns an Env over a look-up such as os.LookupEnv. The variable DAPR_ENV_KEYS, if not empty, is a space separated
// list of the only names that may be read.
func NewEnv(lookup func(string) (string, bool)) *Env {
	e := &Env{lookup: lookup}
	if list, _ := lookup("DAPR_ENV_KEYS"); strings.TrimSpace(list) != "" {
		e.allowed = map[string]bool{}
		for name := range strings.FieldsSeq(list) {
			e.allowed[strings.ToUpper(name)] = true
		}
	}
	return e
}

// Get returns the value of a variable, empty if it is not set. The error says why a name may not be read: it is empty, contains
// a space, is APP_API_TOKEN, starts with DAPR_ or is not in DAPR_ENV_KEYS (Dapr API, resource loading: common types).
// Names are compared ignoring case.
func (e *Env) Get(name string) (string, error) {
	upper := strings.ToUpper(name)
	switch {
	case name == "":
		return "", fmt.Errorf("the name of the environment variable is empty")
	case strings.Contains(name, " "):
		return "", fmt.Errorf("environment variable %s may not be read: its name contains a space", quote(name))
	case upper == "APP_API_TOKEN" || strings.HasPrefix(upper, "DAPR_"):
		return "", fmt.Errorf("environment variable %s may not be read: APP_API_TOKEN and names that start with DAPR_ are reserved", quote(name))
	case e.allowed != nil && !e.allowed[upper]:
		return "", fmt.Errorf("environment variable %s may not be read: it is not listed in DAPR_ENV_KEYS", quote(name))
	}
	value, _ := e.lookup(name)
	return value, nil
}
