"""A tiny ranking world without files: a layout of every kind of field, random batches, every backbone and source by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from braidrec.data.batches import RankingBatch
from braidrec.data.history import History
from braidrec.layers.embedding import FieldEmbedding, ItemTable, TableLayout
from braidrec.layers.text import TextTable
from braidrec.ranking import TASK
from braidrec.ranking.config import RankingConfig
from braidrec.ranking.contracts import Backbone, Material, MeanHistory, Patterns, PatternSource, Sizes, SourceContext
from braidrec.ranking.methods.disco import DisCoConfig
from braidrec.ranking.ranker import Ranker
from braidrec.registry import Spec
from braidrec.strict import parse

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


# Every registered backbone, small, and of some of them other forms by their settings.
_SMALL: Mapping[str, Any] = {"mlp": (16, 8), "rank": 4}
_FORMS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "xdeepfm": {"sum": {"dnn_input": "sum", "linear": False, "cin": (5, 4, 3), "cin_bias": True}},
    "fwfm": {"weights": {"linear": "weights", "extras_meet": "all"}},
    "finalmlp": {"learned": {"gates": "learned", "heads": 1, "second": (4,)}},
    "autoint": {"deep": {"layers": 3, "head_width": 2, "scale": False, "projection": "differing", "linear": True}},
    "deepfm": {"in fm": {"extras_in_fm": True}},
    "dcn": {"v1": {"variant": "v1"}, "v2": {"variant": "v2"}},
    "dien": {
        "agru all": {"gru": "agru", "history_fields": "all"},
        "aigru dot": {"gru": "aigru", "attention": "dot"},
        "gru": {"gru": "gru"},
        "paper mlp": {"attention": "mlp"},
    },
    "sdim": {"all": {"history_fields": "all", "groups": 5, "bits": 2}},
    "din": {
        "bilinear all": {"variant": "bilinear", "history_fields": "all"},
        "paper": {"variant": "paper"},
        "paper softmax": {"variant": "paper", "softmax": True, "history_fields": "all"},
        "none": {"variant": "none"},
    },
}
BACKBONES: Mapping[str, Mapping[str, Any]] = {
    f"{name} {form}".strip(): settings for name in TASK.backbones for form, settings in {"": {}, **_FORMS.get(name, {})}.items()
}
ORDERED = {"dien"}  # backbones to which the order of behaviours matters
SMALL_DISCO = DisCoConfig(semantic_hidden=16)


def small(spec: Spec, **settings: Any) -> Any:
    """Its settings, as small as it can be set."""
    own = {key: value for key, value in _SMALL.items() if key in spec.config.model_fields}
    return parse(spec.config, {**own, **settings}, spec.name)


class NoPatterns(nn.Module, PatternSource):
    """A source that adds nothing."""

    name = "nothing"
    num_extras = 0

    def forward(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        return Patterns(torch.zeros(len(batch), 0, embed.dim))


SOURCES = ["plain", "mean", *TASK.methods]


def sources_of(name: str, layout: TableLayout, disco: DisCoConfig) -> list[PatternSource]:
    plain: Mapping[str, list[PatternSource]] = {"plain": [], "nothing": [NoPatterns()], "mean": [MeanHistory()]}
    if name in plain:
        return plain[name]
    spec = TASK.methods[name]
    material = Material(layout, item_fields(), TextTable(knowledge()), WIDTH)
    return [spec.build(disco if name == "disco" else small(spec), SourceContext(RankingConfig(dim=DIM), material))]


def ranker(
    backbone: str = "din",
    source: str = "disco",
    *,
    disco: DisCoConfig = SMALL_DISCO,
    seed: int = 0,
    layout: TableLayout = LAYOUT,
    unknown_rate: float = 0.0,
    sparse: bool = False,
    sources: Sequence[PatternSource] | None = None,
    build: Callable[[Sizes], Backbone] | None = None,
    **settings: Any,
) -> Ranker:
    """One of `BACKBONES` (with ``settings``), or what ``build`` makes, behind one of `SOURCES`, or behind ``sources``."""
    torch.manual_seed(seed)
    before = sources_of(source, layout, disco) if sources is None else list(sources)
    extras = sum(each.num_extras for each in before)
    sizes = Sizes(layout.num_fields, extras, layout.num_item_fields, DIM)
    if build is None:
        spec = TASK.backbones[backbone.split()[0]]
        joined = spec.joined.get("ours", {}) if extras else {}
        config = small(spec, **{**joined, **BACKBONES.get(backbone, {}), **settings})
        build = partial(spec.build, config)
    made = build(sizes)
    embed = FieldEmbedding(
        layout,
        item_fields(),
        DIM,
        unknown_rate=unknown_rate,
        fields=made.needs.fields,
        items=made.needs.history or bool(before),
        linear=made.needs.linear,
        field_aware=made.needs.field_aware,
        num_extras=extras,
        sparse=sparse,
    )
    return Ranker(embed, before, made)


class Trainer:
    """The two-optimiser step, by hand: estimators on their own loss, then everything else on the weighted sum."""

    def __init__(
        self, model: Ranker, weights: Mapping[str, float] | None = None, *, lr: float = 1e-3, weight_decay: float = 0.0
    ):
        self.model = model
        self.weights = weights or model.weights
        main, *others = model.groups()
        self.main = torch.optim.Adam(main.parameters, lr=lr, weight_decay=weight_decay)
        self.estimators = {each.name: torch.optim.Adam(each.parameters, lr=each.lr or lr) for each in others}

    def step(self, one: RankingBatch) -> float:
        """The prediction loss before the step."""
        step = self.model.step(one)
        for name, learn in step.first.items():
            self.estimators[name].zero_grad()
            learn().backward()
            self.estimators[name].step()
        losses = step.losses()
        self.main.zero_grad()
        torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum().backward()
        self.main.step()
        return losses["prediction"].item()
