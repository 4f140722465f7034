GO      ?= go
TOOL     = $(GO) tool -modfile=tools/go.mod
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w"
FUZZTIME = 1m
RUNARGS  =

help:    ## print this list
	@grep -h '##' $(MAKEFILE_LIST) | grep -v grep

build:   ## bin/sallyport, bin/session-manager-plugin (the same program) and bin/sallyport-agent
	@command -v $(GO) >/dev/null || { echo "Go is needed, 1.26 or later: https://go.dev/dl" >&2; exit 1; }
	@mkdir -p bin
	$(BUILD) -o bin/ ./cmd/sallyport ./cmd/sallyport-agent
	@ln -sf sallyport bin/session-manager-plugin

run: build  ## build, and run a server with this machine as a managed node
	@exec bin/sallyport dev $(RUNARGS)

test:    ## every test, with the race detector, and without it what such builds leave out
	$(GO) test -race -timeout 20m ./...
	$(GO) test -timeout 5m ./internal/rawio ./internal/socket

check: vet lint test  ## what CI runs

vet:
	$(GO) vet ./...
	$(GO) vet -tags interop ./internal/interop

lint:
	$(TOOL) staticcheck ./...
	$(TOOL) staticcheck -tags interop ./internal/interop
	$(GO) run -C tools ./apigen -check

generate: ## make internal/api/*/model_gen.go of internal/api/models, and docs/operations.md of the operations
	$(GO) run -C tools ./apigen
	$(GO) test ./internal/server -run 'TestOperationsPage$$' -update

bench: build  ## figures, as ratios against what runs beside them
	$(GO) run ./internal/bench

interop: build  ## every kind of session, with AWS's own programs: see CONTRIBUTING.md
	$(GO) test -tags interop -count=1 -timeout 35m -v -run 'TestInterop' ./internal/interop

fuzz:    ## each fuzz test, FUZZTIME at a time
	@$(GO) list ./... | while read p; do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
		done; done

simulate: ## SEEDS random runs of server, agent and client, from seed FROM; SEED=n is one of them again
	$(GO) test -race -count=1 -timeout 0 -run 'TestSeeds$$' ./internal/simulation -seeds=$(SEEDS) -from=$(FROM) -seed=$(SEED)
SEEDS = 1000
FROM  = 1
SEED  = 0

cross:   ## build for every system
	@for os in linux darwin windows; do for arch in amd64 arm64; do \
		echo $$os/$$arch; GOOS=$$os GOARCH=$$arch CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/sallyport || exit 1; \
		GOOS=$$os GOARCH=$$arch CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/sallyport-agent || exit 1; done; done

.PHONY: help build run test check vet lint generate bench interop fuzz simulate cross
