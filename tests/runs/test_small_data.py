"""A log of 1,500 events of 60 users: numbers with their intervals, not refusals; batches and epochs that suit it; doubts."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from braidrec.cli import app
from braidrec.config import RunConfig, RunRequest, from_toml, resolve, said_by_size, size_of
from braidrec.data.dataset import Dataset
from braidrec.data.intake.sources import locate, public_dataset
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.errors import ConfigError, DataError
from braidrec.evaluation.baselines import RankingLog, item_mean_user_residual
from braidrec.evaluation.metrics import auc
from braidrec.evaluation.significance import holm
from braidrec.files import read_json
from braidrec.layers.mlp import Norm
from braidrec.ranking.backbones.dcn import DCN
from braidrec.ranking.parts import BackboneConfig
from braidrec.ranking.scoring import too_sure
from braidrec.registry import TASKS, LogSize, Spec
from braidrec.runs.doubts import _early
from braidrec.runs.fit import FitWarning, fit
from braidrec.runs.run import Run, load
from braidrec.runs.tables import comparison_tables
from braidrec.strict import parse
from braidrec.training.config import TrainingConfig
from braidrec.training.contracts import PhaseResult
from small_runs import root

TINY = {"dim": 8}


@cache
def shop() -> Dataset:
    """60 users with 25 of 40 items each; one half of them likes the even items, the other the odd ones."""
    rng, rows = np.random.default_rng(1), []
    for user in range(60):
        times = np.sort(rng.integers(0, 10_000_000, 25)) + 1_600_000_000
        for item, time in zip(rng.choice(40, 25, replace=False).tolist(), times.tolist(), strict=True):
            rows.append((user, item, time, int(rng.random() < (0.85 if item % 2 == user % 2 else 0.2))))
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "label"], orient="row")
    return Dataset.from_frames(log, path=root() / "shop")


@cache
def followed() -> Dataset:
    events = pl.DataFrame(
        {"user_id": np.repeat(np.arange(60), 12), "item_id": np.arange(720) % 41, "timestamp": np.arange(720) + 1_600_000_000}
    )
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two"))
    return Dataset.from_frames(events, path=root() / "followed", settings=settings)


@cache
def ranker() -> Run:
    return fit(shop(), path=root() / "shop-din", model=TINY, training={"max_epochs": 2}, show_progress=False)


@cache
def follower() -> Run:
    return fit(
        followed(), path=root() / "shop-sasrec", backbone="sasrec", model=TINY, training={"max_epochs": 2}, show_progress=False
    )


@pytest.mark.parametrize(("run", "metric"), [(ranker, "auc"), (follower, "ndcg@10")], ids=["ranking", "sequential"])
def test_few_rows_are_numbers_with_an_interval_in_every_task(run: object, metric: str) -> None:
    made: Run = run()  # type: ignore[operator]
    report = made.evaluate(show_progress=False)
    whole, interval = report["all"], report.intervals[metric]
    assert whole.rows < 1_000
    assert (whole.few, whole.reason) == (True, None)
    assert 0 <= interval.low <= whole[metric] <= interval.high <= 1  # type: ignore[operator]
    stored = read_json(made.path / "evaluation.test.json", DataError)["slices"][0]
    assert (stored["few"], stored["values"][metric]) == (True, whole[metric])
    wanted = made.evaluate(show_progress=False, min_rows=whole.rows)
    assert (wanted["all"].few, wanted["all"].values) == (False, whole.values)
    with pytest.raises(DataError, match="min_rows = 'many': a whole number from 0 on is needed"):
        made.evaluate(show_progress=False, min_rows="many")  # type: ignore[arg-type]


@pytest.mark.parametrize(("run", "number"), [(ranker, "auc"), (follower, "hr@10")], ids=["ranking", "sequential"])
def test_the_command_shows_them_marked(run: object, number: str) -> None:
    made: Run = run()  # type: ignore[operator]
    found = made.evaluate(show_progress=False)["all"][number]
    shown = f"{found:.4f}" if number == "auc" else f"{100 * found:.4f}"  # type: ignore[operator]
    marked = CliRunner().invoke(app, ["evaluate", str(made.path)])
    assert marked.exit_code == 0, marked.output
    assert f"{shown} " in marked.output
    assert "too few" not in marked.output
    assert "few: fewer than 1,000 rows" in marked.output
    plain = CliRunner().invoke(app, ["evaluate", str(made.path), "--min-rows", "1"])
    assert plain.exit_code == 0, plain.output
    assert f"{shown} " in plain.output
    assert " few" not in plain.output


# -- batches and epochs by the size of the log -----------------------------------------------------------------------------

ML_1M, PANTRY = LogSize(776_007, 5_395), LogSize(76_391, 12_871)  # as prepared; sequences of ML-1M are of all 6,040 users


def training(size: LogSize | None, **values: Any) -> TrainingConfig:
    request = parse(RunRequest, {"data": "-", "backbone": "din", **values}, "test")
    return resolve(request, "test", size).training


def test_rankers_of_small_logs_take_smaller_batches_and_let_patience_decide() -> None:
    for samples, batch in ((2, 8), (1_200, 32), (4_000, 64), (16_000, 128), (76_000, 256), (230_000, 512), (524_287, 512)):
        found = training(LogSize(samples, 500))
        assert (found.batch_size, found.max_epochs) == (batch, 10), samples
        assert found == training(None).model_copy(update={"batch_size": batch, "max_epochs": 10})


def test_few_sequences_are_trained_for_as_many_steps_as_many() -> None:
    usual = training(None, backbone="sasrec")
    for users, batch in ((60, 8), (610, 32), (2_000, 32), (4_095, 64)):
        found = training(LogSize(10**6, users), backbone="sasrec")
        longer = max(1.0, 48 / -(-users // batch))
        assert found.batch_size == batch
        assert found.max_epochs == math.ceil(longer * usual.max_epochs)
        assert found.patience == math.ceil(longer * usual.patience)
    padded = training(LogSize(10**6, 610), backbone="sasrec", enhance="pad")
    assert (padded.max_epochs, padded.patience, padded.phases["pretrain"].max_epochs) == (72, 8, 10)  # 20 steps, not 48
    assert padded.phases["align"] == training(None, backbone="sasrec", enhance="pad").phases["align"]


@pytest.mark.parametrize("preset", ["ours", "paper", "authors"])
@pytest.mark.parametrize("enhance", [None, "pad", "smem", "make", "disco", "hybrid"])
def test_what_was_measured_on_large_logs_holds_there(preset: str, enhance: str | None) -> None:
    chosen = {"backbone": "sasrec", "enhance": enhance, "preset": preset}
    for size in (LogSize(776_007, 6_040), PANTRY):
        assert training(size, **chosen) == training(None, **chosen)
    if enhance in (None, "disco"):
        short = LogSize(776_007, 20_000)
        assert training(short, enhance=enhance, preset=preset) == training(None, enhance=enhance, preset=preset)
    if preset != "ours":
        assert training(LogSize(1_000, 60), **chosen) == training(None, **chosen)


@pytest.mark.parametrize("enhance", [None, "disco", "edk"])
def test_rankers_of_large_logs_of_long_histories_read_them_in_runs(enhance: str | None) -> None:
    def made(size: LogSize, **values: Any) -> RunConfig:
        return resolve(parse(RunRequest, {"data": "-", "backbone": "din", "enhance": enhance, **values}, "test"), "test", size)

    found = made(ML_1M)
    assert (found.model.history.run, found.training.batch_size, found.training.lr, found.training.max_epochs) == (
        128,
        512,
        2e-3,
        6,
    )
    assert said_by_size(found, ML_1M) == (
        "by the size of the log (776,007 training rows, 5,395 users): model.history.run = 128 instead of 1, "
        "training.batch_size = 512 instead of 1024, training.lr = 0.002 instead of 0.0007, training.max_epochs = 6 instead of 2"
    )
    for size in (LogSize(524_287, 5_395), LogSize(776_007, 12_126), LogSize(776_007, 5_395, drawn=True)):
        assert made(size).model.history.run == 1
    for other in ({"history": {"kind": "semantic_topk"}}, {"history": {"run": 1}}, {"backbone": {"norm": "bn"}}):
        asked = made(ML_1M, model=other)  # in single samples, and trained as those are
        assert (asked.model.history.run, asked.training) == (1, training(None, enhance=enhance))
    assert made(ML_1M, training={"lr": 1e-3}).training.lr == 1e-3
    assert made(ML_1M, model={"history": {"length": 50}}).model.history.run == 128
    half = made(ML_1M, model={"history": {"run": 64}})
    assert (half.model.history.run, half.training) == (64, found.training)
    for same in ({"norm": "none"}, {"norm": "ln_pre"}, {"variant": "bilinear"}):  # of one row alone
        assert made(ML_1M, model={"backbone": same}).training == found.training
    alone = made(ML_1M, by_size=False)
    assert (alone.model, alone.training) == (made(LogSize(776_007, 20_000)).model, training(None, enhance=enhance))
    assert said_by_size(alone, ML_1M) is None
    assert made(ML_1M, preset="textbook" if enhance is None else "paper").model.history.run == 1


class OfBatch(BackboneConfig):
    norm: Norm = "bn"


@pytest.mark.parametrize(
    ("backbone", "own"),
    [("din", {"variant": "paper"}), ("dien", {"attention": "mlp"}), ("dcn", {"norm": "bn"}), ("others", {})],
)
def test_rankers_that_normalise_by_batch_read_single_samples(
    backbone: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As asked for, and as a backbone of another package has it by default."""
    spec = Spec("others", "Others", OfBatch, DCN)
    with TASKS["ranking"].backbones.holding(spec) if backbone == "others" else nullcontext():
        request = {"data": "-", "task": "ranking", "backbone": backbone, "model": {"backbone": own} if own else {}}
        found = resolve(parse(RunRequest, request, "test"), "test", ML_1M)
    assert (found.model.history.run, found.training.batch_size) == (1, 1024)


