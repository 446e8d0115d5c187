"""Typed batches, and the cutter that makes them: a few gathers per batch, no Python per sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from braidrec.data.history import History, HistorySource, RecentHistory, SharedHistory
from braidrec.errors import DataError

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset
    from braidrec.data.negatives import NegativeSampler
    from braidrec.data.splits import Positions


@dataclass(frozen=True)
class RankingBatch:
    """B candidate items, each shown to one user.

    position (B,) int64 event position in the log, -1 for a made-up row    item (B,) int32 catalogue row 1..I
    fields (B, F) int32 one row of the embedding table per id field        numbers (B, N) float32 scaled numeric fields
    bags: per multi-valued field (B, M) int32, padded with 0               history: (B, K) each, padded right, or shared
    label (B,) float32 1 positive, 0 not                                   weight (B,) float32 or None
    """

    position: Tensor
    item: Tensor
    fields: Tensor
    numbers: Tensor
    bags: tuple[Tensor, ...]
    history: History | SharedHistory
    label: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.item)

    def to(self, device: torch.device | str) -> RankingBatch:
        if self.item.device == torch.device(device):
            return self
        return _to(self, device)


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_to(part, device) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{part.name: _to(getattr(value, part.name), device) for part in fields(value)})
    return value


class RankingBatches:
    """Batches cut from a seeded permutation of samples; its whole state is (seed, epoch, position).

    With a negative sampler each positive event becomes 1 + k samples: itself, and k items its user never met.
    ``shuffle=False`` walks the samples in order, for evaluation.
    A history whose ``run`` is above 1 wants samples of one user together: the permutation is of runs, then, cut anew in each
    epoch, and the walk for evaluation goes user by user, in the order `walk`.
    """

    def __init__(
        self,
        dataset: Dataset,
        positions: Positions,
        batch_size: int,
        history: HistorySource,
        *,
        shuffle: bool,
        seed: int = 0,
        negatives: NegativeSampler | None = None,
    ):
        if not len(positions):
            raise DataError("no samples to cut batches from")
        self._view = RankingView(dataset, history)
        self._positions = torch.from_numpy(positions)
        self._together = history if isinstance(history, RecentHistory) and history.run > 1 else None
        self._batch_size, self._shuffle, self._negatives = batch_size, shuffle, negatives
        self._per_event = 1 + (negatives.per_positive if negatives else 0)
        self._seed, self._epoch, self._position = seed, 0, 0

    @property
    def num_samples(self) -> int:
        return len(self._positions) * self._per_event

    def __len__(self) -> int:
        return -(-self.num_samples // self._batch_size)

    def state(self) -> dict[str, int]:
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def restore(self, state: Mapping[str, int]) -> None:
        self._seed, self._epoch, self._position = state["seed"], state["epoch"], state["position"]

    def __iter__(self) -> Iterator[RankingBatch]:
        order = self._order()
        while self._position < len(self):
            begin = self._position * self._batch_size
            self._position += 1
            yield self.cut(order[begin : begin + self._batch_size])
        self._epoch, self._position = self._epoch + 1, 0

    @property
    def walk(self) -> Tensor:
        """(N,) samples in the order of a walk without shuffling."""
        if self._together is None:
            return torch.arange(self.num_samples)
        users, _ = self._together.ends(self._positions)
        return self._samples(users.argsort(stable=True))

    def _samples(self, events: Tensor) -> Tensor:
        """Those of ``events`` (n,), numbers of positions."""
        return (events[:, None] * self._per_event + torch.arange(self._per_event)).flatten()

    def _order(self) -> Tensor:
        if not self._shuffle:
            return self.walk
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        if self._together is None:
            return torch.randperm(self.num_samples, generator=generator)
        return self._samples(self._runs(self._together, generator))

    def _runs(self, history: RecentHistory, generator: torch.Generator) -> Tensor:
        """Numbers of positions (n,) in runs of one user's, from one moment to ``history.run`` samples later, runs shuffled.

        The moment at which a user's first run ends is drawn.
        """
        users, ends = history.ends(self._positions)
        by_user = users.argsort(stable=True)
        users, ends = users[by_user].long(), ends[by_user].long()
        length = max(1, history.run // self._per_event)
        offset = torch.randint(length, (int(users[-1]) + 1,), generator=generator)
        number = (ends + offset[users]) // length
        begin = torch.ones(len(users), dtype=torch.bool)
        begin[1:] = (users[1:] != users[:-1]) | (number[1:] != number[:-1])
        first = begin.nonzero().squeeze(1)
        shuffled = torch.randperm(len(first), generator=generator)
        counts = torch.diff(first, append=torch.tensor([len(users)]))[shuffled]
        shift = first[shuffled] - (counts.cumsum(0) - counts)  # from where a row comes to stand to where it stood
        return by_user[torch.arange(len(users)) + shift.repeat_interleave(counts)]

    def cut(self, samples: Tensor) -> RankingBatch:
        """The batch of ``samples`` (B,) int64, numbers below `num_samples`."""
        if self._negatives is None:
            return self._view.at(self._positions[samples])
        positions = self._positions[samples // self._per_event]
        turn = samples % self._per_event
        items = self._negatives.draw(positions, samples, turn, self._epoch if self._shuffle else 0)
        return self._view.at(positions, items, label=(turn == 0).float())


class RankingView:
    """Looks the rows of past events up in a prepared data set; `braidrec.data.candidates` has those of now."""

    def __init__(self, dataset: Dataset, history: HistorySource):
        log, features = dataset.log, dataset.features
        self._history = history
        self._user, self._item = torch.from_numpy(log.user), torch.from_numpy(log.item)
        self._label = torch.from_numpy(log.label)
        self._weight = None if log.weight is None else torch.from_numpy(log.weight)
        self._user_fields = torch.from_numpy(features.user_fields)
        self._item_fields = torch.from_numpy(features.item_fields)
        self._context_fields = torch.from_numpy(features.context_fields)
        self._user_numbers = torch.from_numpy(features.user_numbers)
        self._item_numbers = torch.from_numpy(features.item_numbers)
        self._context_numbers = torch.from_numpy(features.context_numbers)
        self._bags = [(bag.owner, torch.from_numpy(bag.rows)) for bag in features.bags]
        self._causal = [each for each in (dataset.statistics, dataset.rates) if each is not None]

    def at(self, positions: Tensor, items: Tensor | None = None, label: Tensor | None = None) -> RankingBatch:
        """Rows of the events at ``positions`` (B,); ``items`` (B,) shows other candidates in their place."""
        user = self._user.index_select(0, positions)
        item = self._item.index_select(0, positions) if items is None else items
        numbers = [
            self._user_numbers.index_select(0, user),
            self._item_numbers.index_select(0, item),
            self._context_numbers.index_select(0, positions),
        ]
        others = None if items is None else items.numpy()
        numbers += [torch.from_numpy(each.before(positions.numpy(), others)) for each in self._causal]
        context = self._context_fields.index_select(0, positions)
        bags = {"user": user, "item": item, "context": positions}
        return RankingBatch(
            position=positions,
            item=item,
            fields=torch.cat(
                [self._user_fields.index_select(0, user), self._item_fields.index_select(0, item), context], dim=1
            ),
            numbers=torch.cat(numbers, dim=1),
            bags=tuple(rows.index_select(0, bags[owner]) for owner, rows in self._bags),
            history=self._history.before(positions),
            label=self._label.index_select(0, positions) if label is None else label,
            weight=None if self._weight is None else self._weight.index_select(0, positions),
        )
