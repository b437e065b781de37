# `make` alone lists the targets; continuous integration runs `make verify`.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Number of schedules that `make chaos` tries.
SEEDS ?= 1000

# The plural names of all kinds, in the order in which the binary prints their CRDs.
KINDS := taskdefinitionretirements ecsaccounts taskdefinitionretentionpolicies
# Writes each CRD to a file in the folder $(1).
write-crds = mkdir -p $(1) && cargo run --quiet --locked -- crd | awk -v folder=$(1) 'BEGIN { split("$(KINDS)", kinds); kind = 1 } \
  /^---$$/ { kind++; next } { print > (folder "/ecs-retirement.dev_" kinds[kind] ".yaml") }'
CHART := charts/ecs-retirement-controller
CYCLONEDX := 0.5.9
CARGO_DENY := 0.20.2

##@ Start here

.PHONY: help
help: ## List these targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## Run a demo on a real API server and a simulated ECS; `make demo KEEP=1` keeps it running
	@KEEP='$(KEEP)' hack/demo.sh

.PHONY: tools
tools: ## Install the tools of the tests and the demo: API server, kubectl, Helm, promtool, ECS emulators (16 minutes once)
	@hack/tools.sh

##@ Development

.PHONY: build
build: ## Compile everything
	cargo build --workspace --locked

.PHONY: test
test: tools ## Run every test, including those on the real API server
	cargo test --workspace --locked

.PHONY: chaos
chaos: ## Run randomized fault schedules; `SEEDS=50000` for a nightly run, `SEED=7` to replay one
	SEEDS='$(SEEDS)' $(if $(SEED),SEED='$(SEED)') cargo test --profile chaos --test e2e --locked -- --nocapture fault_schedules

.PHONY: faults
faults: tools ## Inject faults at every point of the controller's work; `make faults FULL=1` disables sampling
	FAULTS_FULL='$(FULL)' cargo test --locked --test faults -- --nocapture

.PHONY: defects
defects: tools ## Inject defects into a copy of the code, one at a time, and check that the tests catch them
	@hack/defects.sh

# The earlier name of the target.
.PHONY: planted
planted: defects

.PHONY: soak
soak: tools ## Soak test: ten minutes of work and faults; memory, open files and threads must stay flat
	cargo test --locked --test faults -- --ignored --nocapture soak

.PHONY: mutants
mutants: ## Run cargo-mutants on the core modules and list the mutants that no unit test catches (hours)
	@hack/mutants.sh

.PHONY: crds
crds: ## Generate the CRDs in crds/ and in the chart from the types in src/api
	$(call write-crds,crds)
	cp crds/*.yaml $(CHART)/files/crds/

.PHONY: manifests
manifests: ## Generate config/ and dist/install.yaml from the chart
	hack/manifests.sh

.PHONY: api-docs
api-docs: ## Generate docs/api.md from crds/
	WRITE_API_REFERENCE=1 cargo test --quiet --locked --test e2e api_reference_matches

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: bench
bench: tools ## Benchmark the release binary into docs/benchmarks.md (13 minutes); `ONLY='latency stop'` prints a subset
	hack/rootfs.sh $$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/') $${CARGO_TARGET_DIR:-target}/rootfs
	cargo build --workspace --bins --locked
	$${CARGO_TARGET_DIR:-target}/debug/bench $(ONLY)

##@ Before a pull request

.PHONY: verify
verify: fmt-check words lint deny drift ## Run everything that continuous integration runs
	$(MAKE) --no-print-directory test
	$(MAKE) --no-print-directory chaos

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: words
words: ## Check that names and texts use the standard terms
	@hack/words.py

.PHONY: lint
lint: ## Check the code with clippy
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: deny
deny: ## Check licences, sources, duplicates and advisories of dependencies with cargo-deny
	cargo install --quiet --locked --root .tools --version $(CARGO_DENY) cargo-deny
	.tools/bin/cargo-deny --locked check bans licenses sources
	if .tools/bin/cargo-deny fetch db; then .tools/bin/cargo-deny --locked check advisories; \
	  else echo 'deny: the RustSec database cannot be fetched from github.com: advisories were not checked' >&2; fi

.PHONY: drift
drift: ## Check that the files generated from src/api and from the chart are up to date
	$(call write-crds,target/crds)
	diff -ru target/crds crds || { echo "run \`make crds\`" >&2; exit 1; }
	diff -ru crds $(CHART)/files/crds || { echo "run \`make crds\`" >&2; exit 1; }
	hack/manifests.sh check

##@ Before a release

.PHONY: image-check
image-check: ## Run the binary in nothing but the image's root file system and check its size; needs root (12 minutes)
	hack/tools.sh kubernetes moto
	.tools/moto/bin/python hack/image-check.py

.PHONY: package
package: ## Package the chart into target/
	hack/tools.sh helm
	.tools/bin/helm package $(CHART) --destination target

.PHONY: sbom
sbom: ## Write the software bill of materials to target/sbom.cdx.json with cargo-cyclonedx (3 minutes once)
	cargo install --quiet --locked --root .tools --version $(CYCLONEDX) cargo-cyclonedx
	PATH="$$PWD/.tools/bin:$$PATH" cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename sbom.cdx
	rm testkit/sbom.cdx.json
	mv sbom.cdx.json target/
