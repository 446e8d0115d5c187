"""Answers of weights that stand still: those of the forward pass but for rounding, made of tables that follow the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_packed import moving, pair
from tiny_ranking import BACKBONES, ITEMS, SMALL_DISCO, SOURCES, batch, knowledge, ranker
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from braidrec import memory
from braidrec.data.history import History
from braidrec.layers.kept import Kept, stamp
from braidrec.layers.mlp import MLP, Mixed, Repeated
from braidrec.ranking import ranker as module
from braidrec.ranking.ranker import Ranker
from braidrec.task import Added


def trained(backbone: str, source: str = "disco", **more: object) -> Ranker:
    """Exported, with weights as large as training makes them."""
    model = ranker(backbone, source, **more).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in moving(model).values():
            weight.mul_(1.5).add_(0.05 * torch.randn_like(weight))
        for table in model.embed.tables.values():
            table.weight[0] = 0.0
    model.export()
    return model


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("whole", [True, False], ids=["catalogue", "batch"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_answers_are_the_forward_pass(backbone: str, source: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of shared windows and of others, in turn, from tables of the catalogue and of what a batch holds."""
    monkeypatch.setattr(module, "held_whole", lambda rows, width: whole)
    model = trained(backbone, source)
    answer, (shared, own) = model.answering(), pair()
    for one in (shared, own, batch(3, seed=1), shared):
        with torch.no_grad():
            expected = model(one)
        found = answer(one)
        assert not found.requires_grad
        close(found, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"attention_bias": True, "attention_scale": False},
        {"inter": False},
        {"item_fusion": "id_only", "semantic_hidden": 0},
    ],
)
@pytest.mark.parametrize("backbone", ["din", "deepfm", "widedeep"])
def test_in_every_form_of_disco(backbone: str, settings: dict[str, object]) -> None:
    model = trained(backbone, disco=SMALL_DISCO.model_copy(update=settings))
    for one in pair():
        with torch.no_grad():
            expected = model(one)
        close(model.answering()(one), expected)


def _step(model: Ranker) -> None:
    optimiser = torch.optim.Adam([*moving(model).values()], lr=0.05, fused=True)
    model.train()(batch(6)).sum().backward()
    optimiser.step()
    model.eval()


def _loaded(model: Ranker) -> None:
    model.load_state_dict(
        {name: value * 1.3 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    )


def _doubled(model: Ranker) -> None:
    model.double()
    model.float()
    with torch.no_grad():
        model.backbone.mlp.layers[0].weight[0, 0] += 3.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [_step, _loaded, _doubled])
def test_tables_follow_the_weights(change: Callable[[Ranker], None]) -> None:
    model, (shared, _) = trained("din"), pair()
    answer = model.answering()
    before = answer(shared).clone()
    change(model)
    with torch.no_grad():
        expected = model(shared)
    close(answer(shared), expected)
    assert (before - expected).abs().max() > 1e-3


def test_added_items_are_answered_for() -> None:
    model, (shared, _) = trained("din"), pair()
    answer = model.answering()
    answer(shared)
    fields = torch.tensor([[62, 64], [62, 65]], dtype=torch.int32)
    model.add(Added(knowledge(seed=1)[1:3], fields, torch.zeros(2, 0)))
    late = replace(shared, item=torch.full_like(shared.item, ITEMS + 2), fields=shared.fields.clone())
    late.fields[:, 1:3] = fields[1]
    with torch.no_grad():
        close(answer(late), model(late))


def test_what_depends_on_the_item_alone_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (shared, _) = trained("din"), pair()
    (source,) = model.sources
    counts = {"rows": 0, "asked": 0}
    own_rows, own_asked = source._tabular, source.attention.asked  # type: ignore[operator, union-attr]

    def rows(items: object) -> Tensor:
        counts["rows"] += 1
        return own_rows(items)  # type: ignore[operator, no-any-return]

    def asked(given: Tensor) -> Tensor:
        counts["asked"] += 1
        assert len(given) == ITEMS + 1
        return own_asked(given)  # type: ignore[operator, no-any-return]

    monkeypatch.setattr(source, "_tabular", rows)
    monkeypatch.setattr(source.attention, "asked", asked)
    answer = model.answering()
    for _ in range(3):
        answer(shared)
    assert counts == {"rows": 1, "asked": 1}


