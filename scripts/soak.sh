#!/usr/bin/env bash
# A long run: three providers, 1,000 calls a second, a random fault a minute. Every call has one outcome in time, and the
# provider and the caller that live through it keep their memory, threads and descriptors.
#
#   scripts/soak.sh [MINUTES [SEED]]      default 30; the same seed gives the same faults
#
# One line PASS or FAIL with the figures at the end, and the exit status.
set -euo pipefail
cd "$(dirname "$0")/.."
export FAULTS_MINUTES=${1:-30}
[[ "$FAULTS_MINUTES" =~ ^[1-9][0-9]*$ ]] || { echo "usage: scripts/soak.sh [MINUTES [SEED]]" >&2; exit 2; }
[ -z "${2:-}" ] || export FAULTS_SEED=$2
exec scripts/faults.sh soak
