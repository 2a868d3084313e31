"""Prints what TensorBoard's own reader finds in the event files of a run: {tag: [[x, value], ...]} as JSON.

    pip install tensorboard==2.21.0
    python3 benches/peers/tensorboard_reads.py RUN/tb
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
accumulator.Reload()
tags = accumulator.Tags()["scalars"]
json.dump({tag: [[point.step, point.value] for point in accumulator.Scalars(tag)] for tag in tags}, sys.stdout)
