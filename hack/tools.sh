#!/usr/bin/env bash
# Makes the programs that the tests and the demo run available in .tools, and builds only what is missing.
#
#   hack/tools.sh [GROUP...]     GROUP is kubernetes (etcd, kube-apiserver, kubectl), helm, promtool, kstatus, monitors (the
#                                kinds of the Prometheus Operator), moto or ministack (emulators of AWS); default: all
#
# A group is up to date when its key, a hash of all that its content depends on, is the one written beside it. The key
# is removed first and written last, so a run that dies midway leaves nothing that is believed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=$root/.tools
bin=$tools/bin

say() { printf 'tools: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
hash_of() { sha256sum | cut -d' ' -f1; }

# step WHAT COLD COMMAND...: one line of progress; what COMMAND itself says is shown only when it fails. COMMAND joins
# its parts by `&&`, since `set -e` does not reach into the condition of an `if`.
step() {
  local what=$1 cold=$2 began=$SECONDS
  shift 2
  printf 'tools: %s (%s the first time) ...' "$what" "$cold"
  if ! "$@" >"$work/log" 2>&1; then
    printf ' failed after %s s\n' $((SECONDS - began))
    cat "$work/log" >&2
    exit 1
  fi
  printf ' %s s\n' $((SECONDS - began))
}

# current GROUP KEY FILE...: whether GROUP was made with KEY and its files are there.
current() {
  local key_file=$tools/$1.key key=$2 file
  shift 2
  [[ -f $key_file && $(<"$key_file") == "$key" ]] || return 1
  for file in "$@"; do [[ -e $file ]] || return 1; done
}

# believe GROUP KEY: the last step of making GROUP.
believe() {
  printf '%s\n' "$2" >"$work/key"
  mv "$work/key" "$tools/$1.key"
}

kubernetes_module=$root/hack/kubernetes
kubernetes_tools=(etcd kube-apiserver kubectl)
kubernetes_version=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' "$kubernetes_module/go.mod")
IFS=. read -r kubernetes_major kubernetes_minor _ <<<"${kubernetes_version#v}"
# Without the version the API server calls itself v0.0.0 and refuses some requests.
kubernetes_flags="-s -w
  -X k8s.io/component-base/version.gitVersion=$kubernetes_version
  -X k8s.io/component-base/version.gitMajor=$kubernetes_major
  -X k8s.io/component-base/version.gitMinor=$kubernetes_minor"

kubernetes_assets() {
  local tool
  [[ -n ${KUBEBUILDER_ASSETS:-} ]] || return 1
  for tool in "${kubernetes_tools[@]}"; do [[ -x $KUBEBUILDER_ASSETS/$tool ]] || return 1; done
  (cd "$KUBEBUILDER_ASSETS" && pwd)
}

kubernetes_key() {
  if kubernetes_assets; then return; fi
  { cat "$kubernetes_module"/go.{mod,sum}; echo "$kubernetes_flags"; } | hash_of
}

kubernetes_current() { current kubernetes "$(kubernetes_key)" "${kubernetes_tools[@]/#/$bin/}"; }

kubernetes_missing() {
  kubernetes_assets >/dev/null || command -v go >/dev/null ||
    echo "Go 1.26 or newer (https://go.dev/dl), or KUBEBUILDER_ASSETS set to a folder with ${kubernetes_tools[*]}"
}

kubernetes_build() {
  # Go names a program after the last part of its path, which for etcd is `server`.
  CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=readonly \
    go build -C "$kubernetes_module" -trimpath -ldflags="${kubernetes_flags//$'\n'/ }" -o "$work/kubernetes/" tool &&
    mv "$work/kubernetes/server" "$work/kubernetes/etcd"
}

kubernetes_make() {
  local key assets tool
  key=$(kubernetes_key)
  mkdir "$work/kubernetes"
  if assets=$(kubernetes_assets); then
    for tool in "${kubernetes_tools[@]}"; do ln -s "$assets/$tool" "$work/kubernetes/$tool"; done
    say "${kubernetes_tools[*]} are those of KUBEBUILDER_ASSETS"
  else
    step "building ${kubernetes_tools[*]} $kubernetes_version" "about 8 minutes" kubernetes_build
  fi
  rm -f "$tools/kubernetes.key"
  for tool in "${kubernetes_tools[@]}"; do mv -fT "$work/kubernetes/$tool" "$bin/$tool"; done
  believe kubernetes "$key"
}

# Helm, promtool and kstatus are a Go module each, as the kubernetes group is: pinned by the hashes of go.sum, and the same on
# every processor. A program of that name in KUBEBUILDER_ASSETS is taken instead.

required() { sed -nE "s|^(require )?\s*$2 (v\S+).*|\2|p" "$root/hack/$1/go.mod"; }

helm_version=$(required helm helm.sh/helm/v4)
helm_flags=(-ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=$helm_version")

promtool_version=$(required promtool github.com/prometheus/prometheus)
# Without what Prometheus has to find targets in twenty clouds it is built in half the time.
promtool_flags=(-tags=remove_all_sd -ldflags="-s -w -X github.com/prometheus/common/version.Version=$promtool_version")

kstatus_version=$(required kstatus sigs.k8s.io/cli-utils)
kstatus_flags=(-ldflags="-s -w")

program_asset() {
  [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$1 ]] || return 1
  (cd "$KUBEBUILDER_ASSETS" && printf '%s/%s\n' "$PWD" "$1")
}

program_key() {
  local -n flags=$1_flags
  if program_asset "$1"; then return; fi
  { cat "$root/hack/$1"/*; echo "${flags[*]}"; } | hash_of
}

program_current() { current "$1" "$(program_key "$1")" "$bin/$1"; }

program_missing() {
  program_asset "$1" >/dev/null || command -v go >/dev/null ||
    echo "Go 1.26 or newer (https://go.dev/dl), or KUBEBUILDER_ASSETS set to a folder with $1"
}

program_build() {
  local -n flags=$1_flags
  CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=readonly \
    go build -C "$root/hack/$1" -trimpath "${flags[@]}" -o "$work/$1/" tool
}

program_make() {
  local name=$1 cold=$2 key asset
  local -n version=${name}_version
  key=$(program_key "$name")
  mkdir "$work/$name"
  if asset=$(program_asset "$name"); then
    ln -s "$asset" "$work/$name/$name"
    say "$name is that of KUBEBUILDER_ASSETS"
  else
    step "building $name $version" "$cold" program_build "$name"
  fi
  rm -f "$tools/$name.key"
  mv -fT "$work/$name/$name" "$bin/$name"
  believe "$name" "$key"
}

helm_current() { program_current helm; }
helm_missing() { program_missing helm; }
helm_make() { program_make helm "about 2 minutes"; }

promtool_current() { program_current promtool; }
promtool_missing() { program_missing promtool; }
promtool_make() { program_make promtool "about 2 minutes"; }

kstatus_current() { program_current kstatus; }
kstatus_missing() { program_missing kstatus; }
kstatus_make() { program_make kstatus "about a minute"; }

monitors_module=$root/hack/prometheus-operator
monitors=$tools/monitors.yaml

monitors_key() { hash_of <"$monitors_module/go.sum"; }

monitors_current() { current monitors "$(monitors_key)" "$monitors"; }

monitors_missing() { command -v go >/dev/null || echo "Go 1.26 or newer (https://go.dev/dl)"; }

monitors_download() {
  local module=github.com/prometheus-operator/prometheus-operator folder kind
  GOWORK=off GOFLAGS=-mod=readonly go -C "$monitors_module" mod download "$module" &&
    folder=$(GOWORK=off go -C "$monitors_module" list -m -f '{{.Dir}}' "$module") &&
    for kind in servicemonitors podmonitors prometheusrules; do
      echo --- && cat "$folder/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" || return
    done >"$work/monitors.yaml"
}

monitors_make() {
  step "downloading the kinds of the Prometheus Operator" "5 seconds" monitors_download
  rm -f "$tools/monitors.key"
  mv -f "$work/monitors.yaml" "$monitors"
  believe monitors "$(monitors_key)"
}

# Each emulator has a virtual environment of its own, since their dependencies contradict each other.

python_requirements() { printf '%s\n' "$root/hack/$1/requirements.txt"; }

python_key() { hash_of <"$(python_requirements "$1")"; }

python_current() { current "$1" "$(python_key "$1")" "$tools/$1/bin/python"; }

python_missing() {
  python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    echo "Python 3.11 or newer with its venv module (python3 and python3-venv)"
}

python_install() {
  python3 -m venv "$work/$1" &&
    "$work/$1/bin/python" -m pip install --disable-pip-version-check --requirement "$(python_requirements "$1")"
}

python_make() {
  local name=$1 cold=$2
  step "installing $name into .tools/$name" "$cold" python_install "$name"
  rm -rf "$tools/$name.key" "${tools:?}/$name"
  mv "$work/$name" "$tools/$name"
  believe "$name" "$(python_key "$name")"
}

moto_current() { python_current moto; }
moto_missing() { python_missing; }
moto_make() { python_make moto "about 30 seconds"; }

ministack_current() { python_current ministack; }
ministack_missing() { python_missing; }
ministack_make() { python_make ministack "about 20 seconds"; }

groups=("$@")
[[ $# -gt 0 ]] || groups=(kubernetes helm promtool kstatus monitors moto ministack)
for group in "${groups[@]}"; do
  declare -F "${group}_make" >/dev/null || fail "there is no group $group"
done

missing=()
command -v setpriv >/dev/null && command -v flock >/dev/null || missing+=("util-linux (setpriv, flock)")

wanted=()
for group in "${groups[@]}"; do
  "${group}_current" && continue
  wanted+=("$group")
  need=$("${group}_missing")
  [[ -z $need || " ${missing[*]-} " == *"$need"* ]] || missing+=("$need")
done
if [[ ${#missing[@]} -gt 0 ]]; then
  list=$(printf '; %s' "${missing[@]}")
  fail "missing on this machine: ${list:2}"
fi

if [[ ${#wanted[@]} -gt 0 ]]; then
  mkdir -p "$bin"
  exec 9>"$tools/lock"
  flock --nonblock 9 || { say "another run is at work, waiting for it"; flock 9; }
  rm -rf "$tools"/partial.*
  work=$(mktemp -d "$tools/partial.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  if [[ -n ${KUBEBUILDER_ASSETS:-} ]] && ! kubernetes_assets >/dev/null; then
    say "KUBEBUILDER_ASSETS is ignored: it does not hold all of ${kubernetes_tools[*]}"
  fi
  for group in "${wanted[@]}"; do
    # Another run may have made it while this one waited.
    "${group}_current" || "${group}_make"
  done
fi
say ready
