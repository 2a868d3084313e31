#!/usr/bin/env bash
# A training step of ResNet-50 on one GPU: ours, then PyTorch's on the same card right after, and one table of both.
#
#   benches/peers/gpu.sh FOLDER [PYTHON [WORDS...]]
#
# FOLDER gets ours.json, torch.json and table.md; PYTHON [python3] with torch and torchvision; WORDS for both, such as
# --cases 224x192 --precision f16 (else all that both measure, in at most 16 minutes). SPRINT may name a built program.
# On a machine without a GPU: DEVICES="flex cpu" benches/peers/gpu.sh /tmp/try python3 --cases 32x4 --precision f32
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?a folder for the results}
python=${2:-python3}
shift $(($# < 2 ? $# : 2))
read -r ours theirs <<<"${DEVICES:-cuda cuda}"

if [[ -z ${SPRINT:-} ]]; then
    cargo build --release --features cuda
    SPRINT=${CARGO_TARGET_DIR:-target}/release/sprint
fi
mkdir -p "$folder"
"$SPRINT" bench gpu --device "$ours" --out "$folder/ours.json" "$@"
"$python" benches/peers/torch_gpu.py --device "$theirs" "$@" >"$folder/torch.json.part"
mv "$folder/torch.json.part" "$folder/torch.json"
"$python" benches/peers/gpu_table.py "$folder/ours.json" "$folder/torch.json" | tee "$folder/table.md"
