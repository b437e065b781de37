#!/usr/bin/env bash
# Lays out the root file system of the image: the binary, linked statically, and the certificates of public authorities.
#
#   hack/rootfs.sh ARCHITECTURE FOLDER     ARCHITECTURE is amd64 or arm64
#
# The Dockerfile runs it, and so does `make image-check`. To compile for another processor than this one needs its C compiler
# (Debian: gcc-aarch64-linux-gnu or gcc-x86-64-linux-gnu) and rustup.
set -euo pipefail

architecture=$1 folder=$2
case $architecture in
  amd64) processor=x86_64 ;;
  arm64) processor=aarch64 ;;
  *) printf 'rootfs: %s is neither amd64 nor arm64\n' "$architecture" >&2; exit 1 ;;
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
# With --target, or the flags would reach procedural macros, which must be linked dynamically. Packed relocations take a tenth of
# the room.
RUSTFLAGS='-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs' \
  cargo build --release --locked --target "$target" --package ecs-retirement-controller

rm -rf "$folder"
install -D --mode=0755 "${CARGO_TARGET_DIR:-target}/$target/release/ecs-retirement-controller" "$folder/ecs-retirement-controller"
install -D --mode=0644 "$certificates" "$folder$certificates"
