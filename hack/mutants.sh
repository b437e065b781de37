#!/usr/bin/env bash
# Runs cargo-mutants on the modules that implement the guarantees, with the unit tests.
# Usage: hack/mutants.sh [ARGUMENT...]; passes its arguments to cargo-mutants, such as --file src/retirement/plan.rs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=27.1.0
root=target/cargo-mutants-$version

[[ -x $root/bin/cargo-mutants ]] || cargo install --quiet --locked --root "$root" --version "$version" cargo-mutants

arguments=(--profile mutants --no-shuffle --output target/mutants-out --cargo-arg=--lib --timeout 60)
if [[ " $* " != *" --file "* ]]; then
  # In these globs, * does not match a slash, and ** matches any number of folders.
  for file in src/task_definition.rs src/family_pattern.rs 'src/retirement/**/*.rs' 'src/retention/**/*.rs' 'src/account/**/*.rs' \
    'src/aws/**/*.rs' src/runtime/leader_election.rs; do
    arguments+=(--file "$file")
  done
fi
mkdir -p target/mutants-out
# Otherwise, a failing input stored for one mutant would help to catch the next one.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true
exec env PATH="$PWD/$root/bin:$PATH" cargo mutants "${arguments[@]}" "$@"
