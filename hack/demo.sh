#!/usr/bin/env bash
# Demonstrates the controller on a real API server and on moto, an Amazon ECS emulator. `make demo` runs this script.
#
#   hack/demo.sh          runs the demo and exits
#   KEEP=1 hack/demo.sh   keeps everything running afterwards, until Ctrl-C
#
# The demo prints each command and its real output. If a result is not as expected, it reports the difference and fails.
# Its files are in the directory of `control-plane`, which exits and removes the directory when its standard input
# closes. The controller is killed with this shell. So nothing is left behind, however this shell ends.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
binaries=${CARGO_TARGET_DIR:-target}/debug
python=.tools/moto/bin/python
control_plane='' controller='' log=''
# The role with which `ecs` calls moto. moto lets every role be assumed, and gives it the account in its ARN.
role=''

say() { printf 'demo: %s\n' "$*"; }

fail() {
  printf '\ndemo: FAILED: %s\n' "$*" >&2
  if [[ -n $log ]]; then
    printf 'demo: the last lines of the controller log:\n' >&2
    tail -n 20 "$log" >&2
  fi
  exit 1
}

finish() {
  local status=$? process
  trap '' INT TERM HUP
  for process in $controller $control_plane; do
    if kill "$process" 2>/dev/null; then wait "$process" || true; fi
  done
  exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# step WHAT COMMAND...: prints one line of progress, and the output of COMMAND only if it fails.
step() {
  local what=$1 began=$SECONDS output
  shift
  printf 'demo: %s ...' "$what"
  output=$("$@" 2>&1) || { printf ' failed\n%s\n' "$output" >&2; fail "$what"; }
  printf ' %s s\n' $((SECONDS - began))
}

# start_servers: sets `isolated` to a command prefix that runs a program against these servers, without the user's own
# settings such as a kubeconfig, an AWS profile or a proxy.
start_servers() {
  local began=$SECONDS line environment
  printf 'demo: starting etcd, kube-apiserver and moto ...'
  coproc CONTROL_PLANE { exec "$binaries/control-plane"; }
  control_plane=$CONTROL_PLANE_PID
  read -r -t 180 -u "${CONTROL_PLANE[0]}" line || fail "the servers did not start"
  printf ' %s s\n' $((SECONDS - began))
  read -ra environment <<<"$line"
  declare -g "${environment[@]}"
  folder=$(dirname "$KUBECONFIG")
  isolated=(env -i "PATH=$root/.tools/bin:$PATH" "HOME=$folder" "${environment[@]}")
}

# start_controller: runs the controller with a token of the chart's ServiceAccount, since there are no nodes for pods.
start_controller() {
  local kubeconfig=$folder/controller.kubeconfig token
  token=$("${isolated[@]}" kubectl --namespace ecs-retirement create token ecs-retirement-controller --duration 24h)
  cp "$KUBECONFIG" "$kubeconfig"
  local config=("${isolated[@]}" kubectl --kubeconfig "$kubeconfig" config)
  { "${config[@]}" set-credentials controller --token "$token" && "${config[@]}" set-context --current --user controller &&
    "${config[@]}" delete-user admin; } >/dev/null
  log=$folder/controller.log
  "${isolated[@]}" "KUBECONFIG=$kubeconfig" "LEADER_ELECTION_NAMESPACE=ecs-retirement" setpriv --pdeathsig KILL -- "$binaries/ecs-retirement-controller" run \
    --metrics-bind-address=0 --health-probe-bind-address=0 </dev/null >"$log" 2>&1 &
  controller=$!
}

# ecs register FAMILY NUMBER, ecs status REVISION...: calls moto with an ordinary AWS client, as $role if it is set.
ecs() {
  "${isolated[@]}" "ROLE=$role" "$python" - "$@" <<'PYTHON'
import os, sys
import boto3

session = boto3.Session(region_name=os.environ["AWS_REGION"])
if role := os.environ["ROLE"]:
    assumed = session.client("sts").assume_role(RoleArn=role, RoleSessionName="demo")["Credentials"]
    keys = [assumed[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
    session = boto3.Session(*keys, region_name=os.environ["AWS_REGION"])
ecs = session.client("ecs")
match sys.argv[1:]:
    case ["register", family, number]:
        for _ in range(int(number)):
            container = {"name": "wave", "image": "busybox", "memory": 64}
            ecs.register_task_definition(family=family, containerDefinitions=[container])
    case ["status", *revisions]:
        for revision in revisions:
            response = ecs.describe_task_definition(taskDefinition=revision)
            print(f"{revision} {response['taskDefinition']['status']}")
PYTHON
}

explain() { printf '\n# %s\n' "$*"; }

fit() { fold -s -w 100 | sed 's/ *$//'; }

# show COMMAND...: prints the command and its output.
show() {
  printf '\n$ %s\n' "$*"
  "${isolated[@]}" "$@" 2>&1 | fit || fail "this command should have succeeded: $*"
}

# show_apply: prints the manifest on standard input, applies it, and prints the output.
show_apply() {
  local manifest
  manifest=$(cat)
  printf '\n$ kubectl apply -f - <<END\n%s\nEND\n' "$manifest"
  "${isolated[@]}" kubectl apply -f - <<<"$manifest" 2>&1 | fit || fail "this manifest should have been admitted"
}

# show_refusal TEXT COMMAND...: the same for a command that must fail with a message that contains TEXT.
show_refusal() {
  local text=$1 output
  shift
  printf '\n$ %s\n' "$*"
  if output=$("${isolated[@]}" "$@" 2>&1); then
    fail "this command should have been rejected: $* (output: $output)"
  fi
  fit <<<"$output"
  [[ $output == *"$text"* ]] || fail "the error message should contain: $text"
}

# expect NAME JSONPATH VALUE: waits until the field of the TaskDefinitionRetirement NAME has this value.
expect() {
  "${isolated[@]}" kubectl wait "tdr/$1" "--for=jsonpath=$2=$3" --timeout=30s >/dev/null 2>&1 ||
    fail "$1 should have $2 = $3, but has $("${isolated[@]}" kubectl get tdr "$1" -o "jsonpath=$2" 2>&1)"
}

# show_ecs STATUS...: prints the status of revisions in moto and checks it, such as `cpu-wave:1 INACTIVE`.
show_ecs() {
  local actual expected
  expected=$(printf '%s\n' "$@")
  actual=$(ecs status "${@% *}") || fail "moto does not respond"
  printf '\nECS itself reports:\n  %s\n' "${actual//$'\n'/$'\n  '}"
  [[ $actual == "$expected" ]] || fail "ECS should report: ${expected//$'\n'/, }"
}

hack/tools.sh kubernetes helm moto
step "building the controller (about 4 minutes the first time)" cargo build --workspace --bins --locked
start_servers
step "registering two revisions of the family cpu-wave in ECS" ecs register cpu-wave 2
role=arn:aws:iam::111122223333:role/ecs-retirement
step "registering five revisions of the family web-shop in another account" ecs register web-shop 5
role=''

explain "The chart installs the CRDs and the RBAC rules; the controller runs with its ServiceAccount."
show helm install ecs-retirement-controller charts/ecs-retirement-controller --namespace ecs-retirement --create-namespace --hide-notes
"${isolated[@]}" kubectl wait --for=condition=Established -f crds/ --timeout=30s >/dev/null ||
  fail "the API server does not serve the CRDs"
start_controller

explain "ECS has two revisions, and the first one must be retired."
show_ecs "cpu-wave:1 ACTIVE" "cpu-wave:2 ACTIVE"
show kubectl apply -f examples/cpu-wave.yaml
show kubectl wait --for=condition=Ready tdr/cpu-wave --timeout=30s
show kubectl get tdr cpu-wave
show kubectl describe tdr cpu-wave
expect cpu-wave '{.status.progress}' 1/1
expect cpu-wave '{.status.revisions[0].status}' INACTIVE
expect cpu-wave '{.status.revisions[0].reason}' Retired
show_ecs "cpu-wave:1 INACTIVE" "cpu-wave:2 ACTIVE"

explain "A revision that does not exist is reported, and not retried automatically."
show kubectl apply -f examples/missing-revision.yaml
show kubectl wait --for=condition=Stalled tdr/missing-revision --timeout=30s
show kubectl describe tdr missing-revision
expect missing-revision '{.status.revisions[0].reason}' NotFound

explain "A family without a revision number could mean any revision: rejected at admission."
show_refusal "write family:revision" kubectl apply -f examples/refused.yaml

explain "A suspended resource and a dry run: neither deregisters anything."
show kubectl apply -f examples/suspend.yaml -f examples/dry-run.yaml
expect suspend '{.status.revisions[0].reason}' Suspended
expect dry-run '{.status.revisions[1].reason}' DryRun
show kubectl get tdr
show_ecs "cpu-wave:1 INACTIVE" "cpu-wave:2 ACTIVE"

role=arn:aws:iam::111122223333:role/ecs-retirement
explain "The administrator declares another AWS account: its role, and the families that may be retired."
show_apply <<'MANIFEST'
apiVersion: ecs-retirement.dev/v1alpha1
kind: EcsAccount
metadata:
  name: prod
spec:
  accountId: "111122223333"
  region: us-west-2
  assumeRole:
    roleArn: arn:aws:iam::111122223333:role/ecs-retirement
  allowedNamespaces:
    names: [default]
  families:
    allow: ["web-*"]
    deny: [web-payments]
MANIFEST
show kubectl wait --for=condition=Ready ecsa/prod --timeout=30s
show kubectl get ecsa

explain "Two retirements name it: one that it refuses, and one that it allows."
show_apply <<'MANIFEST'
apiVersion: ecs-retirement.dev/v1alpha1
kind: TaskDefinitionRetirement
metadata:
  name: web-payments
spec:
  accountRef: {name: prod}
  revisions:
  - web-payments:1
---
apiVersion: ecs-retirement.dev/v1alpha1
kind: TaskDefinitionRetirement
metadata:
  name: web-shop
spec:
  accountRef: {name: prod}
  revisions:
  - web-shop:1
MANIFEST
show kubectl wait --for=condition=Ready tdr/web-shop --timeout=30s
expect web-payments '{.status.revisions[0].reason}' NotAllowed
show kubectl get tdr web-payments web-shop -o wide
show_ecs "web-shop:1 INACTIVE" "web-shop:2 ACTIVE"

explain "A rule instead of a list: keep the newest two revisions. It proposes the others, suspended."
show_apply <<'MANIFEST'
apiVersion: ecs-retirement.dev/v1alpha1
kind: TaskDefinitionRetentionPolicy
metadata:
  name: web
spec:
  accountRef: {name: prod}
  families:
    include: ["web-*"]
  keep:
    latest: 2
MANIFEST
show kubectl wait '--for=jsonpath={.status.pendingApproval}=1' tdrp/web --timeout=30s
show kubectl get tdrp web
proposal=$("${isolated[@]}" kubectl get tdr --selector ecs-retirement.dev/policy=web -o 'jsonpath={.items[0].metadata.name}')
show kubectl get tdr "$proposal" -o yaml
expect "$proposal" '{.spec.revisions[0]}' web-shop:2
expect "$proposal" '{.spec.revisions[1]}' web-shop:3
show_ecs "web-shop:2 ACTIVE" "web-shop:3 ACTIVE" "web-shop:4 ACTIVE" "web-shop:5 ACTIVE"

explain "A user reads the list and approves it. Right before each call the newest revisions are counted again."
show kubectl patch tdr "$proposal" --type=merge '--patch={"spec": {"suspend": false}}'
show kubectl wait --for=condition=Ready "tdr/$proposal" --timeout=30s
show kubectl get tdr --selector ecs-retirement.dev/policy=web
show_ecs "web-shop:2 INACTIVE" "web-shop:3 INACTIVE" "web-shop:4 ACTIVE" "web-shop:5 ACTIVE"
role=''

printf '\n'
say "all results are as expected"
[[ -n ${KEEP:-} ]] || exit 0

trap 'printf "\n"; exit 0' INT TERM
cat <<TEXT
demo: running until Ctrl-C; in another terminal, try:

export KUBECONFIG=$KUBECONFIG
export PATH=$root/.tools/bin:\$PATH
kubectl explain tdr.spec
kubectl explain tdrp.spec
kubectl get tdr --watch
kubectl patch tdr suspend --type=merge --patch='{"spec": {"suspend": false}}'
kubectl annotate --overwrite tdr missing-revision ecs-retirement.dev/requestedAt="\$(date -u +%FT%TZ)"
kubectl events
tail -f $log
TEXT
wait -n "$controller" "$control_plane" || true
fail "the controller or the control plane has exited"
