"""No setting is ignored in silence: of every backbone and method each changes the model or is refused, and no other is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic.fields import FieldInfo
from tiny_ranking import LAYOUT, WIDTH, batch, item_fields
from tiny_ranking import knowledge as vectors

from braidrec.config import RunConfig, RunRequest, from_values, resolve
from braidrec.errors import ConfigError
from braidrec.layers.text import TextTable
from braidrec.ranking import TASK
from braidrec.ranking.build import build_ranker
from braidrec.ranking.config import settings_of
from braidrec.ranking.contracts import Material, RankingModel, as_module
from braidrec.ranking.methods.edk import Compression, KnowledgeNetwork
from braidrec.strict import merge

MATERIAL = Material(LAYOUT, item_fields(), TextTable(vectors()), WIDTH)
OF_THE_MACHINE = {"backbone.memory_gib", "edk.cache_mib"}  # what may be taken, whatever is made of it
SMALL = {"dim": 8, "backbone": {"mlp": [8, 4]}, "edk": {"width": 4, "patterns": 3, "layers": 1, "heads": 2}}
AROUND: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "alone": ((), {"history": {"mean": False}}),
    "mean": ((), {}),
    "disco": (("disco",), {"disco": {"semantic_hidden": 8, "replaces": "history"}}),
}
# an estimate below its floor would hide what else there is
DISCO = {"disco": {"semantic_hidden": 8, "disentangle_weight": 0.01, "club_floor": False}}
EDK = {"history": {"mean": False}, "edk": {"club_floor": False, "oov_rate": 0.3}}
DRAWN = {"history": {"mean": False}, "edk": {"club_floor": False, "compress": False}}


def config(backbone: str, enhance: tuple[str, ...], *changes: Mapping[str, Any]) -> RunConfig:
    own = TASK.spec(backbone).config.model_fields
    small: dict[str, Any] = {key: value for key, value in SMALL.items() if key not in ("backbone", "edk") or key in enhance}
    small["backbone"] = {key: value for key, value in SMALL["backbone"].items() if key in own}  # type: ignore[attr-defined]
    for values in changes:
        small = merge(small, values)
    if "dim" in unread(backbone, enhance, small):
        small.pop("dim")
    return resolve(RunRequest(data="-", task="ranking", backbone=backbone, enhance=enhance, model=small), "test")


def unread(backbone: str, enhance: tuple[str, ...], values: Mapping[str, Any]) -> Mapping[str, str]:
    model = {key: value for key, value in values.items() if key != "dim"}
    return resolve(RunRequest(data="-", task="ranking", backbone=backbone, enhance=enhance, model=model), "test").all_idle


def numbers(model: RankingModel) -> dict[str, Any]:
    """What a model is, in numbers: its weights, its optimiser groups, its losses on a few batches, and their slopes."""
    module = as_module(model).train()
    found: dict[str, Any] = {f"weight of {name}": weight for name, weight in model.weights.items()}
    for group in model.groups():
        found[f"group {group.name}"] = (len(group.parameters), group.lr or 0.0, group.weight_decay or 0.0, group.steps)
    for name, value in module.state_dict().items():
        found |= {f"shape of {name}": tuple(value.shape), f"start of {name}": value.double().abs().sum().item()}
    torch.manual_seed(1)
    for seed in (0, 1, 2):
        one = batch(16, seed=seed)
        step = model.step(one)
        losses = {**{f"{name} of {seed}": learn() for name, learn in step.first.items()}, **step.losses()}
        found |= {f"{name} on {seed}": loss.item() for name, loss in losses.items()}
        own = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
        slopes = torch.autograd.grad(sum(losses.values()), [weight for _, weight in own], allow_unused=True)  # type: ignore[arg-type]
        for (name, _), slope in zip(own, slopes, strict=True):
            found[f"slope of {name} on {seed}"] = None if slope is None else slope.double().abs().sum().item()
    return found


def made(found: RunConfig) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    parts = [numbers(build_ranker(found, MATERIAL))]
    if "edk" in found.enhance and (own := settings_of(found).of("edk")).compress:
        torch.manual_seed(0)
        network = KnowledgeNetwork(own, LAYOUT)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if "table" in name:
                    weight.mul_(3_000)  # they start near zero, where nothing shows
        parts.append(numbers(Compression(own, network, 0)))
    return parts


def same(first: Any, second: Any) -> bool:
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, float) and isinstance(second, float):  # a slope is a float32 sum of what nearly cancels
        return bool(first == pytest.approx(second, rel=1e-5, abs=1e-6))
    return bool(first == second)


def others(name: str, field: FieldInfo, now: Any) -> Iterator[Any]:
    """Values of a setting that are not the one it has."""
    if name == "leave_out":
        yield ["user"]
    elif isinstance(now, bool):
        yield not now
    elif get_origin(field.annotation) is Literal:
        yield from (value for value in get_args(field.annotation) if value != now)
    elif isinstance(now, int):
        yield now + 1
    elif isinstance(now, float):
        yield 0.6 if now != 0.6 else 0.3
    elif now is None:
        yield [4] if "tuple" in str(field.annotation) else 5
    else:
        yield [*now, 4]


def ends(name: str, field: FieldInfo, now: Any) -> Iterator[Any]:
    """Values of a setting that may put others out of play."""
    if isinstance(now, bool) or get_origin(field.annotation) is Literal:
        yield from others(name, field, now)
    elif isinstance(now, float):
        yield from (value for value in (0.0,) if value != now)
    elif name in ("mlp", "patterns"):
        yield [] if name == "mlp" else 1


def check(backbone: str, enhance: tuple[str, ...], table: str, around: Mapping[str, Any], *, crossed: bool = False) -> None:
    """Each setting of [model.``table``] is refused, or does something.  crossed: with each of the others at an end, too"""
    plain, usual = config(backbone, enhance, around), getattr(config(backbone, enhance).model, table)
    fields = type(usual).model_fields
    bases: list[Mapping[str, Any]] = [{}]
    for name, field in fields.items() if crossed else ():
        bases += [{name: value} for value in ends(name, field, getattr(getattr(plain.model, table), name))]
    for base in bases:
        try:
            before = config(backbone, enhance, around, {table: base})
            told = made(before)
        except ConfigError:
            continue
        own = getattr(before.model, table)
        for name, field in fields.items():
            key = f"{table}.{name}"
            if name in base or key in OF_THE_MACHINE:
                continue
            for value in others(name, field, getattr(own, name)):
                if parsed(value) in (field.default, getattr(usual, name)):  # never refused
                    continue
                what = f"{backbone} {enhance} {key} = {value} beside {around} {base}"
                try:
                    after = config(backbone, enhance, around, {table: {**base, name: value}})
                except ConfigError as cause:
                    if f"model.{key} = " not in str(cause):  # or what it puts out of play is refused
                        continue
                    after = before.model_copy(
                        update={"model": before.model.model_copy(update={table: own.model_copy(update={name: parsed(value)})})}
                    )
                    assert same(made(after), told), f"{what} is refused and does something"
                    continue
                try:
                    changed = made(after)
                except ConfigError:
                    continue
                assert not same(changed, told), f"{what} does nothing, in silence"


def parsed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("backbone", TASK.backbones)
def test_of_every_backbone_no_setting_is_ignored_in_silence(backbone: str, around: str) -> None:
    enhance, values = AROUND[around]
    check(backbone, enhance, "backbone", values)


@pytest.mark.parametrize("backbone", ["deepfm", "din", "lr"])
def test_of_disco_likewise(backbone: str) -> None:
    check(backbone, ("disco",), "disco", DISCO)


@pytest.mark.parametrize("compress", [True, False])
def test_of_edk_likewise(compress: bool) -> None:
    check("deepfm", ("edk",), "edk", EDK if compress else DRAWN)


@pytest.mark.slow
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("backbone", TASK.backbones)
def test_of_every_backbone_likewise_where_others_are_at_an_end(backbone: str, around: str) -> None:
    enhance, values = AROUND[around]
    check(backbone, enhance, "backbone", values, crossed=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "backbone", "around"),
    [*(("disco", backbone, DISCO) for backbone in ("deepfm", "din", "lr")), ("edk", "deepfm", EDK), ("edk", "deepfm", DRAWN)],
)
def test_of_every_method_likewise_where_others_are_at_an_end(method: str, backbone: str, around: Mapping[str, Any]) -> None:
    check(backbone, (method,), method, around, crossed=True)


def said(backbone: str, model: Mapping[str, Any], *enhance: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(RunRequest(data="-", backbone=backbone, enhance=enhance, model=dict(model)), "fit")
    return str(caught.value)


BARE = {"history": {"mean": False}}


@pytest.mark.parametrize(
    ("backbone", "model", "key", "why"),
    [
        ("lr", {"dim": 16}, "dim = 16", "'lr' has no vectors of fields, and nothing stands beside the fields"),
        ("lr", {"initial": "normal"}, "initial = 'normal'", "'lr' has no vectors"),
        ("lr", {"history": {"length": 5}}, "history.length = 5", "nothing of this model reads the history"),
        ("ffm", {"dim": 16, **BARE}, "dim = 16", "vectors of 'ffm' are model.backbone.width wide, and nothing stands beside"),
        ("deepfm", {"history": {"mean": False, "kind": "semantic_topk"}}, "history.kind = 'semantic_topk'", "nothing of this"),
        ("deepfm", {**BARE, "backbone": {"extras_in_fm": False}}, "backbone.extras_in_fm = False", "nothing stands beside"),
        (
            "finalmlp",
            {"backbone": {"gates": "none", "gate_hidden": [8]}},
            "backbone.gate_hidden = (8,)",
            "gates = 'none' reads",
        ),
        ("dien", {"backbone": {"auxiliary": "mlp"}}, "backbone.auxiliary = 'mlp'", "auxiliary_weight = 0 leaves that loss out"),
        (
            "pnn",
            {"backbone": {"product": "outer", "extras_meet": "ids"}},
            "backbone.extras_meet = 'ids'",
            "product = 'outer' sums all fields before they meet, so it knows no pairs",
        ),
        ("dcn", {"backbone": {"variant": "v2", "rank": 4}}, "backbone.rank = 4", "variant = 'v2' has no experts"),
        ("din", {"backbone": {"softmax": True}}, "backbone.softmax = True", "variant = 'bilinear' leaves no choice of it"),
        ("dcn", {"backbone": {"mlp": [], "norm": "bn"}}, "backbone.norm = 'bn'", "mlp = () has no hidden layer"),
    ],
)
def test_what_a_backbone_would_ignore_is_refused(backbone: str, model: Mapping[str, Any], key: str, why: str) -> None:
    assert f"fit: model.{key} would change nothing: {why}" in said(backbone, model)
    assert said(backbone, model).endswith("; drop it, or change what stands in its way")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"compress": False, "l0_weight": 0.5}, "l0_weight = 0.5 would change nothing: compress = False leaves the network as"),
        ({"compress": False, "label_weight": 1.0}, "label_weight = 1.0 would change nothing: compress = False"),
        ({"mask": "ones", "l0_weight": 0.5}, "l0_weight = 0.5 would change nothing: mask = 'ones' leaves every gate open"),
        ({"reg_weight": 0.0, "temperature": 0.5}, "temperature = 0.5 would change nothing: reg_weight = 0 leaves both"),
        (
            {"disentangle": "infomin", "temperature": 0.5},
            "temperature = 0.5 would change nothing: disentangle = 'infomin' tells",
        ),
    ],
)
def test_what_edk_would_ignore_is_refused(values: Mapping[str, Any], key: str) -> None:
    assert f"model.edk.{key}" in said("deepfm", {"enhance": values}, "edk")


def test_several_are_told_at_once() -> None:
    message = said("deepfm", {"edk": {"compress": False, "l0_weight": 0.5, "view_dropout": 0.3}}, "edk")
    assert message.count("would change nothing") == 2


@pytest.mark.parametrize("preset", ["ours", "paper"])
def test_defaults_and_what_a_preset_sets_are_never_refused(preset: str) -> None:
    own = {"compress": False, "l0_weight": 0.01, "club_floor": preset == "ours"}
    names = {"data": "-", "backbone": "lr", "enhance": "edk", "preset": preset}
    assert not settings_of(resolve(RunRequest.model_validate({**names, "model": {"edk": own}}), "fit")).of("edk").compress


def test_a_model_without_a_mean_history_is_what_its_absence_asks_for() -> None:
    for backbone in TASK.backbones:
        resolve(RunRequest(data="-", backbone=backbone, model=BARE), "fit")


def test_what_was_saved_before_anybody_asked_still_opens() -> None:
    found = resolve(RunRequest(data="-", backbone="deepfm", enhance=("edk",), model={"edk": {"compress": False}}), "fit")
    values = merge(found.model_dump(), {"model": {"edk": {"l0_weight": 0.5}}})
    assert from_values(values, "saved").model.of("edk").l0_weight == 0.5
