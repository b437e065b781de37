#!/usr/bin/env bash
# Generates the manifests for installing without Helm from the chart: config/ (a kustomize base) and dist/install.yaml.
#
#   hack/manifests.sh          writes them
#   hack/manifests.sh check    fails if they differ from the chart
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=.tools/bin
namespace=ecs-retirement

# render TEMPLATE...: prints the rendered templates, without the labels and comments that only Helm uses.
render() {
  "$bin/helm" template ecs-retirement-controller charts/ecs-retirement-controller --namespace "$namespace" \
    --set crds.keep=false "${@/#/--show-only=templates/}" |
    sed '/^# Source: /d; /^ *helm\.sh\/chart: /d; /^ *app\.kubernetes\.io\/managed-by: Helm$/d'
}

# made NAME COMMAND...: writes the output of COMMAND to NAME, or compares them in check mode.
made() {
  local name=$1 text
  shift
  text="# Generated from the chart by \`make manifests\`; do not edit."$'\n'$("$@")
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
