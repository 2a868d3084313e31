"""A training step of two ranks under PyTorch's DistributedDataParallel with gloo, over a link of a given rate.

    pip install torch torchvision
    sudo python benches/peers/torch_ddp_step.py --rate 1gbit [--model resnet18] [--size 64] [--batch 16] [--repeats 9]

The ranks run in the two network namespaces of shaped_link.sh, with one thread each, as many as the cores of the machine
this is for. In turns, so that drift meets all alike, and each twice, the first time uncounted, as one step follows another,
are timed: `compute`, a step of each rank alone (forward, backward, SGD with momentum), of which `backward`; `communicate`,
the all-reduce of as many bytes in DDP's buckets (1 MiB, then 25), all under way at once; and `ddp`, the step with both.
Ranks begin together; the slower one's time counts. A line of JSON: medians in seconds with least and most, and `ratio`,
ddp over the larger of compute and communicate: 1 is perfect overlap.
"""

import argparse
import copy
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402

LINK = pathlib.Path(__file__).with_name("shaped_link.sh")
# As shaped_link.sh names them.
MASTER, DEVICE = "10.231.0.1", "sprint0"
PORT = "29400"
WARM_UP = 2
FIRST_BUCKET, BUCKET = 1 << 20, 25 << 20


def network(name):
    """The model, and the channels of its pictures."""
    if name == "resnet8":
        from torch_default_run import ResNet8

        return ResNet8(), 1
    import torchvision

    return getattr(torchvision.models, name)(num_classes=1000), 3


def bucket_sizes(model):
    """Numbers in each of DDP's buckets: gradients in the order in which they come about, until a bucket is full."""
    sizes, limit = [0], FIRST_BUCKET
    for parameter in reversed(list(model.parameters())):
        sizes[-1] += parameter.numel()
        if 4 * sizes[-1] >= limit:
            sizes.append(0)
            limit = BUCKET
    return [size for size in sizes if size]


class Timer:
    """Seconds of the slower rank, from a common start, by what was done."""

    def __init__(self):
        self.times = {}

    def __call__(self, what, job):
        job()
        dist.barrier()
        start = time.perf_counter()
        parts = {what: None} | (job() or {})
        parts[what] = time.perf_counter() - start
        slowest = torch.tensor(list(parts.values()), dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        for part, seconds in zip(parts, slowest.tolist()):
            self.times.setdefault(part, []).append(seconds)


def work(args):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR=MASTER, MASTER_PORT=PORT, GLOO_SOCKET_IFNAME=DEVICE)
    dist.init_process_group("gloo", rank=args.rank, world_size=2)
    torch.manual_seed(0)
    model, channels = network(args.model)
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(args.batch, channels, args.size, args.size)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(args.batch) % 10
    alone = copy.deepcopy(model)
    alone_optimizer = torch.optim.SGD(alone.parameters(), lr=1e-3, momentum=0.9)
    buckets = [torch.zeros(size) for size in bucket_sizes(model)]

    def step(network, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        start = time.perf_counter()
        loss.backward()
        backward = time.perf_counter() - start
        optimizer.step()
        return backward

    def communicate():
        for handle in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
            handle.wait()

    ddp = torch.nn.parallel.DistributedDataParallel(model)
    ddp_optimizer = torch.optim.SGD(ddp.parameters(), lr=1e-3, momentum=0.9)
    timer = Timer()
    for repetition in range(WARM_UP + args.repeats):
        if repetition == WARM_UP:
            timer = Timer()
        timer("compute", lambda: {"backward": step(alone, alone_optimizer)})
        timer("communicate", communicate)
        timer("ddp", lambda: step(ddp, ddp_optimizer) and None)
    if args.rank == 0:
        times = timer.times
        median = {what: statistics.median(times[what]) for what in times}
        row = {
            "peer": f"DDP over gloo, torch {torch.__version__}",
            "model": args.model,
            "size": args.size,
            "batch": args.batch,
            "rate": args.rate,
            "gradient_bytes": 4 * sum(bucket.numel() for bucket in buckets),
            "buckets": [4 * bucket.numel() for bucket in buckets],
            **{what: [round(x, 5) for x in (median[what], min(times[what]), max(times[what]))] for what in times},
            "ratio": round(median["ddp"] / max(median["compute"], median["communicate"]), 3),
            "repeats": args.repeats,
        }
        print(json.dumps(row), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", required=True, help="as tc writes rates: 1gbit, 400mbit")
    parser.add_argument("--model", default="resnet18", help="resnet8 (this project's), or torchvision's of that name")
    parser.add_argument("--size", type=int, help="side of the pictures [64, for resnet8 28]")
    parser.add_argument("--batch", type=int, help="pictures a rank [16, for resnet8 128]")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.size = args.size or (28 if args.model == "resnet8" else 64)
    args.batch = args.batch or (128 if args.model == "resnet8" else 16)
    if args.rank is not None:
        return work(args)
    up = subprocess.run([LINK, "up", args.rate], check=True, stdout=subprocess.PIPE, text=True).stdout
    print(up, end="", file=sys.stderr)
    if up.startswith("SKIP"):
        return
    try:
        words = [sys.executable, __file__, *sys.argv[1:], "--rank"]
        ranks = [subprocess.Popen([LINK, "run", "AB"[rank], *words, str(rank)]) for rank in range(2)]
        failed = [rank.wait() for rank in ranks]
    finally:
        subprocess.run([LINK, "down"], check=True)
    if any(failed):
        sys.exit(f"a rank failed: exit statuses {failed}")


if __name__ == "__main__":
    main()
