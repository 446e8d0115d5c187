"""Targets of a user that share a window: the same predictions as with a window for each, in every model and on every way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_ranking import BACKBONES, ITEMS, LENGTH, SMALL_DISCO, SOURCES, batch, ranker
from torch import Tensor

import small_runs
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.batches import RankingBatch, RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.data.history import History, RecentHistory, SharedHistory
from braidrec.data.log import InteractionLog
from braidrec.errors import ConfigError
from braidrec.objectives.club import VClub
from braidrec.objectives.partners import partners
from braidrec.objectives.sufficiency import BilinearDiscriminator, sufficiency
from braidrec.ranking import scoring
from braidrec.ranking.model import ClickModel
from braidrec.ranking.ranker import Ranker
from braidrec.ranking.task import TASK
from braidrec.registry import TASKS
from braidrec.training.contracts import Hardware
from braidrec.training.loop import train
from braidrec.training.stages import Stage, make_phase

every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
every_source = pytest.mark.parametrize("source", SOURCES)


def pair(seed: int = 0) -> tuple[RankingBatch, RankingBatch]:
    """A batch whose rows stand in runs of one user each, with shared windows and with windows of their own."""
    rng, count = np.random.default_rng(seed), 60
    user, item, signal = (np.repeat([1, 2, 3, 4], count), rng.integers(1, ITEMS + 1, 4 * count), rng.integers(1, 6, 4 * count))
    time, none = np.tile(np.arange(count), 4), np.zeros(4 * count, np.float32)
    order = np.argsort(time, kind="stable")
    whose, what, which = (part[order].astype(np.int32) for part in (user, item, signal))
    source = RecentHistory(
        InteractionLog.build(whose, what, time[order].astype(np.int64), none, none, None, which, 4), LENGTH, 8
    )
    stretches = ((1, 17, 0), (2, 9, 3), (3, 1, 0), (4, 8, 40), (1, 5, 30))
    users = torch.cat([torch.full((rows,), user) for user, rows, _ in stretches])
    ends = torch.cat([torch.arange(rows) + begin for _, rows, begin in stretches])
    one = batch(len(users), seed=seed)
    one = replace(one, fields=torch.cat([users[:, None].int(), one.fields[:, 1:]], dim=1))
    return replace(one, history=source.shared(users, ends)), replace(one, history=source.window(users, ends))


def moving(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """EDK's knowledge stands still."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@every_source
@every_backbone
def test_both_forms_give_the_same_logits(backbone: str, source: str) -> None:
    model, (shared, own) = ranker(backbone, source).eval(), pair()
    with torch.no_grad():
        for weight in moving(model).values():
            weight.mul_(1.5)
    torch.testing.assert_close(model(shared), model(own), atol=1e-5, rtol=1e-5)


@every_source
@every_backbone
def test_both_forms_give_the_same_gradients(backbone: str, source: str) -> None:
    model = ranker(backbone, source)
    if "paper" in backbone:
        model.eval()  # whose statistics are the batch's
    compare_gradients(model)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backbone", ["din", "deepfm", "sdim", "dcn"])
def test_so_they_do_where_no_loss_reads_the_patterns(backbone: str, bias: bool) -> None:
    alone = SMALL_DISCO.model_copy(update={"sufficiency_weight": 0.0, "disentangle_weight": 0.0, "attention_bias": bias})
    compare_gradients(ranker(backbone, disco=alone))


def compare_gradients(model: Ranker) -> None:
    gradients = []
    for one in pair():
        loss = model.step(one).losses()["prediction"]
        gradients.append(torch.autograd.grad(loss, [*moving(model).values()], allow_unused=True))
    for name, first, second in zip(moving(model), *gradients, strict=True):
        assert (first is None) == (second is None), name
        if first is not None:
            torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("change", [(0, 1), (-1, 0)], ids=["the target itself", "one event too many"])
@pytest.mark.parametrize(("backbone", "source"), [("din", "plain"), ("dcn", "disco"), ("deepfm", "mean")])
def test_a_model_notices_a_band_one_event_too_wide(backbone: str, source: str, change: tuple[int, int]) -> None:
    model, (shared, own) = ranker(backbone, source).eval(), pair()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)
    assert isinstance(shared.history, SharedHistory)
    wide = [
        replace(run, first=(run.first + change[0]).clamp_min(0), last=(run.last + change[1]).clamp_max(run.items.shape[1]))
        for run in shared.history.runs
    ]
    broken = replace(shared, history=replace(shared.history, runs=tuple(wide)))
    assert (model(broken) - model(own)).abs().max() > 1e-4


# Partners from other users ---------------------------------------------------------------------------------------------

GROUPS = torch.tensor([7, 7, 2, 2, 2, 7, 9, 2])


