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
mkdir "$FAULTS_ZK/tmp"
export FAULTS_ZK TMPDIR=$FAULTS_ZK/tmp
child= ran=

finish() {
    trap - EXIT
    [ -z "$child" ] || { kill "$child" 2>/dev/null; wait "$child" 2>/dev/null; }
    # Servers and programs alike have this run's directory, which is nobody else's, in their command lines.
    local line pid
    for line in $(grep -lsF "$FAULTS_ZK/" /proc/[0-9]*/cmdline); do
        pid=${line#/proc/}
        kill -KILL "${pid%/cmdline}" 2>/dev/null
    done
    # What a row that was cut short left of its own hosts.
    [ -z "$ran" ] || ip netns list 2>/dev/null | grep -oE "^mprpc-$ran-[0-9]+" | xargs -rn 1 ip netns del
    # The row about a full disk mounts one.
    while read -r line; do umount -l "$line"; done < <(cut -d' ' -f2 /proc/mounts | grep -F "$FAULTS_ZK/")
    rm -rf "$FAULTS_ZK"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

install() {
    local as=()
    [ "$(id -u)" = 0 ] || as=(sudo -n)
    "${as[@]}" apt-get -qq update && "${as[@]}" apt-get -qq install -y --no-install-recommends "$1" || exit 1
}
case ${1:-} in
calls) command -v ip >/dev/null || install iproute2 ;; # for a network that swallows packets
server) compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || install libfaketime ;; # for a clock that jumps
esac
# The full form measures what users run; the quick one takes what the tests have built already.
profile=release
[[ " $* " != *" --quick "* ]] || profile=dev
TMPDIR= cargo build --locked --quiet --profile "$profile" --package mprpc-faults --bin faults || exit 1
"$target/${profile/dev/debug}/faults" "$@" </dev/null &
child=$! ran=$!
wait "$child"
status=$?
child=
exit "$status"
