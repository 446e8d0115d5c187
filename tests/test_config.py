"""The run file: every name is checked, every resolved value survives the file it is saved in."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import small_runs
from braidrec.config import RunConfig, RunRequest, from_toml, from_values, parse_changes, read_request, resolve, to_toml
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.errors import ConfigError
from braidrec.ranking.config import HistoryConfig, RankingConfig
from braidrec.registry import TASKS
from braidrec.strict import Strict, parse
from braidrec.training.config import PhaseTraining, TrainingConfig
from braidrec.training.stages import check_phases

COMBINATIONS = [
    (preset, backbone, enhance)
    for task in TASKS.values()
    for preset in task.presets
    for backbone in task.backbones
    for enhance in (None, *task.methods)
    if not (preset in task.alone and enhance)
]
DISCO, DIN = TASKS["ranking"].methods["disco"].config, TASKS["ranking"].backbones["din"].config


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
        ("model.enhance.", DISCO),
        ("model.disco.", DISCO),
        ("model.backbone.", DIN),
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


@pytest.mark.parametrize("backbone", [(task.name, name) for task in TASKS.values() for name in task.backbones])
def test_misspelt_settings_of_every_backbone_are_refused(backbone: tuple[str, str]) -> None:
    task, name = backbone
    for key in TASKS[task].backbones[name].config.model_fields:
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
        ({"backbone": "dinn"}, "unknown backbone 'dinn' (did you mean 'din'?)"),
        ({"task": "rankin"}, "unknown task 'rankin' (did you mean 'ranking'?)"),
        ({"task": "ranking", "backbone": "sasrec"}, "the task 'ranking' has no backbone 'sasrec'"),
        ({"enhance": "disko"}, "'enhance' = 'disko': backbone 'din' can be enhanced by disco, edk (did you mean 'disco'?)"),
        ({"enhance": ["disco", "disco"]}, "'disco' stands there twice"),
        ({"enhance": "disco", "model": {"disco": {"intra": 1}}}, "unknown key 'disco.intra' (did you mean 'inter'?)"),
        ({"model": {"disco": {"inter": False}}}, "'disco' has settings but is not chosen; choose enhance = 'disco'"),
        ({"enhance": "disco", "model": {"enhance": {"name": "edk"}}}, "'enhance.name' = 'edk', but the enhance is 'disco'"),
        ({"enhance": "pad"}, "backbone 'din' can be enhanced by disco, edk; it goes with sasrec, gru4rec, caser"),
        ({"backbone": "sasrec", "enhance": "padd"}, "(did you mean 'pad'?)"),
        (
            {"backbone": "sasrec", "negatives": 3},
            "negatives = 3 is drawn per positive of a ranking log; for 'sasrec' set model.neg",
        ),
        ({"backbone": "sasrec", "model": {"history": {}}}, "unknown key 'history'"),
        ({"model": {"task": "sequential"}}, "unknown key 'task'"),
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
    "kind",
    [RunConfig, TrainingConfig, PhaseTraining]
    + [task.config_type() for task in TASKS.values()]
    + [spec.config for task in TASKS.values() for kind in (task.backbones, task.methods) for spec in kind.values()],
)
def test_only_a_setting_that_defaults_to_none_can_be_none(kind: type[Strict]) -> None:
    """TOML has no null: a None that is left out must come back as None."""
    for name, field in kind.model_fields.items():
        if type(None) in getattr(field.annotation, "__args__", ()):
            assert field.default is None, name


def test_the_request_lies_over_the_preset() -> None:
    config = resolve(request(preset="paper", enhance="disco", knowledge="k", training={"lr": 0.01}), "test")
    assert (config.training.lr, config.training.batch_size, config.training.patience) == (0.01, 256, 10)
    assert config.model.of("disco").club_normalise is False
    for task in TASKS.values():
        assert set(task.training) == set(task.model) == set(task.presets)


def test_settings_of_the_one_enhancer_stand_under_its_name_or_under_enhance() -> None:
    named, short = (resolve(request(enhance="disco", model={key: {"inter": False}}), "test") for key in ("disco", "enhance"))
    assert named == short
    assert named.model.of("disco").inter is False
    assert resolve(request(enhance=["disco"]), "test") == resolve(request(enhance="disco"), "test")


def test_knowledge_is_one_folder_or_several() -> None:
    assert request().knowledge == ()
    assert request(knowledge="a").knowledge == ("a",)
    assert request(knowledge=["a", "b"]).knowledge == ("a", "b")


def test_the_backbone_says_which_task_it_is() -> None:
    assert resolve(request(), "test").backbone == "din"
    assert resolve(request(task="sequential"), "test").backbone == "sasrec"
    ranking, sequential = (resolve(request(backbone=name), "test") for name in ("din", "gru4rec"))
    assert (ranking.task, sequential.task) == ("ranking", "sequential")
    assert (ranking.training.decoupled, sequential.training.decoupled) == (False, True)


def test_a_phase_has_its_own_values_over_the_run_s() -> None:
    changes = {"phases": {"align": {"patience": 3}}}
    config = resolve(request(backbone="sasrec", enhance="pad", preset="paper", training=changes), "test")
    found = [config.training.of_phase(name) for name in ("pretrain", "align", "experts")]
    assert [(each.lr, each.patience, each.decoupled) for each in found] == [
        (1e-3, 20, True),
        (1e-4, 3, True),
        (1e-4, 20, True),
    ]
    assert not any(each.phases for each in found)
    check_phases(config.training, ["pretrain", "align", "experts"], config.title)


def test_settings_of_a_phase_that_a_model_does_not_have_are_refused() -> None:
    def check(names: list[str], **values: Any) -> None:
        config = resolve(request(**values), "test")
        check_phases(config.training, names, config.title)

    check(["pretrain"], backbone="sasrec", preset="paper")
    for phases, name in (({"expert": {"lr": 1e-4}}, "expert"), ({"experts": {"lr": 1e-3}}, "experts")):
        with pytest.raises(ConfigError, match=rf"training\.phases: SASRec has no phase '{name}'"):
            check(["pretrain"], backbone="sasrec", preset="paper", training={"phases": phases})
    with pytest.raises(ConfigError, match=r"no phase 'rnk' \(did you mean 'rank'\?\)"):
        check(["rank"], training={"phases": {"rnk": {}}})


FORMER = """
data = "prepared/x"
preset = "ours"
seed = 1
[model]
task = "{task}"
dim = 16
[model.backbone]
name = "{backbone}"
[model.enhance]
{enhance}
[training]
lr = 0.5
"""


@pytest.mark.parametrize(
    ("task", "backbone", "enhance", "name", "title"),
    [
        ("ranking", "din", "inter = false", "disco", "DIN + DisCo"),
        ("sequential", "sasrec", 'name = "pad"\ngamma = 0.3', "pad", "SASRec + PAD"),
        ("sequential", "gru4rec", 'name = "pad"\nalignment = "none"', "smem", "GRU4Rec + SMEM"),
        ("sequential", "caser", 'name = "disco"', "disco", "Caser + DisCo-SR"),
    ],
)
def test_the_former_config_is_read(task: str, backbone: str, enhance: str, name: str, title: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        FORMER.format(task=task, backbone=backbone, enhance=enhance).replace("seed = 1", 'seed = 1\nknowledge = "k"')
    )
    config = from_toml(file)
    assert (config.task, config.backbone, config.enhance, config.title) == (task, backbone, (name,), title)
    assert (config.model.dim, config.training.lr, config.knowledge) == (16, 0.5, ("k",))  # type: ignore[attr-defined]
    file.write_text(to_toml(config))
    assert from_toml(file) == config


def test_a_run_of_a_task_that_is_not_installed_says_so(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(to_toml(resolve(request(), "test")).replace('task = "ranking"', 'task = "counting"'))
    with pytest.raises(
        ConfigError, match=r"config\.toml: a run of the task 'counting', which is not installed here.*install the"
    ):
        from_toml(file)


def test_a_misspelt_enhancer_is_answered_whatever_task_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    small_runs.break_plug_in(monkeypatch, TASKS)
    with pytest.raises(ConfigError, match=r"'din' can be enhanced by disco, edk \(did you mean 'disco'\?\)"):
        request(backbone="din", enhance="discoo")


def test_the_former_config_is_read_whatever_enhancer_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    small_runs.break_plug_in(monkeypatch, TASKS["ranking"].methods)
    values = tomllib.loads(FORMER.format(task="ranking", backbone="din", enhance="inter = false"))
    assert from_values(values, "x").enhance == ("disco",)


SAVED: dict[str, Any] = {"task": "ranking", "backbone": "din"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**SAVED, "enhance": 5}, "'enhance' = 5: expected a list of names"),
        ({**SAVED, "enhance": [["disco"]]}, r"'enhance' = \[\['disco'\]\]: expected a list of names"),
        ({**SAVED, "enhance": {"disco": 1}}, "'enhance' = {'disco': 1}: expected a list of names"),
        ({**SAVED, "model": 5}, "'model' = 5: expected a table"),
        ({"model": 5}, "'model' = 5: expected a table"),
        ({"model": {"task": ["ranking"], "enhance": {}}}, "names its task and its backbone"),
        ({"model": {"task": "ranking", "backbone": "din"}}, r"'model\.backbone' = 'din': expected a table"),
        ({"model": {"task": "ranking", "enhance": 5}}, r"'model\.enhance' = 5: expected a table"),
        ({"model": {"task": "ranking", "enhance": {"name": ["x"]}}}, r"'model\.enhance\.name' = \['x'\]: expected a name"),
    ],
)
def test_a_saved_config_of_another_shape_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^run/config\.toml: .*{said}"):
        from_values(values, "run/config.toml")


def test_a_config_from_before_there_were_tasks_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(FORMER.format(task="ranking", backbone="din", enhance="").replace('task = "ranking"\n', ""))
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


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "training.lr"),
        ("learning_rate", "training.lr"),
        ("patince", "training.patience"),
        ("dim", "model.dim"),
        ("dmi", "model.dim"),
        ("prest", "preset"),
        ("learn_ing", None),
    ],
)
def test_a_key_that_stands_one_table_too_high_is_offered_where_it_belongs(key: str, meant: str | None) -> None:
    offered = rf"\(did you mean '{meant}'\?\)" if meant else r"\(accepted: backbone, by_size, data, .*"
    with pytest.raises(ConfigError, match=rf"fit: unknown key '{key}' {offered}"):
        read_request(None, {"data": "x", key: 1})


@pytest.mark.parametrize(("key", "meant"), [("variant", "backbone.variant"), ("kind", "history.kind")])
def test_a_key_of_a_table_of_the_model_likewise(key: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key '{key}' \(did you mean '{meant}'\?\)"):
        resolve(request(model={key: 1}), "mine.toml")


@pytest.mark.parametrize(
    ("chosen", "key", "said"),
    [
        ({"backbone": "lightgcn"}, "dpth", r"\(did you mean 'depth'\?\)"),
        ({"backbone": "ease"}, "penlty", r"\(did you mean 'penalty'\?\)"),
        ({"backbone": "mf"}, "zzz", r"\(accepted: among, backbone, by_user, .*, loss, monitor, negatives, temperature\)"),
        ({"backbone": "mf", "enhance": "kar"}, "zzz", r"\(accepted: .*, dim, enhance, kar, l2, .*\)"),
        (
            {"backbone": "gbdt"},
            "zzz",
            r"\(accepted: backbone, l2, leaf_rows, leaves, lr, monitor, .*, train_on, trees, values\)",
        ),
        ({"backbone": "din"}, "zzz", r"\(accepted: backbone, dim, history, initial, .*, train_on, unknown_rate\)"),
    ],
)
def test_every_key_that_may_stand_in_the_model_s_table_is_offered(chosen: dict[str, Any], key: str, said: str) -> None:
    """Those of a backbone that may stand in [model] itself among them, and none that a model would not read."""
    with pytest.raises(ConfigError, match=rf"^x: model: unknown key '{key}' {said}$") as error:
        resolve(RunRequest.model_validate({"data": "-", **chosen, "model": {key: 1}}), "x")
    offered = str(error.value).partition("(accepted: ")[2].rstrip(")")
    for each in offered.split(", ") if offered else ():
        with pytest.raises(ConfigError) as error:
            resolve(RunRequest.model_validate({"data": "-", **chosen, "model": {each: object()}}), "x")
        assert "unknown key" not in str(error.value)
        assert "does not read" not in str(error.value)


def test_an_enhancer_that_is_not_there_names_the_file() -> None:
    values = resolve(request(enhance="disco"), "x").model_dump()
    with pytest.raises(ConfigError, match=r"^runs/x/config\.toml: unknown enhancer 'disko' \(did you mean 'disco'\?\)"):
        from_values({**values, "enhance": ["disko"]}, "runs/x/config.toml")