def test_partners_are_uniform_among_the_eligible_of_other_groups() -> None:
    eligible = torch.tensor([True, False, True, True, False, True, False, False])
    drawn, there = partners(GROUPS, eligible, (8, 4000), torch.Generator().manual_seed(0))
    assert there.all()
    for row, group in enumerate(GROUPS.tolist()):
        allowed = [at for at in range(8) if eligible[at] and GROUPS[at] != group]
        counts = torch.bincount(drawn[row], minlength=8)
        assert set(counts.nonzero().flatten().tolist()) == set(allowed)
        assert counts[allowed].float().mul(len(allowed) / 4000).sub(1).abs().max() < 0.1


def test_partners_of_one_group_are_none() -> None:
    _, there = partners(torch.ones(4, dtype=torch.int32), torch.ones(4, dtype=torch.bool), (4,), torch.Generator())
    assert not there.any()
    _, there = partners(GROUPS, torch.zeros(8, dtype=torch.bool), (8,), torch.Generator())
    assert not there.any()


@pytest.mark.parametrize("estimator", ["gaussian", "bilinear", "sampled"])
def test_the_second_expectation_goes_over_other_users(estimator: Any) -> None:
    """Against the sum written out; sampled partners in the mean of many draws."""
    torch.manual_seed(0)
    club, x, y = VClub(3, 2, estimator=estimator), torch.randn(8, 3), 5 + torch.randn(8, 2)
    mean, log_variance = club(x)
    expected = torch.zeros(())
    for i in range(8):
        others = [j for j in range(8) if GROUPS[j] != GROUPS[i]]
        own = ((y[i] - mean[i]).square() * torch.exp(-log_variance[i])).sum() / 2
        cross = [((y[j] - mean[i]).square() * torch.exp(-log_variance[i])).sum() / 2 for j in others]
        expected = expected + (torch.stack(cross).mean() - own) / 8
    generator = torch.Generator().manual_seed(1)
    times = 1200 if estimator == "sampled" else 1
    found = torch.stack([club.estimate(x, y, generator, GROUPS) for _ in range(times)]).mean()
    torch.testing.assert_close(found, expected, rtol=0.1 if estimator == "sampled" else 1e-4, atol=1e-5)
    assert not torch.allclose(club.estimate(x, y, generator), expected, rtol=1e-2)
    alone = club.estimate(x.requires_grad_(), y, generator, torch.ones(8))
    assert alone.item() == 0.0
    assert not torch.autograd.grad(alone, x)[0].any()


@pytest.mark.parametrize("anchors_of", ["candidates", "histories"])
def test_sufficiency_pairs_other_users(anchors_of: str) -> None:
    """A pattern tells its row: no anchor meets a pattern of its own user, and each meets both classes."""
    labels, met = torch.tensor([1.0, 0, 1, 0, 1, 1, 0, 1]), []

    def listen(anchors: Tensor, patterns: Tensor) -> Tensor:
        met.append((anchors[..., 0].long(), patterns[..., 0].long()))
        return torch.zeros(anchors.shape[:-1])

    rows = torch.arange(8.0)[:, None]
    anchors = rows if anchors_of == "candidates" else rows[:, None].expand(8, 3, 1)
    for seed in range(50):
        sufficiency(anchors, rows, labels, listen, torch.Generator().manual_seed(seed), None, GROUPS)
    (same, other) = ([torch.cat([pairs[at].flatten() for pairs in met[side::2]]) for at in (0, 1)] for side in (0, 1))
    for (anchor, partner), alike in ((same, True), (other, False)):
        assert ((labels[anchor] == labels[partner]) == alike).all()
        assert (GROUPS[anchor] != GROUPS[partner]).all()
        assert set(anchor.tolist()) == set(range(8))


def test_sufficiency_of_one_user_is_nothing() -> None:
    torch.manual_seed(0)
    discriminator, patterns = BilinearDiscriminator(3, 2), torch.randn(6, 2, requires_grad=True)
    labels, one = torch.tensor([1.0, 0, 1, 0, 1, 0]), torch.ones(6, dtype=torch.int32)
    loss = sufficiency(torch.randn(6, 3), patterns, labels, discriminator, torch.Generator(), None, one)
    assert loss.item() == 0.0
    assert not torch.autograd.grad(loss, patterns)[0].any()


# Whole runs ------------------------------------------------------------------------------------------------------------


def configured(backbone: str = "din", enhance: str | None = None, /, **more: Any) -> RunConfig:
    model = {"dim": 8, "history": {"length": 6, "run": 8}, **more.pop("model", {})}
    training = {"max_epochs": 1, "checks_per_epoch": 1, "batch_size": 512}
    values = {"data": "-", "backbone": backbone, "enhance": enhance, "seed": 5, "model": model, "training": training, **more}
    return resolve(RunRequest.model_validate(values), "test")


