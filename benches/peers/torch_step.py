"""A training step (forward, backward) and a forward pass in PyTorch at the shapes of burn-resnet/benches/forward.rs.

    pip install torch torchvision
    python benches/peers/torch_step.py [THREADS]
"""

import statistics
import sys
import time

import torch
import torchvision

from torch_default_run import ResNet8


def milliseconds(run, repeats):
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return f"median {statistics.median(times):8.1f} ms  min {min(times):8.1f} ms"


def main():
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads")
    shapes = [("resnet8", 128, 1, 28), ("resnet50", 8, 3, 64), ("resnet50", 8, 3, 224)]
    for layout in ("contiguous", "channels last"):
        for name, batch, channels, size in shapes:
            model = ResNet8() if name == "resnet8" else torchvision.models.resnet50(num_classes=10)
            images = torch.randn(batch, channels, size, size)
            if layout == "channels last":
                model = model.to(memory_format=torch.channels_last)
                images = images.contiguous(memory_format=torch.channels_last)

            def step():
                model.zero_grad()
                model(images).square().mean().backward()

            def forward():
                with torch.no_grad():
                    model(images)

            repeats = 5 if size == 224 else 20
            model.train()
            print(f"{layout:13} {name:8} batch {batch:3} {size:3} px  step     {milliseconds(step, repeats)}")
            model.eval()
            print(f"{layout:13} {name:8} batch {batch:3} {size:3} px  forward  {milliseconds(forward, repeats)}")


if __name__ == "__main__":
    main()
