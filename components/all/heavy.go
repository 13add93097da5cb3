//go:build !stablecomponents

package all

import (
	"outrigger.dev/components"
	"outrigger.dev/components/middleware/http/opa"
)

// registerHeavy adds the types that make the program much larger: Open Policy Agent, 11 MiB.
func registerHeavy(r *components.Registry) {
	opa.Register(r)
}
