#!/usr/bin/env bash
# A training step of two ranks over a link of a given rate: ours, then PyTorch's DDP with gloo, in turns.
#
#   sudo benches/peers/ddp_step.sh RATE [PYTHON [LAYERS SIZE BATCH]]
#
# RATE such as 1gbit; PYTHON with torch and torchvision; a ResNet of LAYERS [18] on BATCH [16] pictures of SIZE [64] px a rank.
# One thread a rank, ROUNDS [3] of it. Prints a line of JSON each; see benches/ddp_step.rs and torch_ddp_step.py for what they mean.
set -euo pipefail
cd "$(dirname "$0")/../.."
rate=${1:?a rate, such as 1gbit}
python=${2:-python3}
layers=${3:-18} size=${4:-64} batch=${5:-16}
link=benches/peers/shaped_link.sh

bench=${DDP_STEP:-$(cargo bench --bench ddp_step --no-run --message-format=json |
    "$python" -c 'import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")][-1])')}

ours() {
    local master=(BURN_DIST_WORLD_SIZE=2 BURN_DIST_MASTER_ADDR=10.231.0.1 BURN_DIST_MASTER_PORT=29411 BURN_DIST_INSECURE=1)
    "$link" up "$rate"
    "$link" run B env "${master[@]}" BURN_DIST_RANK=1 RAYON_NUM_THREADS=1 "$bench" "$1" "$layers" "$size" "$batch" &
    "$link" run A env "${master[@]}" BURN_DIST_RANK=0 RAYON_NUM_THREADS=1 "$bench" "$1" "$layers" "$size" "$batch"
    wait
    "$link" down
}

for ((round = 0; round < ${ROUNDS:-3}; round++)); do
    for cap_mib in 25 4; do
        ours "$cap_mib"
    done
    "$python" benches/peers/torch_ddp_step.py --rate "$rate" --model "resnet$layers" --size "$size" --batch "$batch"
done
