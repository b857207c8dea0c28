#!/usr/bin/env bash
# Measures mprpc beside other RPC frameworks and beside the floor: the same calls, made by hand. Installs and builds what it needs.
#
#   scripts/bench.sh [--quick] [--pin same|split] [--scenario X] [--peer P] [--json FILE] [--syscalls]
#
#   --quick       one repetition of 2 s a cell (under ten minutes) instead of three of 3 s (about 20 minutes)
#   --pin         same: server and client on one core; split: a core each; else the kernel places them. Repeatable
#   --scenario    A latency, 1 connection x 1 call at a time    B pipelining, 1 x 64      C fan-in, 64 x 1    D wide, 64 x 16
#                 E echo of 1 MiB, 1 x 4    F as A beside 10,000 idle connections    G a connection per call (mprpc: legacy wire)
#                 T1 T8 T64 blocking calls from that many threads. Repeatable
#   --peer        a name in tests/bench/peers.conf. Repeatable
#   --json FILE   one line of JSON a run; scripts/bench-table.py makes a table and a plot of it
#   --syscalls    counts system calls with perf beside the runs
#
# Server and client are separate processes on loopback; every answer is checked. The exit status is 1 if a run failed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
command -v cargo >/dev/null || { echo "bench: cargo is needed: https://rustup.rs" >&2; exit 2; }

install() {
    local as=()
    command -v apt-get >/dev/null || { echo "bench: $* is needed, and there is no apt-get to install it" >&2; exit 2; }
    [ "$(id -u)" = 0 ] || as=(sudo -n)
    echo "installing $*"
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" ||
        { "${as[@]}" apt-get -qq update &&
              "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"; }
}

command -v python3 >/dev/null || install python3
command -v cc >/dev/null || install gcc libc6-dev
[[ " $* " != *" --syscalls "* ]] || command -v perf >/dev/null || install linux-perf ||
    { echo "bench: --syscalls needs perf, which could not be installed" >&2; exit 2; }

target=${CARGO_TARGET_DIR:-$root/target}/bench
run=(python3 "$root/tests/bench/run.py" "$target/release")
packages=$("${run[@]}" --packages "$@") || exit
[[ $packages != usage:* ]] || { echo "$packages"; exit 0; }
cargo build --release --locked --manifest-path "$root/tests/bench/Cargo.toml" --target-dir "$target" ${packages//bench-/-p bench-}
exec "${run[@]}" "$@"
