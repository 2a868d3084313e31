#!/usr/bin/env python3
"""Makes this folder's IDX files: the first 10,000 training and the first 2,000 test pictures of Fashion-MNIST.

Source: the Debian package `dataset-fashion-mnist` (0.0~git20200523.55506a9-1). Needs Python only.
The same bytes come out every time: gzip level 9, no file name, time stamp 0.

    python3 data/fashion-mnist/make.py [/usr/share/datasets/fashion-mnist]
"""

import gzip
import io
import pathlib
import struct
import sys

PARTS = [("train", 10_000), ("t10k", 2_000)]
KINDS = [("images-idx3", 0x0803, 3), ("labels-idx1", 0x0801, 1)]


def main() -> None:
    source = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
    target = pathlib.Path(__file__).parent
    for part, count in PARTS:
        for kind, expected_magic, num_dims in KINDS:
            whole = gzip.decompress((source / f"{part}-{kind}-ubyte.gz").read_bytes())
            magic, *dims = struct.unpack_from(f">{num_dims + 1}I", whole)
            assert magic == expected_magic and dims[0] >= count, (part, kind, magic, dims)
            start = 4 * (num_dims + 1)
            item_bytes = 1 if num_dims == 1 else dims[1] * dims[2]
            subset = struct.pack(f">{num_dims + 1}I", magic, count, *dims[1:])
            subset += whole[start : start + count * item_bytes]
            packed = io.BytesIO()
            with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
                file.write(subset)
            path = target / f"{part}-{count}-{kind}-ubyte.gz"
            path.write_bytes(packed.getvalue())
            print(path.name, len(packed.getvalue()))


if __name__ == "__main__":
    main()
