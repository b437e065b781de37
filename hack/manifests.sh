#!/usr/bin/env bash
# Writes what is made of the chart for those who do not use Helm: the kustomize base in config/, and dist/install.yaml of it.
#
#   hack/manifests.sh          writes them
#   hack/manifests.sh check    fails where they say something else than the chart
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=.tools/bin
namespace=ecs-retirement

# render TEMPLATE...: without what only Helm has a use for.
render() {
  "$bin/helm" template ecs-retirement-controller charts/ecs-retirement-controller --namespace "$namespace" \
    --set crds.keep=false "${@/#/--show-only=templates/}" |
    sed '/^# Source: /d; /^ *helm\.sh\/chart: /d; /^ *app\.kubernetes\.io\/managed-by: Helm$/d'
}

# made NAME COMMAND...: writes what COMMAND prints to NAME, or compares.
made() {
  local name=$1 text
  shift
  text="# Made from the chart by \`make manifests\`; do not edit."$'\n'$("$@")
  if [[ $mode == check ]]; then
    diff -u "$name" - <<<"$text" || { printf '%s: run `make manifests`\n' "$name" >&2; exit 1; }
  else
    printf '%s\n' "$text" >"$name"
  fi
}

mode=${1:-write}
hack/tools.sh kubernetes helm >&2
mkdir -p dist
made config/crds.yaml render crds.yaml
made config/rbac.yaml render serviceaccount.yaml rbac.yaml clusterroles.yaml
made config/controller.yaml render deployment.yaml poddisruptionbudget.yaml service.yaml
made dist/install.yaml "$bin/kubectl" kustomize config
