"""Adds items to a run when told to: reads lines of "id delay", answers with what `add_items` returned and the items it has."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from braidrec.runs.run import load

torch.set_num_threads(1)
run = load(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    item, delay = line.split()
    time.sleep(float(delay))
    print(run.add_items({item: f"a tale of {item}"}), run.num_items, flush=True)
