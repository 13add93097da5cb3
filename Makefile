# Outrigger. `make demo` shows it at work, `make test` runs every test; both install what they need.

VERSION ?= edge
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
GO      ?= go
TAGS    ?=
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)'

.PHONY: build demo test race bench lint generate fuzz clean

build: ## bin/daprd, bin/dapr, bin/placement, bin/scheduler and bin/sentry; TAGS=stablecomponents leaves out heavy alpha components
	$(BUILD) -o bin/ ./cmd/daprd ./cmd/dapr ./cmd/placement ./cmd/scheduler ./cmd/sentry

demo: build ## three apps behind three sidecars: invocation, state, events, secrets; leaves nothing running that it started
	@bin/dapr local status >/dev/null 2>&1; before=$$?; \
	bin/dapr run -f examples/quickstart/dapr.yaml --stop-with checkout; code=$$?; \
	[ $$before -eq 0 ] || bin/dapr local stop; exit $$code

test: ## every test; installs the servers and SDKs that it needs
	test/setup/install.sh
	test/setup/java.sh
	test/setup/kafka.sh
	test/setup/zipkin.sh
	test/setup/collector.sh
	test/setup/consul.sh
	$(GO) test -timeout 20m -parallel 8 ./...

race: ## the unit tests under the race detector
	$(GO) test -race -timeout 30m $$($(GO) list ./... | grep -v /test/sdk)

bench: build ## the figures of the budgets; PEER=/path/to/daprd compares with another sidecar
	$(GO) run ./test/bench -daprd bin/daprd $(if $(PEER),-peer $(PEER))

lint: ## go vet, staticcheck, gofumpt
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...
	@cd tools && out=$$($(GO) tool gofumpt -l .. | grep -v '^\.\./api/gen/'); if [ -n "$$out" ]; then echo "not formatted:"; echo "$$out"; exit 1; fi

generate: ## api/gen from api/proto, docs/components.md from the component registry
	$(GO) generate ./api
	$(GO) run ./cmd/dapr components docs > docs/components.md

FUZZTIME ?= 10s
fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(grep -rl --include=*_test.go '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | cut -c6-); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

clean:
	rm -rf bin
