#!/usr/bin/env bash
# The fault matrix: breaks things under running programs and measures what they do (tests/faults/README.md).
#
#   scripts/faults.sh registry|calls|server [--quick] [ROW...]
#
# One line PASS or FAIL a row; the exit status is 0 only if all of them pass. Everything it starts ends with it.
set -uo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
mkdir -p "$target/zk"
FAULTS_ZK=$(mktemp -d "$target/zk/faults-XXXXXX")
export FAULTS_ZK
child=

finish() {
    trap - EXIT
    [ -z "$child" ] || { kill "$child" 2>/dev/null; wait "$child" 2>/dev/null; }
    local dir
    for dir in "$FAULTS_ZK"/zk-*; do
        [ ! -d "$dir" ] || ZK_PORT=${dir##*-} ZK_DIR=$dir scripts/zk.sh stop >/dev/null 2>&1
    done
    rm -rf "$FAULTS_ZK"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cargo build --locked --quiet --package mprpc-faults --bin faults || exit 1
"$target/debug/faults" "$@" </dev/null &
child=$!
wait "$child"
status=$?
child=
exit "$status"