def test_what_is_asked_for_wins() -> None:
    tiny = LogSize(1_200, 60)
    assert training(tiny, training={"batch_size": 999}).batch_size == 999
    assert training(tiny, training={"max_epochs": 3}).max_epochs == 3
    asked = training(tiny, backbone="sasrec", enhance="pad", training={"max_epochs": 3})
    assert (asked.max_epochs, asked.patience, asked.phases["pretrain"].max_epochs, asked.batch_size) == (3, 3, 4, 8)
    wide = training(tiny, backbone="sasrec", training={"batch_size": 60})  # one step in an epoch
    assert (wide.batch_size, wide.max_epochs, wide.patience) == (60, 48 * 30, 48 * 3)
    assert training(tiny, backbone="sasrec", training={"batch_size": "60"}) == wide  # as written in a file
    own = training(tiny, backbone="sasrec", enhance="pad", training={"phases": {"pretrain": {"max_epochs": 1}}})
    assert own.phases["pretrain"].max_epochs == 1


def test_a_run_says_what_the_size_of_its_log_settled(tmp_path: Path) -> None:
    run = ranker()
    assert run.config.training.batch_size == 32
    assert from_toml(run.path / "config.toml").training == run.config.training
    assert run.sized == ("by the size of the log (960 training rows, 60 users): training.batch_size = 32 instead of 1024")
    file = tmp_path / "run.toml"
    file.write_text(f'data = "{shop().path}"\n[model]\ndim = 8\n[training]\nmax_epochs = 2\n')
    again = CliRunner().invoke(app, ["fit", str(file), "--out", str(run.path)])  # the command settles it alike
    assert again.exit_code == 0, again.output
    assert f"note: {run.sized}" in again.output
    padded = resolve(parse(RunRequest, {"data": "-", "backbone": "sasrec", "enhance": "pad"}, "test"), "test", LogSize(9, 610))
    assert said_by_size(padded, LogSize(9, 610)) == (
        "by the size of the log (9 training rows, 610 users): training.batch_size = 32 instead of 128, "
        "training.max_epochs = 72 instead of 30, training.patience = 8 instead of 3, "
        "training.phases.pretrain.max_epochs = 10 instead of 4"
    )
    assert said_by_size(run.config, LogSize(776_007, 20_000)) is None


