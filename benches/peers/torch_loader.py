"""PyTorch's DataLoader with torchvision on what `sprint bench data` times: random-resized crops of 224 px, mirrored half of
the time, in batches of 64 as bytes. A line of JSON.

    pip install torch torchvision
    python benches/peers/torch_loader.py FOLDER [IMAGES [WORKERS]]

FOLDER has class folders; it is repeated to IMAGES [5000]. An epoch before the timed one starts the worker processes, which
stay. Linux: it tells the processor time of a process that goes on.
"""

import json
import multiprocessing
import os
import pathlib
import sys
import time

import torch
import torchvision
from torchvision.transforms import v2


def processor_s():
    """Of this process and its workers so far."""
    ticks = 0
    for pid in ["self", *(worker.pid for worker in multiprocessing.active_children())]:
        # After the name in parentheses; user and system time are fields 14 and 15 (proc_pid_stat(5)).
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main():
    folder = sys.argv[1]
    num_images = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    torch.set_num_threads(1)
    crop = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    pictures = torchvision.datasets.ImageFolder(folder, crop)

    repeated = torch.utils.data.Subset(pictures, [index % len(pictures) for index in range(num_images)])
    batches = torch.utils.data.DataLoader(
        repeated, batch_size=64, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    for _ in batches:
        pass
    before_s, start = processor_s(), time.perf_counter()
    count = sum(images.shape[0] for images, _ in batches)
    elapsed_s, spent_s = time.perf_counter() - start, processor_s() - before_s
    print(
        json.dumps(
            {
                "program": f"torch {torch.__version__}, torchvision {torchvision.__version__}",
                "images": count,
                "workers": workers,
                "images_per_s": round(count / elapsed_s, 1),
                "images_per_processor_s": round(count / spent_s, 1),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
