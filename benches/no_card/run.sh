#!/usr/bin/env bash
# Whether NVRTC compiles burn-kernels' kernels for a card, on a machine without one: behind the program stands a driver that
# computes nothing.
#
#   benches/no_card/run.sh [CARD...]        such as 70 80 90 (V100, A100, H100), which is what it does without a word
#
# NVRTC and the toolkit's headers as for a card: libnvrtc.so where the loader finds it, CUDA_PATH (docs/gpu.md). The driver says
# that it runs CUDA 12.9, or what NO_CARD_CUDA says (13020 is 13.2). KERNELS may name the program, built elsewhere.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ -z ${KERNELS:-} ]]; then
    cargo build --release --features cuda --example gpu_kernels
    KERNELS=${CARGO_TARGET_DIR:-target}/release/examples/gpu_kernels
fi
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cc -shared -fPIC -o "$folder/libcuda.so.1" benches/no_card/driver.c -ldl
[[ $# -gt 0 ]] || set -- 70 80 90
for card in "$@"; do
    printf 'sm_%s: ' "$card"
    NO_CARD=$card LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$KERNELS"
done
