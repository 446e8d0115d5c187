"""A trained collaborative model as a run holds it: what goes with what somebody has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel
from braidrec.collaborative.scoring import score
from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.errors import RunError, remedy
from braidrec.evaluation.closed_form import interactions
from braidrec.layers.twins import twin
from braidrec.task import Added, Described, Floats, Reason, Rows, Saved, Share
from braidrec.training.devices import place_of

COUNTS, ADDED = "data.counts", "added.vectors"  # among the saved tensors, beside the module's


@dataclass(frozen=True)
class Past:
    """has (n,): catalogue rows of what somebody has, each once    met (m,): of all that they met, liked or not
    user: whose it is, 0 for somebody new or with news
    """

    has: Rows
    met: Rows
    user: int = 0


@dataclass(frozen=True, eq=False)
class CollaborativeModel:
    """A `braidrec.task.Model`: scores without a unit.

    module: a MatrixModel in evaluation mode    counts (I + 1,) training users of each item, for who has nothing
    data: whose users are known; None: nobody is    base, added: the module before items were added, and their text vectors
    """

    config: RunConfig
    module: nn.Module
    counts: Tensor
    about: Mapping[str, Any]
    data: Dataset | None = None
    base: nn.Module | None = None
    added: Tensor | None = None

    probabilities: ClassVar[bool] = False

    @property
    def reads_text(self) -> bool:
        return self._net.reads_text

    @property
    def unexplained(self) -> str:
        return self._net.unexplained

    def saved(self) -> Saved:
        tensors = dict((self.module if self.base is None else self.base).state_dict()) | {COUNTS: self.counts}
        return Saved(tensors if self.added is None else {**tensors, ADDED: self.added}, self.about)

    # -- who gets what ------------------------------------------------------------------------------------------------

    def past(self, user: int | None, items: Rows | None = None, fields: Described | None = None) -> Past:
        if fields is not None:
            raise RunError(f"{self.config.title} knows people by what they have alone, so it reads no fields; leave them out")
        more = np.asarray([] if items is None else items, np.int32)
        if user is None:
            return Past(np.unique(more), np.unique(more))
        if self.data is None:
            raise RunError(
                f"{self.config.title}: what a known user has stands in the log, which this model was loaded without; "
                f"give the data ({remedy('load(path, dataset=...)', '--data FOLDER')}), or the items they liked"
            )
        own = [part.indices[part.indptr[user] : part.indptr[user + 1]] for part in self._log]
        if not len(more):
            return Past(own[0], own[1], user)
        has, met = (np.unique(np.concatenate([part, more])) for part in own)
        return Past(has, met)

    def seen(self, past: Past) -> Rows:
        return past.met

    def scores(self, pasts: Sequence[Past], rows: Rows) -> Floats:
        baskets = Baskets.of([past.has for past in pasts], [past.user for past in pasts]).to(place_of(self.module))
        found = score(self._net, baskets, self.counts)
        whole: Floats = found.cpu().numpy()
        first = int(rows[0]) if len(rows) else 0
        neighbours = np.array_equal(rows, np.arange(first, first + len(rows)))  # as where all items are candidates
        return whole[:, first : first + len(rows)] if neighbours else whole[:, rows]

    def explain(self, past: Past, row: int) -> list[Reason]:
        """What of a past is behind the score of ``row``, most first; empty for who has nothing.  Shares add up to 1."""
        if not len(past.has):
            return []
        with torch.no_grad():
            whole, text = self._net.shares(torch.from_numpy(past.has.astype(np.int64)).to(place_of(self.module)), row)
        total = float(whole.sum())
        scale = 1 / total if total > 0 else 1 / max(float(whole.abs().sum()), 1e-30)
        shares = (whole * scale).tolist()
        by_text = [None] * len(shares) if text is None else (text * scale).tolist()
        found = [Reason(*each) for each in zip(past.has.tolist(), shares, by_text, strict=True)]
        return sorted(found, key=lambda each: -each.share)

    def divide(self, past: Past, row: int) -> list[Share]:
        """Shares add up to 1; empty for who has nothing, and where the model's scores have no named parts."""
        if not len(past.has):
            return []
        with torch.no_grad():
            found = self._net.divided(Baskets.of([past.has], [past.user]).to(place_of(self.module)), row)
        total = sum(each.share for each in found)
        scale = 1 / total if total > 0 else 1 / max(sum(abs(each.share) for each in found), 1e-30)
        return [replace(each, share=each.share * scale) for each in found]

    def notes(self, *, new_user: bool, added: int) -> list[str]:
        found = [*self._net.remarks, self._net.new_user if new_user else self._net.known_user]
        if added:
            some = "1 item was" if added == 1 else f"{added:,} items were"
            found.append(f"{some} added after training: text speaks there ({self._net.stand_in})")
        return found

    def facts(self) -> Mapping[str, Any]:
        return {}

    # -- items added after training -----------------------------------------------------------------------------------

    def with_items(self, added: Added) -> CollaborativeModel:
        if not self.reads_text:
            raise RunError(
                f"{self.config.title} knows items by who has them alone; add_items needs a model that reads text, such as "
                "backbone = 'ease' with a knowledge base"
            )
        return self.grown(added.vectors)

    def grown(self, vectors: Tensor) -> CollaborativeModel:
        module = twin(self.module)
        with torch.no_grad():
            cast(MatrixModel, module).add(vectors)
        return replace(
            self,
            module=module,
            base=self.module if self.base is None else self.base,
            added=vectors if self.added is None else torch.cat([self.added, vectors]),
        )

    @cached_property
    def _log(self) -> tuple[Any, Any]:
        """What every user of the data has, and has met, (U + 1, I + 1) sparse rows each."""
        assert self.data is not None
        log, shape = self.data.log, (self.data.num_users + 1, self.data.num_items + 1)
        liked = log.label > 0
        return interactions(log.user[liked], log.item[liked], shape), interactions(log.user, log.item, shape)

    @property
    def _net(self) -> MatrixModel:
        return cast(MatrixModel, self.module)
