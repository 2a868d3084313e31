"""What `sprint bench gpu` measures, in PyTorch on the same card: ceilings, training steps, time by part. JSON of the same
shape on standard output; what is going on goes to standard error.

    pip install torch torchvision
    python benches/peers/torch_gpu.py [--device cuda] [--cases 128x256,224x192,288x128] [--precision f16,f32] [--limit 420]
    python benches/peers/torch_gpu.py --device cpu --network resnet18 --cases 32x4 --precision f32     a try without a GPU

Steps are forward, backward and SGD with momentum, images staying on the device and the loss read a step late. f16 is
AMP: autocast with a GradScaler that begins at 1024. Everything is channels last, without and with torch.compile.
"""

import argparse
import gc
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
import torchvision

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ROUNDS, ROUND_S, MAX_STEPS, MAX_WARM_UP = 3, 2.0, 40, 6


def words():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cases", default="128x256,224x192,288x128")
    parser.add_argument("--precision", default="f16,f32")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--limit", type=float, default=420.0, help="seconds after which nothing new is begun")
    parser.add_argument("--no-compile", action="store_true", help="without the steps under torch.compile")
    return parser.parse_args()


class Clock:
    """Timing on a device that works asynchronously."""

    def __init__(self, device):
        self.device = device

    def settle(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def once(self, work):
        self.settle()
        start = time.perf_counter()
        work()
        self.settle()
        return time.perf_counter() - start

    def repeated(self, repeats, work):
        self.once(work)
        return statistics.median(self.once(work) for _ in range(repeats))


def ceilings(device, clock):
    on_cpu = device.type == "cpu"
    copied, exchanged = (1 << 28, 1 << 26) if not on_cpu else (1 << 24, 1 << 22)
    side = 8192 if not on_cpu else 1024
    source = torch.ones(copied, device=device)
    copy_s = clock.repeated(10, lambda: source + 1.0)
    del source
    tensor = torch.ones(exchanged, device=device)
    # Pinned, as PyTorch's own loader has it.
    host = torch.ones(exchanged, pin_memory=not on_cpu)
    to_host_s = clock.repeated(10, lambda: host.copy_(tensor))
    to_device_s = clock.repeated(10, lambda: tensor.copy_(host))
    products = []
    for precision in ["f32"] if on_cpu else ["f32", "f16", "bf16"]:
        a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
        seconds = clock.repeated(10, lambda: a @ b)
        products.append({"precision": precision, "side": side, "flop_per_s": 2 * side**3 / seconds})
    return {
        "copy_bytes_per_s": 8 * copied / copy_s,
        "to_host_bytes_per_s": 4 * exchanged / to_host_s,
        "to_device_bytes_per_s": 4 * exchanged / to_device_s,
        "products": products,
    }


class Training:
    def __init__(self, network, size, batch, precision, device, compiled):
        torch.manual_seed(0)
        model = getattr(torchvision.models, network)(num_classes=1000).to(device, memory_format=torch.channels_last)
        self.model = torch.compile(model) if compiled else model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-5)
        self.images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
        self.targets = torch.randint(0, 1000, (batch,), device=device)
        self.dtype, self.device = DTYPES[precision], device
        self.scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=precision == "f16")
        self.last = None

    def step(self):
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half):
            loss = F.cross_entropy(self.model(self.images), self.targets)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.last is not None:
            self.last.item()
        self.last = loss.detach()


def is_warm(seconds):
    return len(seconds) > 2 and 0.8 * seconds[-2] < seconds[-1] < 1.25 * seconds[-2]


