#!/usr/bin/env bash
# Runs a fuzz target under libFuzzer, guided by coverage. Needs a C++ compiler, and no nightly: the coverage is LLVM's
# own pass, without a sanitizer. What it finds is written to the current directory as crash-* or timeout-*.
#
#   scripts/fuzz.sh TARGET [SECONDS [LIBFUZZER-FLAG...]]      default 3600; TARGET is a directory of tests/fuzz/corpus
#
# New inputs that reach new code are kept in target/fuzz/corpus/TARGET; small and telling ones belong into tests/fuzz/corpus.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${1:-} seconds=${2:-3600}
[ -n "$target" ] && [ -d "$root/tests/fuzz/corpus/$target" ] ||
    { echo "usage: scripts/fuzz.sh TARGET [SECONDS [FLAG...]]; targets: $(ls "$root/tests/fuzz/corpus" | xargs)" >&2; exit 2; }
shift $(($# > 1 ? 2 : $#))

command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
built=${CARGO_TARGET_DIR:-$root/target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
# With --target the flags reach neither build scripts nor macros, which do not link libFuzzer.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing" \
    cargo build --quiet --release --target "$host" --target-dir "$built" --manifest-path "$root/tests/fuzz/libfuzzer/Cargo.toml"
mkdir -p "$built/corpus/$target"
MPRPC_FUZZ_TARGET=$target exec "$built/$host/release/mprpc-libfuzzer" "$built/corpus/$target" "$root/tests/fuzz/corpus/$target" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 "$@"
