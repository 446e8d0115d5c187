"""InfoNCE between two views of all nodes, for the nodes of a batch, with all users or all items to choose from."""

from __future__ import annotations

import torch
from torch import Tensor

from braidrec.collaborative.graph import Graph
from braidrec.collaborative.pairs import PairBatch
from braidrec.objectives.partition import contrast


def of_batch(
    first: Tensor, second: Tensor, batch: PairBatch, graph: Graph, temperature: float, *, negatives: bool = False
) -> Tensor:
    """Over users, positive items and, by ``negatives``, negative ones, each a sum over the batch by the number of its pairs.

    first, second (N, D) views.  A node that occurs several times in the batch is worked out once and weighed by it.
    """
    items = torch.cat([batch.item, batch.negative.flatten()]) if negatives else batch.item
    found = [
        _found_again(first[part], second[part], rows - part.start, temperature) / len(batch)
        for part, rows in ((slice(0, graph.num_users), batch.user), (slice(graph.num_users, graph.num_nodes), items))
    ]
    return found[0] + found[1]


def _found_again(first: Tensor, second: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """The sum over ``rows`` (n,), which may repeat."""
    own, count = rows.unique(return_counts=True)
    return contrast(first[own], second, own, temperature, count.to(first.dtype))
