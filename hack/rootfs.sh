#!/usr/bin/env bash
# Builds the root file system of the image: the statically linked binary and the CA certificates of public authorities.
#
#   hack/rootfs.sh ARCHITECTURE FOLDER     ARCHITECTURE is amd64 or arm64
#
# The Dockerfile and `make image-check` run it. Cross-compiling requires rustup and the C compiler of the target
# (Debian: gcc-aarch64-linux-gnu or gcc-x86-64-linux-gnu).
set -euo pipefail

architecture=$1 folder=$2
case $architecture in
  amd64) processor=x86_64 ;;
  arm64) processor=aarch64 ;;
  *) printf 'rootfs: invalid architecture %s: expected amd64 or arm64\n' "$architecture" >&2; exit 1 ;;
esac
target=$processor-unknown-linux-gnu
certificates=/etc/ssl/certs/ca-certificates.crt

if [[ $(uname -m) != "$processor" ]]; then
  compiler=$processor-linux-gnu-gcc
  export "CC_${target//-/_}=$compiler"
  variable=CARGO_TARGET_${target//-/_}_LINKER
  export "${variable^^}=$compiler"
  rustup target add "$target"
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Without --target, the flags would also apply to procedural macros, which must be linked dynamically. Packed
# relocations take a tenth of the space.
RUSTFLAGS='-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs' \
  cargo build --release --locked --target "$target" --package ecs-retirement-controller

rm -rf "$folder"
install -D --mode=0755 "${CARGO_TARGET_DIR:-target}/$target/release/ecs-retirement-controller" "$folder/ecs-retirement-controller"
install -D --mode=0644 "$certificates" "$folder$certificates"