class OverTheCatalogue(TorchDispatchMode):
    """Names of the operations that make something new of every item."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.shape[:1] == (ITEMS + 1,):
            given = {part.untyped_storage().data_ptr() for part in args if isinstance(part, Tensor)}
            if found.untyped_storage().data_ptr() not in given:
                self.met.append(str(func))
        return found


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_later_answer_goes_over_no_more_than_it_asks_for(backbone: str, source: str) -> None:
    model, one = trained(backbone, source), batch(5, lengths=torch.full((5,), 4))
    past, fields = one.history, one.fields.clone()
    fields[:, 0] = 1
    shared = replace(one, fields=fields, history=History(past.items[:1], past.signals[:1], past.mask[:1]).shared(5))
    answer = model.answering()
    found = answer(shared).clone()
    with OverTheCatalogue() as seen:
        again = answer(shared)
    assert not seen.met
    assert torch.equal(again, found)
    with torch.no_grad():
        close(found, model(shared))


@pytest.mark.parametrize("backbone", ["din", "deepfm", "dien"])
def test_half_precision_leaves_no_table_behind(backbone: str) -> None:
    model, (shared, _) = trained(backbone), pair()
    answer = model.answering()
    before = answer(shared).clone()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(shared)
        torch.testing.assert_close(model.answering()(shared), expected)
        torch.testing.assert_close(answer(shared), expected)
    fresh = model.answering()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fresh(shared)
    for one in (answer, fresh):
        assert torch.equal(one(shared), before)


def test_a_wide_first_layer_counts_for_what_is_kept() -> None:
    model = trained("din")
    rows = memory.WHOLE_BYTES // (4 * 16 * model.embed.dim)
    model.embed.item_fields = torch.zeros(1, 2, dtype=torch.int32).expand(rows, 2)
    assert model.fits
    model.backbone.mlp = MLP(8, (64 * model.embed.dim,))
    assert not model.fits


def test_a_model_in_training_is_not_answered_from_tables() -> None:
    model, (shared, _) = trained("din"), pair()
    answer = model.answering()
    model.train()
    torch.manual_seed(0)
    found = answer(shared)
    torch.manual_seed(0)
    assert torch.equal(found, model(shared))
    assert not found.requires_grad


@pytest.mark.parametrize("norm", ["none", "bn", "ln_pre", "ln_post"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("repeated", [1, 3])
def test_a_first_layer_reads_columns_in_every_form(norm: str, dropout: float, repeated: int) -> None:
    torch.manual_seed(0)
    mlp = MLP(5 + 4 + 2 + 6, (6, 4), out=1, norm=norm, dropout=dropout).eval()  # type: ignore[arg-type]
    for part in mlp.layers:
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.bias)
    kept = Kept(whole=True)
    for seed in range(2):
        torch.manual_seed(seed)
        users = Repeated(torch.randn(repeated, 5), torch.randint(repeated, (7,)))
        few, basis, plain = torch.randn(7, 3), torch.arange(18.0).view(3, 6).sin(), torch.randn(7, 2)
        items = Repeated(torch.arange(32.0).view(8, 4).cos(), torch.randint(8, (7,)), same=True)
        mixed = Mixed(few, basis, lambda few=few, basis=basis: few @ basis)  # type: ignore[misc]
        with torch.no_grad():
            expected = mlp(torch.cat([users.dense(), items.dense(), plain, mixed.dense()], dim=1))
            torch.testing.assert_close(mlp([users, items, plain, mixed], kept), expected)
            torch.testing.assert_close(mlp([users, items, plain, mixed]), expected)


def test_a_stamp_says_when_tensors_are_written_into_or_replaced() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.register_buffer("table", torch.zeros(3))
    seen = stamp(layer)
    assert stamp(layer) == seen
    layer.table = torch.ones(3)
    replaced = stamp(layer)
    assert replaced != seen
    with torch.no_grad():
        layer.weight.mul_(2)
    assert stamp(layer) != replaced
    with torch.inference_mode():
        layer.late = torch.nn.Linear(2, 2)
    assert len(stamp(layer)) == 5
