"""A training step (forward, backward, SGD's update) and a forward pass for evaluation of ResNet-50 in PyTorch, channels last,
as benches/train_step.rs times ours. One process, one case; prints a line of JSON.

    pip install torch torchvision
    python benches/peers/torch_train_step.py LAYERS BATCH SIZE f32|bf16 REPEATS [THREADS]
"""

import contextlib
import json
import resource
import statistics
import sys
import time

import torch
import torchvision


def timed(repeats, work):
    """Once uncounted, then `repeats` times."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return {"median_s": statistics.median(seconds), "range_s": [min(seconds), max(seconds)]}


def main():
    layers, batch, size, dtype, repeats = sys.argv[1:6]
    torch.set_num_threads(int(sys.argv[6]) if len(sys.argv) > 6 else 2)
    model = getattr(torchvision.models, f"resnet{layers}")().to(memory_format=torch.channels_last)
    images = torch.randn(int(batch), 3, int(size), int(size)).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(int(batch))
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    half = dtype == "bf16"

    def cast():
        return torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()

    def step():
        sgd.zero_grad(set_to_none=True)
        with cast():
            loss = torch.nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        sgd.step()
        loss.item()

    def forward():
        with torch.no_grad(), cast():
            model(images)

    trained = timed(int(repeats), step)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.eval()
    case = {"layers": layers, "batch": int(batch), "size": int(size), "dtype": dtype}
    print(json.dumps({**case, "step": trained, "forward": timed(int(repeats), forward), "peak_mib": peak_mib}))


if __name__ == "__main__":
    main()
