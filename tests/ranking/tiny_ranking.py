"""A tiny ranking world without files: a layout of every kind of field, random batches, every backbone and source by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from braidrec.data.batches import RankingBatch
from braidrec.data.history import History
from braidrec.layers.embedding import FieldEmbedding, ItemTable, TableLayout
from braidrec.ranking.backbones.dcn import DCN, DCNConfig
from braidrec.ranking.backbones.deepfm import DeepFM, DeepFMConfig
from braidrec.ranking.backbones.din import DIN, DINConfig
from braidrec.ranking.contracts import MeanHistory, Patterns, PatternSource
from braidrec.ranking.methods.disco import DisCo, DisCoConfig
from braidrec.ranking.ranker import Ranker

# user 1..20 (unknown 21)  item 22..61 (62)  genre 63..67 (68)  hour 69..76 (77)  tags 78..85 (86)
USERS, ITEMS, DIM, WIDTH, LENGTH = 20, 40, 8, 12, 6
LAYOUT = TableLayout(
    rows=87,
    names=("user", "item", "genre", "hour"),
    unknown=(21, 62, 68, 77),
    item_slice=(1, 3),
    bags=(("tags", 86),),
    numbers=(("age", 1), ("statistics", 3)),
    signals=5,
)
PLAIN = replace(LAYOUT, bags=(), numbers=())


def item_fields() -> Tensor:
    item = torch.arange(1, ITEMS + 1)
    body = torch.stack([21 + item, 63 + item % 5], dim=1)
    return torch.cat([torch.zeros(1, 2, dtype=torch.long), body]).int()


def knowledge(seed: int = 0, items: int = ITEMS) -> Tensor:
    vectors = torch.randn(items + 1, WIDTH, generator=torch.Generator().manual_seed(seed))
    vectors[0] = 0
    return vectors


def batch(
    size: int = 12, *, seed: int = 0, lengths: Tensor | None = None, length: int = LENGTH, plain: bool = False
) -> RankingBatch:
    """Random rows; ``lengths`` (B,) real behaviours each, by default from none to all.  Both labels occur."""
    random = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=random, dtype=torch.int32)

    if lengths is None:
        lengths = torch.arange(size) % (length + 1)
    mask = torch.arange(length) < lengths[:, None]
    item = draw(1, ITEMS, size)
    fields = torch.stack([draw(1, USERS, size), 21 + item, 63 + item % 5, draw(69, 76, size)], dim=1)
    return RankingBatch(
        position=torch.arange(size),
        item=item,
        fields=fields,
        numbers=torch.zeros(size, 0) if plain else torch.randn(size, 4, generator=random),
        bags=() if plain else (draw(78, 85, size, 3) * (draw(0, 1, size, 3)),),
        history=History(draw(1, ITEMS, size, length) * mask, draw(1, 5, size, length) * mask, mask),
        label=(torch.arange(size) % 2).float()[torch.randperm(size, generator=random)],
    )


def rows(whole: RankingBatch, index: Tensor) -> RankingBatch:
    """The rows ``index`` of a batch."""
    history = whole.history
    return RankingBatch(
        whole.position[index],
        whole.item[index],
        whole.fields[index],
        whole.numbers[index],
        tuple(bag[index] for bag in whole.bags),
        History(history.items[index], history.signals[index], history.mask[index]),
        whole.label[index],
    )


def with_history(whole: RankingBatch, **parts: Tensor) -> RankingBatch:
    return replace(whole, history=replace(whole.history, **parts))


BackboneConfig = DeepFMConfig | DCNConfig | DINConfig
_MLP: Mapping[str, Any] = {"mlp": (16, 8)}
BACKBONES: Mapping[str, BackboneConfig] = {
    "deepfm": DeepFMConfig(**_MLP),
    "dcn v1": DCNConfig(variant="v1", **_MLP),
    "dcn v2": DCNConfig(variant="v2", **_MLP),
    "dcn mix": DCNConfig(variant="mix", rank=4, **_MLP),
    "din bilinear": DINConfig(variant="bilinear", **_MLP),
    "din bilinear all": DINConfig(variant="bilinear", history_fields="all", **_MLP),
    "din paper": DINConfig(variant="paper", **_MLP),
    "din paper softmax": DINConfig(variant="paper", softmax=True, history_fields="all", **_MLP),
    "din none": DINConfig(variant="none", **_MLP),
}
_CLASSES: Mapping[type, Callable[..., Any]] = {DeepFMConfig: DeepFM, DCNConfig: DCN, DINConfig: DIN}
SMALL_DISCO = DisCoConfig(semantic_hidden=16)


class NoPatterns(nn.Module):
    """A source that adds nothing."""

    num_extras = 0

    def forward(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        return Patterns(torch.zeros(len(batch), 0, embed.dim))


SOURCES: Mapping[str, Callable[[DisCoConfig, TableLayout], list[PatternSource]]] = {
    "plain": lambda config, layout: [],
    "nothing": lambda config, layout: [NoPatterns()],
    "mean": lambda config, layout: [MeanHistory()],
    "disco": lambda config, layout: [
        DisCo(config, dim=DIM, num_item_fields=layout.num_item_fields, semantic_width=WIDTH, knowledge=knowledge())
    ],
}


def ranker(
    backbone: str | BackboneConfig = "din bilinear",
    source: str = "disco",
    *,
    disco: DisCoConfig = SMALL_DISCO,
    seed: int = 0,
    layout: TableLayout = LAYOUT,
    unknown_rate: float = 0.0,
    sparse: bool = False,
) -> Ranker:
    torch.manual_seed(seed)
    config = BACKBONES[backbone] if isinstance(backbone, str) else backbone
    sources = SOURCES[source](disco, layout)
    extras = sum(each.num_extras for each in sources)
    sizes = {"num_fields": layout.num_fields, "num_extras": extras, "num_item_fields": layout.num_item_fields, "dim": DIM}
    model = _CLASSES[type(config)](config, **sizes)
    embed = FieldEmbedding(layout, item_fields(), DIM, unknown_rate=unknown_rate, linear=model.needs.linear, sparse=sparse)
    return Ranker(embed, sources, model)


class Trainer:
    """The two-optimiser step, by hand: estimators on their own loss, then everything else on the weighted sum."""

    def __init__(
        self, model: Ranker, weights: Mapping[str, float] | None = None, *, lr: float = 1e-3, weight_decay: float = 0.0
    ):
        self.model = model
        self.weights = weights or {"prediction": 1.0, "sufficiency": 0.02, "disentanglement": 0.01}
        self.main = torch.optim.Adam(model.main_parameters(), lr=lr, weight_decay=weight_decay)
        estimators = model.estimator_parameters()
        self.estimators = torch.optim.Adam(estimators, lr=1e-3) if estimators else None

    def step(self, one: RankingBatch) -> float:
        """The prediction loss before the step."""
        step = self.model.step(one)
        for learn in step.first.values():
            assert self.estimators is not None
            self.estimators.zero_grad()
            learn().backward()
            self.estimators.step()
        losses = step.losses()
        self.main.zero_grad()
        torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum().backward()
        self.main.step()
        return losses["prediction"].item()
