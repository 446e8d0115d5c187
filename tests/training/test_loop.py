"""The loop itself: who is stepped on what, when it stops, what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_training import WEIGHTS, Toy, ToyBatch, ToyBatches, toy_phases

from braidrec.errors import ConfigError, RunError, TrainingError
from braidrec.training.checkpoint import Store
from braidrec.training.contracts import CheckpointEvery, Hardware, OptimiserGroup, Phase, Start, Step, StopRule
from braidrec.training.loop import train


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: Mapping[str, Tensor], module: nn.Module) -> set[str]:
    return {name.split(".")[0] for name, tensor in module.state_dict().items() if not torch.equal(before[name], tensor)}


def one_phase(**changes: Any) -> Phase:
    return replace(toy_phases(sparse=False)[0], **changes)


def test_estimators_step_first_and_alone(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    class Watched(Toy):
        def step(self, batch: ToyBatch) -> Step:
            out, before = super().step(batch), weights(self)

            def losses() -> Mapping[str, Tensor]:
                seen.append(changed(before, self))  # after the estimators, before the main groups
                self.between = weights(self)
                return out.losses()

            return replace(out, losses=losses)

    phase = one_phase()
    module = Watched(phase.module.table, 0)
    after: list[set[str]] = []
    module.register_forward_pre_hook(lambda *_: after.append(changed(module.between, module)) if seen else None)
    train([replace(phase, module=module, groups=module.groups())], tmp_path, show_progress=False)
    assert all(step == {"estimator"} for step in seen)
    assert after[0] == {"table", "score"}
    assert all("estimator" not in step for step in after)


@pytest.mark.parametrize(("least", "epochs"), [(0, 1), (3, 3), (9, 4)])
def test_patience_ends_nothing_before_the_least_number_of_epochs(least: int, epochs: int, tmp_path: Path) -> None:
    """A validation that never improves after its first check, patience of two checks at two checks an epoch."""
    values = iter([0.5, *[0.4] * 20])
    stop = StopRule(max_epochs=4, min_epochs=least, patience=1, checks_per_epoch=2)
    phase = one_phase(stop=stop, validate=lambda module: {"auc": next(values)}, monitor="auc")
    [result] = train([phase], tmp_path, show_progress=False).phases
    assert result.steps == epochs * len(phase.batches)
    assert result.best_check == 1


def test_gradient_of_the_main_loss_stops_at_frozen_parameters(tmp_path: Path) -> None:
    phase = one_phase()
    before = weights(phase.module)
    main = OptimiserGroup("main", list(phase.module.score.parameters()), 0.01)
    train([replace(phase, groups=[main, phase.groups[1]])], tmp_path, show_progress=False)
    assert changed(before, phase.module) == {"score", "estimator"}


def test_main_may_be_several_groups(tmp_path: Path) -> None:
    phase = one_phase()
    groups = [
        OptimiserGroup("main", list(phase.module.score.parameters()), 0.01),
        OptimiserGroup("main.table", [phase.module.table.weight], 0.001, decoupled=True),
        phase.groups[1],
    ]
    before = weights(phase.module)
    train([replace(phase, groups=groups)], tmp_path, show_progress=False)
    assert changed(before, phase.module) == {"table", "score", "estimator"}


def test_lazy_tables_train_like_dense_ones(tmp_path: Path) -> None:
    ends = []
    for sparse in (False, True):
        phase = toy_phases(sparse=sparse)[0]
        plain = replace(phase, groups=[replace(group, weight_decay=0.0) for group in phase.groups])
        train([plain], tmp_path / str(sparse), show_progress=False)
        ends.append(phase.module.table.weight.detach())
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-4)


def scripted(values: list[float]) -> Callable[[nn.Module], dict[str, float]]:
    left = iter(values)
    return lambda module: {"auc": next(left)}


def test_best_weights_come_back_and_the_phase_stops_inside_an_epoch(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    values = scripted([0.5, 0.6, 0.7, 0.8, 0.75, 0.8, 0.8005])

    def validate(module: nn.Module) -> dict[str, float]:
        kept.append(weights(module))
        return values(module)

    stop = StopRule(max_epochs=9, patience=3, checks_per_epoch=3, min_delta=0.001)
    phase = one_phase(validate=validate, stop=stop)
    result = train([phase], tmp_path, show_progress=False).phases[0]
    assert (result.best_check, result.best_step, result.best_metric) == (4, 16, 0.8)
    assert result.steps == 28  # the seventh check, two epochs and a third in
    assert not changed(kept[3], phase.module)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["best"] for row in rows] == [True] * 4 + [False] * 3


def test_checks_may_come_every_few_epochs_the_first_after_one_and_the_last_at_the_end(tmp_path: Path) -> None:
    values = scripted([0.5, 0.6, 0.55, 0.7])
    stop = StopRule(max_epochs=9, patience=2, checks_per_epoch=3, epochs_per_check=3)
    train([one_phase(validate=values, stop=stop)], tmp_path / "whole", show_progress=False)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1.0, 4.0, 7.0, 9.0]
    stop = StopRule(max_epochs=9, patience=1, epochs_per_check=2)
    result = train([one_phase(validate=scripted([0.5, 0.4]), stop=stop)], tmp_path / "tired", show_progress=False)
    assert (result.phases[0].steps, result.phases[0].best_check) == (3 * 12, 1)


def test_lower_may_be_better(tmp_path: Path) -> None:
    phase = one_phase(validate=scripted([3.0, 2.0, 5.0]), mode="min", stop=StopRule(max_epochs=1, checks_per_epoch=3))
    assert train([phase], tmp_path, show_progress=False).phases[0].best_metric == 2.0


def test_logged_losses_are_means_since_the_last_check(tmp_path: Path) -> None:
    seen: list[float] = []

    class Counted(Toy):
        def step(self, batch: ToyBatch) -> Step:
            out = super().step(batch)
            seen.append(float(len(seen)))
            return replace(out, losses=lambda: out.losses() | {"prediction": out.losses()["prediction"] * 0 + seen[-1]})

    phase = one_phase()
    module = Counted(phase.module.table, 0)
    stop = StopRule(max_epochs=1, checks_per_epoch=3)
    train([replace(phase, module=module, groups=module.groups(), stop=stop)], tmp_path, show_progress=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["losses"]["prediction"] for row in rows] == [1.5, 5.5, 9.5]


class Broken(Toy):
    """Goes wrong at the 20th step, in the way that ``kind`` says."""

    kind = "loss"
    count = 0

    def step(self, batch: ToyBatch) -> Step:
        self.count += 1
        out = super().step(batch)
        if self.count != 20:
            return out
        if self.kind == "first":
            return replace(out, first={"estimators": lambda: self.estimator.weight.sum() * math.inf})
        if self.kind == "gradient":
            zero = self.score[0].weight.sum() * 0.0
            return replace(out, losses=lambda: out.losses() | {"prediction": zero.abs().sqrt()})
        return replace(out, losses=lambda: out.losses() | {"disentangle": out.losses()["disentangle"] * math.nan})


@pytest.mark.parametrize(
    ("kind", "clip", "message"),
    [
        ("loss", None, r"phase 'pretrain', epoch 2, batch 8 of 12 \(step 20\): loss 'disentangle' is nan"),
        ("first", None, r"step 20\): own loss of the group 'estimators' is nan"),
        ("gradient", 1.0, r"step 20\): gradient of 'score.0.weight' is not finite"),
        ("gradient", None, r"step 2[01]\): .*'(table|score).*not finite"),
    ],
)
def test_numbers_that_are_none_stop_the_run(tmp_path: Path, kind: str, clip: float | None, message: str) -> None:
    phase = one_phase()
    module = Broken(phase.module.table, 0)
    module.kind = kind
    broken = replace(phase, module=module, groups=module.groups(), clip_norm=clip)
    said = rf"{message}.*; lower lr or set clip_norm, or lower the rate of 'estimators' \([\d.e-]+\)(, and look for|$)"
    with pytest.raises(TrainingError, match=said):
        train([broken], tmp_path, checkpoint_every=CheckpointEvery(batches=3), show_progress=False)
    last = Store(tmp_path).latest()
    assert last is not None
    assert last.facts["progress"]["step"] == 18
    assert all(torch.isfinite(tensor).all() for tensor in last.files["model"].values())


def test_names_must_agree(tmp_path: Path) -> None:
    def fails(phase: Phase, message: str, kind: type[Exception] = TrainingError) -> None:
        with pytest.raises(kind, match=message):
            train([phase], tmp_path / str(len(list(tmp_path.iterdir()))), show_progress=False)

    fails(
        one_phase(weights={"prediction": 1.0, "disentangel": 1.0}), r"'disentangle' has no weight \(did you mean 'disentangel'"
    )
    fails(one_phase(weights=WEIGHTS | {"extra": 1.0}), "weight is given for the loss 'extra'")
    fails(one_phase(monitor="acu"), r"no metric 'acu'.*did you mean 'auc'")
    fails(one_phase(validate=lambda module: {"auc": math.nan}), "metric 'auc' is nan")
    groups = one_phase().groups
    misnamed = one_phase()
    named = [misnamed.groups[0], replace(misnamed.groups[1], name="estimator")]
    fails(replace(misnamed, groups=named), r"trains the group 'estimators'.*did you mean 'estimator'")
    with pytest.raises(ConfigError, match="is not part of the module"):
        one_phase(groups=groups)
    with pytest.raises(ConfigError, match="'main' among them"):
        one_phase(groups=[])
    with pytest.raises(ConfigError, match="is already in group 'main'"):
        replace(misnamed, groups=[*misnamed.groups, replace(misnamed.groups[0], name="main.more")])
    with pytest.raises(ConfigError, match="it names files"):
        one_phase(name="a/b")


def test_phases_are_checked(tmp_path: Path) -> None:
    first, second = toy_phases()
    with pytest.raises(ConfigError, match="each name once"):
        train([first, replace(second, name="pretrain")], tmp_path)
    with pytest.raises(ConfigError, match=r"no earlier phase \(did you mean 'pretrain'"):
        train([first, replace(second, starts_from=[Start("pretrian")])], tmp_path)
    with pytest.raises(ConfigError, match="one process on one device"):
        train([first], tmp_path, hardware=Hardware(devices=2))


def test_lazy_rows_must_name_the_tables(tmp_path: Path) -> None:
    class Forgetful(Toy):
        def lazy_rows(self, batch: ToyBatch) -> Mapping[str, Tensor]:
            return {}

    phase = toy_phases()[0]
    module = Forgetful(phase.module.table, 0)
    with pytest.raises(TrainingError, match=r"does not name the table 'table.weight'"):
        train([replace(phase, module=module, groups=module.groups())], tmp_path, show_progress=False)


def test_source_must_keep_its_word(tmp_path: Path) -> None:
    class Boastful(ToyBatches):
        def __len__(self) -> int:
            return 12

        def __iter__(self) -> Iterator[ToyBatch]:
            for _ in range(4):
                self.position += 1
                yield ToyBatch(self.ids[:4], self.label[:4])
            self.epoch, self.position = self.epoch + 1, 0

    phase = one_phase(batches=Boastful(1))
    with pytest.raises(TrainingError, match="ended after 4 steps in all, 12 were announced"):
        train([phase], tmp_path, show_progress=False)


def test_a_phase_starts_from_saved_weights(tmp_path: Path) -> None:
    first = one_phase()
    result = train([first], tmp_path / "first", show_progress=False).phases[0]
    path = tmp_path / "first" / "weights" / result.weights
    fresh = toy_phases(sparse=False)[0]
    start: list[dict[str, Tensor]] = []
    fresh.module.hook = lambda event: start.append(weights(fresh.module)) if not start else None
    train([replace(fresh, starts_from=[Start(path)])], tmp_path / "second", show_progress=False)
    assert not changed(start[0], first.module)
    wide = nn.Embedding(50, 4)
    other = Toy(wide, 0)
    phase = replace(fresh, module=other, groups=other.groups(), starts_from=[Start(path)])
    with pytest.raises(RunError, match=r"'table.weight' has shape \(40, 4\), in the module \(50, 4\)"):
        train([phase], tmp_path / "third", show_progress=False)


def test_a_phase_takes_over_tensors_under_other_names(tmp_path: Path) -> None:
    """Only what is under a given prefix moves, and what is copied is separate storage."""

    class Wrapped(Toy):
        def __init__(self) -> None:
            super().__init__(nn.Embedding(40, 4), 0)
            self.copy = nn.Embedding(40, 4)

    first, second = toy_phases(sparse=False)
    wrapped = Wrapped()
    before = wrapped.table.weight.detach().clone()
    seen: list[dict[str, Tensor]] = []
    wrapped.hook = lambda event: seen.append(weights(wrapped)) if not seen else None
    start = Start("pretrain", {"table.": "copy."})
    later = replace(second, module=wrapped, groups=wrapped.groups(), starts_from=[start])
    train([first, later], tmp_path / "run", show_progress=False)
    assert torch.equal(seen[0]["copy.weight"], first.module.table.weight)
    assert torch.equal(seen[0]["table.weight"], before)
    first, _ = toy_phases(sparse=False)
    wrong = replace(later, batches=toy_phases()[1].batches, starts_from=[Start("pretrain", {"tabel.": "copy."})])
    with pytest.raises(RunError, match=r"none is named 'tabel\....'"):
        train([first, wrong], tmp_path / "wrong", show_progress=False)


def test_bf16_trains(tmp_path: Path) -> None:
    phase = one_phase()
    train([phase], tmp_path, hardware=Hardware(accelerator="cpu", precision="bf16-mixed"), show_progress=False)
    assert phase.module.table.weight.dtype == torch.float32


def test_averaging_validates_and_keeps_the_running_mean_of_the_weights(tmp_path: Path) -> None:
    """The mean is worked out here from the weights of every step; averaging must not change the steps themselves."""

    def run(name: str, averaging: float) -> tuple[list[list[Tensor]], list[Tensor], list[Tensor]]:
        phase = one_phase(averaging=averaging, stop=StopRule(max_epochs=1, patience=9, checks_per_epoch=1))
        main = [each for group in phase.groups if group.is_main for each in group.parameters]
        begun: list[list[Tensor]] = []
        checked: list[Tensor] = []
        original = phase.module.step

        def step(batch: ToyBatch) -> Step:
            begun.append([each.detach().clone() for each in main])
            return original(batch)

        def validate(module: nn.Module) -> dict[str, float]:
            checked.extend(each.detach().clone() for each in main)
            return {"auc": 1.0}

        phase.module.step = step
        train([replace(phase, validate=validate)], tmp_path / name, show_progress=False)
        return begun, checked, [each.detach().clone() for each in main]

    begun, last, _ = run("plain", 0.0)
    again, checked, kept = run("averaged", 0.8)
    for one, other in zip(begun, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    mean = [each.double() for each in begun[0]]
    for number, after in enumerate([*begun[1:], last], start=1):
        share = max(0.2, 1 / number)
        mean = [(1 - share) * old + share * new for old, new in zip(mean, after, strict=True)]
    for expected, seen, final in zip(mean, checked, kept, strict=True):
        torch.testing.assert_close(seen.double(), expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(seen, final)
