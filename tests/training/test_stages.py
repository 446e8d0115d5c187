"""Stages without an optimiser, stages as phases of the loop, and where they run."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_training import ToyBatch, ToyBatches

from braidrec.errors import ConfigError, RunError, TrainingError
from braidrec.training import devices, loop
from braidrec.training.checkpoint import Store, read_archive, write_archive
from braidrec.training.config import TrainingConfig
from braidrec.training.contracts import FittedPhase, Hardware, Phase, Start, Step, TrainingResult
from braidrec.training.devices import device_of, place_of
from braidrec.training.loop import AnyPhase, train
from braidrec.training.stages import (
    Fitted,
    Group,
    Stage,
    check_phases,
    fitted_phase,
    left_to_train,
    main_group,
    make_phase,
    put_fitted,
    put_trained,
)

COUNTS = torch.arange(40.0)


class Counter(nn.Module):
    """scores (I + 1,), which fitting fills    inner: a part with buffers of its own"""

    scores: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()


class Head(nn.Module):
    """Two ids -> logit: their scores, which a fitted stage left, times a weight that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.apart = nn.Parameter(torch.zeros(1))
        self.register_buffer("table", torch.zeros(40))

    def step(self, batch: ToyBatch) -> Step:
        logits = self.table[batch.ids] @ self.weight
        return Step(
            losses=lambda: {"prediction": F.binary_cross_entropy_with_logits(logits, batch.label)},
            first={"estimators": lambda: (self.apart - 1).square().sum()},
        )


class Fit:
    """Counts, drawn with noise, and how often it was asked for them."""

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.tensors, self.calls, self.noise = tensors, 0, torch.zeros(0)

    def __call__(self) -> Mapping[str, Tensor]:
        self.calls += 1
        self.noise = torch.rand(3)
        assert not torch.is_grad_enabled()
        return {"scores": COUNTS, "inner.noise": self.noise} if self.tensors is None else self.tensors


def validate(module: nn.Module) -> dict[str, float]:
    assert not module.training
    return {"hits": 0.25, "other": 2.0}


def fitted(fit: Callable[[], Mapping[str, Tensor]], name: str = "count", **changes: Any) -> FittedPhase:
    return fitted_phase(Fitted(name, Counter(), fit, **changes), changes.pop("validate", validate))


def trained(name: str = "weigh", *, max_epochs: int = 1) -> Phase:
    """A stage that takes over what ``count`` fitted."""
    module = Head()
    stage = Stage(
        name,
        module,
        {"prediction": 1.0},
        [main_group(module, [module.apart]), Group("estimators", [module.apart], lr=0.5)],
        {"count": {"scores": "table"}},
        monitor="hits",
    )
    settings = TrainingConfig(lr=0.01, weight_decay=0.0, max_epochs=max_epochs, checks_per_epoch=3)
    return make_phase(stage, settings, ToyBatches(3), validate, monitor="auc")


def run(phases: list[AnyPhase], directory: Path, **changes: Any) -> TrainingResult:
    return train(phases, directory, **{"seed": 5, "show_progress": False, **changes})


def test_the_weights_of_a_stage_go_into_a_fresh_module_with_what_an_earlier_one_had_fitted() -> None:
    kept = Head()
    kept.register_buffer("counts", COUNTS)
    tensors = {name: tensor.detach().clone() + 1 for name, tensor in kept.state_dict().items()}
    fresh = Head()
    stage = Stage("weigh", fresh, {"prediction": 1.0}, [main_group(fresh)])
    put_trained(stage, tensors)
    assert fresh.state_dict().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in fresh.state_dict().items())
    with pytest.raises(RunError, match=r"the weights of stage 'weigh' lack 'weight'; they are of another model"):
        put_trained(stage, {name: tensor for name, tensor in tensors.items() if name != "weight"})
    module = Counter()
    put_trained(Fitted("count", module, Fit()), {"scores": COUNTS})
    assert torch.equal(module.get_buffer("scores"), COUNTS)


# -- fitted at once -------------------------------------------------------------------------------------------------------


