"""Item maps: catalogue rows to item vectors, by id, by text, or by both.

Row 0 is padding and always zero.  Items that join after training have rows behind the catalogue: they have text, but no
id row of their own; a stand-in takes its place, the mean id row of the items that were met least (PAD's bucket 10).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.errors import ConfigError, remedy
from braidrec.layers.mlp import initialise
from braidrec.layers.text import TextReader, TextTable
from braidrec.strict import DEEPEST, Strict


class TextConfig(Strict):
    """f_theta of PAD, equation (3): Linear, GELU, then ``layers`` times dropout, Linear, GELU.

    final: "linear" leaves the last activation out, so that a vector may point anywhere
    centre: text vectors less the catalogue's mean, at length 1: sentence vectors share a large common part
    """

    layers: int = Setting(default=4, ge=0, le=DEEPEST)
    dropout: float = Setting(default=0.1, ge=0, lt=1)
    final: Literal["gelu", "linear"] = "gelu"
    centre: bool = False


# `ours` reads centred text through one hidden layer that may point anywhere.
OURS = {"text": {"centre": True, "layers": 1, "final": "linear"}}


def xavier_std(num_items: int, dim: int) -> float:
    """Of a Xavier-normal table (I + 1, D)."""
    return math.sqrt(2 / (num_items + 1 + dim))


class IdMap(nn.Module):
    """v_i = row i of a table (I + 1, D).

    std: of the normal distribution that rows are drawn from; None: Xavier-normal, sqrt(2 / (I + 1 + D))
    rare: catalogue rows whose mean stands in for an unknown id    untrained: (I + 1,) bool, rows that training never met
    and that take the stand-in at evaluation; None: every catalogue item keeps its own row
    """

    reads_text: ClassVar[bool] = False
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
        nn.init.normal_(self.table.weight, std=xavier_std(num_items, dim) if std is None else std)
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

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]:
        return {"id": self(rows)}

    def add(self, vectors: Tensor) -> None:
        """Make room for m items behind the catalogue; vectors (m, S) are not read."""
        self.num_rows += len(vectors)

    def export(self) -> None:
        """Nothing to reduce."""


class TextMap(TextReader):
    """v_i = f_theta(x_i), the frozen text vector through a small trained network.

    knowledge (I + 1, S), row 0 zero, or the table of them that others read, too; None to load an exported model, whose text
    vectors had the width ``semantic_width``.
    """

    reads_text: ClassVar[bool] = True

    def __init__(self, knowledge: TextTable | Tensor | None, semantic_width: int, dim: int, config: TextConfig):
        source = TextTable.of(knowledge)
        width = semantic_width if source is None else source.width
        if not width:
            raise ConfigError(
                "this model reads item text: give the run a knowledge base ("
                + remedy("knowledge=FOLDER", '--knowledge FOLDER, or in the run file knowledge = "FOLDER"')
                + ")"
            )
        layers: list[nn.Module] = [nn.Linear(width, dim), nn.GELU()]
        for _ in range(config.layers):
            layers += [nn.Dropout(config.dropout), nn.Linear(dim, dim), nn.GELU()]
        mlp = initialise(nn.Sequential(*(layers[:-1] if config.final == "linear" else layers)))
        mean = source.mean.clone() if source is not None and config.centre else torch.zeros(width)
        super().__init__(source, mlp, "centred" if config.centre else "plain", mean=mean)

    def read(self, rows: Tensor) -> Tensor:
        return super().read(rows) * (rows > 0)[:, None]

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]:
        return {"text": self(rows)}

    def export(self, block: int = 65_536) -> None:
        assert not self.training, "dropout would be frozen into the table"
        super().export(block)

    def add(self, vectors: Tensor) -> None:
        assert not self.training
        super().add(vectors)


class FusedMap(nn.Module):
    """v_i = phi([e_i ; t_i]), equation (4): dropout, Linear(2D -> D), GELU, the id half first; or e_i + t_i for "add"."""

    reads_text: ClassVar[bool] = True

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

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]:
        """Both sides before they meet, and what they become."""
        ids, text = self.ids(rows), self.text(rows)
        return {"aligned_id": ids, "aligned_text": text, "aligned": self.fuse(rows, ids, text)}

    def export(self) -> None:
        self.text.export()

    def add(self, vectors: Tensor) -> None:
        self.ids.add(vectors)
        self.text.add(vectors)
