#!/usr/bin/env bash
# Training steps and forward passes of ResNet-50 on this machine's processor, ours and PyTorch's in turns, as a table.
#
#   benches/peers/train_step.sh PYTHON [ROUNDS] [THREADS]      PYTHON has torch and torchvision
#
# Each round runs every case once in a process of its own, ours and then PyTorch's: a step that is not counted, then
# REPEATS (environment; 3) that are. The table has medians of the rounds' medians, with the least and most of these.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=$1
rounds=${2:-5}
threads=${3:-2}
repeats=${REPEATS:-3}
cases=${CASES:-"8,128,f32 32,128,f32 8,224,f32 32,224,f32 8,128,bf16 32,128,bf16 8,224,bf16 32,224,bf16"}

cargo bench --bench train_step --no-run 2>&1 | tail -n 1 >&2
ours=$(cargo bench --bench train_step --no-run --message-format=json 2>/dev/null |
    "$python" -c 'import json, sys
for line in sys.stdin:
    built = json.loads(line)
    if built.get("target", {}).get("name") == "train_step" and built.get("executable"):
        print(built["executable"])')
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for round in $(seq "$rounds"); do
    for case in $cases; do
        IFS=, read -r batch size dtype <<<"$case"
        echo "round $round of $rounds: $batch images of $size px, $dtype" >&2
        RAYON_NUM_THREADS=$threads "$ours" 50 "$batch" "$size" "$dtype" "$repeats" | sed 's/^/ours /' >>"$log"
        "$python" benches/peers/torch_train_step.py 50 "$batch" "$size" "$dtype" "$repeats" "$threads" |
            sed 's/^/torch /' >>"$log"
    done
done
"$python" - "$log" <<'TABLE'
import collections, json, statistics, sys

rows = collections.defaultdict(lambda: collections.defaultdict(list))
for line in open(sys.argv[1]):
    who, case = line.split(" ", 1)
    case = json.loads(case)
    key = (case["dtype"], case["batch"], case["size"])
    for figure in ("step", "forward"):
        rows[key, figure][who].append(case[figure]["median_s"])
    rows[key, "step"][who, "peak"].append(case["peak_mib"])


def ms(values):
    return f"{1e3 * statistics.median(values):.0f} ({1e3 * min(values):.0f}-{1e3 * max(values):.0f})"


print("| type, images, px | pass | ours, ms | PyTorch, ms | times as fast | ours, MiB | PyTorch, MiB |")
print("|---|---|---|---|---|---|---|")
for ((dtype, batch, size), figure), of in rows.items():
    ratio = statistics.median(of["torch"]) / statistics.median(of["ours"])
    peaks = [f"{statistics.median(of[who, 'peak']):.0f}" if of[who, "peak"] else "" for who in ("ours", "torch")]
    print(f"| {dtype}, {batch}, {size} | {figure} | {ms(of['ours'])} | {ms(of['torch'])} | {ratio:.2f} | {' | '.join(peaks)} |")
TABLE
