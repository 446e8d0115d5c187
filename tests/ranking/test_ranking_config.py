"""Ranking configs: presets, nested changes, and a word for every misspelt key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.errors import ConfigError
from braidrec.ranking import TASK
from braidrec.ranking.config import HistoryConfig, settings_of
from braidrec.ranking.methods.disco import DisCoConfig
from braidrec.strict import parse

BACKBONES = tuple(TASK.backbones)


def resolved(preset: str, backbone: str, enhance: str | None, changes: Mapping[str, Any], where: str) -> RunConfig:
    values = {"data": "-", "task": "ranking", "preset": preset, "backbone": backbone, "enhance": enhance, "model": changes}
    return resolve(parse(RunRequest, values, where), where)


def ranking_config(preset: str, backbone: str, enhance: str | None, changes: Mapping[str, Any], where: str) -> Any:
    """The [model] table."""
    return settings_of(resolved(preset, backbone, enhance, changes, where))


def keys(model: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        yield (*path, name)
        if isinstance(value, BaseModel):
            yield from keys(value, (*path, name))


def nested(path: tuple[str, ...], value: Any) -> Any:
    for part in reversed(path):
        value = {part: value}
    return value


ALL_KEYS = [
    (backbone, path) for backbone in BACKBONES for path in keys(ranking_config("ours", backbone, "disco", {}, "run.toml"))
]


def test_every_level_is_walked() -> None:
    assert {path[:-1] for _, path in ALL_KEYS} == {(), ("backbone",), ("disco",), ("history",)}
    assert len(ALL_KEYS) > 80


@pytest.mark.parametrize(("backbone", "path"), ALL_KEYS, ids=lambda part: part if isinstance(part, str) else ".".join(part))
def test_a_misspelt_key_is_refused_with_the_nearest_one(backbone: str, path: tuple[str, ...]) -> None:
    for wrong in (path[-1] + "x", path[-1][:-1] + "__"):
        with pytest.raises(ConfigError) as caught:
            ranking_config("ours", backbone, "disco", nested((*path[:-1], wrong), 1), "run.toml")
        message = str(caught.value)
        assert message.startswith("run.toml: model: ")
        assert f"unknown key '{'.'.join((*path[:-1], wrong))}'" in message
        near = f"did you mean '{path[-1]}'?" in message
        assert near or (wrong.endswith("__") and len(path[-1]) < 5), message


def test_suggestions_are_keys_of_the_chosen_backbone() -> None:
    with pytest.raises(ConfigError) as caught:
        ranking_config("ours", "deepfm", None, {"backbone": {"expert": 3}}, "x")
    assert "experts" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"unknown key 'backbone\.expert' \(did you mean 'experts'\?\)"):
        ranking_config("ours", "dcn", None, {"backbone": {"expert": 3}}, "x")


@pytest.mark.parametrize("enhance", [None, "disco"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("preset", TASK.presets)
def test_presets_resolve(preset: str, backbone: str, enhance: str | None) -> None:
    if enhance and preset == "textbook":
        with pytest.raises(ConfigError, match=r"'textbook' is for backbones alone.*ours, paper, authors"):
            ranking_config(preset, backbone, enhance, {}, "x")
        return
    run = resolved(preset, backbone, enhance, {}, "x")
    assert run.backbone == backbone
    assert run.enhance == ((enhance,) if enhance else ())
    assert run.title == TASK.backbones[backbone].title + (" + DisCo" if enhance else "")
    assert parse(run.chosen.config, run.model.model_dump(), "saved") == run.model


def test_what_the_presets_say() -> None:
    def disco(preset: str) -> DisCoConfig:
        found: DisCoConfig = ranking_config(preset, "dcn", "disco", {}, "x").disco
        return found

    assert disco("ours") == DisCoConfig(sufficiency_weight=0.0, disentangle_weight=0.0)
    paper, authors = disco("paper"), disco("authors")
    assert (paper.sufficiency_weight, paper.disentangle_weight) == (0.02, 0.01)
    assert not paper.club_normalise
    assert not paper.club_per_dimension
    assert not paper.club_floor
    assert authors.semantic_hidden == 0
    assert authors.attention_bias
    assert not authors.attention_scale
    assert authors.replaces == "history"
    assert ranking_config("authors", "dcn", None, {}, "x").history.kind == "semantic_topk"
    textbook = ranking_config("textbook", "din", None, {}, "x")
    assert textbook.initial == "normal"
    assert not textbook.history.mean
    assert textbook.backbone.variant == "paper"
    assert textbook.backbone.history_fields == "all"
    assert not textbook.backbone.softmax
    for backbone, variants in (("dcn", ("mix", "mix", "mix", "v1")), ("din", ("bilinear", "bilinear", "bilinear", "paper"))):
        presets = [ranking_config(preset, backbone, None, {}, "x").backbone for preset in TASK.presets]
        assert tuple(each.variant for each in presets) == variants
    for backbone in ("deepfm", "dcn", "din"):
        norms = [ranking_config(preset, backbone, None, {}, "x").backbone.norm for preset in TASK.presets]
        assert norms == ["none", "none", "ln_post", "none"]
    joined = [
        ranking_config(preset, "deepfm", "disco", {}, "x").backbone.extras_in_fm for preset in ("ours", "paper", "authors")
    ]
    assert joined == [False, True, True]
    assert ranking_config("ours", "deepfm", None, {}, "x").backbone.extras_in_fm


def test_how_the_papers_train() -> None:
    """Adam with its own weight decay, no clipping, patience in epochs; the first preset has rates of its own by the data."""
    for preset, lr in (("paper", 5e-4), ("authors", 1e-4)):
        training = resolved(preset, "dcn", None, {}, "x").training
        assert (training.lr, training.weight_decay, training.decoupled, training.clip_norm) == (lr, 1e-5, False, None)
        assert (training.batch_size, training.max_epochs, training.patience, training.checks_per_epoch) == (256, 50, 10, 1)
    plain = ranking_config("paper", "dcn", None, {}, "x")
    assert (plain.dim, plain.initial, plain.history) == (32, "xavier", HistoryConfig(kind="recent", length=30, mean=True))


OF_A_BACKBONE: Mapping[str, Mapping[str, Any]] = {
    "fm": {"extra_linear": False},
    "ffm": {"width": 4},
    "fwfm": {"linear": "fields"},
    "pnn": {"product": "inner"},
    "dcn": {"variant": "mix", "layers": None, "experts": 2, "rank": 8},
    "xdeepfm": {"cin": (100, 100), "cin_bias": False, "linear": True, "dnn_input": "flat"},
    "autoint": {"layers": 1, "heads": 4, "head_width": 8, "scale": True, "projection": "always", "linear": False},
    "din": {"variant": "bilinear", "softmax": False, "history_fields": "id"},
    "dien": {"gru": "augru", "attention": "bilinear", "history_fields": "id", "auxiliary": "dot", "auxiliary_weight": 0.0},
    "sdim": {"groups": 16, "bits": 3, "history_fields": "id"},  # 48 planes by threes
    "finalmlp": {"gates": "user_item", "heads": 2, "second": None},
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_a_backbone_is_by_default(backbone: str) -> None:
    """As the papers and the authors of DisCo have them; extras meet everything, and every MLP is of 128 and 64 alone."""
    usual = TASK.backbones[backbone].config()
    wanted: dict[str, Any] = {"mlp": (128, 64), "norm": "none", "dropout": 0.0}
    wanted |= {"extras_meet": "all", "extras_in_fm": True, "extras_in_cin": True}
    found = usual.model_dump()
    assert {key: value for key, value in found.items() if key in wanted} == {key: wanted[key] for key in wanted if key in found}
    own = OF_A_BACKBONE.get(backbone, {})
    assert {key: found[key] for key in own} == own


def test_finalmlp_of_its_paper() -> None:
    found = ranking_config("textbook", "finalmlp", None, {}, "x").backbone
    assert (found.mlp, found.second, found.heads) == ((400,), None, 1)
    assert (found.gates, found.gate_hidden) == ("user_item", (64,))


def test_changes_win_over_the_preset_table_by_table() -> None:
    changes = tomllib.loads(
        """
        dim = 16
        [backbone]
        rank = 4
        [enhance]
        semantic_hidden = 64
        [history]
        length = 5
        """
    )
    config = ranking_config("authors", "dcn", "disco", changes, "x")
    assert config.dim == 16
    assert config.backbone.rank == 4
    assert config.backbone.norm == "ln_post"  # the preset's
    assert config.disco.semantic_hidden == 64
    assert config.disco.sufficiency_weight == 0.2
    assert config.history == HistoryConfig(kind="semantic_topk", length=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ours", "dim", None), r"run\.toml: the task 'ranking' has no backbone 'dim' \(did you mean 'sdim'\?\)"),
        (("ours", "xyz", None), rf"no backbone 'xyz' \(accepted: {', '.join(sorted([*TASK.backbones, *TASK.models]))}\)"),
        (("ours", "din", "disko"), r"'enhance' = 'disko': .* enhanced by disco, edk \(did you mean 'disco'\?\)"),
        (("papers", "din", None), r"'preset' = 'papers' \(did you mean 'paper'\?\)"),
    ],
)
def test_unknown_names(arguments: tuple[Any, str, str | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ranking_config(*arguments, {}, "run.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 1}, "'dim' = 1: input should be greater than or equal to 2"),
        ({"dim": "wide"}, "'dim' = 'wide': input should be a valid integer"),
        ({"unknown_rate": 1.0}, "'unknown_rate' = 1.0: input should be less than 1"),
        ({"initial": "xavierr"}, "'initial' = 'xavierr': input should be 'xavier' or 'normal'"),
        ({"history": {"length": 0}}, "'history.length' = 0"),
        ({"history": {"kind": "last"}}, "'history.kind' = 'last': input should be 'recent' or 'semantic_topk'"),
        ({"backbone": {"layers": 0}}, "'backbone.layers' = 0"),
        ({"backbone": {"experts": 0}}, "'backbone.experts' = 0"),
        ({"backbone": {"mlp": [64, 0]}}, "'backbone.mlp.1' = 0"),
        ({"backbone": {"dropout": 1.0}}, "'backbone.dropout' = 1.0: input should be less than 1"),
        ({"backbone": {"variant": "v3"}}, "'backbone.variant' = 'v3': input should be 'v1', 'v2' or 'mix'"),
        ({"enhance": {"sufficiency_weight": -0.1}}, "'disco.sufficiency_weight' = -0.1"),
        ({"enhance": {"disentangle_weight": float("nan")}}, "'disco.disentangle_weight' = nan"),
        ({"enhance": {"estimator_steps": 0}}, "'disco.estimator_steps' = 0"),
        ({"enhance": {"estimator": "mine"}}, "'disco.estimator' = 'mine'"),
    ],
)
def test_bad_values_are_named(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ranking_config("ours", "dcn", "disco", changes, "run.toml")
    assert message in str(caught.value)


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ranking_config("ours", "din", None, {"dims": 8, "unknown_rate": 2, "history": {"lenght": 3}}, "run.toml")
    for part in ("'dims'", "'unknown_rate' = 2", "'history.lenght' (did you mean 'length'?)"):
        assert part in str(caught.value)


def test_settings_of_an_enhancer_that_is_not_chosen() -> None:
    with pytest.raises(ConfigError, match="no enhancer is chosen"):
        ranking_config("ours", "din", None, {"enhance": {"inter": False}}, "x")


def test_another_backbone_cannot_come_in_by_its_settings() -> None:
    with pytest.raises(ConfigError, match=r"'backbone\.name' = 'dcn', but the backbone is 'deepfm'"):
        ranking_config("ours", "deepfm", None, {"backbone": {"name": "dcn"}}, "x")
    assert resolved("ours", "deepfm", None, {"backbone": {"name": "deepfm"}}, "x").backbone == "deepfm"
    with pytest.raises(ConfigError, match="'backbone' = 'dcn'"):
        ranking_config("ours", "deepfm", None, {"backbone": "dcn"}, "x")


def test_configs_are_frozen() -> None:
    config = ranking_config("ours", "din", "disco", {}, "x")
    with pytest.raises(ValidationError, match="frozen"):
        config.dim = 3
