"""Names to things: what is installed is found, and what cannot be used says why and whose it is."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from braidrec import registry
from braidrec.config import RunRequest, resolve
from braidrec.errors import ConfigError
from braidrec.registry import TASKS, Registry, Spec, TaskSpec, task_of
from braidrec.strict import Strict, parse


class Settings(Strict):
    width: int = 1


def spec(name: str = "tower", **more: Any) -> Spec:
    return Spec(name, name.title(), Settings, Settings, **more)


TOWER = spec()
LATE = spec("late")


class Package:
    """What a distribution's metadata would say of it."""

    def __init__(self, name: str):
        self.name = name


def install(monkeypatch: pytest.MonkeyPatch, **entries: tuple[str, ...]) -> Registry[Spec]:
    """A registry with one entry of ours, ``own``, and entry points: name -> "package=module:ATTRIBUTE", one or several."""

    def found(*, group: str) -> list[EntryPoint]:
        assert group == "braidrec.test.things"
        points = []
        for name, values in entries.items():
            for value in values:
                package, _, where = value.partition("=")
                point = EntryPoint(name, where, group)
                points.append(point._for(Package(package)))  # type: ignore[attr-defined]
        return points

    monkeypatch.setattr(registry, "entry_points", found)
    return Registry("thing", "braidrec.test.things", Spec, {"own": "test_registry:OWN"})


OWN = spec("own")


def test_names_cost_no_import_and_things_come_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    things = install(monkeypatch, tower=("shelf=test_registry:TOWER",), broken=("shelf=no_such_module_at_all:X",))
    assert list(things) == ["own", "broken", "tower"]
    assert len(things) == 3
    assert "tower" in things
    assert "nobody" not in things
    assert things["tower"] is TOWER
    assert things["own"] is OWN
    assert (things.origin("own"), things.origin("tower")) == ("test_registry", "shelf")


def test_a_name_that_nobody_has_is_refused_with_the_nearest_of_all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    things = install(monkeypatch, tower=("shelf=test_registry:TOWER",))
    with pytest.raises(ConfigError, match=r"unknown thing 'towr' \(did you mean 'tower'\?\)"):
        things["towr"]


def test_a_plug_in_that_cannot_be_imported_says_whose_it_is_and_keeps_nobody_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    things = install(monkeypatch, tower=("shelf=test_registry:TOWER",), broken=("shelf=no_such_module_at_all:X",))
    with pytest.raises(
        ConfigError, match=r"thing 'broken' \(no_such_module_at_all:X, of the package shelf\) cannot be imported"
    ):
        things["broken"]
    assert not things.readable("broken")
    assert things["tower"] is TOWER


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("shelf=test_registry:NOTHING", "cannot be imported: AttributeError"),
        ("shelf=test_registry:install", "is a function, where a Spec is needed"),
        ("shelf=test_registry:LATE", "calls itself 'late'; an entry point has the name of what it leads to"),
    ],
)
def test_a_plug_in_that_leads_nowhere_is_refused(value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"thing 'tower' \(test_registry:.*of the package shelf\) ") as caught:
        install(monkeypatch, tower=(value,))["tower"]
    assert said in str(caught.value)


def test_two_plug_ins_of_one_name_are_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    things = install(monkeypatch, tower=("shelf=test_registry:TOWER", "loft=test_registry:LATE"))
    assert list(things) == ["own", "tower"]
    with pytest.raises(ConfigError, match="thing 'tower' is registered by loft and by shelf, so the name says nothing"):
        things["tower"]


def test_a_plug_in_does_not_take_a_name_of_ours_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    things = install(monkeypatch, own=("shelf=test_registry:TOWER",))
    with pytest.raises(ConfigError, match="thing 'own' is registered by test_registry and by shelf"):
        things["own"]
    assert things.givers("own") == ["test_registry", "shelf"]


def test_the_same_entry_seen_on_two_paths_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    things = install(monkeypatch, tower=("shelf=test_registry:TOWER", "shelf=test_registry:TOWER"))
    assert things["tower"] is TOWER


def test_what_is_held_for_a_while_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    things = install(monkeypatch)
    with things.holding(TOWER):
        assert things["tower"] is TOWER
        assert list(things) == ["own", "tower"]
    assert list(things) == ["own"]


# -- specs ----------------------------------------------------------------------------------------------------------------