def test_a_fitted_stage_is_fitted_once_validated_and_kept(tmp_path: Path) -> None:
    fit = Fit()
    phase = fitted(fit)
    [result] = run([phase], tmp_path).phases
    assert fit.calls == 1
    assert (result.name, result.best_check, result.best_step, result.steps) == ("count", 1, 0, 0)
    assert (result.metrics, result.best_metric, result.samples_per_second) == ({"hits": 0.25, "other": 2.0}, 0.25, 0.0)
    assert result.seconds >= 0
    assert not phase.module.training
    kept = read_archive(tmp_path / "weights" / result.weights)
    assert kept.facts == {"phase": "count", "step": 0, "metrics": {"hits": 0.25, "other": 2.0}}
    assert kept.files["model"].keys() == {"scores", "inner.noise"}
    for tensors in (kept.files["model"], dict(phase.module.named_buffers())):
        assert torch.equal(tensors["scores"], COUNTS)
        assert torch.equal(tensors["inner.noise"], fit.noise)
    [line] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (line["phase"], line["check"], line["step"], line["best"]) == ("count", 1, 0, True)
    assert line["validation"] == {"hits": 0.25, "other": 2.0}
    assert line["losses"] == line["first"] == line["monitors"] == {}


def test_what_it_draws_depends_on_the_seed_and_its_name_alone(tmp_path: Path) -> None:
    drawn = []
    for at, (seed, name) in enumerate([(5, "count"), (5, "count"), (6, "count"), (5, "other")]):
        fit = Fit()
        torch.manual_seed(at)
        run([fitted(fit, name)], tmp_path / str(at), seed=seed)
        drawn.append(fit.noise)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


def test_resumed_after_its_end_it_is_not_fitted_again(tmp_path: Path) -> None:
    first = Fit()
    done = run([fitted(first)], tmp_path)
    again = Fit()
    phase = fitted(again)
    assert run([phase], tmp_path) == done
    assert again.calls == 0
    assert torch.equal(phase.module.scores, COUNTS)
    assert torch.equal(phase.module.inner.noise, first.noise)
    assert not phase.module.training
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_interrupted_before_its_end_it_is_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it fits, while it is validated, and when its tensors are there but no checkpoint names them."""
    whole = Fit()
    run([fitted(whole), trained()], tmp_path / "whole")

    def killed() -> Mapping[str, Tensor]:
        raise KeyboardInterrupt

    def deaf(module: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    path, fit = tmp_path / "run", Fit()
    for phase in (fitted(killed), replace(fitted(fit), validate=deaf)):
        with pytest.raises(KeyboardInterrupt):
            run([phase, trained()], path)
        assert Store(path).latest() is None
    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "save", lambda self, current: killed())
        with pytest.raises(KeyboardInterrupt):
            run([fitted(fit), trained()], path)
    assert (fit.calls, [each.name for each in (path / "weights").iterdir()]) == (2, ["count-00000000"])
    phases = [fitted(fit), trained()]
    run(phases, path)
    assert fit.calls == 3
    assert torch.equal(fit.noise, whole.noise)
    for name in ("count-00000000", "weigh-00000004"):
        file = Path("weights", name, "model.safetensors")
        assert (path / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TrainingError)])
def test_a_signal_is_heeded_in_the_middle_of_fitting(number: int, kind: type[BaseException], tmp_path: Path) -> None:
    after: list[str] = []

    def signalled() -> Mapping[str, Tensor]:
        os.kill(os.getpid(), number)
        after.append("on")
        return {"scores": COUNTS}

    with pytest.raises(kind, match=r"interrupted in phase 'count', which is fitted at once .*start the same command again"):
        run([fitted(signalled), trained()], tmp_path)
    assert not after
    fit = Fit()
    run([fitted(fit), trained()], tmp_path)
    assert fit.calls == 1


def test_a_stage_that_follows_starts_from_it_whether_or_not_it_was_resumed(tmp_path: Path) -> None:
    fit, phase = Fit(), trained()
    result = run([fitted(fit), phase], tmp_path / "whole")
    assert [each.name for each in result.phases] == ["count", "weigh"]
    assert torch.equal(phase.module.table, COUNTS)
    assert phase.module.weight.abs().sum() > 0
    assert phase.module.apart.abs().sum() > 0

    def killed(module: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([fitted(Fit()), replace(trained(), validate=killed)], tmp_path / "broken")
    again, resumed = Fit(), trained()
    run([fitted(again), resumed], tmp_path / "broken")
    assert again.calls == 0
    assert torch.equal(resumed.module.weight, phase.module.weight)
    assert torch.equal(resumed.module.table, COUNTS)


class Weighed(Counter):
    """With a parameter, which fitting may fill or leave; ``same`` is its other name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.same = nn.Parameter(torch.ones(2), requires_grad=False)
        self.places: list[list[str]] = []

    def to(self, *where: Any) -> Weighed:  # type: ignore[override]
        self.places.append(sorted(self.state_dict()))
        return super().to(*where)  # type: ignore[no-any-return]