def text(data: Dataset) -> NDArray[np.float32]:
    found = np.random.default_rng(2).standard_normal((data.num_items + 1, 12)).astype(np.float32)
    found[0] = 0
    return found


def trained(config: RunConfig, data: Dataset, folder: Path) -> ClickModel:
    plan = TASK.plan(config, data, text(data) if TASK.reads_text(config) else None, show_progress=False)
    (stage,) = plan.stages
    assert isinstance(stage, Stage)
    phase = make_phase(stage, config.training, plan.batches(stage), plan.validate(stage), monitor=plan.monitor)
    train([phase], folder, hardware=Hardware(accelerator="cpu"), seed=config.seed, show_progress=False)
    found = plan.keep()
    assert isinstance(found, ClickModel)
    return found


WORLDS = {"planted": small_runs.dataset, "rich": small_runs.rich, "positives": small_runs.positives}


@pytest.mark.parametrize("data", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize(("backbone", "enhance"), [("din", "disco"), ("deepfm", None)])
def test_packing_changes_no_prediction(backbone: str, enhance: str | None, data: Callable[[], Dataset], tmp_path: Path) -> None:
    """A model trained in runs scores held-out rows the same either way, and answers for everybody as window by window."""
    more = {"negatives": 3} if data is small_runs.positives else {"model": {"statistics": True}}
    config = configured(backbone, enhance, **more)
    model = trained(config, data(), tmp_path / "run")
    apart = config.model_copy(update={"model": config.model.model_copy(update={"history": _alone(config)})})
    for part in ("valid", "test"):
        found, expected = (TASK.outcome(model, each, data(), part, show_progress=False) for each in (config, apart))
        assert np.array_equal(found.item, expected.item)
        np.testing.assert_allclose(found.values["scores"], expected.values["scores"], atol=2e-5)
        assert np.std(expected.values["scores"]) > 1e-3
    rows = np.arange(1, data().num_items + 1, dtype=np.int32)
    for past in (model.past(1), model.past(None, rows[:3]), model.past(None, rows[:1]), model.past(None)):
        window = model.window(past, torch.from_numpy(rows))
        batch = model.candidates.batch(past.user, torch.from_numpy(rows), window)
        assert isinstance(batch.history, History)
        assert isinstance(window.shared(len(rows)), SharedHistory)
        with torch.inference_mode():
            expected_chances = torch.sigmoid(model.module(batch))
        np.testing.assert_allclose(model.scores([past], rows)[0], expected_chances.numpy(), atol=1e-6)


def _alone(config: RunConfig) -> Any:
    return config.model.history.model_copy(update={"run": 1})


def test_validation_sees_rows_in_their_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores put into log order: a model that answers each row by its position gives positions back."""
    data = small_runs.dataset()

    class Position(Ranker):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def forward(self, batch: RankingBatch) -> Tensor:
            return batch.position.float()

    batches = RankingBatches(data, data.split["valid"], 100, RecentHistory(data.log, 6, run=8), shuffle=False)
    advanced: list[int] = []
    found = scoring.score_batches(Position(), batches, torch.device("cpu"), advanced.append)
    assert found.tolist() == data.split["valid"].tolist()
    assert sum(advanced) == len(found)


def test_what_does_not_go_with_runs_is_said() -> None:
    data = small_runs.dataset()
    with pytest.raises(ConfigError, match=r"history\.run = 8 goes with history\.kind = 'recent'.*set history\.run = 1"):
        TASK.plan(configured(model={"history": {"kind": "semantic_topk", "run": 8}}), data, text(data), show_progress=False)
    for backbone, model in (("din", {"variant": "paper"}), ("dcn", {"norm": "bn"})):
        with pytest.raises(ConfigError, match=r"model\.history\.run = 8 puts rows of one user side by side.*BatchNorm, Dice"):
            TASK.plan(configured(backbone, model={"backbone": model}), data, None, show_progress=False)


@pytest.mark.parametrize("backbone", list(TASKS["ranking"].backbones))
def test_every_backbone_by_ours_can_be_trained_in_runs(backbone: str) -> None:
    """As `fit` has it for large logs, whoever trains there."""
    data = small_runs.dataset()
    for enhance in ((), ("disco",)):
        request = {"data": "-", "task": "ranking", "backbone": backbone, "enhance": enhance, "model": {"history": {"run": 128}}}
        config = resolve(RunRequest.model_validate(request), "test")
        plan = TASK.plan(config, data, text(data) if enhance else None, show_progress=False)
        assert len(next(iter(plan.batches(plan.stages[-1])))) > 0
