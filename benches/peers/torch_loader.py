"""PyTorch's DataLoader with torchvision on what `sprint bench data` times: random-resized crops of 224 px, mirrored half of
the time, in batches of 64 as bytes. A line of JSON.

    pip install torch torchvision
    python benches/peers/torch_loader.py FOLDER [IMAGES [WORKERS]]

FOLDER has class folders; it is repeated to IMAGES [5000]. An epoch before the timed one starts the worker processes.
"""

import json
import resource
import sys
import time

import torch
import torchvision
from torchvision.transforms import v2


def processor_s():
    """Of this process and of workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main():
    folder = sys.argv[1]
    num_images = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    torch.set_num_threads(1)
    crop = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    pictures = torchvision.datasets.ImageFolder(folder, crop)

    def loader(indices):
        subset = torch.utils.data.Subset(pictures, indices)
        return torch.utils.data.DataLoader(
            subset, batch_size=64, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )

    for _ in loader(list(range(len(pictures)))):
        pass
    batches = loader([index % len(pictures) for index in range(num_images)])
    before_s, start = processor_s(), time.perf_counter()
    count = sum(images.shape[0] for images, _ in batches)
    elapsed_s = time.perf_counter() - start
    del batches
    print(
        json.dumps(
            {
                "program": f"torch {torch.__version__}, torchvision {torchvision.__version__}",
                "images": count,
                "workers": workers,
                "images_per_s": round(count / elapsed_s, 1),
                "images_per_processor_s": round(count / (processor_s() - before_s), 1),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
