"""A trained ranking model as a run holds it: probabilities that somebody clicks, now.

What answers need is held as tensors and saved beside the network's, under ``data.``: every item's fields and numbers, what
stands for somebody new, the end state of statistics, the directions of a history by meaning.  Only a known user needs the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from braidrec.config import RunConfig
from braidrec.data.batches import RankingBatch
from braidrec.data.candidates import Candidates, UserSide
from braidrec.data.dataset import Dataset
from braidrec.data.history import History
from braidrec.data.rates import CausalRates, RateScale, UserRates
from braidrec.data.statistics import CausalStatistics, StatisticsScale
from braidrec.errors import RunError, remedy
from braidrec.layers.embedding import TableLayout
from braidrec.layers.twins import twin
from braidrec.ranking.build import build_model, history_of, reads_rates
from braidrec.ranking.config import settings_of
from braidrec.ranking.contracts import Material, RankingModel, as_module
from braidrec.ranking.history import Directions, directions_of, latest
from braidrec.task import Added, Described, Floats, Rows, Saved, Vectors
from braidrec.training.devices import place_of
from braidrec.training.stages import put_fitted

CHUNK = 8192  # candidates scored at a time
DATA, SIMILAR = "data.", "similar."


@dataclass(frozen=True)
class Past:
    """Who asks, and all their behaviours: items and signals (n,) int32, oldest first."""

    user: UserSide
    items: Tensor
    signals: Tensor


class KnownUsers:
    """The users of a data set as of the end of its log; statistics are taken on first use."""

    def __init__(
        self,
        given: Dataset,
        *,
        statistics: bool,
        rates: bool = False,
        scale: StatisticsScale | None = None,
        rate_scale: RateScale | None = None,
    ):
        """scale, rate_scale: of statistics and rates, for data that hold no training part of their own"""
        self.given, self._statistics, self._scale = given, statistics, scale
        self._rates, self._rate_scale = rates, rate_scale

    @cached_property
    def data(self) -> Dataset:
        data = with_causal(self.given, self._statistics and self._scale is None, self._rates and self._rate_scale is None)
        if self._scale is not None:
            data = replace(data, statistics=CausalStatistics(data.log, data.num_items, self._scale))
        if self._rate_scale is not None:
            data = replace(data, rates=CausalRates(data.log, data.features, self._rate_scale))
        return data

    def past(self, row: int) -> Past:
        log = self.given.log
        events = slice(int(log.start[row]), int(log.start[row + 1]))
        return Past(
            UserSide.of(self.data, row), torch.from_numpy(log.slot_item[events]), torch.from_numpy(log.slot_signal[events])
        )


def with_causal(dataset: Dataset, statistics: bool, rates: bool) -> Dataset:
    """With those that are wanted and are not there."""
    if statistics and dataset.statistics is None:
        dataset = dataset.with_statistics()
    return dataset.with_rates() if rates and dataset.rates is None else dataset


@dataclass(frozen=True)
class ClickModel:
    """See `braidrec.task.Model`.

    network: exported, in evaluation mode    length: of histories    directions: where histories go by meaning, else None
    known: None for a model that was loaded without its data    scale: of the statistics, where it has any
    """

    network: RankingModel
    layout: TableLayout
    length: int
    candidates: Candidates
    directions: Directions | None = None
    known: KnownUsers | None = None
    scale: StatisticsScale | None = None

    @property
    def probabilities(self) -> bool:
        return True

    @property
    def reads_text(self) -> bool:
        return self.network.reads_text

    @property
    def module(self) -> nn.Module:
        return as_module(self.network)

    @property
    def device(self) -> torch.device:
        return place_of(self.module)

    @cached_property
    def _logits(self) -> Callable[[RankingBatch], Tensor]:
        return self.network.answering()

    def saved(self) -> Saved:
        tensors = dict(self.module.state_dict())
        tensors |= {DATA + name: tensor.clone() for name, tensor in self.candidates.tensors().items()}
        if self.directions is not None:
            tensors |= {DATA + SIMILAR + name: tensor for name, tensor in self.directions.tensors().items()}
        about = {
            "layout": asdict(self.layout),
            "semantic_width": self.network.semantic_width,
            "parameters": sum(weight.numel() for weight in self.module.parameters()),
            **({} if self.scale is None else {"statistics": self.scale.to_json()}),
            **({} if self.candidates.scale is None else {"rates": self.candidates.scale.to_json()}),
        }
        return Saved(tensors, about)

    def past(self, user: int | None, items: Rows | None = None, fields: Described | None = None) -> Past:
        """Each of ``items`` counts as rated with the highest signal, in the history and in the rates."""
        rows = torch.from_numpy(np.asarray([] if items is None else items, np.int32))
        signals = torch.full_like(rows, self.layout.signals)
        if user is None:
            somebody = self.candidates.stranger()
            if fields is not None:
                somebody = replace(somebody, fields=fields.fields, numbers=fields.numbers, bags=fields.bags)
            return Past(self._after(somebody, None, rows), rows, signals)
        if self.known is None:
            raise RunError(
                f"user row {user}: this model was loaded without its data, so it knows nobody by id; load it with its data "
                f"({remedy('load(path, dataset=...)', '--data FOLDER')}), or pass the items that they liked"
            )
        past = self.known.past(user)
        return Past(self._after(past.user, user, rows), torch.cat([past.items, rows]), torch.cat([past.signals, signals]))

    def _after(self, side: UserSide, user: int | None, liked: Tensor) -> UserSide:
        """With the rates of somebody who liked items since."""
        scale = self.candidates.scale
        if scale is None or not len(liked):
            return side
        rates = None if user is None or self.known is None else self.known.data.rates
        past = UserRates.of_nobody(scale) if user is None or rates is None else rates.user(user)
        return replace(side, rates=torch.from_numpy(self.candidates.liked(past, liked).vector(scale.prior)))

    def seen(self, past: Past) -> Rows:
        found: Rows = past.items.numpy()
        return found

    def scores(self, pasts: Sequence[Past], rows: Rows) -> Floats:
        """Probabilities of a positive.  Candidates of one past share its window, unless histories go by meaning."""
        chunks = torch.from_numpy(np.asarray(rows, np.int32)).split(CHUNK)
        with torch.inference_mode():
            return np.stack([torch.cat([self._chances(past, chunk) for chunk in chunks]).numpy() for past in pasts])

    def _chances(self, past: Past, rows: Tensor) -> Tensor:
        window = self.window(past, rows)
        history = window if self.directions is not None else window.shared(len(rows))
        batch = self.candidates.batch(past.user, rows, history).to(self.device)
        return torch.sigmoid(self._logits(batch).float()).cpu()

    def window(self, past: Past, candidates: Tensor) -> History:
        """What the model reads of a past: the latest behaviours (1, K), or those most similar to each candidate (B, K)."""
        if self.directions is None:
            return latest(past.items, past.signals, self.length)
        return self.directions.window(past.items, past.signals, candidates, self.length)

    def with_items(self, added: Added) -> ClickModel:
        """Text goes through what `export` kept; every id field takes its unknown row."""
        module: Any = twin(self.module)
        module.add(added)
        return replace(
            self,
            network=module,
            candidates=self.candidates.with_items(added.fields, added.numbers, added.bags),
            directions=None if self.directions is None else self.directions.with_items(added.vectors),
        )

    def notes(self, *, new_user: bool, added: int) -> list[str]:
        stranger = "a new user has no id row: the unknown rows stand in, and each liked item counts with the highest rating"
        return [stranger] if new_user else []

    def facts(self) -> Mapping[str, Any]:
        return self.network.facts()

    def reading(self, dataset: Dataset) -> Dataset:
        """A data set with what this model reads of it, taken once for the one that it was loaded with."""
        if self.known is not None and self.known.given is dataset:
            return self.known.data
        return with_causal(dataset, self.candidates.item_statistics is not None, self.candidates.scale is not None)


def kept(
    network: RankingModel, config: RunConfig, layout: TableLayout, directions: Directions | None, known: KnownUsers
) -> ClickModel:
    """A network that is trained, on the CPU and exported."""
    as_module(network).cpu().eval()
    network.export()
    wanted = history_of(config)
    statistics = known.data.statistics
    scale = None if statistics is None else statistics.scale
    candidates = Candidates.of_dataset(known.data)
    return ClickModel(network, layout, wanted.length, candidates, directions, known, scale)


def load(config: RunConfig, saved: Saved, data: Dataset | None, text: Callable[[], Vectors] | None = None) -> ClickModel:
    """See `braidrec.task.Task.load`.  Raises RunError for a run of an earlier version without its data."""
    settings, wanted, about = settings_of(config), history_of(config), saved.about
    own = {name.removeprefix(DATA): tensor for name, tensor in saved.tensors.items() if name.startswith(DATA)}
    state = {name: tensor for name, tensor in saved.tensors.items() if not name.startswith(DATA)}
    scale = StatisticsScale.of_json(about["statistics"]) if "statistics" in about else None
    rate_scale = RateScale.of_json(about["rates"]) if "rates" in about else None
    grown = data is not None and not data.split.parts
    if grown and settings.statistics and scale is None:
        raise RunError(
            "this run was saved by an earlier version, which kept no scale of its statistics, so it goes with none "
            "but the data that it was trained on"
        )
    known = None
    if data is not None:
        scales = (scale, rate_scale) if grown else (None, None)
        known = KnownUsers(
            data, statistics=settings.statistics, rates=reads_rates(config), scale=scales[0], rate_scale=scales[1]
        )
    if not own and known is None:
        raise RunError("this run was saved by an earlier version, which needs its data to answer; load it with its data")
    candidates = Candidates.of(own, rate_scale) if own or known is None else Candidates.of_dataset(known.data)
    if grown and known is not None and settings.statistics:
        candidates = replace(candidates, item_statistics=_items_now(known.data, candidates.num_items))
    if grown and known is not None and known.data.rates is not None:
        now = torch.from_numpy(known.data.rates.items_now[: candidates.num_items + 1])
        candidates = replace(candidates, item_rates=now)
    similar = {name.removeprefix(SIMILAR): tensor for name, tensor in own.items() if name.startswith(SIMILAR)}
    if similar:
        directions: Directions | None = Directions.of_tensors(similar)
    else:
        meant = wanted.kind == "semantic_topk"
        directions = directions_of(wanted, text() if meant and text is not None else None)
    layout = TableLayout(**{name: _tuples(value) for name, value in about["layout"].items()})
    with torch.random.fork_rng(devices=[]):
        network = build_model(config, Material(layout, candidates.item_fields, semantic_width=about["semantic_width"]))
    network.export()
    module = as_module(network)
    if config.chosen.backbone.fitted:
        put_fitted(module, state)
    else:
        module.load_state_dict(state)
    module.eval()
    return ClickModel(network, layout, wanted.length, candidates, directions, known, scale)


def _items_now(data: Dataset, count: int) -> Tensor:
    """(count + 1, 3) of the items that training knew, as of the end of a log that went on."""
    assert data.statistics is not None
    return torch.from_numpy(data.statistics.items_now[: count + 1])


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list | tuple) else value
