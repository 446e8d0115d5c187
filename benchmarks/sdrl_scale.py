"""SDRL at the size of MovieLens 10M, on ratings that are made up: a step, with as many items and with four times as many.

Times are of the processor, so that what else runs does not count; memory is the most that training and answering took.

    python benchmarks/sdrl_scale.py [--users 71567] [--items 10681] [--ratings 10000000] [--steps 10]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from itertools import chain, repeat

import numpy as np
import torch

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import Labels, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.labels import Categories
from braidrec.collaborative.models.sdrl import SDRL, SDRLConfig
from braidrec.training.config import TrainingConfig

_CATEGORIES = 18


def parts(users: int, items: int, ratings: int) -> Parts:
    """Long-tailed on both sides; of ratings of a pair that is drawn twice the last counts."""
    rng = np.random.default_rng(0)
    user = (users * rng.random(ratings) ** 1.5).astype(np.int32) + 1
    item = (items * rng.random(ratings) ** 2.5).astype(np.int32) + 1
    of_items = (rng.random((items + 1, _CATEGORIES)) < 2 / _CATEGORIES).astype(np.float32)
    known = np.arange(items + 1) > 0
    own = Categories(tuple(f"category {at}" for at in range(_CATEGORIES)), of_items, known)
    stars = rng.integers(1, 11, ratings).astype(np.float32) / 2
    labels = Labels(user, item, stars, lambda column, separator, without: own)
    nobody = np.zeros(0, np.int32)
    return Parts(items, Graph(nobody, nobody, users, items), num_users=users, labels=labels)


def measure(users: int, items: int, ratings: int, steps: int) -> tuple[float, float, int]:
    """Milliseconds of a step (median), seconds to encode everybody and everything, and weights."""
    torch.manual_seed(0)
    own = parts(users, items, ratings)
    model = SDRL(SDRLConfig(scale=5.0), own)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    source, taken = model.batches(own.graph, TrainingConfig(batch_size=256), 0), []
    stream = chain.from_iterable(repeat(source))  # one epoch after the other
    for _ in range(steps):
        begun = time.process_time()
        losses = model.step(next(stream)).losses()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        taken.append(time.process_time() - begun)
    begun = time.process_time()
    scores = model.eval().scores(Baskets.of([np.array([1, 2], np.int32)] * 8, list(range(1, 9))))
    assert scores.shape == (8, items + 1)
    assert bool(torch.isfinite(scores).all())
    return 1000 * statistics.median(taken[1:]), time.process_time() - begun, sum(each.numel() for each in model.parameters())


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("users", 71_567), ("items", 10_681), ("ratings", 10_000_000), ("steps", 10)):
        wanted.add_argument(f"--{name}", type=int, default=value)
    given = wanted.parse_args()
    print(f"{given.users:,} users, {given.ratings:,} ratings, 256 of either side a step, {torch.get_num_threads()} thread(s)")
    for times in (1, 4):
        items = times * given.items
        step, encoding, weights = measure(given.users, items, given.ratings, given.steps)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{times}x items ({items:,}): step {step:,.0f} ms, everything encoded in {encoding:.1f} s, {weights:,} weights, "
            f"most memory so far {most:.1f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
