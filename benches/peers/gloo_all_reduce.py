"""All-reduce (sum, f32) of torch.distributed over gloo between processes of this machine, by loopback TCP.

    pip install torch numpy
    python benches/peers/gloo_all_reduce.py [--ranks 2,4] [--counts 256,65536,1048576,25600000] [--repeats 9]

A line of JSON for each number of ranks and size. `seconds` is the median over the repetitions of the slowest rank's
time; all ranks begin at a barrier. algbw = bytes / seconds, busbw = algbw * 2 (n - 1) / n, as NCCL's tests define them,
in GB/s of 1e9 bytes. Sizes below a millisecond are timed as means of many calls in a row.
"""

import argparse
import json
import os
import socket
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402

WARM_UP = 2


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def calls_in_a_row(count):
    return 100 if count <= 4096 else 10 if count <= 1 << 17 else 1


def timed(tensor, calls):
    dist.barrier()
    start = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(tensor)
    mine = (time.perf_counter() - start) / calls
    slowest = torch.tensor([mine], dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.item()


def work(rank, ranks, port, counts, repeats):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    for count in counts:
        check = torch.full((count,), float(rank + 1))
        dist.all_reduce(check)
        assert torch.all(check == ranks * (ranks + 1) / 2), "a wrong sum"
        # Zeros stay finite however often they are summed.
        tensor, calls = torch.zeros(count), calls_in_a_row(count)
        for _ in range(WARM_UP):
            timed(tensor, calls)
        times = [timed(tensor, calls) for _ in range(repeats)]
        if rank == 0:
            median = statistics.median(times)
            algbw = 4 * count / median / 1e9
            row = {
                "peer": f"gloo, torch {torch.__version__}",
                "ranks": ranks,
                "count": count,
                "seconds": median,
                "min": min(times),
                "max": max(times),
                "algbw": algbw,
                "busbw": algbw * 2 * (ranks - 1) / ranks,
                "repeats": repeats,
            }
            print(json.dumps(row), flush=True)
    dist.destroy_process_group()


def main():
    def numbers(text):
        return [int(n) for n in text.split(",")]

    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=numbers, default=[2, 4])
    parser.add_argument("--counts", type=numbers, default=[256, 65_536, 1_048_576, 25_600_000])
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    for ranks in args.ranks:
        mp.spawn(work, (ranks, free_port(), args.counts, args.repeats), nprocs=ranks)


if __name__ == "__main__":
    main()
