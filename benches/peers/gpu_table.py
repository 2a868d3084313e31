"""One table of what `sprint bench gpu` and torch_gpu.py measured on the same card, for benches/RESULTS.md.

    python benches/peers/gpu_table.py OURS.json TORCH.json
"""

import json
import sys


def number(value, scale=1.0):
    """With four digits that count."""
    return "-" if value is None else f"{value * scale:.4g}"


def main():
    pages = [json.load(open(path)) for path in sys.argv[1:3]]
    print("| | card | copy GB/s | to host GB/s | from host GB/s | products, TFLOP/s |")
    print("|---|---|---|---|---|---|")
    for page in pages:
        ceilings = page.get("ceilings") or {}
        rates = [ceilings.get(f"{name}_bytes_per_s") for name in ("copy", "to_host", "to_device")]
        products = ", ".join(f"{p['precision']} {number(p['flop_per_s'], 1e-12)}" for p in ceilings.get("products", []))
        print(f"| {page['program']} | {page['card']} | {' | '.join(number(rate, 1e-9) for rate in rates)} | {products} |")
    print()
    print("| px, batch | | program, variant | warm-up s | step ms | images/s | TFLOP/s | of PyTorch's best | GiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = [(row, page["program"]) for page in pages for row in page["steps"]]
    best = {}
    for row, program in rows:
        if program.startswith("PyTorch") and row["images_per_s"]:
            key = (row["network"], row["size"], row["batch_size"], row["precision"])
            best[key] = max(best.get(key, 0.0), row["images_per_s"])
    for row, program in sorted(rows, key=lambda pair: (pair[0]["precision"], pair[0]["size"])):
        key = (row["network"], row["size"], row["batch_size"], row["precision"])
        share = row["images_per_s"] / best[key] if row["images_per_s"] and key in best else None
        step = row["step"] or {}
        cells = [
            f"{row['size']}, {row['batch_size']}",
            row["precision"],
            " ".join(filter(None, [program, row["variant"]])),
            number(row["warm_up_s"]),
            number(step.get("median_s"), 1e3),
            number(row["images_per_s"]),
            number(row["flop_per_s"], 1e-12),
            number(share),
            number(row["reserved_bytes"], 2**-30),
        ]
        print(f"| {' | '.join(cells)} |")
    print()
    print("| px, batch | | program | conv forward ms | input gradient | weight gradient | batch norm | rest |")
    print("|---|---|---|---|---|---|---|---|")
    names = ["conv_forward_s", "conv_input_grad_s", "conv_weight_grad_s", "norm_s", "rest_s"]
    for row, program in sorted(rows, key=lambda pair: (pair[0]["precision"], pair[0]["size"])):
        if row.get("parts"):
            cells = [f"{row['size']}, {row['batch_size']}", row["precision"], program]
            cells += [number(row["parts"][name], 1e3) for name in names]
            print(f"| {' | '.join(cells)} |")
    for page in pages:
        for missing in page["not_measured"]:
            print(f"\nNot measured by {page['program']}: {missing}.")
    for row, program in rows:
        if row.get("error"):
            print(f"\n{program}, {row['precision']} of {row['batch_size']} images of {row['size']} px: {row['error']}.")


if __name__ == "__main__":
    main()
