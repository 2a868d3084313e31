#!/usr/bin/env bash
# All-reduce beside gloo's, and beside what plain sockets copy, in turns on this machine.
#
#   cargo build --release && benches/peers/all_reduce.sh [PYTHON]     PYTHON with torch
#
# Three rounds: gloo on 2 and 4 ranks; ours through memory, through sockets, through sockets without checksums; copies.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
sprint=${SPRINT:-target/release/sprint}

for round in 1 2 3; do
    echo "== round $round: gloo"
    "$python" benches/peers/gloo_all_reduce.py
    for ranks in 2 4; do
        echo "== round $round: $ranks ranks, memory"
        "$sprint" dist bench --nproc "$ranks"
        echo "== round $round: $ranks ranks, sockets"
        BURN_DIST_SHARED_MEMORY=0 "$sprint" dist bench --nproc "$ranks"
        echo "== round $round: $ranks ranks, sockets without checksums"
        BURN_DIST_SHARED_MEMORY=0 BURN_DIST_CHECKSUM=0 "$sprint" dist bench --nproc "$ranks" --counts 25600000
    done
    echo "== round $round: plain copies"
    "$python" benches/peers/loopback_copy.py --mebibytes 200
done
