"""Stages made into phases: what each starts from and is trained by, and that a killed one ends as if it had not been."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import small_sequences as small
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.sequences import SequenceBatch, SequenceBatches
from braidrec.errors import RunError
from braidrec.evaluation.retrieval import rank_targets
from braidrec.sequential.contracts import NextItemModel
from braidrec.sequential.mixture import Mixture
from braidrec.sequential.next_item import Expert, SequenceModel
from braidrec.sequential.scoring import HistoryScorer, part_rows, score_histories, validation
from braidrec.training.checkpoint import read_archive
from braidrec.training.contracts import CheckpointEvery, Hardware, Phase, Start
from braidrec.training.loop import train
from braidrec.training.stages import Stage

BATCH, EPOCHS = 8, 2  # 5 batches an epoch


def resolved(method: str = "pad", training: Mapping[str, Any] | None = None, **model: Any) -> RunConfig:
    """As of a run file, with the small sizes of `small_sequences`."""
    enhance, own = small.METHODS[method]
    values = {"dim": small.DIM, "length": small.LENGTH, "buckets": small.BUCKETS, "backbone": {"blocks": 1}, **model}
    values |= {"enhance": own} if own else {}
    request = {
        "data": "small",
        "knowledge": "none" if enhance else None,
        "backbone": "sasrec",
        "enhance": enhance,
        "preset": "paper",
        "seed": 7,
        "model": values,
        "training": {"batch_size": BATCH, "lr": 0.01, "max_epochs": EPOCHS, **(training or {})},
    }
    return resolve(RunRequest.model_validate(request), "test")


def stages_of(config: RunConfig) -> Sequence[Stage]:
    return cast(Sequence[Stage], small.plan_of(config).stages)


class Killed(BaseException):
    """As from outside: nothing gets to tidy up."""


class Watch:
    """What a module held when its phase began, and the end of the process at a step of choice."""

    def __init__(self, stage: Stage, kill_at: int | None):
        self.first: dict[str, Tensor] = {}
        module, step, count = stage.module, cast(Any, stage.module).step, 0

        def watched(batch: SequenceBatch) -> Any:
            nonlocal count
            count += 1
            if count == 1:
                self.first = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            if count == kill_at:
                raise Killed
            return step(batch)

        module.step = watched  # type: ignore[assignment]


def run(
    config: RunConfig, folder: Path, kill: tuple[str, int] = ("", 0)
) -> tuple[Sequence[Stage], dict[str, dict[str, Tensor]]]:
    """The stages, trained, and the weights that each began with."""
    plan = small.plan_of(config)
    stages = cast(Sequence[Stage], plan.stages)
    watches = {stage.name: Watch(stage, kill[1] if stage.name == kill[0] else None) for stage in stages}
    train(
        small.phases_of(config, plan),
        folder,
        seed=config.seed,
        hardware=Hardware(accelerator="cpu"),
        checkpoint_every=CheckpointEvery(batches=3),
        show_progress=False,
    )
    return stages, {name: watch.first for name, watch in watches.items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sequence[Stage], dict[str, dict[str, Tensor]], Path]:
    folder = tmp_path_factory.mktemp("trained")
    return *run(resolved(), folder), folder


# From phase to phase -----------------------------------------------------------------------------------------------------


def test_the_aligned_model_starts_as_a_copy_of_phase_one(trained: Any) -> None:
    (pretrain, align, _), first, _ = trained
    own = pretrain.module.state_dict()
    assert torch.equal(first["align"]["expert.items.ids.table.weight"], own["expert.items.table.weight"])
    assert same(under(first["align"], "expert.encoder."), under(own, "expert.encoder."))
    table, source = align.module.expert.items.ids.table.weight, pretrain.module.expert.items.table.weight
    assert table.data_ptr() != source.data_ptr()
    assert not torch.equal(table, source)  # phase 2 moved its copy


def test_later_phases_leave_earlier_weights_alone(trained: Any) -> None:
    stages, first, folder = trained
    assert not same(first["pretrain"], stages[0].module.state_dict())
    alone, _ = run(resolved("plain"), folder / "plain")
    assert same(alone[0].module.state_dict(), stages[0].module.state_dict())  # as if nothing had come after it


def test_the_experts_begin_as_phases_one_and_two_ended(trained: Any) -> None:
    (pretrain, align, experts), first, _ = trained
    model = small.stages_of(resolved(), seed=99)[-1].module
    model.load_state_dict(first["experts"])
    assert isinstance(model.eval(), Mixture)
    items = small.histories()
    with torch.no_grad():
        for name, source in (("id", pretrain.module), ("aligned", align.module)):
            expert = cast(Expert, model.experts[name])
            own = expert.last(items, items > 0) @ expert.table().T
            source.eval()
            assert torch.equal(own, source.catalogue().scores(source.states(items, items > 0)))
    fresh = stages_of(resolved())[-1].module.state_dict()
    assert same(under(first["experts"], "experts.text."), under(fresh, "experts.text."))
    assert same(under(first["experts"], "gate."), under(fresh, "gate."))
    assert not same(first["experts"], experts.module.state_dict())


def test_smem_gives_the_aligned_side_the_ids_of_phase_one_and_nothing_else(tmp_path: Path) -> None:
    stages, first = run(resolved("smem"), tmp_path)
    assert [stage.name for stage in stages] == ["pretrain", "experts"]
    own, begun = stages[0].module.state_dict(), first["experts"]
    fresh = stages_of(resolved("smem"))[-1].module.state_dict()
    assert same(under(begun, "experts.id."), under(own, "expert."))
    assert torch.equal(begun["experts.aligned.items.ids.table.weight"], own["expert.items.table.weight"])
    for prefix in ("experts.aligned.encoder.", "experts.aligned.items.text.", "experts.aligned.items.phi."):
        assert same(under(begun, prefix), under(fresh, prefix))


@pytest.mark.parametrize(
    ("method", "source", "own", "new"),
    [("ctrl", "contrast", "ids.", "expert.items."), ("make", "text", "expert.", "experts.text.")],
)
def test_two_stage_methods_hand_over_what_they_say(tmp_path: Path, method: str, source: str, own: str, new: str) -> None:
    stages, first = run(resolved(method), tmp_path)
    assert stages[0].name == source
    assert same(under(first[stages[1].name], new), under(stages[0].module.state_dict(), own))


# Phases from stages ------------------------------------------------------------------------------------------------------


def phases_of(method: str = "pad", training: Mapping[str, Any] | None = None, **model: Any) -> list[Phase]:
    config = resolved(method, training, **model)
    return small.phases_of(config, small.plan_of(config))


def test_a_phase_is_trained_as_its_own_settings_say() -> None:
    own = {
        "align": {"lr": 0.5, "batch_size": 20, "max_epochs": 9, "patience": 2, "checks_per_epoch": 3},
        "experts": {"weight_decay": 0.3},
    }
    pretrain, align, experts = phases_of(training={"phases": own, "clip_norm": 2.0, "average_epochs": 0.5})
    for phase, lr, decay, size, epochs in ((pretrain, 0.01, 0.1, 5, 2), (align, 0.5, 0.1, 2, 9), (experts, 1e-4, 0.3, 5, 2)):
        main = phase.groups[0]
        assert (main.name, main.lr, main.weight_decay, main.decoupled) == ("main", lr, decay, True)
        assert (len(phase.batches), phase.stop.max_epochs, phase.clip_norm) == (size, epochs, 2.0)
    assert (align.stop.patience, align.stop.checks_per_epoch, pretrain.stop.patience) == (2, 3, 20)
    assert pretrain.averaging == pytest.approx(1 - 1 / 2.5)
    assert align.averaging == 0.0  # half an epoch of 2 batches is 1 step
    gate = experts.groups[1]
    assert (gate.name, gate.lr, gate.weight_decay, gate.decoupled) == ("main.gate", 1e-4, 0.01, True)
    estimators = phases_of("disco")[0].groups[1]
    assert (estimators.name, estimators.lr, estimators.weight_decay, estimators.decoupled) == ("estimators", 1e-3, 0.0, False)


def test_monitors_are_the_run_s_unless_nothing_is_recommended() -> None:
    assert [(phase.monitor, phase.mode) for phase in phases_of(monitor="ndcg@10")] == [("ndcg@10", "max")] * 3
    assert [(phase.monitor, phase.mode) for phase in phases_of("ctrl")] == [("contrast", "min"), ("hr@10", "max")]
    assert [(phase.monitor, phase.mode) for phase in phases_of("pad not anchored")][1] == ("alignment", "min")
    assert [phase.weights for phase in phases_of("pad not anchored")][1] == {"alignment": 0.2}


def test_phases_draw_their_own_batches() -> None:
    seeds = [phase.batches.state()["seed"] for phase in phases_of()]
    assert len(set(seeds)) == 3
    assert seeds == [phase.batches.state()["seed"] for phase in phases_of()]
    whole = phases_of("plain", windows="all", length=3)[0].batches
    assert isinstance(whole, SequenceBatches)
    assert whole.num_windows == 81  # of 0 to 11 targets a user, 3 in each
    assert next(iter(whole)).items.shape == (BATCH, 3)


def test_stages_of_other_runs_are_read_from_their_folder(tmp_path: Path, trained: Any) -> None:
    stages, _, folder = trained
    names = read_archive(sorted((folder / "checkpoints").iterdir())[-1]).facts["weights"]
    other = tmp_path / "other"
    for name in ("pretrain", "align"):
        (kept,) = [each for each in names if each.startswith(f"{name}-")]
        shutil.copytree(folder / "weights" / kept, other / "weights" / name)
    config = resolved(start_from={"pretrain": str(other)})
    align, experts = small.phases_of(config, small.plan_of(config))
    assert align.starts_from == [Start(other / "weights" / "pretrain", stages[1].starts["pretrain"])]
    assert [start.source for start in experts.starts_from] == [other / "weights" / "pretrain", "align"]
    again, first = run(config, tmp_path / "run")
    assert [stage.name for stage in again] == ["align", "experts"]
    for stage, before in zip(again, stages[1:], strict=True):  # and ends as the run that trained all three
        assert same(stage.module.state_dict(), before.module.state_dict())
    both = resolved(start_from={"pretrain": str(other), "align": str(other)})
    (last,), begun = run(both, tmp_path / "both")
    assert same(begun["experts"], first["experts"])
    assert same(last.module.state_dict(), stages[-1].module.state_dict())
    gone = resolved(start_from={"pretrain": str(tmp_path / "nowhere")})
    with pytest.raises(RunError, match="nowhere/weights/pretrain"):
        run(gone, tmp_path / "gone")


# Killed and resumed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [("align", 5), ("align", 9), ("experts", 2), ("experts", 8)])
def test_a_killed_run_ends_as_the_unbroken_one(tmp_path: Path, trained: Any, kill: tuple[str, int]) -> None:
    """Killed between checkpoints, which come every third step."""
    stages, _, folder = trained
    with pytest.raises(Killed):
        run(resolved(), tmp_path, kill)
    again, begun = run(resolved(), tmp_path)
    assert not begun["pretrain"]  # not a step of it
    assert bool(begun["align"]) == (kill[0] == "align")
    for stage, unbroken in zip(again, stages, strict=True):
        assert same(stage.module.state_dict(), unbroken.module.state_dict()), stage.name
    assert checks(tmp_path) == checks(folder)


def test_estimators_resume_too(tmp_path: Path) -> None:
    unbroken, _ = run(resolved("disco"), tmp_path / "unbroken")
    with pytest.raises(Killed):
        run(resolved("disco"), tmp_path / "killed", ("train", 8))
    again, _ = run(resolved("disco"), tmp_path / "killed")
    assert same(again[0].module.state_dict(), unbroken[0].module.state_dict())


def checks(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("seconds", "samples_per_second")} for row in rows]


# Histories ---------------------------------------------------------------------------------------------------------------


class Echo(nn.Module, NextItemModel):
    """Scores item j by what the history's columns are worth, so that a test can read what arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.widths: list[int] = []

    def states(self, items: Tensor, mask: Tensor) -> Any:
        assert torch.equal(mask, items > 0)
        self.widths.append(items.shape[1])
        padded = torch.zeros(len(items), small.LENGTH, dtype=torch.float64)
        padded[:, small.LENGTH - items.shape[1] :] = items
        return padded

    def catalogue(self) -> Any:
        return self

    def scores(self, states: Tensor, rows: Tensor | None = None) -> Tensor:
        table = torch.zeros(small.ITEMS + 3, small.LENGTH, dtype=torch.float64)  # two items joined later
        table[: small.LENGTH] = torch.eye(small.LENGTH)
        return states @ (table if rows is None else table[rows]).T


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_history_is_all_that_came_before_cut_to_the_length(part: str) -> None:
    dataset = small.dataset()
    rows, model = part_rows(dataset, part), Echo()
    scorer = HistoryScorer(model, rows, small.LENGTH)
    which = np.array([3, 0, len(rows) - 1])
    found = scorer.scores(which)
    assert (found.shape, found.dtype) == ((3, small.ITEMS + 1), torch.float32)
    log = dataset.log
    for row, got in zip(which, found[:, : small.LENGTH].tolist(), strict=True):
        position = dataset.split[part][row]
        own = log.slot_item[log.start[log.user[position]] :][: log.rank[position]].tolist()[-small.LENGTH :]
        assert got == [0] * (small.LENGTH - len(own)) + own
        assert log.item[position] == rows.item[row]


