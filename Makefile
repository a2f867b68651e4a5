# make demo, make test: these two do everything that is needed on a fresh
# Debian machine with Go, make and git. `make help` lists the rest.

GO     ?= go
export GOFLAGS ?= -buildvcs=false
CACHE  ?= $(or $(FANIN_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fanin)
TAGS    = libvirt_dlopen

# Without a C compiler the pusher is built without libvirt, and says so.
CC_FOUND := $(shell command -v $(firstword $(shell $(GO) env CC)) 2>/dev/null)
export CGO_ENABLED ?= $(if $(CC_FOUND),1,0)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
INFO     = github.com/prometheus/common/version
LDFLAGS  = -s -w -X $(INFO).Version=$(VERSION) -X $(INFO).Revision=$(shell git rev-parse HEAD 2>/dev/null)

.PHONY: all build page demo test chaos chaos-peers race fuzz bench bench-peers bench-history simulate performance lint deps update screenshots clean help

all: build

## page: the script that draws charts, for the next build of the gateway
# Without Node, or without the network the first time, charts are pictures.
PAGE = internal/dashboard/page
page:
	@if command -v npm >/dev/null; then \
		{ [ -d $(PAGE)/node_modules ] && [ ! $(PAGE)/package-lock.json -nt $(PAGE)/node_modules ] || timeout 300 npm --prefix $(PAGE) ci --ignore-scripts --silent && touch $(PAGE)/node_modules; } && \
		npm --prefix $(PAGE) run --silent build -- --log-level=warning || echo 'the script of the charts could not be built: charts are pictures'; \
	else echo 'no npm: charts are pictures (apt-get install npm makes them live)'; fi

## build: bin/pusher and bin/gateway
build: page
	@if [ $(CGO_ENABLED) = 0 ]; then echo 'no C compiler: the pusher is built without libvirt (apt-get install gcc libc6-dev adds it)'; fi
	$(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/pusher ./cmd/gateway

## demo: this machine's host and guests on a page, until Ctrl-C
demo: build
	@stack/demo

## test: everything, against real servers; installs them when root on Debian
# One package at a time: several keep a processor busy and measure how busy.
test: deps page
	CGO_ENABLED=1 $(GO) test -tags $(TAGS) -p 1 -count=1 -timeout 25m ./...

## chaos: kill -9 and bad links for ten minutes, then every sample compared
# FANIN_CHAOS=30m is longer, FANIN_CHAOS_SEED=N is a run again.
chaos: export FANIN_CHAOS ?= 10m
chaos: deps
	CGO_ENABLED=1 $(GO) test -tags $(TAGS) -count=1 -timeout 90m -parallel 8 -run '^TestChaos' -v ./internal/e2e

## chaos-peers: the same faults on other agents, as a table of what is lost
chaos-peers: deps
	@tools/chaos-peers

## screenshots: pictures of the pages, in docs/screenshots
screenshots: deps page
	@mkdir -p docs/screenshots
	CGO_ENABLED=1 $(GO) test -tags $(TAGS) -count=1 -timeout 10m -run '^TestPage(Screens|Large)$$' ./internal/e2e -screenshots=$(CURDIR)/docs/screenshots

## race: what needs no servers, under the race detector
race:
	SKIP_E2E=1 CGO_ENABLED=1 $(GO) test -race -tags $(TAGS) -count=1 -timeout 15m $$($(GO) list ./... | grep -v /e2e)

## fuzz: a million mutated bodies of each version against prompb, then every fuzz test for FUZZTIME
FUZZTIME ?= 10s
fuzz:
	$(GO) test -v -run 'TestDecodersAgreeWithPrompb|TestBombs' -timeout 30m ./internal/wire -mutations=1000000 -seed=0 -repeats=100
	@grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9]*' internal | sed 's|/[^/]*:func | |' | while read -r folder name; do \
		SKIP_E2E=1 $(GO) test -tags $(TAGS) -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) ./$$folder || exit 1; done

## bench: the benchmarks, for benchstat (BENCH=pattern, COUNT=times, BENCHTIME=of each); as root those of the sources too
BENCH     ?= .
COUNT     ?= 1
BENCHTIME ?= 1s
bench:
	@SKIP_E2E=$$([ "$$(id -u)" = 0 ] || echo 1) CGO_ENABLED=1 $(GO) test -tags $(TAGS) -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -benchtime $(BENCHTIME) -timeout 60m \
		$$($(GO) list ./... | grep -v '/e2e/\(peers\|simulate\|load\|rig\)') 

## bench-peers: gateway and pusher beside Prometheus, VictoriaMetrics, Pushgateway and the libvirt exporter, in one run
bench-peers:
	@tools/bench-peers $(if $(QUICK),-quick)

## bench-history: the gateway's history beside a Prometheus 3 with the same samples, HISTORY=10m each
HISTORY ?= 10m
bench-history:
	CGO_ENABLED=1 $(GO) test -tags $(TAGS) -run '^$$' -bench '^BenchmarkHistory$$' -benchtime 1x -timeout 90m ./internal/e2e/peers -history=$(HISTORY)

## simulate: how the gateway's cost grows with the number of nodes, to NODES
NODES ?= 10000
simulate:
	$(GO) run ./internal/e2e/simulate --nodes=$(NODES)

## performance: all figures of docs/performance.md anew, half an hour
performance:
	@tools/performance

## lint: golangci-lint as .golangci.yml says, and shellcheck
lint: $(CACHE)/golangci-lint
	$(CACHE)/golangci-lint run --allow-parallel-runners
	@if command -v shellcheck >/dev/null; then shellcheck -S warning stack/demo stack/setup internal/e2e/deps tools/chaos-peers tools/bench-peers tools/performance .ci/run; fi

$(CACHE)/golangci-lint: tools/lint/go.mod
	@mkdir -p $(CACHE)
	@echo 'building golangci-lint, which takes some minutes the first time'
	cd tools/lint && CGO_ENABLED=0 $(GO) build -trimpath -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

## deps: the programs that the tests run against
deps:
	@internal/e2e/deps

## update: rewrite METRICS.md and the golden files
update:
	SKIP_E2E=1 $(GO) test -tags $(TAGS) $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n 1 dirname | sort -u) -update

clean:
	rm -rf bin

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

include stack/stack.mk
