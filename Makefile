# `make` alone lists what can be done; `make verify` is what continuous integration runs.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Every kind, as the binary prints it.
CRDS := crds/ecs-retirement.dev_taskdefinitionretirements.yaml

##@ Start here

.PHONY: help
help: ## List these targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## See it work on a real API server and a simulated ECS; `make demo KEEP=1` stays up to be tried
	@KEEP='$(KEEP)' hack/demo.sh

.PHONY: tools
tools: ## Get what the tests and the demo run: etcd, kube-apiserver, kubectl, moto (10 minutes once)
	@hack/tools.sh

##@ Change something

.PHONY: build
build: ## Compile everything
	cargo build --workspace --locked

.PHONY: test
test: tools ## Run every test, those on the real API server included
	cargo test --workspace --locked

.PHONY: crds
crds: ## Write the CRDs in crds/ from the types in src/api
	mkdir -p $(dir $(CRDS))
	cargo run --quiet --locked -- crd > $(CRDS).new
	mv $(CRDS).new $(CRDS)

.PHONY: api-docs
api-docs: ## Write docs/api.md from crds/
	WRITE_API_REFERENCE=1 cargo test --quiet --locked --test promises the_api_reference

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

##@ Before a pull request

.PHONY: verify
verify: fmt-check lint drift ## All that continuous integration runs
	$(MAKE) --no-print-directory test

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: lint
lint: ## Check the code with clippy
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: drift
drift: ## Check that crds/ says what the types in src/api say
	cargo run --quiet --locked -- crd | diff -u $(CRDS) - || { echo "run \`make crds\`" >&2; exit 1; }
