// Package imagepages gives back the memory that a program's own file takes after its start.
//
// Starting reads nearly all of a large Go program once: the runtime walks the types of every package, and every package sets itself up. Tens
// of megabytes stay resident that serving never looks at.
package imagepages

import "time"

// Settling is how long after a program is ready it has done what starts it.
const Settling = 2 * time.Second