@pytest.mark.parametrize("tensors", [{"scores": COUNTS}, {"scores": COUNTS, "weight": torch.tensor([2.0, 3.0])}])
def test_a_fitted_module_may_have_parameters_and_is_resumed_with_them(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    def phase() -> FittedPhase:
        return fitted_phase(Fitted("count", Weighed(), lambda: tensors), validate)

    first, again = phase(), phase()
    run([first], tmp_path)
    run([again], tmp_path)
    for module in (first.module, again.module):
        assert isinstance(module.weight, nn.Parameter)
        assert module.same is module.weight
        assert torch.equal(module.weight, tensors.get("weight", torch.ones(2)))
        assert torch.equal(module.scores, COUNTS)
    assert "scores" in again.module.places[-1], "what comes from the checkpoint goes to the device, too"


def test_what_is_fitted_goes_where_others_share_it() -> None:
    module, other = Weighed(), nn.Module()
    shared = torch.zeros(3)
    module.register_buffer("scores", shared, persistent=False)
    other.register_buffer("table", shared)
    put_fitted(module, {"scores": torch.arange(3.0)})
    assert torch.equal(other.get_buffer("table"), torch.arange(3.0))
    assert "scores" in module.state_dict()
    put_fitted(module, {"scores": torch.arange(3)})
    assert module.scores.dtype == torch.int64
    with pytest.raises(RunError, match=r"what was fitted does not fit the module: 'weight' has shape \(3,\), in .* \(2,\)"):
        put_fitted(module, {"weight": torch.ones(3)})


def test_it_starts_from_an_earlier_stage_before_it_is_fitted(tmp_path: Path) -> None:
    """What is fitted may rest on what was learned: here, the weight of a trained stage."""
    head = trained()
    module = Counter()
    module.register_buffer("weight", torch.zeros(2))
    stage = Fitted("after", module, lambda: {"scores": module.weight * 10}, {"weigh": {"weight": "weight"}})
    taken = tmp_path / "elsewhere"
    run([fitted(Fit()), head, fitted_phase(stage, validate)], tmp_path / "run")
    assert head.module.weight.abs().sum() > 0
    assert torch.equal(module.weight, head.module.weight)
    assert torch.equal(module.scores, head.module.weight * 10)
    starts = fitted_phase(stage, validate, taken={"weigh": taken}).starts_from
    assert starts == [Start(taken, {"weight": "weight"})]
    with pytest.raises(ConfigError, match=r"phase 'after' starts from 'weigh', which is no earlier phase"):
        run([fitted_phase(stage, validate)], tmp_path / "alone")


@pytest.mark.parametrize(
    ("tensors", "metrics", "said"),
    [
        ({"scores": torch.tensor([0.0, math.nan])}, {"hits": 0.5}, "'scores' is not finite"),
        ({"scores": COUNTS, "inner.noise": torch.tensor([math.inf])}, {"hits": 0.5}, r"'inner\.noise' is not finite"),
        ({"scores": COUNTS}, {"hits": 0.5, "other": math.nan}, "'other' is not finite"),
    ],
)
def test_numbers_that_are_none_are_refused_and_nothing_is_kept(
    tensors: dict[str, Tensor], metrics: dict[str, float], said: str, tmp_path: Path
) -> None:
    phase = replace(fitted(Fit(tensors)), validate=lambda module: metrics)
    with pytest.raises(TrainingError, match=rf"phase 'count': {said}; look for such numbers in the input"):
        run([phase], tmp_path)
    assert Store(tmp_path).latest() is None
    assert not (tmp_path / "weights").exists()
    assert not (tmp_path / "metrics.jsonl").read_text()
    good = Fit()
    run([fitted(good)], tmp_path)
    assert good.calls == 1


def test_whole_numbers_and_bytes_are_tensors_too(tmp_path: Path) -> None:
    """Counts as they are, or trees as text."""
    text = torch.frombuffer(bytearray(b"tree 1: x < 3"), dtype=torch.uint8)
    phase = fitted(Fit({"scores": torch.arange(5), "trees": text}))
    run([phase], tmp_path)
    again = fitted(Fit())
    run([again], tmp_path)
    assert bytes(again.module.trees.tolist()) == b"tree 1: x < 3"
    assert again.module.scores.dtype == torch.int64


def test_a_checkpoint_of_a_trained_stage_is_not_gone_on_with_as_fitted(tmp_path: Path) -> None:
    run([fitted(Fit())], tmp_path)
    with pytest.raises(RunError, match=r"the checkpoint belongs to another plan: phases\[0\]\.name was 'count' and is now 'x'"):
        run([fitted(Fit(), "x")], tmp_path)
    with pytest.raises(RunError, match=r"phases\[0\]\.fitted was True and is now None"):
        run([replace(trained("count"), starts_from=[])], tmp_path)
    with pytest.raises(ConfigError, match="it names files"):
        fitted(Fit(), "a/b")


# -- stages as phases -----------------------------------------------------------------------------------------------------


def test_a_stage_takes_rates_and_the_stop_rule_from_the_settings_and_its_own_where_it_has_some() -> None:
    module = Head()
    groups = [
        Group("main", [module.weight]),
        Group("main.apart", [module.apart], lr=0.1, weight_decay=0.0),
    ]
    stage = Stage("weigh", module, {"prediction": 2.0}, groups, {"count": {"scores": "table"}, "other": {}}, mode="min")
    settings = TrainingConfig(
        lr=0.02,
        weight_decay=0.3,
        decoupled=True,
        max_epochs=7,
        patience=2,
        checks_per_epoch=3,
        clip_norm=1.5,
        average_epochs=0.5,
    )
    batches = ToyBatches(1)
    phase = make_phase(stage, settings, batches, validate, monitor="auc", taken={"other": Path("runs/x")})
    assert (phase.name, phase.module, phase.batches, phase.weights) == ("weigh", module, batches, {"prediction": 2.0})
    assert [(group.name, group.lr, group.weight_decay, group.decoupled) for group in phase.groups] == [
        ("main", 0.02, 0.3, True),
        ("main.apart", 0.1, 0.0, True),
    ]
    assert (phase.monitor, phase.mode, phase.clip_norm) == ("auc", "min", 1.5)
    assert (phase.stop.max_epochs, phase.stop.patience, phase.stop.checks_per_epoch) == (7, 2, 3)
    assert phase.averaging == 1 - 1 / (0.5 * len(batches))
    assert phase.starts_from == [Start("count", {"scores": "table"}), Start(Path("runs/x"), {})]
    assert make_phase(replace(stage, monitor="hits"), settings, batches, validate, monitor="auc").monitor == "hits"
    plain = make_phase(stage, settings.model_copy(update={"average_epochs": 0.0}), batches, validate, monitor="auc")
    assert plain.averaging == 0.0
    short = make_phase(stage, settings.model_copy(update={"average_epochs": 0.01}), batches, validate, monitor="auc")
    assert short.averaging == 0.0, "a mean over less than a step is none"


def test_estimators_decay_as_adam_does_whatever_the_main_groups_do() -> None:
    module = Head()
    groups = [main_group(module, [module.apart]), Group("estimators", [module.apart], 0.5, 0.1, steps=3)]
    stage = Stage("weigh", module, {"prediction": 1.0}, groups)
    phase = make_phase(stage, TrainingConfig(decoupled=True), ToyBatches(1), validate, monitor="auc")
    main, estimators = phase.groups
    assert [id(each) for each in main.parameters] == [id(module.weight)]
    assert (main.decoupled, main.steps) == (True, 1)
    assert (estimators.decoupled, estimators.lr, estimators.weight_decay, estimators.steps) == (False, 0.5, 0.1, 3)
    module.weight.requires_grad_(False)
    assert main_group(module).parameters == [module.apart]


def test_only_a_stage_that_another_follows_is_taken_over() -> None:
    stages = [Fitted(name, Counter(), Fit()) for name in ("first", "second", "last")]
    assert left_to_train(stages, {}) == stages
    assert left_to_train(stages, {"first": "runs/x", "second": "runs/y"}) == stages[2:]
    with pytest.raises(ConfigError, match=r"names the stage 'last', which is none that another follows .*has: first, second\)"):
        left_to_train(stages, {"last": "runs/x"})
    with pytest.raises(ConfigError, match=r"\(this model has: a single stage\)"):
        left_to_train(stages[:1], {"first": "runs/x"})


def test_settings_of_a_phase_that_there_is_not_are_refused() -> None:
    training = TrainingConfig.model_validate({"phases": {"first": {"lr": 0.1}}})
    check_phases(training, ["first", "last"], "Toy")
    with pytest.raises(ConfigError, match=r"training\.phases: Toy has no phase 'first' \(did you mean 'frist'\?\)"):
        check_phases(training, ["frist", "last"], "Toy")


@pytest.mark.parametrize("key", ["averaging", "stop.min_epochs"])
def test_a_checkpoint_of_a_version_without_a_setting_is_gone_on_with(key: str, tmp_path: Path) -> None:
    run([fitted(Fit()), trained()], tmp_path)
    [*_, last] = sorted((tmp_path / "checkpoints").iterdir())
    archive = read_archive(last)
    phase = archive.facts["plan"]["phases"][1]
    table, _, name = key.rpartition(".")
    del (phase[table] if table else phase)[name]
    write_archive(last, archive)
    assert [each.name for each in run([fitted(Fit()), trained()], tmp_path).phases] == ["count", "weigh"]
    with pytest.raises(RunError, match=r"stop\.max_epochs was 1 and is now 2"):
        run([fitted(Fit()), trained(max_epochs=2)], tmp_path)


# -- where ----------------------------------------------------------------------------------------------------------------


def test_unknown_devices_are_refused_with_those_accepted(tmp_path: Path) -> None:
    for word in ("gpu", "", "CPU", "cuda:0"):
        with pytest.raises(ConfigError, match=rf"accelerator = '{word}': accepted are auto, cpu, cuda, mps"):
            device_of(word)
    with pytest.raises(ConfigError, match=r"accelerator = 'cdua': accepted are .*did you mean 'cuda'"):
        run([fitted(Fit())], tmp_path / "run", hardware=Hardware(accelerator="cdua"))
    assert not (tmp_path / "run").exists()


def test_a_module_is_where_its_tensors_are_of_whatever_kind() -> None:
    module = nn.Module()
    assert place_of(module) == torch.device("cpu")
    module.register_buffer("scores", torch.zeros(3, device="meta"))
    assert place_of(module) == torch.device("meta")
    module.weight = nn.Parameter(torch.zeros(2))
    assert place_of(module) == torch.device("cpu")


def test_a_device_that_is_not_here_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    for word in ("cuda", "mps"):
        with pytest.raises(ConfigError, match=rf"accelerator = '{word}': torch .* sees no such device here; use auto or cpu"):
            device_of(word)
    with pytest.raises(ConfigError, match="sees no such device here"):
        run([fitted(Fit())], tmp_path / "run", hardware=Hardware(accelerator="cuda"))
    assert not (tmp_path / "run").exists()


def test_auto_takes_a_gpu_where_there_is_one_and_never_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    assert (device_of("auto").type, device_of("mps").type) == ("cpu", "mps")
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    assert (device_of("auto").type, device_of("cuda").type, device_of("cpu").type) == ("cuda", "cuda", "cpu")
