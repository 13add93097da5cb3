// Package api holds the wire contracts, the error catalogue and the call type every HTTP face sees.
package api

//go:generate go run -C ../tools ./protogen -root ../api/proto -nested durabletask,etcdcron -out ../api/gen -module outrigger.dev/api/gen
