# goccid: `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO        ?= go
BIN       ?= bin
FUZZTIME  ?= 10s
BENCHTIME ?= 1s
TOOL      := $(GO) tool -modfile=tools/go.mod
PLATFORMS := linux/amd64 linux/arm64 linux/arm linux/riscv64 darwin/arm64 windows/amd64

.PHONY: help build demo test test-vm lint cross fuzz bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

build: ## Build the static commands into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/ ./cmd/...

demo: ## Drive virtual readers through the whole stack (needs only Go)
	@CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/ ./cmd/...
	@$(BIN)/ccid-probe demo
	@test/clients/scan $(BIN)

test: ## Run every test: without cgo, then with the race detector, libusb and libpcsclite
	CGO_ENABLED=0 $(GO) test ./...
	./.ci/can-cgo && $(GO) test -race -tags libusb,pcsclite ./... || test "$$?" -eq 77
	@echo "Runs passed, by what a reader does (rows) and what goes wrong at each of its USB transfers (columns):"
	@CGO_ENABLED=0 $(GO) test -count=1 -run TestSweep -v ./ccid/host/sweep | grep '^|'
	@echo "Kinds of virtual readers driven:"
	@CGO_ENABLED=0 $(GO) test -count=1 -run TestMatrix -v ./ccid/host/matrix | grep '^|'
	@echo "Calls of the PC/SC API that Debian's pcscd and goccidd answer differently, docs/parity.md says why:"
	@CGO_ENABLED=0 $(GO) test -count=1 -run TestEveryCallBesidesPcscd -v ./test/clients | awk '/^\|/ || /: not tried$$/'

test-vm: ## Run the drivers on a real kernel's USB stack in QEMU
	./test/vm/run

lint: ## Check format, vet, staticcheck, with and without cgo
	@unformatted=$$($(TOOL) gofumpt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not gofumpt-ed:"; echo "$$unformatted"; exit 1; fi
	CGO_ENABLED=0 $(GO) vet ./...
	CGO_ENABLED=0 $(TOOL) staticcheck ./...
	./.ci/can-cgo && { $(GO) vet -tags libusb,pcsclite ./... && $(TOOL) staticcheck -tags libusb,pcsclite ./...; } || test "$$?" -eq 77

cross: ## Build and vet for every platform, without cgo
	@for platform in $(PLATFORMS); do \
	  echo "$$platform"; \
	  export CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} GOARM=7; \
	  $(GO) build ./... && $(GO) vet ./...; \
	done

fuzz: ## Run each fuzz target for FUZZTIME (10s)
	./.ci/fuzz $(FUZZTIME)

bench: ## Run the benchmarks
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

clean: ## Remove what make built
	rm -rf $(BIN)
