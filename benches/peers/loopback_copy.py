"""What two processes can copy through plain TCP sockets over loopback: the ceiling for an all-reduce on this machine.

    python benches/peers/loopback_copy.py [--streams 1,2,4] [--mebibytes 400] [--repeats 9]

A line of JSON for each direction, number of streams and congestion control: one way (one process sends, the other
receives) and both ways (both do both at a time, a thread for each stream and direction). `GB_per_s` is the median, in
1e9 bytes of both directions together. Congestion control is the system's default, and reno where that is another.
Needs nothing but Python on Linux.
"""

import argparse
import json
import os
import socket
import statistics
import threading
import time

BUFFER_BYTES = 1 << 20
SYSTEM = open("/proc/sys/net/ipv4/tcp_congestion_control").read().strip()


def connected(streams, congestion):
    """Pairs of connected sockets."""
    pairs = []
    with socket.socket() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        listener.bind(("127.0.0.1", 0))
        listener.listen(streams)
        for _ in range(streams):
            near = socket.socket()
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
            near.connect(listener.getsockname())
            far = listener.accept()[0]
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                used = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                assert used.rstrip(b"\0").decode() == congestion, used
            pairs.append((near, far))
    return pairs


def send(stream, num_bytes):
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while num_bytes:
        num_bytes -= stream.send(buffer[: min(num_bytes, BUFFER_BYTES)])


def receive(stream, num_bytes):
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while num_bytes:
        got = stream.recv_into(buffer, min(num_bytes, BUFFER_BYTES))
        assert got, "closed early"
        num_bytes -= got


def together(jobs):
    threads = [threading.Thread(target=job, args=words) for job, *words in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def jobs(streams, sends, receives, num_bytes):
    found = [(send, stream, num_bytes) for stream in streams if sends]
    return found + [(receive, stream, num_bytes) for stream in streams if receives]


def seconds(streams, congestion, both_ways, num_bytes):
    """The time from a common start until the first process has got (and sent) everything."""
    pairs = connected(streams, congestion)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            far = [far for _, far in pairs]
            # A byte each way: both are up.
            far[0].sendall(b"!")
            assert far[0].recv(1)
            together(jobs(far, True, both_ways, num_bytes))
            status = 0
        finally:
            os._exit(status)
    near = [near for near, _ in pairs]
    assert near[0].recv(1)
    start = time.perf_counter()
    near[0].sendall(b"!")
    together(jobs(near, both_ways, True, num_bytes))
    took = time.perf_counter() - start
    assert os.waitpid(child, 0)[1] == 0, "the other process failed"
    for pair in pairs:
        for end in pair:
            end.close()
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--mebibytes", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    for congestion in dict.fromkeys([SYSTEM, "reno"]):
        for both_ways in (False, True):
            for streams in args.streams:
                each = (args.mebibytes << 20) // streams
                total = each * streams * (2 if both_ways else 1)
                seconds(streams, congestion, both_ways, each)
                rates = [
                    total / seconds(streams, congestion, both_ways, each) / 1e9 for _ in range(args.repeats)
                ]
                row = {
                    "copy": "both ways" if both_ways else "one way",
                    "streams": streams,
                    "congestion": congestion,
                    "GB_per_s": statistics.median(rates),
                    "min": min(rates),
                    "max": max(rates),
                    "repeats": args.repeats,
                }
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
