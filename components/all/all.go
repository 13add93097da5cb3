// Package all is the list of component types that the standard build has.
package all

import (
	"outrigger.dev/components"
	resolvermdns "outrigger.dev/components/nameresolution/mdns"
	resolversqlite "outrigger.dev/components/nameresolution/sqlite"
	pubsubinmemory "outrigger.dev/components/pubsub/inmemory"
	"outrigger.dev/components/secretstores/localenv"
	"outrigger.dev/components/secretstores/localfile"
	"outrigger.dev/components/state/inmemory"
	"outrigger.dev/components/state/mysql"
	"outrigger.dev/components/state/postgresql"
	"outrigger.dev/components/state/redis"
	"outrigger.dev/components/state/sqlite"
)

// Register adds all of them to r.
func Register(r *components.Registry) {
	resolvermdns.Register(r)
	resolversqlite.RegisterWith(r, resolvermdns.Open)

	pubsubinmemory.Register(r)

	localenv.Register(r)
	localfile.Register(r)

	inmemory.Register(r)
	mysql.Register(r)
	postgresql.Register(r)
	redis.Register(r)
	sqlite.Register(r)
}
