"""Scores x W: what an item says of every other one, as most closed forms have it, and the text by which new items join.

ItemWeights    W (I + 1, I + 1), dense or sparse, and perhaps of low rank besides
TextSide       unit text vectors, from which the column of an item that nobody has follows
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel
from braidrec.layers.text import TextTable, prepare

_DENSE = 1 / 6  # share of entries above which rows of a dense W are summed faster than sparse ones


def weights_tensors(weights: Any) -> dict[str, Tensor]:
    """W as the buffers of `ItemWeights`: dense (n, n) as it is, SciPy's sparse one by rows, or dense where it is full."""
    if isinstance(weights, Tensor):
        return {"dense": weights}
    if weights.nnz > _DENSE * weights.shape[0] * weights.shape[1]:
        return {"dense": torch.from_numpy(weights.tocsr().toarray().astype(np.float32, copy=False))}
    own = weights.tocsr()
    own.sort_indices()
    return {
        "start": torch.from_numpy(own.indptr.astype(np.int32)),
        "column": torch.from_numpy(own.indices.astype(np.int32)),
        "value": torch.from_numpy(own.data.astype(np.float32)),
    }


class TextSide(nn.Module):
    """E (I + 1, S): text vectors less their mean ``centre`` (S,), at length 1; an item without text has a row of zeros."""

    vectors: Tensor
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("vectors", "centre"):
            self.register_buffer(name, None)

    @staticmethod
    def tensors(text: TextTable, prefix: str = "text.") -> dict[str, Tensor]:
        unit = text.read("centred").float().clone()
        unit[0] = 0
        return {f"{prefix}vectors": unit, f"{prefix}centre": text.mean}

    def prepared(self, vectors: Tensor) -> Tensor:
        """(m, S) of items that come later, likewise."""
        return prepare(vectors.to(self.vectors.device), "centred", self.centre)


class ItemWeights(nn.Module, MatrixModel):
    """W = dense or sparse + left right^T - diag, where a model has these parts; what fits fills them.

    dense (n, n)    start, column, value: W by sparse rows    left, right (n, k)    less (n,) the diagonal that is taken off
    added (I + 1, m), among (m, m): the columns of items that came later, by text, and what these say of one another
    late (m, S): their text vectors
    """

    dense: Tensor | None
    start: Tensor | None
    left: Tensor | None
    right: Tensor | None
    less: Tensor | None
    added: Tensor | None
    among: Tensor | None
    late: Tensor | None

    def __init__(self, num_items: int):
        super().__init__()
        self.num_items = num_items
        for name in ("dense", "start", "column", "value", "left", "right", "less"):
            self.register_buffer(name, None)
        for name in ("added", "among", "late"):  # follow from the text vectors that the run keeps of them
            self.register_buffer(name, None, persistent=False)

    @property
    def num_rows(self) -> int:
        return self.num_items + 1 + (0 if self.added is None else self.added.shape[1])

    def check(self) -> None:
        if self.start is not None:  # SciPy multiplies by what stands there, and would write outside of its own memory
            self._sparse.check_format(full_check=True)

    def scores(self, baskets: Baskets) -> Tensor:
        if self.added is None:
            return self._scores(baskets)
        assert self.among is not None
        own = self.num_items + 1
        before, later = baskets.within(0, own), baskets.within(own, self.num_rows)
        found = self._scores(before) + later.times(self.added.T)
        return torch.cat([found, before.times(self.added) + later.times(self.among)], dim=1)

    def _scores(self, baskets: Baskets) -> Tensor:
        found: Tensor | None = None
        if self.dense is not None:
            found = baskets.times(self.dense)
        if self.start is not None:
            found = torch.from_numpy((baskets.matrix(self.num_items + 1) @ self._sparse).toarray()).to(baskets.item.device)
        if self.left is not None and self.right is not None:
            low = baskets.times(self.left) @ self.right.T
            found = low if found is None else found + low
        assert found is not None
        return found if self.less is None else found - baskets.dense(self.num_items + 1) * self.less

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        return self.column_of(items, target), self.text_shares(items, target)

    def column_of(self, items: Tensor, target: int) -> Tensor:
        """W_ij (n,) of ``items`` and j = ``target``: each one's score where somebody has nothing else."""
        return self.scores(Baskets.alone(items))[:, target]

    def text_shares(self, items: Tensor, target: int) -> Tensor | None:
        return None

    @property
    def _sparse(self) -> Any:
        from scipy.sparse import csr_array

        parts = tuple(self.get_buffer(name).cpu().numpy() for name in ("value", "column", "start"))
        return csr_array(parts, shape=(self.num_items + 1, self.num_items + 1))


class TextWeights(ItemWeights):
    """Item weights that know text, so that an item joins by it.  Who inherits says what text makes of an item.

    boost (I + 2,): what the score of each item is multiplied by, and last that of items that come later; None: by 1
    """

    boost: Tensor | None

    def __init__(self, num_items: int):
        super().__init__(num_items)
        self.text = TextSide()
        self.register_buffer("boost", None)

    def _scores(self, baskets: Baskets) -> Tensor:
        found = super()._scores(baskets)
        return found if self.boost is None else found.mul_(self.boost[:-1])

    @property
    def reads_text(self) -> bool:
        return self.text.vectors is not None

    @property
    def stand_in(self) -> str:
        return "what items of like text say of it"

    def text_column(self, vectors: Tensor) -> Tensor:
        """(I + 1, m): what the catalogue says of items that are known by text alone; ``vectors`` (m, S) of unit length."""
        raise NotImplementedError

    def text_among(self, vectors: Tensor) -> Tensor:
        """(m, m): what these say of one another."""
        raise NotImplementedError

    def add(self, vectors: Tensor) -> None:
        new = self.text.prepared(vectors)
        self.late = new if self.late is None else torch.cat([self.late, new])
        cold = 1.0 if self.boost is None else self.boost[-1]
        self.added = cold * self.text_column(self.late)
        among = cold * self.text_among(self.late)
        self.among = among - torch.diag(among.diagonal())