def counted(data: Dataset, **values: Any) -> LogSize | None:
    return size_of(resolve(parse(RunRequest, {"data": "-", **values}, "test"), "test"), data)


def test_what_is_trained_on_is_what_is_counted(tmp_path: Path) -> None:
    """Older rows that a ranker reads, negatives drawn for one alone; positives of models that know no others, each once."""
    assert counted(shop(), backbone="din") == LogSize(960, 60)
    assert counted(shop(), backbone="din", negatives=3) == LogSize(4 * 960, 60, drawn=True)
    events = shop().log
    liked = int((events.label[shop().split["train"]] > 0).sum())
    first = int((events.label[: shop().split["valid"][0]] > 0).sum())  # those without a past before them are no rows to rank
    assert liked < first < 960
    pairs = counted(shop(), backbone="lightgcn")
    assert pairs is not None
    assert pairs.samples == first
    followed = counted(shop(), backbone="sasrec")
    assert followed is not None
    assert followed.samples == first

    old = Dataset.from_frames(
        pl.DataFrame(
            {"user_id": [0, 0, 1, 1, 2, 2] * 20, "item_id": np.arange(120) % 7, "timestamp": np.arange(120)}
        ).with_columns(label=pl.int_range(120) % 2),
        path=tmp_path / "old",
        settings=PrepareSettings(split=SplitConfig(kind="knowledge", min_history=0)),
    )
    parts = {name: len(rows) for name, rows in old.split.parts.items()}
    recent, every = (counted(old, backbone="din", model={"train_on": on}) for on in ("train", "knowledge+train"))
    assert recent == LogSize(parts["train"], 3)
    assert every == LogSize(parts["train"] + parts["knowledge"] + parts["knowledge_valid"], 3)
    assert counted(old, backbone="din", preset="paper") is None  # nothing goes by it
    assert counted(old, backbone="ease") is None
    run = fit(
        old,
        path=tmp_path / "run",
        backbone="lr",
        model={"train_on": "knowledge+train"},
        training={"max_epochs": 1},
        show_progress=False,
    )
    assert f"({every.samples} training rows, 3 users)" in str(run.sized)  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["din", "deepfm"])