def test_a_preset_that_names_an_unknown_key_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigError, match=r"'tower', preset 'paper': unknown key 'widht' \(did you mean 'width'\?\)"):
        spec(presets={"ours": {}, "paper": {"widht": 2}})
    with pytest.raises(ConfigError, match=r"'tower', preset 'ours': 'width' = 'x'"):
        spec(joined={"ours": {"width": "x"}})


def test_a_preset_that_is_left_out_means_authors_and_without_that_the_defaults() -> None:
    made = spec(presets={"ours": {}, "authors": {"width": 7}}, training={"authors": {"lr": 2.0}})
    assert [made.settings(preset) for preset in ("ours", "paper", "authors")] == [{}, {"width": 7}, {"width": 7}]
    assert made.training_of("ours") == {"lr": 2.0}
    assert spec().settings("paper") == {}
    fixed = spec(values={"width": 3}, joined={"ours": {"width": 4}})
    assert [fixed.settings("ours", joined=joined)["width"] for joined in (False, True)] == [3, 4]


def test_titles_and_text_may_depend_on_the_settings() -> None:
    made = Spec("x", lambda config: f"X{config.width}", Settings, Settings, reads_text=lambda config: config.width > 1)
    assert (made.title_of(Settings()), made.needs_text(Settings())) == ("X1", False)
    assert (made.title_of(Settings(width=2)), made.needs_text(Settings(width=2))) == ("X2", True)


# -- tasks ----------------------------------------------------------------------------------------------------------------


def twin_task(name: str, backbone: str) -> TaskSpec:
    ranking = TASKS["ranking"]
    registries = registry.own_registries(name, backbones={backbone: "test_registry:OWN"})
    return TaskSpec(
        name,
        name,
        ranking.where,
        ranking.config,
        **registries,
        metrics=ranking.metrics,
        default=backbone,
        model={},
        training={},
    )


def test_a_name_that_two_tasks_share_needs_its_task() -> None:
    with TASKS.holding(twin_task("shelving", "din")):
        with pytest.raises(ConfigError, match="backbone 'din' is of ranking and of shelving; say which with task=\"ranking\""):
            task_of("din", None)
        assert task_of("din", "shelving").name == "shelving"
        assert task_of("dcn", None).name == "ranking"
    assert task_of("din", None).name == "ranking"


def test_every_name_of_ours_leads_to_its_spec() -> None:
    for task in TASKS.values():
        for kind in (task.backbones, task.methods, task.models, task.baselines):
            assert all(kind[name].name == name for name in kind)
        assert task.room().spec is task


def test_names_presets_and_top_level_keys_are_checked_before_torch_is_imported(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"backbone": "dinn"},
        {"preset": "papers"},
        {"enhance": "disko"},
        {"backbones": "din"},
        {"training": {"learning_rate": 1}},
        {"task": "x"},
    ]
    code = (
        "import sys\nfrom braidrec.config import RunRequest, resolve\nfrom braidrec.errors import ConfigError\n"
        "from braidrec.strict import parse\n"
        f"for values in {wrong!r}:\n"
        "    try:\n        resolve(parse(RunRequest, {'data': 'x', **values}, 'fit'), 'fit')\n"
        "    except ConfigError:\n        continue\n    raise AssertionError(values)\n"
        "print([name for name in ('torch', 'polars', 'numpy', 'lancedb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_fitted_model_has_nothing_for_training_to_set() -> None:
    task = TASKS["ranking"]
    counted = Spec("counted", "Counted", Settings, Settings, fitted=True)
    with task.models.holding(counted):
        request = parse(RunRequest, {"data": "x", "backbone": "counted", "training": {"lr": 1.0}}, "fit")
        with pytest.raises(ConfigError, match=r"fit: training: 'counted' is fitted at once.*drop lr"):
            resolve(request, "fit")
        machine = {"accelerator": "cpu", "checkpoint_seconds": 5.0}
        request = parse(RunRequest, {"data": "x", "backbone": "counted", "training": machine}, "fit")
        assert resolve(request, "fit").training.accelerator == "cpu"
        with pytest.raises(ConfigError, match="backbone 'counted' can be enhanced by nothing"):
            parse(RunRequest, {"data": "x", "backbone": "counted", "enhance": "disco"}, "fit")
