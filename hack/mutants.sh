#!/usr/bin/env bash
# Changes the code in every way that cargo-mutants knows, and runs tests on each. Usage: hack/mutants.sh pure|shells [ARGUMENT...]
#
#   pure      the files without clients, and the leader: unit tests
#   shells    the rest of src/retirement and src/ecs: a few schedules of faults by seed
#
# Arguments are passed on to cargo-mutants, such as --file src/retirement/plan.rs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=27.1.0
root=target/cargo-mutants-$version
part=$1
shift

[[ -x $root/bin/cargo-mutants ]] || cargo install --quiet --locked --root "$root" --version "$version" cargo-mutants

shells=(src/retirement/{act,reconcile,record}.rs src/ecs/{client,scan,turns,view}.rs)
arguments=(--profile mutants --no-shuffle --output "target/mutants-$part")
case $part in
  pure)
    for file in src/task_definition.rs 'src/retirement/*.rs' 'src/ecs/*.rs' src/operator/leader.rs; do arguments+=(--file "$file"); done
    for file in "${shells[@]}"; do arguments+=(--exclude "$file"); done
    arguments+=(--cargo-arg=--lib --timeout 60)
    tests=()
    ;;
  shells)
    for file in "${shells[@]}"; do arguments+=(--file "$file"); done
    arguments+=(--cargo-arg=--test=promises --timeout 120)
    tests=(-- whatever_fails_by_seed)
    export SEEDS=${SEEDS:-20}
    ;;
  *) printf 'mutants: %s is neither pure nor shells\n' "$part" >&2; exit 1 ;;
esac
mkdir -p "target/mutants-$part"
# Or what has caught one mutant would help to catch the next.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true
exec env PATH="$PWD/$root/bin:$PATH" cargo mutants "${arguments[@]}" "$@" "${tests[@]}"