def test_a_hundred_users_of_movielens_are_learned_better_by_their_size(backbone: str, tmp_path: Path) -> None:
    if not os.environ.get("BRAIDREC_DATA"):
        pytest.skip("BRAIDREC_DATA is unset: ml-1m is not at hand")
    tables = public_dataset("ml-1m").read(locate("ml-1m"))
    few = tables.interactions.filter(pl.col(tables.schema.user).is_between(10, 109))
    data = Dataset.prepare(replace(tables, name="few", interactions=few), tmp_path / "data")
    assert 8_000 < data.manifest["counts"]["samples"]["train"] < 16_000
    by_its_size, as_ml_1m = (
        fit(data, path=tmp_path / name, backbone=backbone, training=training, show_progress=False).record["best"]["metrics"]
        for name, training in (("sized", {}), ("ml-1m", {"batch_size": 1024, "max_epochs": 2}))
    )
    assert by_its_size["auc"] > as_ml_1m["auc"] + 0.01


# -- doubts ---------------------------------------------------------------------------------------------------------------


def test_a_training_that_still_improved_says_so(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr": 1e-3, "batch_size": 256, "max_epochs": 2}
    with pytest.warns(FitWarning, match="run: stage 'rank': the last of its 4 checks is the best") as caught:
        run = fit(shop(), path=tmp_path / "run", model=TINY, training=settings, show_progress=False)
    early = next(text for text in run.warnings if text.startswith("stage"))
    assert early.endswith(
        "so it still improved when training.max_epochs = 2 ended it; train it anew, in another folder, "
        "with training.max_epochs = 4"
    )
    assert Path(str(caught[0].filename)).name == Path(__file__).name  # where fit was called
    once = fit(
        shop(), path=tmp_path / "once", model=TINY, training={"max_epochs": 1, "checks_per_epoch": 1}, show_progress=False
    )
    assert not any(text.startswith("stage") for text in once.warnings)  # one check is neither better nor worse


def test_a_phase_of_its_own_length_is_named_by_its_own_key() -> None:
    config = resolve(parse(RunRequest, {"data": "-", "backbone": "sasrec", "enhance": "pad"}, "test"), "test")
    made = PhaseResult("pretrain", 4, 40, 0.5, {"ndcg@10": 0.5}, 40, 1.0, 1.0, "w")
    assert "training.phases.pretrain.max_epochs = 4 ended it" in str(_early(config, made))
    assert _early(config, replace(made, best_step=30)) is None


@pytest.mark.parametrize("backbone", ["din", "sasrec"])
def test_a_simple_ranking_that_is_better_on_validation_is_named(backbone: str, tmp_path: Path) -> None:
    stunted = {"lr": 1e-9, "max_epochs": 1, "checks_per_epoch": 1}
    data = shop() if backbone == "din" else followed()
    with pytest.warns(FitWarning, match="which learns nothing"):
        run = fit(data, path=tmp_path / "run", backbone=backbone, model=TINY, training=stunted, show_progress=False)
    (text,) = run.warnings
    title, metric = ("item mean + user residual", "AUC") if backbone == "din" else ("Markov", "nDCG@10")
    key = "auc" if backbone == "din" else "ndcg@10"
    assert f"on validation '{title}', which learns nothing, has {metric} " in text
    assert f"this model {run.record['best']['metrics'][key]:.4f}; " in text
    assert load(run.path).warnings == [text]
    shown = CliRunner().invoke(app, ["fit", *command(run), "--out", str(run.path)])
    assert shown.exit_code == 0, shown.output
    assert f"warning: {text}" in shown.output


def test_probabilities_that_say_less_than_the_share_of_positives_are_named() -> None:
    data = shop()
    labels = data.log.label[data.split["valid"]].astype(np.float64)
    share = float(data.log.label[data.split["train"]].mean())
    constant = -float(np.mean(labels * np.log(share) + (1 - labels) * np.log(1 - share)))
    doubt = ranker().task.plan(ranker().config, data, None, show_progress=False).doubt
    assert doubt({"auc": 0.7, "log_loss": constant - 0.01}) is None
    said = doubt({"auc": 0.7, "log_loss": constant + 0.01})
    assert said is not None
    assert said.endswith("too sure; read them as scores, or let them choose: model.monitor = 'log_loss'")
    assert said.startswith(
        f"on validation the log loss is {constant + 0.01:.4f}, and {constant:.4f} where every row has the share"
    )
    weightless = replace(data, log=replace(data.log, weight=np.zeros(len(data.log), np.float32)))
    assert too_sure(weightless, "train", "auc", {"log_loss": 9.0}) is None


def test_who_fits_is_warned_of_probabilities_that_are_too_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tests of other things, which train next to nothing, leave out of their output."""
    said = "on validation the log loss is high: the probabilities are too sure"
    monkeypatch.setattr("braidrec.ranking.task.yardsticks", lambda *given: {})
    monkeypatch.setattr("braidrec.ranking.task.too_sure", lambda *given: said)
    with pytest.warns(FitWarning, match=said):
        run = fit(shop(), path=tmp_path / "run", backbone="lr", training={"max_epochs": 1}, show_progress=False)
    assert said in run.warnings


def command(run: Run) -> list[str]:
    values = {"model.dim": 8, "training.lr": 1e-9, "training.max_epochs": 1, "training.checks_per_epoch": 1}
    changes = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return ["--data", str(run.dataset.path), "--backbone", run.config.backbone, *changes]


def test_what_the_yardsticks_say_is_what_reports_say() -> None:
    for run in (ranker(), follower()):
        found = run.task.plan(run.config, run.dataset, None, show_progress=False).yardsticks()
        assert found
        for name, spec in run.task.spec.baselines.usable().items():
            if spec.title_of(spec.config()) in found and run.config.task == "sequential":
                outcome = run.task.baseline(name, run.config, run.dataset, "valid")
                assert outcome is not None
                report = run.task.report(outcome, run.config, run.dataset, "valid")["all"]
                for metric, value in found[spec.title_of(spec.config())].items():
                    assert report[metric] == pytest.approx(value, abs=1e-12)
    log, split = shop().log, shop().split
    residual = item_mean_user_residual(RankingLog(log.user, log.item, log.label, split["train"], split["valid"], split["test"]))
    found = ranker().task.plan(ranker().config, shop(), None, show_progress=False).yardsticks()
    assert found["item mean + user residual"]["auc"] == auc(log.label[split["valid"]], residual.valid)


def test_yardsticks_that_would_take_long_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braidrec.sequential.scoring.CHEAP_SCORES", 10)
    assert follower().task.plan(follower().config, followed(), None, show_progress=False).yardsticks() == {}
    monkeypatch.setattr("braidrec.ranking.scoring.CHEAP_EVENTS", {"item-mean-user-residual": 10, "item-mean": 10**6})
    assert list(ranker().task.plan(ranker().config, shop(), None, show_progress=False).yardsticks()) == ["item mean"]
    monkeypatch.setattr("braidrec.ranking.scoring.CHEAP_EVENTS", {"item-mean": 10})
    assert ranker().task.plan(ranker().config, shop(), None, show_progress=False).yardsticks() == {}


# -- against rankings without learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [ranker, follower], ids=["ranking", "sequential"])
def test_one_run_is_tested_against_the_simple_rankings(run: object) -> None:
    made: Run = run()  # type: ignore[operator]
    table, test = comparison_tables([made.path], baselines=True)
    room, data = made.task, made.dataset
    expected = {}
    for name, spec in room.spec.baselines.usable().items():
        outcome = room.baseline(name, made.config, data, "test")
        assert outcome is not None
        for found in room.tests([made.outcome()], [outcome], made.config, data, "test"):
            expected[spec.title, found.metric] = found
    adjusted = dict(zip(expected, holm([each.p_value for each in expected.values()]), strict=True))
    assert not isinstance(test, str)
    rows = list(zip(*(list(column.cells) for column in test.columns), strict=True))
    titles = {metric.title: metric for metric in room.spec.metrics}
    assert len(rows) == len(expected) == (3 if made.config.task == "ranking" else 8)
    for model, against, metric, difference, _, by_seed, p_value in rows:
        key = (str(against), titles[str(metric)].key)
        scaled = titles[str(metric)].scale * expected[key].difference
        assert model == made.title
        assert float(str(difference)) == pytest.approx(scaled, abs=1e-3)
        assert str(by_seed) == f"{made.config.seed}:{difference}"
        assert p_value == f"{adjusted[key]:.4f}"
    assert "paired tests: " in str(test.title)
    assert str(test.title).endswith(f"two-sided, Holm over {len(expected)}")
    shown = CliRunner().invoke(app, ["compare", str(made.path), "--baselines"])
    assert shown.exit_code == 0, shown.output
    assert f"Holm over {len(expected)}" in shown.output
    assert "95 % interval" in str(table.caption)  # type: ignore[union-attr]


def test_all_models_and_the_simple_rankings_are_one_family() -> None:
    other = fit(shop(), path=root() / "shop-lr", backbone="lr", training={"max_epochs": 1}, show_progress=False)
    _, alone = comparison_tables([ranker().path, other.path])
    assert "against DIN (ours): " in str(alone.title)  # type: ignore[union-attr]
    _, test = comparison_tables([ranker().path, other.path], baselines=True)
    assert str(test.title).endswith("Holm over 7")  # type: ignore[union-attr]  # LR against DIN, both against three
    with pytest.raises(ConfigError, match=r"at least two models: these runs differ by their seed alone; .* --baselines"):
        comparison_tables([ranker().path])


def test_drawn_negatives_go_with_no_simple_ranking() -> None:
    likes = pl.DataFrame(
        {"user_id": np.repeat(np.arange(60), 12), "item_id": np.arange(720) % 41, "timestamp": np.arange(720) + 1_600_000_000}
    )
    data = Dataset.from_frames(likes, path=root() / "likes-of-few")
    run = fit(data, path=root() / "likes-din", negatives=2, model=TINY, training={"max_epochs": 1}, show_progress=False)
    assert run.task.plan(run.config, data, None, show_progress=False).yardsticks() == {}
    with pytest.raises(ConfigError, match="no ranking without learning goes with these test rows"):
        comparison_tables([run.path], baselines=True)
