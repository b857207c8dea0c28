#!/usr/bin/env bash
# Builds everything in one go, optimised, and says where the programs are.
#
#   scripts/autobuild.sh [-p PACKAGE...]      only these, such as -p callee -p caller
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
command -v cargo >/dev/null || { echo "autobuild: cargo is needed: https://rustup.rs" >&2; exit 1; }
command -v cc >/dev/null || { echo "autobuild: a C linker (cc) is needed, e.g. apt-get install gcc libc6-dev" >&2; exit 1; }

[ $# -gt 0 ] || set -- --workspace
cargo build --release --locked "$@"

out=${CARGO_TARGET_DIR:-$PWD/target}/release
echo "built in $out:"
for file in "$out"/*; do
    [ -f "$file" ] && [ -x "$file" ] && [[ $file != *.so ]] && echo "  ${file##*/}"
done
exit 0
