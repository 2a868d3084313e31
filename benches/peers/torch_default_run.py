"""The default run (presets/default.toml) in PyTorch, on the same embedded pictures: time and accuracy to compare with.

    pip install torch numpy
    python benches/peers/torch_default_run.py [--seed 0] [--channels-last] [--threads 2]

Everything is as in the preset: ResNet-8 of width 16 with option-A shortcuts, 14 epochs in batches of 128, learning rate
0 to 0.4 to 0 in straight lines, SGD with Nesterov momentum 0.9, weight decay 5e-4 but not on batch norm, label smoothing
0.1, flips and a border of one pixel. The clock covers training and the evaluation after each epoch.
Pictures are augmented in the main thread, on whole batches: there is no data loader that could be waited for.
"""

import argparse
import gzip
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD, BATCH = 0.2860, 0.3530, 128


def idx(name, header):
    path = pathlib.Path(__file__).parents[2] / "data/fashion-mnist" / name
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=header)


def pictures(part):
    images = torch.from_numpy(idx(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).copy())
    return images.float(), torch.from_numpy(idx(f"{part}-labels-idx1-ubyte.gz", 8).copy()).long()


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)


class ResNet8(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
        )
        self.fc = nn.Linear(4 * width, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, 0, 0.01)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def normalise(pixels):
    return (pixels / 255 - MEAN) / STD


def augment(pixels):
    n = len(pixels)
    flip = torch.rand(n) < 0.5
    pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
    pixels = F.pad(pixels, (1, 1, 1, 1))
    rows = torch.randint(0, 3, (n, 1)) + torch.arange(28)
    columns = torch.randint(0, 3, (n, 1)) + torch.arange(28)
    return pixels[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    (train, train_labels), (val, val_labels) = pictures("train-10000"), pictures("t10k-2000")
    model = ResNet8()
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    norm = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    others = [p for p in model.parameters() if all(p is not q for q in norm)]
    groups = [{"params": others, "weight_decay": 5e-4}, {"params": norm, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)

    start, steps = time.perf_counter(), len(train) // BATCH
    for num_epochs, first, last in [(3, 0.0, 0.4), (11, 0.4, 0.0)]:
        for epoch in range(num_epochs):
            model.train()
            order, begun = torch.randperm(len(train)), time.perf_counter()
            for step in range(steps):
                done = (epoch * steps + step + 1) / (num_epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = first + done * (last - first)
                chosen = order[step * BATCH : (step + 1) * BATCH]
                images = normalise(augment(train[chosen]))
                if args.channels_last:
                    images = images.contiguous(memory_format=torch.channels_last)
                loss = F.cross_entropy(model(images), train_labels[chosen], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            seconds = time.perf_counter() - begun
            model.eval()
            with torch.no_grad():
                logits = torch.cat([model(normalise(part)) for part in val.split(BATCH)])
            top1 = 100 * (logits.argmax(1) == val_labels).float().mean().item()
            print(f"top-1 {top1:.2f} %  {steps * BATCH / seconds:.0f} images/s", flush=True)
    print(f"top-1 {top1:.2f} % in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
