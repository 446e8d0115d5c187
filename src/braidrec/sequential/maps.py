"""Item maps: catalogue rows to item vectors, by id, by text, or by both.

Row 0 is padding and always zero.  Items that join after training have rows behind the catalogue: they have text, but no
id row of their own; a stand-in takes its place, the mean id row of the items that were met least (PAD's bucket 10).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.mlp import initialise
from braidrec.strict import Strict


class TextConfig(Strict):
    """f_theta of PAD, equation (3): Linear, GELU, then ``layers`` times dropout, Linear, GELU.

    final: "linear" leaves the last activation out, so that a vector may point anywhere
    centre: text vectors less the catalogue's mean, at length 1: sentence vectors share a large common part
    """

    layers: int = Setting(default=4, ge=0)
    dropout: float = Setting(default=0.1, ge=0, lt=1)
    final: Literal["gelu", "linear"] = "gelu"
    centre: bool = False


class IdMap(nn.Module):
    """v_i = row i of a table (I + 1, D).

    std: of the normal distribution that rows are drawn from; None: Xavier-normal, sqrt(2 / (I + 1 + D))
    rare: catalogue rows whose mean stands in for an unknown id    untrained: (I + 1,) bool, rows that training never met
    and that take the stand-in at evaluation; None: every catalogue item keeps its own row
    """

    rare: Tensor
    untrained: Tensor

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        std: float | None = None,
        rare: Tensor | None = None,
        untrained: Tensor | None = None,
    ):
        super().__init__()
        self.num_rows, self.dim = num_items + 1, dim
        self.table = nn.Embedding(num_items + 1, dim)
        nn.init.normal_(self.table.weight, std=math.sqrt(2 / (num_items + 1 + dim)) if std is None else std)
        with torch.no_grad():
            self.table.weight[0].zero_()
        self.register_buffer("rare", torch.arange(1, num_items + 1) if rare is None else rare, persistent=False)
        blank = torch.zeros(num_items + 1, dtype=torch.bool)
        self.register_buffer("untrained", blank if untrained is None else untrained, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """(n,) -> (n, D)."""
        size = len(self.table.weight)
        vectors: Tensor = self.table(rows.clamp_max(size - 1))
        if not self.training:
            strange = (rows >= size) | self.untrained[rows.clamp_max(size - 1)]
            if bool(strange.any()):
                vectors = torch.where(strange[:, None], self.table.weight[self.rare].mean(dim=0), vectors)
        return vectors * (rows > 0)[:, None]

    def add(self, vectors: Tensor) -> None:
        """Make room for m items behind the catalogue; vectors (m, S) are not read."""
        self.num_rows += len(vectors)

    def export(self) -> None:
        """Nothing to reduce."""


class TextMap(nn.Module):
    """v_i = f_theta(x_i), the frozen text vector through a small trained network.

    knowledge (I + 1, S), row 0 zero: held, never saved, without gradient.  `export` replaces it by the reduced table
    (I + 1, D); the network stays for items added later.
    """

    knowledge: Tensor | None
    reduced: Tensor | None
    mean: Tensor

    def __init__(self, knowledge: Tensor | None, semantic_width: int, dim: int, config: TextConfig):
        super().__init__()
        width = semantic_width if knowledge is None else knowledge.shape[1]
        if not width:
            raise ConfigError(
                'this model reads item text: give the run a knowledge base (knowledge = "FOLDER", or --knowledge FOLDER)'
            )
        layers: list[nn.Module] = [nn.Linear(width, dim), nn.GELU()]
        for _ in range(config.layers):
            layers += [nn.Dropout(config.dropout), nn.Linear(dim, dim), nn.GELU()]
        self.semantic_width, self.centre = width, config.centre
        self.mlp = initialise(nn.Sequential(*(layers[:-1] if config.final == "linear" else layers)))
        mean = torch.zeros(width) if knowledge is None or not config.centre else knowledge[1:].float().mean(dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("knowledge", None if knowledge is None else self._prepare(knowledge), persistent=False)
        self.register_buffer("reduced", None)

    @property
    def num_rows(self) -> int:
        table = self.reduced if self.reduced is not None else self.knowledge
        assert table is not None
        return len(table)

    def forward(self, rows: Tensor) -> Tensor:
        """(n,) -> (n, D)."""
        if self.reduced is not None:
            return self.reduced[rows]
        assert self.knowledge is not None
        vectors: Tensor = self.mlp(self.knowledge[rows])
        return vectors * (rows > 0)[:, None]

    @torch.no_grad()
    def export(self, block: int = 65_536) -> None:
        assert not self.training, "dropout would be frozen into the table"
        if self.knowledge is not None:
            rows = torch.arange(len(self.knowledge), device=self.knowledge.device)
            self.reduced = torch.cat([self(part) for part in rows.split(block)])
            self.knowledge = None

    @torch.no_grad()
    def add(self, vectors: Tensor) -> None:
        """Append items by their text vectors (m, S); needs `export` first."""
        assert self.reduced is not None
        assert not self.training
        self.reduced = torch.cat([self.reduced, self.mlp(self._prepare(vectors.to(self.reduced.device)))])

    def _prepare(self, vectors: Tensor) -> Tensor:
        vectors = vectors.float()
        return F.normalize(vectors - self.mean, dim=1) if self.centre else vectors


class FusedMap(nn.Module):
    """v_i = phi([e_i ; t_i]), equation (4): dropout, Linear(2D -> D), GELU, the id half first; or e_i + t_i for "add"."""

    def __init__(self, ids: IdMap, text: TextMap, *, fusion: Literal["concat", "add"] = "concat", dropout: float = 0.1):
        super().__init__()
        self.ids, self.text = ids, text
        self.phi: nn.Module | None = None
        if fusion == "concat":
            self.phi = initialise(nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * ids.dim, ids.dim), nn.GELU()))

    @property
    def num_rows(self) -> int:
        return self.ids.num_rows

    def forward(self, rows: Tensor) -> Tensor:
        """(n,) -> (n, D)."""
        return self.fuse(rows, self.ids(rows), self.text(rows))

    def fuse(self, rows: Tensor, ids: Tensor, text: Tensor) -> Tensor:
        """rows (n,), ids and text (n, D), the two sides before they meet -> (n, D)."""
        fused: Tensor = ids + text if self.phi is None else self.phi(torch.cat([ids, text], dim=1))
        return fused * (rows > 0)[:, None]

    def export(self) -> None:
        self.text.export()

    def add(self, vectors: Tensor) -> None:
        self.ids.add(vectors)
        self.text.add(vectors)
