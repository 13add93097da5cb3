//go:build stablecomponents

package all

import "outrigger.dev/components"

// registerHeavy adds nothing to a build with the stable components alone.
func registerHeavy(*components.Registry) {}
