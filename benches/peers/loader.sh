#!/usr/bin/env bash
# Pictures to batches: ours, then PyTorch's DataLoader with torchvision, in turns on the same files.
#
#   benches/peers/loader.sh FOLDER [PYTHON [IMAGES [THREADS]]]
#
# FOLDER has class folders; PYTHON with torch and torchvision; IMAGES [5000] each time; THREADS [2], or worker processes.
# ROUNDS [3] of it; FEATURES such as turbojpeg. Prints a line of JSON each; see src/cli/bench.rs and torch_loader.py for what
# they mean. SPRINT may name a built program.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?a folder of class folders}
python=${2:-python3}
images=${3:-5000} threads=${4:-2}

if [[ -z ${SPRINT:-} ]]; then
    cargo build --release ${FEATURES:+--features "$FEATURES"}
    SPRINT=${CARGO_TARGET_DIR:-target}/release/sprint
fi

for ((round = 0; round < ${ROUNDS:-3}; round++)); do
    "$SPRINT" bench data --data "$folder" --images "$images" --threads "$threads" --json
    "$python" benches/peers/torch_loader.py "$folder" "$images" "$threads"
done
