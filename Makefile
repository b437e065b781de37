# `make` alone lists what can be done; `make verify` is what continuous integration runs.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# How many schedules `make chaos` tries.
SEEDS ?= 1000

# Every kind, as the binary prints it.
CRDS := crds/ecs-retirement.dev_taskdefinitionretirements.yaml
CHART := charts/ecs-retirement-controller
CYCLONEDX := 0.5.9

##@ Start here

.PHONY: help
help: ## List these targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## See it work on a real API server and a simulated ECS; `make demo KEEP=1` stays up to be tried
	@KEEP='$(KEEP)' hack/demo.sh

.PHONY: tools
tools: ## Get what the tests and the demo run: an API server, kubectl, Helm, promtool, emulators of AWS (16 minutes once)
	@hack/tools.sh

##@ Change something

.PHONY: build
build: ## Compile everything
	cargo build --workspace --locked

.PHONY: test
test: tools ## Run every test, those on the real API server included
	cargo test --workspace --locked

.PHONY: chaos
chaos: ## Try random schedules of faults; `SEEDS=50000` for a night, `SEED=7` for that one and its journal
	SEEDS='$(SEEDS)' $(if $(SEED),SEED='$(SEED)') cargo test --profile chaos --test promises --locked -- --nocapture whatever_fails_by_seed

.PHONY: faults
faults: tools ## Let everything round it fail, at every point of its work; `make faults FULL=1` samples nothing
	FAULTS_FULL='$(FULL)' cargo test --locked --test faults -- --nocapture

.PHONY: planted
planted: tools ## Plant a fault after another in a copy of the code, and see that the tests of faults notice
	@hack/planted.sh

.PHONY: soak
soak: tools ## Ten minutes of work and faults: memory, open files and threads must stay flat
	cargo test --locked --test faults -- --ignored --nocapture a_soak

.PHONY: mutants
mutants: ## Change the code in every way that cargo-mutants knows, and list what no test notices (hours)
	@hack/mutants.sh

.PHONY: crds
crds: ## Write the CRDs in crds/ and in the chart from the types in src/api
	mkdir -p $(dir $(CRDS))
	cargo run --quiet --locked -- crd > $(CRDS).new
	mv $(CRDS).new $(CRDS)
	cp $(CRDS) $(CHART)/files/crds/

.PHONY: manifests
manifests: ## Write config/ and dist/install.yaml from the chart
	hack/manifests.sh

.PHONY: api-docs
api-docs: ## Write docs/api.md from crds/
	WRITE_API_REFERENCE=1 cargo test --quiet --locked --test promises the_api_reference

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: bench
bench: tools ## Measure the image's binary against its goals, into docs/benchmarks.md (10 minutes); `ONLY='latency stop'` prints a part
	hack/rootfs.sh $$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/') $${CARGO_TARGET_DIR:-target}/rootfs
	cargo build --workspace --bins --locked
	$${CARGO_TARGET_DIR:-target}/debug/bench $(ONLY)

##@ Before a pull request

.PHONY: verify
verify: fmt-check lint drift ## All that continuous integration runs
	$(MAKE) --no-print-directory test
	$(MAKE) --no-print-directory chaos

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

.PHONY: lint
lint: ## Check the code with clippy
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: drift
drift: ## Check that what is made of the types in src/api and of the chart says what they say
	cargo run --quiet --locked -- crd | diff -u $(CRDS) - || { echo "run \`make crds\`" >&2; exit 1; }
	diff -ru crds $(CHART)/files/crds || { echo "run \`make crds\`" >&2; exit 1; }
	hack/manifests.sh check

##@ Before a release

.PHONY: image-check
image-check: ## Run the binary in the image's root file system alone, and look at its size; needs root (12 minutes)
	hack/tools.sh kubernetes moto
	.tools/moto/bin/python hack/image-check.py

.PHONY: package
package: ## Pack the chart into target/
	hack/tools.sh helm
	.tools/bin/helm package $(CHART) --destination target

.PHONY: sbom
sbom: ## Write what the binary is made of to target/sbom.cdx.json, by cargo-cyclonedx (3 minutes once)
	cargo install --quiet --locked --root .tools --version $(CYCLONEDX) cargo-cyclonedx
	PATH="$$PWD/.tools/bin:$$PATH" cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename sbom.cdx
	rm testkit/sbom.cdx.json
	mv sbom.cdx.json target/
