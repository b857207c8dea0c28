#!/usr/bin/env bash
# What idleness costs a provider: processor time without connections and with idle ones, and memory a connection.
#
#   scripts/connections.sh [CONNECTIONS [SECONDS]]      default 10000 and 60
#
# Every connection makes one call before it is idle. Both processes may open only as many files as `ulimit -Hn` says.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
connections=${1:-10000} seconds=${2:-60}

command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
target=${CARGO_TARGET_DIR:-$root/target}/bench
cargo build --quiet --release --locked --manifest-path "$root/tests/bench/Cargo.toml" --target-dir "$target" -p bench-mprpc
peer=$target/release/bench-mprpc
work=$(mktemp -d)
cd "$work"
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

for port in $(shuf -i 20000-30000 -n 20); do
    "$peer" serve "127.0.0.1:$port" >server.out 2>&1 &
    server=$!
    for _ in $(seq 100); do
        grep -q READY server.out && break 2
        kill -0 "$server" 2>/dev/null || break # the port was taken
        sleep 0.05
    done
    server=
done
[ -n "$server" ] || { echo "connections: the provider does not start:" >&2; cat server.out >&2; exit 1; }

ticks() { sed 's/.*) //' "/proc/$server/stat" | awk '{ print $12 + $13 }'; }

sleep 1
before=$(ticks)
sleep "$seconds"
echo "idle provider without connections: $(($(ticks) - before)) ticks of 10 ms in $seconds s"
"$peer" load "127.0.0.1:$port" scenario=I idle="$connections" pid="$server" warmup=1 secs="$seconds" |
    python3 -c '
import json, sys
found = json.load(sys.stdin)
if "error" in found:
    sys.exit("connections: " + found["error"])
text = "with {} idle connections that made one call each: {:.1f} ms of CPU in {} s, {:.2f} KiB resident each (client {:.2f})"
print(text.format(sys.argv[1], found["srv_cpu_ms"], sys.argv[2], found["srv_kib_per_conn"], found["cli_kib_per_conn"]))
' "$connections" "$seconds"
