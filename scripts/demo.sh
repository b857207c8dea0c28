#!/usr/bin/env bash
# Builds callee and caller, starts them as separate processes, shows the calls' results, ends what it started.
#
#   scripts/demo.sh               direct: the caller knows the callee's address
#   scripts/demo.sh --zookeeper   two callees register in a real ZooKeeper; one of them stops, the calls go on
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${CARGO_TARGET_DIR:-$PWD/target}/release
work=$(mktemp -d)
pids=()
zookeeper=

say() { printf '\n== %s\n' "$*"; }

fail() {
    echo "demo: $*" >&2
    tail -n 20 "$work"/*.out >&2
    exit 1
}

# Ends process $1 as an operator does; gives its exit status. Two drain times are enough for anything.
end() {
    local pid=$1 i
    kill -TERM "$pid" 2>/dev/null || true
    for i in $(seq 200); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid"
}

cleanup() {
    local status=$? pid
    trap - EXIT
    for pid in ${pids[@]+"${pids[@]}"}; do
        ! kill -0 "$pid" 2>/dev/null || end "$pid" || true
    done
    [ -z "$zookeeper" ] || ZK_DIR=$work/zk scripts/zk.sh stop
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Writes $work/$1.conf from the settings on standard input.
conf() { { echo "log_dir = $work"; cat; } >"$work/$1.conf"; }

# Waits until the output of process $2, named $1, has a line with $3, and prints it.
wait_line() {
    local i
    for i in $(seq 100); do
        grep -m 1 -- "$3" "$work/$1.out" && return
        kill -0 "$2" 2>/dev/null || fail "$1 ended"
        sleep 0.1
    done
    fail "$1 does not say '$3'"
}

# Starts a callee named $1 on a free port; $address is where it listens.
start_callee() {
    "$bin/callee" -i "$work/$1.conf" >"$work/$1.out" 2>&1 </dev/null &
    pids+=($!)
    local line
    line=$(wait_line "$1" $! "RpcProvider start service at") || exit 1
    address=$(grep -oE '[0-9.]+:[0-9]+' <<<"$line" | tail -n 1)
    echo "$1: $line (process $!)"
}

# One caller: its output is shown, the three results must be in it.
call() {
    timeout 60 "$bin/caller" -i "$work/caller.conf" >"$work/caller.out" 2>&1 </dev/null || fail "the caller ended with status $?"
    cat "$work/caller.out"
    local result
    for result in "rpc login response success" "rpc register response success" "rpc GetFriendsList response success"; do
        grep -q -- "$result" "$work/caller.out" || fail "the caller does not say '$result'"
    done
}

direct() {
    conf callee <<<"rpcserverip = 127.0.0.1"
    say "a callee"
    start_callee callee
    conf caller <<<"rpcserverip = 127.0.0.1
rpcserverport = ${address##*:}"
    say "a caller"
    call
    say "the callee is asked to end"
    end "${pids[0]}" || fail "the callee ended with status $?"
    echo "ended, nothing is left"
}

with_zookeeper() {
    local name
    say "ZooKeeper"
    zookeeper=$(ZK_PORT=$(free_port) ZK_DIR=$work/zk scripts/zk.sh start standalone | tail -n 1)
    echo "$zookeeper"
    for name in callee-1 callee-2 caller busy-caller; do
        conf $name <<<"zookeeperip = ${zookeeper%:*}
zookeeperport = ${zookeeper##*:}
caller_repeat = $([ $name = busy-caller ] && echo 150 || echo 1)
caller_pause_ms = 20"
    done
    say "two callees"
    start_callee callee-1
    start_callee callee-2
    wait_registered 2
    say "a caller finds them"
    call
    say "callee-1 is asked to end while another caller is busy"
    timeout 60 "$bin/caller" -i "$work/busy-caller.conf" >"$work/busy-caller.out" 2>&1 </dev/null &
    local busy=$!
    pids+=($busy)
    wait_line busy-caller $busy "rpc GetFriendsList" >/dev/null
    end "${pids[0]}" || fail "callee-1 ended with status $?"
    echo "callee-1: ended; the busy caller had made $(successes) calls by then"
    wait_registered 1
    wait $busy || fail "the busy caller ended with status $?"
    say "the calls went on"
    echo "busy caller: $(successes) calls, all of them succeeded"
    call >/dev/null && echo "a new caller: login, register and friends list succeeded"
    end "${pids[1]}" || fail "callee-2 ended with status $?"
    wait_registered 0
    echo "all ended, nothing is left"
}

successes() { grep -c 'response success' "$work/busy-caller.out"; }

# Waits until ZooKeeper has $1 instances of the user service, and shows the nodes that live with their sessions.
wait_registered() {
    local i nodes=
    for i in $(seq 100); do
        nodes=$(ephemeral_nodes)
        if [ "$(grep -c '/mprpc/services/fixbug.UserServiceRpc/instances/' <<<"$nodes")" = "$1" ]; then
            [ -z "$nodes" ] || sed 's/^/  znode /' <<<"$nodes"
            return
        fi
        sleep 0.1
    done
    fail "ZooKeeper does not have $1 instances, but: $nodes"
}

ephemeral_nodes() {
    timeout 5 bash -c "exec 3<>/dev/tcp/${zookeeper%:*}/${zookeeper##*:}; printf dump >&3; cat <&3" |
        { grep -E '^[[:space:]]+/' || true; } | tr -d '[:blank:]' | sort
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

case ${1:-} in
    "" | --zookeeper) ;;
    *) echo "usage: scripts/demo.sh [--zookeeper]" >&2; exit 2 ;;
esac
say "build, optimised (the first time takes a minute or two)"
scripts/autobuild.sh -p callee -p caller >"$work/build.out" 2>&1 || fail "the build failed"
sed -n 's/^\(built in .*\):$/\1/p' "$work/build.out"
if [ -n "${1:-}" ]; then with_zookeeper; else direct; fi
