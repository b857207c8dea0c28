#!/usr/bin/env bash
# All checks and tests, as CI runs them. Installs what it lacks, starts a ZooKeeper of its own, stops it at the end.
#
#   scripts/test.sh              every step; the exit status is 0 only if all of them passed
#   scripts/test.sh STEP...      only these steps (names as printed; zookeeper starts when tests need it)
#   VERBOSE=1 scripts/test.sh    show the output of steps as it comes, not only of failed ones
#
# A step that fails does not keep the next from running; none is skipped without a word.
set -uo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
logs=$target/test-logs
only=("$@")
passed=() failed=() left_out=()
child= zk_dir=

step_tools() {
    command -v cargo >/dev/null || { echo "cargo is needed: https://rustup.rs"; return 1; }
    command -v cc >/dev/null || { echo "a C linker (cc) is needed, e.g. apt-get install gcc libc6-dev"; return 1; }
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt || return 1
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy || return 1
    command -v python3 >/dev/null || install python3 || return 1
    cargo --version && rustc --version && python3 --version
}

install() {
    local as=()
    command -v apt-get >/dev/null || { echo "$* is needed, and there is no apt-get to install it"; return 1; }
    [ "$(id -u)" = 0 ] || as=(sudo -n)
    echo "installing $*"
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" ||
        { "${as[@]}" apt-get -qq update &&
              "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"; }
}

step_format() { cargo fmt --all --check; }

step_layers() { scripts/check-layers.sh && scripts/check-layers.sh --self-test; }

step_deps() { scripts/check-deps.sh && scripts/check-deps.sh --self-test; }

step_clippy() { cargo clippy --locked --workspace --all-targets -- -D warnings; }

# The benchmark is a workspace of its own; here only what must keep up with the runtime is looked at.
step_bench() {
    cargo check --locked --manifest-path tests/bench/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-$PWD/target}/bench" \
        -p bench-mprpc -p bench-floor
}

step_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps; }

step_zookeeper() {
    ZK_PORT=$(free_port) ZK_DIR=$zk_dir scripts/zk.sh start standalone >"$zk_dir.address" && cat "$zk_dir.address"
}

step_build() { cargo build --locked --workspace --all-targets; }

step_test() {
    MPRPC_TEST_ZK=$(tail -n 1 "$zk_dir.address" 2>/dev/null)
    [ -n "$MPRPC_TEST_ZK" ] || { echo "no ZooKeeper, so no test run: see the step zookeeper"; return 1; }
    export MPRPC_TEST_ZK
    cargo test --locked --workspace --no-fail-fast
}

step_simulation() { cargo test --locked --release -p mprpc-runtime --test simulation -- --nocapture; }

step_release() { scripts/autobuild.sh; }

step_demo() { scripts/demo.sh; }

step_demo-zookeeper() { scripts/demo.sh --zookeeper; }

step_faults-calls() { scripts/faults.sh calls --quick; }

step_faults-registry() { scripts/faults.sh registry --quick; }

step_faults-server() { scripts/faults.sh server --quick; }

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Runs step $1, $2 seconds at most, and prints one line about it (all of its output if it failed).
step() {
    local name=$1 limit=$2 log=$logs/$1.log start=$SECONDS status
    if [ ${#only[@]} -gt 0 ] && [[ " ${only[*]} " != *" $name "* ]]; then
        left_out+=("$name")
        return
    fi
    printf '== %-15s ' "$name"
    [ -z "${VERBOSE:-}" ] || echo
    # A group of its own, so that a limit or Ctrl-C ends everything the step started.
    export -f "step_$name" install free_port
    export zk_dir
    if [ -z "${VERBOSE:-}" ]; then
        timeout --kill-after=20 "$limit" bash -c "set -uo pipefail; step_$name" >"$log" 2>&1 </dev/null &
    else
        timeout --kill-after=20 "$limit" bash -c "set -uo pipefail; step_$name" > >(tee "$log") 2>&1 </dev/null &
    fi
    child=$!
    wait "$child"
    status=$?
    child=
    if [ "$status" = 0 ]; then
        passed+=("$name")
        printf 'ok      %4d s  %s\n' $((SECONDS - start)) "$(remark "$name" "$log")"
    else
        failed+=("$name")
        [ "$status" != 124 ] || echo "the limit of $limit s is over" >>"$log"
        printf 'FAILED  %4d s  (status %d; the end of %s follows)\n' $((SECONDS - start)) "$status" "$log"
        [ -n "${VERBOSE:-}" ] || tail -n 200 "$log" | sed 's/^/   | /'
    fi
}

# What a passed step has to say.
remark() {
    case $1 in
        test) awk '/^test result:/ { pass += $4; ignore += $8 }
                   END { printf "%d tests passed%s", pass, ignore ? ", " ignore " IGNORED" : "" }' "$2" ;;
        layers) grep -m 1 '^check-layers:' "$2" ;;
        deps) grep -m 1 '^check-deps:' "$2" ;;
        zookeeper | faults-*) tail -n 1 "$2" ;;
        simulation) grep -m 1 -o 'simulation: [0-9].*' "$2" ;;
    esac
}

finish() {
    trap - EXIT
    [ -z "$child" ] || kill "$child" 2>/dev/null
    ZK_DIR=$zk_dir scripts/zk.sh stop >/dev/null 2>&1
    rm -rf "$zk_dir" "$zk_dir.address"
}

command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
mkdir -p "$logs"
zk_dir=$target/zk/test-$$
mkdir -p "$zk_dir"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [[ " ${only[*]:-} " == *" test "* ]]; then only+=(zookeeper); fi
known="tools format layers deps clippy bench docs zookeeper build test simulation release demo demo-zookeeper faults-calls faults-registry faults-server"
for name in ${only[@]+"${only[@]}"}; do
    [[ " $known " == *" $name "* ]] || { echo "test.sh: no step '$name'; there are: $known" >&2; exit 2; }
done

step tools 300
step format 60
step layers 30
step deps 120
step clippy 900
step bench 600
step docs 600
step zookeeper 300
step build 900
step test 900
step simulation 900
step release 1200
step demo 300
step demo-zookeeper 300
step faults-calls 300
step faults-registry 400
step faults-server 240

[ ${#left_out[@]} = 0 ] || echo "left out, as asked: ${left_out[*]}"
if [ ${#failed[@]} -gt 0 ]; then
    echo "test.sh: FAILED: ${failed[*]} (${#passed[@]} steps passed, $SECONDS s)"
    exit 1
fi
echo "test.sh: all ${#passed[@]} steps passed in $SECONDS s"
