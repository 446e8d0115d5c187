"""Batches of token sequences whose shape depends on nothing but a sequence's own length.

Matrix products in bfloat16 give other last bits for another number of rows or other padding (97 of 128 vectors differed
between batches of 7 and 32).  Here a text of a given length is always computed in the same shape, so its vector does not
depend on which texts come with it: a build that was killed and resumed, or one text added later, gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_STEP = 4  # lengths are rounded up to a multiple of this: few shapes, little padding


def encode_in_buckets(
    sequences: Sequence[Sequence[int]],
    forward: Callable[[Tensor, Tensor], Tensor],
    *,
    width: int,
    padding_id: int,
    batch_tokens: int,
) -> NDArray[np.float32]:
    """float32 [len(sequences), width].

    forward: (ids, mask), both (n, length) int64, right-padded, mask 1 on tokens -> (n, width).
    batch_tokens: tokens per batch, padding included; one longer sequence is a batch of its own.
    """
    vectors = np.empty((len(sequences), width), np.float32)
    lengths = [len(sequence) for sequence in sequences]
    with torch.inference_mode():
        for rows, count, length in buckets(lengths, batch_tokens):
            ids = torch.full((count, length), padding_id)
            mask = torch.zeros((count, length), dtype=torch.int64)
            for place in range(count):
                sequence = sequences[rows[min(place, len(rows) - 1)]]  # a short last batch is filled up with its last text
                ids[place, : len(sequence)] = torch.tensor(sequence)
                mask[place, : len(sequence)] = 1
            vectors[rows] = forward(ids, mask)[: len(rows)].float().cpu().numpy()
    return vectors


def buckets(lengths: Sequence[int], batch_tokens: int) -> Iterator[tuple[list[int], int, int]]:
    """(rows, number of rows computed, padded length), longest first: memory that is too small shows at once."""
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_length.setdefault(-(-max(length, 1) // _STEP) * _STEP, []).append(row)
    for length in sorted(by_length, reverse=True):
        count = max(1, batch_tokens // length)
        rows = by_length[length]
        for start in range(0, len(rows), count):
            yield rows[start : start + count], count, length
