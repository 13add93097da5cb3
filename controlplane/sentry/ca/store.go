package ca

import "context"

// Store keeps documents where all Sentries of a control plane find them. It is safe for concurrent use, also by several processes.
type Store interface {
	// Load reads the documents, and completes what a writer that was interrupted has left undone. Documents that do not exist are
	// absent, which is no error.
	Load(ctx context.Context) (Documents, error)
	// Update gives change the present documents and writes those that it returns, if it says that they are to be written. No other
	// writer comes in between: change is called again if one did. An error of change ends it, and nothing is written. Documents that are absent in
	// what change returns are left as they are.
	Update(ctx context.Context, change func(Documents) (Documents, bool, error)) error
	// Watch are directories whose changes may mean that the documents changed.
	Watch() []string
}
