# walrill: every task is a target; `make` lists them.
# Only Go has to be there: scripts/install brings the rest on Debian and its like.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
PG_VERSIONS ?= 14 15 16 17 18
TESTFLAGS ?=
# With AGAIN=1, as in CI, up to three tests that fail are run once more, and named at the end: such a test is a fault to mend.
AGAIN ?=
gotest = $(if $(AGAIN),go tool gotestsum --format=standard-quiet --rerun-fails=1 --rerun-fails-max-failures=3 --packages="$(2)" -- $(1),go test $(1) $(2))

.DEFAULT_GOAL := help
.PHONY: help install build demo test test-matrix bench lint fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## install Postgres, Redis and a C compiler when they are missing
	@scripts/install

build: ## build bin/walrill
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/walrill ./cmd/walrill

demo: install build ## run the demo on servers of its own (KEEP=1 leaves them running)
	bin/walrill demo$(if $(KEEP), --keep)

test: ## go vet, then all tests with the race detector
	@scripts/install $(PG_VERSIONS)
	go vet ./...
	$(call gotest,-race -timeout 40m $(TESTFLAGS),./...)

test-matrix: ## the scenario tests on each Postgres of PG_VERSIONS
	@scripts/install $(PG_VERSIONS)
	@failed=; for v in $(PG_VERSIONS); do \
	  echo "== Postgres $$v"; \
	  WALRILL_PG=$$v $(call gotest,-timeout 40m $(TESTFLAGS),./bridge/... ./cmd/...) || failed="$$failed $$v"; \
	done; [ -z "$$failed" ] || { echo "failed on Postgres$$failed"; exit 1; }

bench: install ## measure walrill and the limits beside it, and print ratios
	go run ./bench

lint: ## gofmt, go vet, staticcheck, go mod tidy: checked, nothing changed
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt would change (make fmt):"; echo "$$files"; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff

fmt: ## gofmt the code, tidy go.mod
	gofmt -w .
	go mod tidy

clean: ## remove what was built
	rm -rf bin
