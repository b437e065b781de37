#!/usr/bin/env bash
# Changes the pure code and the leader in every way that cargo-mutants knows, and runs the unit tests on each. Usage:
# hack/mutants.sh [ARGUMENT...], passed on to cargo-mutants, such as --file src/retirement/plan.rs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=27.1.0
root=target/cargo-mutants-$version

[[ -x $root/bin/cargo-mutants ]] || cargo install --quiet --locked --root "$root" --version "$version" cargo-mutants

files=()
for file in src/task_definition.rs 'src/retirement/*.rs' 'src/ecs/*.rs' src/operator/leader.rs; do files+=(--file "$file"); done
# The shells have no unit tests: the tests on a real API server are theirs.
for file in src/retirement/{act,reconcile,record}.rs src/ecs/{client,scan,turns,view}.rs; do files+=(--exclude "$file"); done
# Or what has caught one mutant would help to catch the next.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true
exec env PATH="$PWD/$root/bin:$PATH" cargo mutants --profile mutants --cargo-arg=--lib --no-shuffle --timeout 60 \
  --output target/mutants "${files[@]}" "$@"