def step_row(network, size, batch, precision, device, clock, compiled):
    row = {
        "network": network,
        "size": size,
        "batch_size": batch,
        "precision": precision,
        "variant": "channels last" + (", torch.compile" if compiled else ""),
        **dict.fromkeys(["first_step_s", "warm_up_s", "step", "images_per_s", "flop_per_s", "reserved_bytes"]),
        "skipped_steps": 0,
    }
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    training = Training(network, size, batch, precision, device, compiled)
    warm_up = []
    while len(warm_up) < MAX_WARM_UP and not is_warm(warm_up):
        warm_up.append(clock.once(training.step))
    row["first_step_s"], row["warm_up_s"] = warm_up[0], sum(warm_up)
    num_steps = min(max(int(ROUND_S / warm_up[-1]), 1), MAX_STEPS)

    def round_of_steps():
        for _ in range(num_steps):
            training.step()

    seconds = sorted(clock.once(round_of_steps) / num_steps for _ in range(ROUNDS))
    row["step"] = {"median_s": seconds[ROUNDS // 2], "min_s": seconds[0], "max_s": seconds[-1]}
    row["images_per_s"] = batch / row["step"]["median_s"]
    row["flop_per_s"] = 6 * num_macs(network, size) * batch / row["step"]["median_s"]
    if device.type == "cuda":
        row["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
    return row


def convs(network, size):
    """Every convolution of a network with the side of its input, in forward order."""
    found = []
    model = getattr(torchvision.models, network)(num_classes=1000).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda conv, inputs, output: found.append((conv, inputs[0].shape[2], output.shape[2])))
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    return model, found


def num_macs(network, size):
    model, found = convs(network, size)
    return sum(conv.weight.numel() * out**2 for conv, _, out in found) + model.fc.weight.numel()


def parts(row, device, clock):
    """Every convolution and batch norm by itself, at the shapes and in the type that the step has."""
    dtype, batch = DTYPES[row["precision"]], row["batch_size"]
    _, found = convs(row["network"], row["size"])
    last = torch.channels_last
    counts, norms = {}, {}
    for place, (conv, height, out) in enumerate(found):
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], height, out, place > 0)
        counts[shape] = counts.get(shape, 0) + 1
        norms[conv.out_channels, out] = norms.get((conv.out_channels, out), 0) + 1
    sums, rows = {"forward_s": 0.0, "input_grad_s": 0.0, "weight_grad_s": 0.0}, []
    for (inputs, outputs, kernel, stride, height, out, needs_input_grad), count in counts.items():
        x = torch.randn(batch, inputs, height, height, device=device).to(dtype).contiguous(memory_format=last)
        weight = torch.randn(outputs, inputs, kernel, kernel, device=device).to(dtype).contiguous(memory_format=last)
        grad = torch.randn(batch, outputs, out, out, device=device).to(dtype).contiguous(memory_format=last)
        pad = kernel // 2

        def backward(mask):
            return lambda: torch.ops.aten.convolution_backward(
                grad, x, weight, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, mask
            )

        times = {
            "forward_s": clock.repeated(3, lambda: F.conv2d(x, weight, None, stride, pad)),
            "input_grad_s": clock.repeated(3, backward([True, False, False])) if needs_input_grad else None,
            "weight_grad_s": clock.repeated(3, backward([False, True, False])),
        }
        for name, seconds in times.items():
            sums[name] += count * (seconds or 0.0)
        rows.append(
            {
                **{"input": inputs, "output": outputs, "size": kernel, "stride": stride},
                **{"height": height, "width": height, "count": count},
                "flop": 2 * weight.numel() * out**2 * batch,
                **times,
            }
        )
    norm_s = 0.0
    for (channels, out), count in norms.items():
        x = torch.randn(batch, channels, out, out, device=device).to(dtype).contiguous(memory_format=last).requires_grad_()
        norm = torch.nn.BatchNorm2d(channels).to(device)
        grad = torch.ones_like(x)
        norm_s += count * clock.repeated(3, lambda: F.relu(norm(x)).backward(grad))
    known = sum(sums.values()) + norm_s
    return {
        **{f"conv_{name}": seconds for name, seconds in sums.items()},
        "norm_s": norm_s,
        "rest_s": row["step"]["median_s"] - known,
        "convs": rows,
    }


def main():
    args = words()
    start = time.perf_counter()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(f"error: no CUDA device: this PyTorch ({torch.__version__}) sees none; --device cpu is a try without one")
    device = torch.device(args.device)
    clock = Clock(device)
    torch.backends.cudnn.benchmark = True
    page = {
        "program": f"PyTorch {torch.__version__}",
        "device": args.device,
        "card": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads",
        # PyTorch's default, which counts as its f32.
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "ceilings": None,
        "steps": [],
        "not_measured": [],
    }
    print("ceilings", file=sys.stderr)
    page["ceilings"] = ceilings(device, clock)
    for compiled in [False] if args.no_compile else [False, True]:
        for precision in args.precision.split(","):
            for case in args.cases.split(","):
                size, batch = map(int, case.split("x"))
                name = f"{precision} of {batch} images of {size} px" + (", torch.compile" if compiled else "")
                if time.perf_counter() - start > args.limit:
                    page["not_measured"].append(f"{name}: no time was left")
                    continue
                print(name, file=sys.stderr)
                try:
                    row = step_row(args.network, size, batch, precision, device, clock, compiled)
                    if not compiled:
                        row["parts"] = parts(row, device, clock)
                    page["steps"].append(row)
                except Exception as error:  # What one case lacks, another may have.
                    page["not_measured"].append(f"{name}: {str(error).strip().splitlines()[0]}")
                gc.collect()
    json.dump(page, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
