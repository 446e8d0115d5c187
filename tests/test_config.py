"""The run file: every name is checked, every resolved value survives the file it is saved in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from braidrec.config import (
    BACKBONES,
    ENHANCERS,
    TRAINING_PRESETS,
    PhaseTraining,
    RunConfig,
    RunRequest,
    TrainingConfig,
    from_toml,
    parse_changes,
    read_request,
    resolve,
    to_toml,
)
from braidrec.data.dataset import PrepareSettings
from braidrec.data.splits_config import SplitConfig
from braidrec.errors import ConfigError
from braidrec.ranking.backbones.dcn import DCNConfig
from braidrec.ranking.backbones.deepfm import DeepFMConfig
from braidrec.ranking.backbones.din import DINConfig
from braidrec.ranking.config import HistoryConfig, RankingConfig
from braidrec.ranking.methods.disco import DisCoConfig
from braidrec.strict import Strict, parse

PRESETS = ("ours", "paper", "authors", "textbook")
COMBINATIONS = [
    (preset, backbone, enhance)
    for preset in PRESETS
    for task, backbones in BACKBONES.items()
    for backbone in backbones
    for enhance in (None, *ENHANCERS[task])
    if not (preset == "textbook" and enhance)
]


def request(**values: Any) -> RunRequest:
    return parse(RunRequest, {"data": "prepared/x", **values}, "test")


def misspelt(name: str) -> str:
    """The name with its last two letters in the wrong order, or one twice where they are the same."""
    swapped = name[:-2] + name[-1] + name[-2]
    return swapped if swapped != name and len(name) > 2 else name + name[-1]


def places() -> Iterator[tuple[str, str]]:
    """(table, key) of every setting a run file can hold."""
    tables: list[tuple[str, type[BaseModel]]] = [
        ("", RunRequest),
        ("training.", TrainingConfig),
        ("training.phases.rank.", PhaseTraining),
        ("model.", RankingConfig),
        ("model.history.", HistoryConfig),
        ("model.enhance.", DisCoConfig),
        ("model.backbone.", DINConfig),
    ]
    for table, kind in tables:
        for key in kind.model_fields:
            yield table, key


def set_in(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *tables, key = path.split(".")
    inner = values
    for table in tables:
        inner = inner.setdefault(table, {})
    inner[key] = value
    return values


@pytest.mark.parametrize(("table", "key"), list(places()))
@pytest.mark.parametrize("way", ["file", "set"])
def test_every_misspelt_key_is_refused_with_the_right_one(table: str, key: str, way: str, tmp_path: Path) -> None:
    wrong = table + misspelt(key)
    base: dict[str, Any] = {"data": "prepared/x", "enhance": "disco", "knowledge": "k"}
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(set_in(dict(base), wrong, 1) if way == "file" else base))
    with pytest.raises(ConfigError, match=rf"unknown key '.*{misspelt(key)}' \(did you mean '{key}'\?\)") as caught:
        resolve(read_request(file, parse_changes([f"{wrong}=1"]) if way == "set" else {}), str(file))
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize("backbone", [DeepFMConfig, DCNConfig, DINConfig])
def test_misspelt_settings_of_every_backbone_are_refused(backbone: type[Strict]) -> None:
    name = backbone.model_fields["name"].default
    for key in backbone.model_fields:
        with pytest.raises(ConfigError, match=rf"did you mean '{key}'"):
            resolve(request(backbone=name, model={"backbone": {misspelt(key): 1}}), "test")


@pytest.mark.parametrize("kind", [PrepareSettings, SplitConfig])
def test_misspelt_settings_of_preparing_are_refused(kind: type[Strict]) -> None:
    for key in kind.model_fields:
        with pytest.raises(ConfigError, match=rf"did you mean '{key}'"):
            parse(kind, {misspelt(key): 1}, "data prepare")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"backbone": "dinn"}, "'backbone' = 'dinn'"),
        ({"enhance": "disko"}, "'enhance' = 'disko': backbone 'din' can be enhanced by disco (did you mean 'disco'?)"),
        ({"enhance": "pad"}, "backbone 'din' can be enhanced by disco; it goes with sasrec, gru4rec, caser"),
        ({"backbone": "sasrec", "enhance": "padd"}, "(did you mean 'pad'?)"),
        (
            {"backbone": "sasrec", "negatives": 3},
            "negatives = 3 is drawn per positive of a ranking log; for 'sasrec' set model.neg",
        ),
        ({"backbone": "sasrec", "model": {"history": {}}}, "unknown key 'history'"),
        ({"model": {"task": "sequential"}}, "'task' = 'sequential'"),
        ({"training": {"phases": {"rank": {"lr": 0}}}}, "'phases.rank.lr' = 0"),
        ({"preset": "papers"}, "'preset' = 'papers'"),
        ({"seed": -1}, "'seed' = -1"),
        ({"negatives": 0}, "'negatives' = 0"),
        ({"model": 3}, "'model' = 3"),
        ({"training": {"lr": 0}}, "'lr' = 0"),
        ({"training": {"lr": float("nan")}}, "'lr' = nan"),
        ({"training": {"batch_size": 1.5}}, "'batch_size' = 1.5"),
        ({"training": {"tables": "sparse"}}, "'tables' = 'sparse'"),
        ({"model": {"dim": 1}}, "'dim' = 1"),
        ({"model": {"history": {"length": 0}}}, "'history.length' = 0"),
        ({"model": {"enhance": {"inter": False}}}, "no enhancer is chosen"),
        ({"preset": "textbook", "enhance": "disco"}, "preset 'textbook' is for backbones alone"),
        ({"model": {"backbone": {"name": "dcn"}}}, "the backbone is 'din'; choose it there"),
    ],
)
def test_values_that_cannot_be_are_named_with_what_was_given(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(request(**values), "test")
    assert said in str(caught.value)


@pytest.mark.parametrize(("preset", "backbone", "enhance"), COMBINATIONS)
def test_a_resolved_config_round_trips_through_toml(preset: str, backbone: str, enhance: str | None, tmp_path: Path) -> None:
    values = {"preset": preset, "backbone": backbone, "enhance": enhance, "knowledge": "k" if enhance else None}
    config = resolve(request(**values), "test")
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert from_toml(file) == config
    assert to_toml(from_toml(file)) == to_toml(config)


@pytest.mark.parametrize(
    "kind", [RunConfig, TrainingConfig, PhaseTraining, RankingConfig, DisCoConfig, DeepFMConfig, DCNConfig, DINConfig]
)
def test_only_a_setting_that_defaults_to_none_can_be_none(kind: type[Strict]) -> None:
    """TOML has no null: a None that is left out must come back as None."""
    for name, field in kind.model_fields.items():
        if type(None) in getattr(field.annotation, "__args__", ()):
            assert field.default is None, name


def test_the_request_lies_over_the_preset() -> None:
    config = resolve(request(preset="paper", enhance="disco", knowledge="k", training={"lr": 0.01}), "test")
    assert (config.training.lr, config.training.batch_size, config.training.patience) == (0.01, 256, 10)
    assert config.model.enhance is not None
    assert not config.model.enhance.club_normalise
    assert all(set(presets) == set(PRESETS) for presets in TRAINING_PRESETS.values())


def test_the_backbone_says_which_task_it_is(tmp_path: Path) -> None:
    assert (request().task, request(backbone="caser").task) == ("ranking", "sequential")
    assert set(BACKBONES["ranking"] + BACKBONES["sequential"]) == set(get_args(RunRequest.model_fields["backbone"].annotation))
    ranking, sequential = (resolve(request(backbone=name), "test") for name in ("din", "gru4rec"))
    assert (ranking.task, sequential.task) == (ranking.model.task, sequential.model.task) == ("ranking", "sequential")
    assert (ranking.training.decoupled, sequential.training.decoupled) == (False, True)


def test_a_phase_has_its_own_values_over_the_run_s() -> None:
    changes = {"phases": {"align": {"patience": 3}}}
    config = resolve(request(backbone="sasrec", enhance="pad", preset="paper", training=changes), "test")
    found = [config.training.of_phase(name) for name in ("pretrain", "align", "experts")]
    assert [(each.lr, each.patience, each.decoupled) for each in found] == [
        (1e-5, 10, True),
        (1e-5, 3, True),
        (1e-4, 10, True),
    ]
    assert not any(each.phases for each in found)
    config.check_phases(["pretrain", "align", "experts"])


def test_settings_of_a_phase_that_a_model_does_not_have_are_refused() -> None:
    resolve(request(backbone="sasrec", preset="paper"), "test").check_phases(["pretrain"])
    for phases, name in (({"expert": {"lr": 1e-4}}, "expert"), ({"experts": {"lr": 1e-3}}, "experts")):
        changed = resolve(request(backbone="sasrec", preset="paper", training={"phases": phases}), "test")
        with pytest.raises(ConfigError, match=rf"training\.phases: SASRec has no phase '{name}'"):
            changed.check_phases(["pretrain"])
    with pytest.raises(ConfigError, match=r"no phase 'rnk' \(did you mean 'rank'\?\)"):
        resolve(request(training={"phases": {"rnk": {}}}), "test").check_phases(["rank"])


def test_a_config_from_before_there_were_tasks_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(to_toml(resolve(request(), "test")).replace('task = "ranking"\n', ""))
    with pytest.raises(ConfigError, match=r"config\.toml: written by an earlier version.*train it again"):
        from_toml(file)


def test_changes_are_toml_values_and_bare_words_are_text() -> None:
    changes = [
        "model.dim=64",
        "model.backbone.mlp=[8, 4]",
        "training.tables=lazy",
        "preset = paper",
        'knowledge="a b"',
        "data=a=b",
    ]
    assert parse_changes([*changes, "model.history.mean=false"]) == {
        "model": {"dim": 64, "backbone": {"mlp": [8, 4]}, "history": {"mean": False}},
        "training": {"tables": "lazy"},
        "preset": "paper",
        "knowledge": "a b",
        "data": "a=b",
    }
    assert parse_changes(["seed=1", "seed=2"]) == {"seed": 2}


@pytest.mark.parametrize("change", ["model.dim", "=3", "model..dim=3", ".dim=3", "model.=3", ""])
def test_changes_without_a_key_or_a_value_are_refused(change: str) -> None:
    with pytest.raises(ConfigError, match=r"expected key=value, such as model\.dim=64"):
        parse_changes([change])


@given(st.text(max_size=30))
def test_no_change_crashes_the_parser(text: str) -> None:
    try:
        found = parse_changes([text])
    except ConfigError:
        return
    assert len(found) == 1


def test_settings_beside_the_file_count_over_it_and_may_complete_it(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('backbone = "dcn"\n[model]\ndim = 16\n[model.history]\nlength = 5\n')
    found = read_request(file, {"data": "d", "model": {"history": {"length": 9}}})
    assert (found.data, found.backbone, found.model) == ("d", "dcn", {"dim": 16, "history": {"length": 9}})
    with pytest.raises(ConfigError, match=r"run\.toml: required key 'data' is missing"):
        read_request(file, {})


def test_unreadable_run_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the run file does not exist"):
        read_request(tmp_path / "no.toml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_request(tmp_path, {})
    (tmp_path / "bad.toml").write_text("data = [")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        read_request(tmp_path / "bad.toml", {})
    (tmp_path / "latin.toml").write_bytes('data = "caf\xe9"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml: not valid TOML"):
        read_request(tmp_path / "latin.toml", {})
