"""Candidates scored now: all that a ranking model reads of items and of who asks, as tensors, so that the log can stay away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from braidrec.data.batches import RankingBatch
from braidrec.data.history import History, SharedHistory
from braidrec.data.rates import RateScale, UserRates
from braidrec.data.statistics import joined

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset


@dataclass(frozen=True)
class UserSide:
    """What is known of one user at the end of the log.

    fields (F_U,) int32    numbers (N_U,) float32    bags: per multi-valued field (M,) int32, padded with 0
    statistics (4,) float32, the user's columns of the time-causal statistics, or None where the model has none
    rates float32, what `RateScale.rows` reads of a user, likewise
    """

    fields: Tensor
    numbers: Tensor
    bags: tuple[Tensor, ...]
    statistics: Tensor | None = None
    rates: Tensor | None = None

    @classmethod
    def of(cls, dataset: Dataset, user: int) -> UserSide:
        """Of a catalogue row; 0 is somebody new: unknown rows, mean numbers, no past."""
        features, statistics, rates = dataset.features, dataset.statistics, dataset.rates
        return cls(
            torch.from_numpy(features.user_fields[user].copy()),
            torch.from_numpy(features.user_numbers[user].copy()),
            tuple(torch.from_numpy(bag.rows[user].copy()) for bag in features.bags if bag.owner == "user"),
            None if statistics is None else torch.from_numpy(statistics.user_now(user)),
            None if rates is None else torch.from_numpy(rates.user_now(user)),
        )


@dataclass(frozen=True)
class Candidates:
    """The catalogue, somebody new, and an unknown context: self-contained, and never changed in place.

    item_fields (I + 1, F_I) int32    item_numbers (I + 1, N_I) float32    item_bags: per multi-valued field (I + 1, M) int32
    item_statistics (I + 1, 3) float32 or None    row 0 of each is padding
    item_rates (I + 1, 2) float32, the items' means, and scale, how rates are made of them; None where the model has none
    context_fields (F_C,) int32, the unknown rows    context_numbers (N_C,) float32, zeros    context_bags: (1,) int32 zeros
    """

    item_fields: Tensor
    item_numbers: Tensor
    item_bags: tuple[Tensor, ...]
    item_statistics: Tensor | None
    context_fields: Tensor
    context_numbers: Tensor
    context_bags: tuple[Tensor, ...]
    nobody: UserSide
    item_rates: Tensor | None = None
    scale: RateScale | None = None

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> Candidates:
        """As of the end of the log."""
        features, statistics, rates = dataset.features, dataset.statistics, dataset.rates
        owners = [bag.owner for bag in features.bags]
        return cls(
            torch.from_numpy(features.item_fields),
            torch.from_numpy(features.item_numbers),
            tuple(torch.from_numpy(bag.rows) for bag in features.bags if bag.owner == "item"),
            None if statistics is None else torch.from_numpy(statistics.items_now),
            torch.tensor(features.context_unknown, dtype=torch.int32),
            torch.zeros(features.context_numbers.shape[1]),
            tuple(torch.zeros(1, dtype=torch.int32) for _ in range(owners.count("context"))),
            UserSide.of(dataset, 0),
            None if rates is None else torch.from_numpy(rates.items_now),
            None if rates is None else rates.scale,
        )

    @property
    def num_items(self) -> int:
        return len(self.item_fields) - 1

    def stranger(self) -> UserSide:
        """Somebody new, known without the data set."""
        return self.nobody

    def liked(self, past: UserRates, items: Tensor) -> UserRates:
        """The rates of a user who, after ``past``, gave ``items`` (n,) the highest rating, by what is known of these now."""
        assert self.scale is not None
        assert self.item_rates is not None
        chosen = items.numpy()
        both = np.broadcast_to(self.scale.most, (len(chosen), 2))
        return past.then(both, self.item_rates.numpy()[chosen], self.item_numbers.numpy()[chosen], self._values(chosen))

    def _values(self, items: NDArray[np.int32]) -> list[NDArray[np.int64]]:
        """(n, M) of each field that is rated."""
        assert self.scale is not None
        fields, bags = self.item_fields.numpy()[items], [bag.numpy()[items] for bag in self.item_bags]
        return [field.values(fields, bags) for field in self.scale.fields]

    def batch(self, user: UserSide, items: Tensor, history: History | SharedHistory) -> RankingBatch:
        """``items`` (B,) as candidates for one user now; ``history`` (1, K), (B, K), or shared.  Context fields are unknown."""
        count = len(items)

        def repeated(part: Tensor) -> Tensor:
            return part.expand(count, -1)

        numbers = [repeated(user.numbers), self.item_numbers.index_select(0, items), repeated(self.context_numbers)]
        if self.item_statistics is not None:
            assert user.statistics is not None, "a user side taken without the statistics that these candidates have"
            numbers.append(
                torch.from_numpy(joined(self.item_statistics.index_select(0, items).numpy(), user.statistics.numpy()))
            )
        if self.item_rates is not None and self.scale is not None:
            assert user.rates is not None, "a user side taken without the rates that these candidates have"
            chosen = items.numpy()
            own = self.item_numbers.numpy()[chosen]
            rates = self.scale.rows(self.item_rates.numpy()[chosen], self._values(chosen), own, user.rates.numpy())
            numbers.append(torch.from_numpy(rates))
        return RankingBatch(
            position=torch.full((count,), -1),
            item=items,
            fields=torch.cat(
                [repeated(user.fields), self.item_fields.index_select(0, items), repeated(self.context_fields)], dim=1
            ),
            numbers=torch.cat(numbers, dim=1),
            bags=(
                *map(repeated, user.bags),
                *(rows.index_select(0, items) for rows in self.item_bags),
                *map(repeated, self.context_bags),
            ),
            history=history
            if isinstance(history, SharedHistory)
            else History(*(repeated(part) for part in (history.items, history.signals, history.mask))),
            label=torch.zeros(count),
        )

    def with_items(self, fields: Tensor, numbers: Tensor, bags: Sequence[Tensor]) -> Candidates:
        """More items behind the catalogue: fields (n, F_I), numbers (n, N_I), one (n, M) per multi-valued item field.

        An item added after training has no past: its statistics are those of row 0, which has none either.
        """
        statistics, rates = self.item_statistics, self.item_rates
        return replace(
            self,
            item_fields=torch.cat([self.item_fields, fields]),
            item_numbers=torch.cat([self.item_numbers, numbers]),
            item_bags=tuple(_stacked(rows, bag) for rows, bag in zip(self.item_bags, bags, strict=True)),
            item_statistics=None if statistics is None else torch.cat([statistics, statistics[:1].expand(len(fields), -1)]),
            item_rates=None if rates is None else torch.cat([rates, rates[:1].expand(len(fields), -1)]),
        )

    def tensors(self) -> dict[str, Tensor]:
        """By name, as `of` takes them back."""
        found = {
            "item.fields": self.item_fields,
            "item.numbers": self.item_numbers,
            "context.fields": self.context_fields,
            "context.numbers": self.context_numbers,
            "user.fields": self.nobody.fields,
            "user.numbers": self.nobody.numbers,
        }
        for owner, bags in (("item", self.item_bags), ("context", self.context_bags), ("user", self.nobody.bags)):
            found |= {f"{owner}.bag.{at}": bag for at, bag in enumerate(bags)}
        if self.item_statistics is not None and self.nobody.statistics is not None:
            found |= {"item.statistics": self.item_statistics, "user.statistics": self.nobody.statistics}
        if self.item_rates is not None and self.nobody.rates is not None:
            found |= {"item.rates": self.item_rates, "user.rates": self.nobody.rates}
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], scale: RateScale | None = None) -> Candidates:
        """The candidates whose `tensors` and scale of rates these are."""

        def bags(owner: str) -> tuple[Tensor, ...]:
            return tuple(
                tensors[f"{owner}.bag.{at}"] for at in range(sum(name.startswith(f"{owner}.bag.") for name in tensors))
            )

        return cls(
            tensors["item.fields"],
            tensors["item.numbers"],
            bags("item"),
            tensors.get("item.statistics"),
            tensors["context.fields"],
            tensors["context.numbers"],
            bags("context"),
            UserSide(
                tensors["user.fields"],
                tensors["user.numbers"],
                bags("user"),
                tensors.get("user.statistics"),
                tensors.get("user.rates"),
            ),
            tensors.get("item.rates"),
            scale,
        )


def _stacked(rows: Tensor, more: Tensor) -> Tensor:
    """Both, padded to the same width."""
    width = max(rows.shape[1], more.shape[1])
    return torch.cat([F.pad(part, (0, width - part.shape[1])) for part in (rows, more)])
