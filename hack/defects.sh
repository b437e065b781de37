#!/usr/bin/env bash
# Applies each defect in testkit/defects to a copy of the tree, one at a time. Fails if its test does not catch it.
# Usage: hack/defects.sh [NAME...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
work=$root/target/defects
tree=$work/tree
export CARGO_TARGET_DIR=$work/target
# Git must not treat the copy as a part of this repository.
export GIT_CEILING_DIRECTORIES=$work

copy() {
  mkdir -p "$tree"
  git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -cf - | tar -xf - -C "$tree"
  # The tools depend only on hack/, so the copy can share them.
  ln -sfn "$root/.tools" "$tree/.tools"
}

field() { sed -n "s/^$2: //p" "$1"; }

missed=0
table=""
for patch in testkit/defects/*.patch; do
  name=$(basename "$patch" .patch)
  [[ $# -eq 0 || " $* " == *" $name "* ]] || continue
  copy
  (cd "$tree" && git apply "$root/$patch")
  test=$(field "$patch" "Caught by")
  suite=$(field "$patch" "Suite")
  suite=${suite:-faults}
  echo "applied $name; running $test" >&2
  (cd "$tree" && cargo test --quiet --locked --test "$suite" --no-run) # a defect that does not compile proves nothing
  began=$SECONDS
  if (cd "$tree" && cargo test --quiet --locked --test "$suite" "$test") >"$work/$name.log" 2>&1; then
    verdict=MISSED missed=$((missed + 1)) sign=""
  else
    verdict=caught
    sign=$(grep -m1 -oE '(I[0-9](, I[0-9])*: |no status has|third time|calls, and those|: no .* within [0-9]+s|: .* was ".*", and then).{0,70}' "$work/$name.log" ||
      echo "see $work/$name.log")
  fi
  table+=$(printf '%-34s %-7s %4ds  %s' "$name" "$verdict" $((SECONDS - began)) "$sign")$'\n'
  (cd "$tree" && git apply -R "$root/$patch")
done
printf '\n%s' "$table"
[[ $missed -eq 0 ]] || { echo "$missed defects were missed" >&2; exit 1; }
