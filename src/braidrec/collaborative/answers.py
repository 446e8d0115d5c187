"""Models that train by one form and answer by another: vectors of users and items, made once after each change of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel

Answer = TypeVar("Answer", bound=MatrixModel)


class Answering(nn.Module, MatrixModel, Generic[Answer]):
    """Who inherits says what its weights ``answer`` with, which is a `MatrixModel`; a run keeps that."""

    def __init__(self) -> None:
        super().__init__()
        self._answer: tuple[Answer, ...] = ()  # no part of this module

    def answer(self) -> Answer:
        raise NotImplementedError

    @property
    def vectors(self) -> Answer:
        """Made once after each change of mode or weights."""
        if not self._answer:
            self._answer = (self.answer(),)
        return self._answer[0]

    def train(self, mode: bool = True) -> Self:
        self._answer = ()
        return super().train(mode)

    def _load_from_state_dict(self, *given: Any) -> None:
        self._answer = ()
        super()._load_from_state_dict(*given)

    @property
    def num_rows(self) -> int:
        return self.vectors.num_rows

    def scores(self, baskets: Baskets) -> Tensor:
        return self.vectors.scores(baskets)

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        return self.vectors.shares(items, target)

    def item_vectors(self) -> Mapping[str, Tensor]:
        return self.vectors.item_vectors()

    def user_vectors(self) -> Mapping[str, Tensor]:
        return self.vectors.user_vectors()

    def kept(self) -> nn.Module:
        return cast(nn.Module, self.vectors)


def of_people(baskets: Baskets, users: Tensor, known: Tensor, folded: Callable[[Baskets], Tensor]) -> Tensor:
    """(b, D): of whom training knows their own row of ``users`` (U + 1, D), of others what they have, ``folded``.

    known (U + 1,): whether training had anything of a user
    """
    if baskets.user is None:
        return folded(baskets)
    inside = torch.where(baskets.user < len(users), baskets.user, 0)
    own, met = users[inside], known[inside]
    return own if bool(met.all()) else torch.where(met[:, None], own, folded(baskets))
