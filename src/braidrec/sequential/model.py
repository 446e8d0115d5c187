"""A trained sequence model as a run holds it: what comes next for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.data.log import InteractionLog
from braidrec.data.sequences import left_padded
from braidrec.errors import RunError, remedy
from braidrec.layers.twins import twin
from braidrec.sequential.build import build_model, make_parts, parts_of, settings_of
from braidrec.sequential.contracts import Catalogue, NextItemModel
from braidrec.sequential.scoring import score_histories
from braidrec.task import Added, Described, Floats, Rows, Saved
from braidrec.training.devices import place_of

COUNTS, BUCKET, ADDED = "data.counts", "data.bucket", "added.vectors"  # among the saved tensors, beside the module's


@dataclass(frozen=True)
class Past:
    """items (n,) catalogue rows that somebody followed, oldest first    seen (m,) all they met, in any order"""

    items: Rows
    seen: Rows


@dataclass(frozen=True, eq=False)
class SequentialModel:
    """A `braidrec.task.Model`: scores without a unit.

    module: a NextItemModel in evaluation mode, its text reduced
    counts (I + 1,) int64 training events of each item, which somebody without a past is answered from
    bucket (I + 1,) int64 frequency buckets, which the module was built with
    about: "semantic_width" of the text, "parameters"    data: whose users are known; None: nobody is
    base, added: the module before items were added (None: it is ``module``), and the text vectors (m, S) of these
    """

    config: RunConfig
    module: nn.Module
    counts: Tensor
    bucket: Tensor
    about: Mapping[str, Any]
    data: Dataset | None = None
    base: nn.Module | None = None
    added: Tensor | None = None

    probabilities: ClassVar[bool] = False

    @classmethod
    def load(cls, config: RunConfig, saved: Saved, data: Dataset | None) -> SequentialModel:
        """Raises RunError for a model of an earlier version, which kept no counts, without its data."""
        tensors = dict(saved.tensors)
        counts, bucket, added = (tensors.pop(name, None) for name in (COUNTS, BUCKET, ADDED))
        width = saved.about["semantic_width"]
        if counts is not None:
            parts = parts_of(config, counts, bucket, semantic_width=width)
        elif data is not None:
            parts = replace(make_parts(config, data, None), semantic_width=width)
        else:
            raise RunError(
                f"{config.title}: saved by an earlier version, which kept no counts of its training data, so it needs its data"
            )
        with torch.random.fork_rng(devices=[]):
            module = build_model(config, parts)
        module.load_state_dict(tensors)
        model = cls(config, module.eval(), parts.counts, parts.bucket, saved.about, data)
        return model if added is None else model._grown(added)

    @property
    def reads_text(self) -> bool:
        return self._net.reads_text

    def saved(self) -> Saved:
        tensors = dict((self.module if self.base is None else self.base).state_dict())
        tensors |= {COUNTS: self.counts, BUCKET: self.bucket}
        return Saved(tensors if self.added is None else {**tensors, ADDED: self.added}, self.about)

    # -- who gets what ------------------------------------------------------------------------------------------------

    def past(self, user: int | None, items: Rows | None = None, fields: Described | None = None) -> Past:
        if fields is not None:
            raise RunError(f"{self.config.title} knows people by what they met alone, so it reads no fields; leave them out")
        more = np.asarray([] if items is None else items, np.int32)
        if user is None:
            return Past(more, more)
        if self.data is None:
            raise RunError(
                f"{self.config.title}: what a known user met stands in the log, which this model was loaded without; "
                f"give the data ({remedy('load(path, dataset=...)', '--data FOLDER')}), or the items they liked"
            )
        own, every = (_of_user(log, user) for log in (self.data.followed.log, self.data.log))
        return Past(np.concatenate([own, more]), np.concatenate([every, more]))

    def seen(self, past: Past) -> Rows:
        return past.seen

    def scores(self, pasts: Sequence[Past], rows: Rows) -> Floats:
        """(b, n); a past without items gets the training counts, so that the best known items come first."""
        ends = np.array([len(past.items) for past in pasts], np.int64)
        start = np.concatenate([[0], np.cumsum(ends)[:-1]]) + 1  # place 0 is padding
        slots = np.concatenate([np.zeros(1, np.int32), *(past.items for past in pasts)])
        items, _ = left_padded(start, ends, slots, settings_of(self.config).length)
        device = place_of(self.module)
        wanted = torch.from_numpy(rows.astype(np.int64)).to(device)
        with torch.no_grad():
            found = score_histories(self._net, self._catalogue, torch.from_numpy(items).to(device), wanted).cpu()
        scores: Floats = found.numpy()
        if not ends.all():
            known = rows < len(self.counts)  # the others came later
            scores[ends == 0] = np.where(known, self.counts.numpy()[np.where(known, rows, 0)], 0)
        return scores

    def notes(self, *, new_user: bool, added: int) -> list[str]:
        found = []
        if new_user:
            found.append(
                "a new user is known by the items given, oldest first, of which the last "
                f"{settings_of(self.config).length} count; without any, the items met most often come first"
            )
        if added:
            some = "1 item was" if added == 1 else f"{added:,} items were"
            found.append(f"{some} added after training: text speaks there ({self._net.stand_in})")
        return found

    def facts(self) -> Mapping[str, Any]:
        """gate: share of each expert per frequency bucket, hottest first, where there is such a gate."""
        return self._net.facts()

    # -- items added after training -----------------------------------------------------------------------------------

    def with_items(self, added: Added) -> SequentialModel:
        if not self.reads_text:
            raise RunError(
                f"{self.config.title} knows items by id alone; add_items needs a model that reads text, such as enhance = 'pad'"
            )
        return self._grown(added.vectors)

    def _grown(self, vectors: Tensor) -> SequentialModel:
        module = twin(self.module)
        cast(NextItemModel, module).add(vectors)
        return replace(
            self,
            module=module,
            base=self.module if self.base is None else self.base,
            added=vectors if self.added is None else torch.cat([self.added, vectors]),
        )

    @property
    def _net(self) -> NextItemModel:
        return cast(NextItemModel, self.module)

    @cached_property
    def _catalogue(self) -> Catalogue:
        with torch.no_grad():
            return self._net.catalogue()


def _of_user(log: InteractionLog, user: int) -> Rows:
    return log.slot_item[int(log.start[user]) : int(log.start[user + 1])]
