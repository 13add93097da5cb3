// Package all is the list of component types that the standard build has. With the build tag stablecomponents, alpha types whose
// libraries are heavy are left out.
package all

import (
	"outrigger.dev/components"
	"outrigger.dev/components/bindings/cron"
	"outrigger.dev/components/bindings/graphql"
	"outrigger.dev/components/bindings/http"
	bindingskafka "outrigger.dev/components/bindings/kafka"
	"outrigger.dev/components/bindings/localstorage"
	bindingsmqtt3 "outrigger.dev/components/bindings/mqtt3"
	bindingsmysql "outrigger.dev/components/bindings/mysql"
	bindingspostgresql "outrigger.dev/components/bindings/postgresql"
	bindingsrabbitmq "outrigger.dev/components/bindings/rabbitmq"
	bindingsredis "outrigger.dev/components/bindings/redis"
	"outrigger.dev/components/bindings/s3"
	"outrigger.dev/components/bindings/sftp"
	"outrigger.dev/components/bindings/smtp"
	"outrigger.dev/components/middleware/http/bearer"
	"outrigger.dev/components/middleware/http/oauth2"
	"outrigger.dev/components/middleware/http/oauth2clientcredentials"
	"outrigger.dev/components/middleware/http/ratelimit"
	"outrigger.dev/components/middleware/http/routeralias"
	"outrigger.dev/components/middleware/http/routerchecker"
	"outrigger.dev/components/middleware/http/sentinel"
	"outrigger.dev/components/middleware/http/uppercase"
	"outrigger.dev/components/middleware/http/wasm"
	"outrigger.dev/components/nameresolution/cloudmap"
	"outrigger.dev/components/nameresolution/consul"
	"outrigger.dev/components/nameresolution/kubernetes"
	resolvermdns "outrigger.dev/components/nameresolution/mdns"
	"outrigger.dev/components/nameresolution/nameformat"
	resolversqlite "outrigger.dev/components/nameresolution/sqlite"
	pubsubinmemory "outrigger.dev/components/pubsub/inmemory"
	"outrigger.dev/components/pubsub/jetstream"
	pubsubkafka "outrigger.dev/components/pubsub/kafka"
	pubsubmqtt3 "outrigger.dev/components/pubsub/mqtt3"
	pubsubrabbitmq "outrigger.dev/components/pubsub/rabbitmq"
	pubsubredis "outrigger.dev/components/pubsub/redis"
	secretskubernetes "outrigger.dev/components/secretstores/kubernetes"
	"outrigger.dev/components/secretstores/localenv"
	"outrigger.dev/components/secretstores/localfile"
	stateinmemory "outrigger.dev/components/state/inmemory"
	statemysql "outrigger.dev/components/state/mysql"
	statepostgresql "outrigger.dev/components/state/postgresql"
	stateredis "outrigger.dev/components/state/redis"
	"outrigger.dev/components/state/sqlite"
)

// Register adds all of them to r.
func Register(r *components.Registry) {
	cron.Register(r)
	graphql.Register(r)
	http.Register(r)
	bindingskafka.Register(r)
	localstorage.Register(r)
	bindingsmqtt3.Register(r)
	bindingsmysql.Register(r)
	bindingspostgresql.Register(r)
	bindingsrabbitmq.Register(r)
	bindingsredis.Register(r)
	s3.Register(r)
	sftp.Register(r)
	smtp.Register(r)

	bearer.Register(r)
	oauth2.Register(r)
	oauth2clientcredentials.Register(r)
	ratelimit.Register(r)
	routeralias.Register(r)
	routerchecker.Register(r)
	sentinel.Register(r)
	uppercase.Register(r)
	wasm.Register(r)
	registerHeavy(r)

	cloudmap.Register(r)
	consul.Register(r)
	kubernetes.Register(r)
	nameformat.Register(r)
	resolvermdns.Register(r)
	resolversqlite.RegisterWith(r, resolvermdns.Open)

	pubsubinmemory.Register(r)
	jetstream.Register(r)
	pubsubkafka.Register(r)
	pubsubmqtt3.Register(r)
	pubsubrabbitmq.Register(r)
	pubsubredis.Register(r)

	secretskubernetes.Register(r)
	localenv.Register(r)
	localfile.Register(r)

	stateinmemory.Register(r)
	statemysql.Register(r)
	statepostgresql.Register(r)
	stateredis.Register(r)
	sqlite.Register(r)
}