def test_columns_of_padding_are_not_computed() -> None:
    model, items = Echo(), small.histories((2, 3, 1))
    full = score_histories(cast(Any, model), cast(Any, model), items)
    some = score_histories(cast(Any, model), cast(Any, model), items, torch.tensor([5, 4]))
    assert torch.equal(some, full[:, [5, 4]])
    score_histories(cast(Any, model), cast(Any, model), torch.zeros(2, 6, dtype=torch.int64))
    assert model.widths == [3, 3, 1]


def test_validation_ranks_the_whole_catalogue() -> None:
    model = stages_of(resolved("plain"))[0].module
    rows = part_rows(small.dataset(), "valid")
    found = validation(rows, small.LENGTH)(model)
    assert isinstance(model, SequenceModel)
    assert not model.training
    rank = rank_targets(HistoryScorer(model, rows, small.LENGTH), rows).rank
    assert found == {
        "hr@10": pytest.approx((rank <= 10).mean()),
        "ndcg@10": pytest.approx(((rank <= 10) / np.log2(rank + 1)).mean()),
    }
    found = validation(rows, small.LENGTH)(stages_of(resolved("ctrl"))[0].module.eval())
    assert found.keys() == {"contrast"}
    found = validation(rows, small.LENGTH)(stages_of(resolved())[1].module.eval())
    assert found.keys() == {"alignment", "hr@10", "ndcg@10"}
