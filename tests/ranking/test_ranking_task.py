"""The ranking task: plans, kept models, outcomes and reports, on a small planted world and on one of every kind of field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import small_runs
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.batches import RankingBatch
from braidrec.data.dataset import Dataset
from braidrec.data.history import principal_directions
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.data.splits import Split
from braidrec.data.vocabulary import stack
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.evaluation.baselines import RankingLog, ranking_baselines
from braidrec.evaluation.metrics import auc
from braidrec.files import load_tensors, save_tensors
from braidrec.layers.embedding import FieldEmbedding, ItemTable
from braidrec.ranking import TASK as SPEC
from braidrec.ranking.contracts import Earlier, Patterns, PatternSource, SourceContext
from braidrec.ranking.history import Directions
from braidrec.ranking.model import ClickModel
from braidrec.ranking.scoring import part_labels, part_weights
from braidrec.ranking.task import TASK
from braidrec.registry import Spec
from braidrec.strict import Strict
from braidrec.task import Added, Floats, Plan, Saved
from braidrec.training.contracts import Hardware, PhaseResult
from braidrec.training.loop import train
from braidrec.training.stages import Stage, main_group, make_phase
from braidrec.training.step import Step

WIDTH = 12
MODEL = {"dim": 8, "history": {"length": 6}}
TRAINING = {"max_epochs": 1, "checks_per_epoch": 1, "batch_size": 512}


def configured(backbone: str = "din", enhance: Any = None, **more: Any) -> RunConfig:
    own, training = more.pop("model", {}), {**TRAINING, **more.pop("training", {})}
    model = {**small_runs.followed(MODEL, **{"backbone": backbone, "enhance": enhance, "model": own, **more}), **own}
    values = {"data": "-", "backbone": backbone, "enhance": enhance, "seed": 5, "model": model, "training": training, **more}
    return resolve(RunRequest.model_validate(values), "test")


def vectors(data: Dataset) -> Floats:
    found = np.random.default_rng(2).standard_normal((data.num_items + 1, WIDTH)).astype(np.float32)
    found[0] = 0
    return found


def planned(config: RunConfig, data: Dataset) -> Plan:
    return TASK.plan(config, data, vectors(data) if TASK.reads_text(config) else None, show_progress=False)


def trained(config: RunConfig, data: Dataset, folder: Path) -> tuple[ClickModel, tuple[PhaseResult, ...]]:
    plan = planned(config, data)
    phases = []
    for stage in plan.stages:
        training = config.training.of_phase(stage.name)
        if plan.average_epochs is not None:
            training = training.model_copy(update={"average_epochs": plan.average_epochs})
        assert isinstance(stage, Stage)
        phases.append(make_phase(stage, training, plan.batches(stage), plan.validate(stage), monitor=plan.monitor))
    result = train(phases, folder, hardware=Hardware(accelerator="cpu"), seed=config.seed, show_progress=False)
    found = plan.keep()
    assert isinstance(found, ClickModel)
    return found, result.phases


KINDS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "lr": {"backbone": "lr"},
    "disco": {"enhance": "disco"},
    "statistics": {"backbone": "deepfm", "model": {"statistics": True}},
    "rates": {"backbone": "deepfm", "model": {"rates": True, "statistics": True}},
    "authors": {"enhance": "disco", "preset": "authors", "model": {"statistics": True}},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_data = pytest.mark.parametrize("data", [small_runs.dataset, small_runs.rich], ids=["planted", "rich"])


@cache
def made(kind: str, data: Any) -> tuple[RunConfig, ClickModel, tuple[PhaseResult, ...]]:
    config = configured(**KINDS[kind])
    return config, *trained(config, data(), small_runs.root() / "tasks" / f"{kind}-{data.__name__}")


def written(saved: Saved, folder: Path) -> Saved:
    """As it comes back from a run directory."""
    digest = save_tensors(folder / "model.safetensors", saved.tensors)
    about = json.loads(json.dumps(dict(saved.about)))
    return Saved(load_tensors(folder / "model.safetensors", digest, RunError), about)


def all_rows(data: Dataset) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.arange(1, data.num_items + 1, dtype=np.int32)


@every_data
@every_kind
def test_a_kept_model_comes_back_with_its_data_or_alone(kind: str, data: Any, tmp_path: Path) -> None:
    config, model, _ = made(kind, data)
    rows, liked = all_rows(data()), np.array([3, 7, 3], np.int32)
    saved = written(model.saved(), tmp_path)
    again, alone = TASK.load(config, saved, data()), TASK.load(config, saved, None)
    pasts = [(user, None) for user in (1, 2, 5)] + [(None, liked), (None, None)]
    expected = model.scores([model.past(*past) for past in pasts], rows)
    assert expected.shape == (5, len(rows))
    assert expected.dtype == np.float32
    assert ((expected >= 0) & (expected <= 1)).all()
    assert len(np.unique(expected)) > len(rows)
    np.testing.assert_array_equal(again.scores([again.past(*past) for past in pasts], rows), expected)
    np.testing.assert_array_equal(alone.scores([alone.past(*past) for past in pasts[3:]], rows), expected[3:])
    with pytest.raises(RunError, match="user row 2: this model was loaded without its data, so it knows nobody by id"):
        alone.past(2)
    assert again.seen(again.past(None, liked)).tolist() == [3, 7, 3]
    log = data().log
    assert sorted(again.seen(again.past(2))) == sorted(log.item[log.user == 2])
    names = set(model.module.state_dict())
    assert {name for name in saved.tensors if not name.startswith("data.")} == names
    assert saved.about["parameters"] == sum(weight.numel() for weight in model.module.parameters())
    assert saved.about["semantic_width"] == (WIDTH if kind in ("disco", "authors") else 0)


@every_kind
def test_a_run_of_an_earlier_version_needs_its_data(kind: str, tmp_path: Path) -> None:
    config, model, _ = made(kind, small_runs.dataset)
    data = small_runs.dataset()
    saved = model.saved()
    former = Saved({name: tensor for name, tensor in saved.tensors.items() if not name.startswith("data.")}, saved.about)
    with pytest.raises(RunError, match="saved by an earlier version, which needs its data to answer"):
        TASK.load(config, former, None)
    asked = []
    again = TASK.load(config, former, data, lambda: asked.append(kind) or vectors(data))  # type: ignore[func-returns-value]
    assert bool(asked) == (kind == "authors")  # whose histories go by meaning
    for user in (1, None):
        np.testing.assert_array_equal(
            again.scores([again.past(user)], all_rows(data)), model.scores([model.past(user)], all_rows(data))
        )


@every_data
@every_kind
def test_outcomes_are_reported_as_they_were_validated(kind: str, data: Any) -> None:
    config, model, phases = made(kind, data)
    outcome = TASK.outcome(model, config, data(), "valid", show_progress=False)
    labels, weights = part_labels(data(), "valid", None), part_weights(data(), "valid", None)
    scores = outcome.values["scores"]
    assert (weights is not None) == (data is small_runs.rich)
    assert phases[-1].metrics["auc"] == pytest.approx(auc(labels, scores, weights), abs=1e-12)
    report = TASK.report(outcome, config, data(), "valid", min_rows=1)
    for name, value in phases[-1].metrics.items():
        assert report["all"][name] == pytest.approx(value, abs=1e-9)
    rows = data().split["valid"]
    assert np.array_equal(outcome.user, data().log.user[rows])
    assert np.array_equal(outcome.item, data().log.item[rows])
    few = TASK.report(outcome, config, data(), "valid")["all"]
    assert (few.few, few.reason, few["auc"]) == (len(rows) < 1_000, None, report["all"]["auc"])


@pytest.mark.parametrize("monitor", ["log_loss", "ndcg@5"])
def test_another_number_of_validation_may_choose(monitor: str, tmp_path: Path) -> None:
    data = small_runs.dataset()
    config = configured(
        model={"monitor": monitor}, training={"max_epochs": 2, "checks_per_epoch": 4, "batch_size": 256, "lr": 0.02}
    )
    model, phases = trained(config, data, tmp_path)
    lines = [json.loads(line)["validation"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    values = [line[monitor] for line in lines]
    assert phases[-1].best_metric == phases[-1].metrics[monitor] == (min if monitor == "log_loss" else max)(values)
    assert len(set(values)) > 1
    report = TASK.report(TASK.outcome(model, config, data, "valid"), config, data, "valid", min_rows=1)
    assert report["all"][monitor] == pytest.approx(phases[-1].best_metric, abs=1e-9)
    assert lines[0].keys() == {"auc", "log_loss", monitor}


def test_a_number_of_validation_that_is_none_is_refused(tmp_path: Path) -> None:
    accepted = "'auc', 'log_loss', 'recall@5', 'hr@5', 'ndcg@5', 'recall@10', 'hr@10' or 'ndcg@10'"
    with pytest.raises(ConfigError, match=f"'monitor' = 'mrr': input should be {accepted}"):
        configured(model={"monitor": "mrr"})
    events = pl.DataFrame(
        {"user": [1, 1, 1, 1, 2, 2, 2, 2], "item": [1, 2, 3, 4] * 2, "timestamp": range(8), "label": [0, 1, 1, 0, 1, 0, 0, 1]}
    )
    cut = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))
    one_row_each = Dataset.from_frames(events, path=tmp_path / "one-row-each", settings=cut)
    plan = planned(configured(model={"monitor": "hr@5"}), one_row_each)
    with pytest.raises(DataError, match=r"no user has 'valid' rows of both labels, so no hr@5 can choose .*monitor = 'auc'"):
        plan.validate(plan.stages[-1])


def test_models_are_tested_against_one_another() -> None:
    data = small_runs.dataset()
    first, second = (
        TASK.outcome(made(kind, small_runs.dataset)[1], made(kind, small_runs.dataset)[0], data, "test")
        for kind in ("disco", "lr")
    )
    assert first.same_rows(second)
    (test,) = TASK.tests([first], [second], None, data, "test")
    labels = part_labels(data, "test", None)
    assert test.metric == "auc"
    assert test.difference == pytest.approx(auc(labels, first.values["scores"]) - auc(labels, second.values["scores"]))


def test_baselines_stand_beside_logs_with_negatives_of_their_own() -> None:
    assert tuple(SPEC.baselines) == ("popularity", "item-mean", "item-mean-user-residual")
    data = small_runs.dataset()
    log, split = data.log, data.split
    rankings = ranking_baselines(RankingLog(log.user, log.item, log.label, split["train"], split["valid"], split["test"]))
    for name, ranking in zip(SPEC.baselines, rankings, strict=True):
        outcome = TASK.baseline(name, None, data, "test")
        assert outcome is not None
        report = TASK.report(outcome, None, data, "test")
        assert report["all"]["log_loss"] is None  # scores are no logits
        assert report["all"]["auc"] is not None
        np.testing.assert_array_equal(outcome.values["scores"], ranking.test)
        assert SPEC.baselines[name].title == ranking.name
        assert TASK.baseline(name, None, data, "valid") is None
        assert TASK.baseline(name, configured(negatives=1), small_runs.positives(), "test") is None


def test_drawn_negatives_are_the_same_for_every_seed(tmp_path: Path) -> None:
    data, config = small_runs.positives(), configured("dcn", negatives=2)
    model, phases = trained(config, data, tmp_path / "one")
    outcome = TASK.outcome(model, config, data, "test", show_progress=False)
    events = data.split["test"]
    assert len(outcome.user) == 3 * len(events)
    assert np.array_equal(outcome.item[::3], data.log.item[events])
    other = configured("dcn", negatives=2).model_copy(update={"seed": 6})
    assert outcome.same_rows(TASK.outcome(model, other, data, "test", show_progress=False))
    assert TASK.report(outcome, config, data, "test", min_rows=1)["all"].counts["positives"] == len(events)
    assert np.isfinite(phases[-1].metrics["auc"])


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("backbone", ["din", "gbdt"])
def test_training_rows_of_one_class_teach_nothing(backbone: str, label: int) -> None:
    """Drawn negatives would be no remedy: elsewhere the log has its own."""
    data = small_runs.dataset()
    labels = data.log.label.copy()
    labels[data.split["train"]] = label
    config = configured() if backbone == "din" else resolve(RunRequest(data="-", backbone="gbdt"), "test")
    with pytest.raises(
        DataError, match=rf"rows of the part 'train' have label {label}, so there is nothing for the stage 'rank'"
    ):
        planned(config, replace(data, log=replace(data.log, label=labels)))


def test_what_cannot_be_planned() -> None:
    data, positives = small_runs.dataset(), small_runs.positives()
    with pytest.raises(ConfigError, match=r"every row is positive.*negatives=4$"):
        planned(configured(), positives)
    with pytest.raises(ConfigError, match="negatives = 2, but this log has negative rows of its own"):
        planned(configured(negatives=2), data)
    similar = {"history": {"kind": "semantic_topk", "length": 6}}
    with pytest.raises(ConfigError, match="so it would give drawn negatives away"):
        planned(configured(negatives=2, model=similar), positives)
    with pytest.raises(ConfigError, match="'semantic_topk' needs a knowledge base"):
        TASK.plan(configured(model=similar), data, None)
    with pytest.raises(ConfigError, match="enhance = 'disco' needs item text vectors"):
        TASK.plan(configured(enhance="disco"), data, None)
    with pytest.raises(ConfigError, match=r"set average_epochs = 0, or tables = 'dense'"):
        planned(configured(training={"tables": "lazy"}), data)
    with pytest.raises(DataError, match="need a timestamp column"):
        planned(configured(negatives=2, model={"statistics": True}), positives)
    label = data.log.label.copy()
    label[data.split["valid"]] = 0
    with pytest.raises(DataError, match=r"all .* validation rows have label 0"):
        planned(configured(), replace(data, log=replace(data.log, label=label)))


def test_what_a_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_runs.dataset()
    plan = planned(configured(enhance="disco", model={"enhance": {"disentangle_weight": 0.01}}), data)
    (stage,) = plan.stages
    assert isinstance(stage, Stage)
    assert (stage.name, tuple(plan.names), stage.monitor, plan.monitor) == ("rank", ("rank",), "auc", "auc")
    assert dict(stage.weights) == {"prediction": 1.0, "disentanglement": 0.01}
    assert [(group.name, group.lr, group.weight_decay, group.steps) for group in stage.groups] == [
        ("main", None, None, 1),
        ("estimators", 1e-3, 0.0, 1),
    ]
    assert plan.choices == {"tables": "dense", "table_rows": 277, "average_epochs": 0.8}
    assert plan.average_epochs is None
    monkeypatch.setattr("braidrec.ranking.task.choose_table_update", lambda rows, dim: "lazy")
    lazy = planned(configured(), data)
    assert lazy.choices == {"tables": "lazy", "table_rows": 277, "average_epochs": 0.0}
    rowwise = {"tables": "rowwise", "table_lr": 0.05, "average_epochs": 0.0}
    assert planned(configured(training=rowwise), data).choices["tables"] == "rowwise"
    with pytest.raises(ConfigError, match=r"table_lr = 0.05 is of training.tables = 'rowwise', and tables = 'lazy'"):
        planned(configured(training={**rowwise, "tables": "lazy"}), data)
    assert lazy.average_epochs == 0.0
    assert [TASK.reads_text(configured(**KINDS[kind])) for kind in KINDS] == [False, False, True, False, False, True]


def test_a_model_of_buffers_alone_is_asked_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As what is fitted at once may be."""
    module, data, asked = nn.Module(), small_runs.dataset(), []
    module.register_buffer("scores", torch.zeros(3, device="meta"))
    _, model, _ = made("plain", small_runs.dataset)
    assert replace(model, network=module).device == torch.device("meta")

    def score(module: nn.Module, batches: Any, device: torch.device) -> Floats:
        asked.append(device)
        return np.zeros(len(part_labels(data, "valid", None)), np.float32)

    monkeypatch.setattr("braidrec.ranking.task.score_batches", score)
    plan = planned(configured(), data)
    assert plan.validate(plan.stages[0])(module)["auc"] == 0.5
    assert asked == [torch.device("meta")]


# -- items added after training -------------------------------------------------------------------------------------------


def added(data: Dataset, count: int = 2) -> Added:
    """The first items of the catalogue again, under ids of their own."""
    frame = data.items.head(count).with_columns(
        (data.items[data.schema.item].head(count).hash() % 1000 + 5000).alias(data.schema.item)
    )
    fields, numbers, bags = data.encode_items(frame)
    text = torch.from_numpy(vectors(data)[1 : count + 1])
    return Added(text, torch.from_numpy(fields), torch.from_numpy(numbers), tuple(map(torch.from_numpy, bags)))


@every_data
@pytest.mark.parametrize("kind", ["disco", "authors"])
def test_a_model_that_grows_leaves_the_one_that_answers_as_it_was(kind: str, data: Any, tmp_path: Path) -> None:
    config, model, _ = made(kind, data)
    size, rows = data().num_items, all_rows(data())
    before = model.scores([model.past(1), model.past(None)], rows)
    grown = model.with_items(added(data()))
    np.testing.assert_array_equal(model.scores([model.past(1), model.past(None)], rows), before)
    np.testing.assert_array_equal(grown.scores([grown.past(1), grown.past(None)], rows), before)
    more = np.array([size + 1, size + 2, 1], np.int32)
    found = grown.scores([grown.past(1), grown.past(None, more[:1])], more)
    assert len(set(found[0].tolist())) == 3
    assert grown.candidates.num_items == size + 2
    again = TASK.load(config, written(grown.saved(), tmp_path), None)
    np.testing.assert_array_equal(again.scores([again.past(None, more[:1])], more), found[1:])
    text: Any = grown.module.sources[0].semantic.reduced  # type: ignore[union-attr, index]
    torch.testing.assert_close(text[-2:], text[1:3])
    unknown = grown.layout.unknown[grown.layout.item_slice[0]]
    assert grown.module.embed.item_fields[-2:, 0].tolist() == [unknown] * 2  # type: ignore[union-attr, index]
    assert grown.reads_text
    assert not made("plain", data)[1].reads_text


def test_looks_inside_and_notes() -> None:
    model = made("disco", small_runs.dataset)[1]
    found = TASK.inspect(model.module, 120)
    assert {name: part.shape for name, part in found.items()} == dict.fromkeys(("id", "tabular", "text"), (121, 8))
    assert TASK.inspect(made("lr", small_runs.dataset)[1].module, 120) == {}
    assert model.notes(new_user=False, added=2) == []
    assert "the unknown rows stand in" in model.notes(new_user=True, added=0)[0]
    assert (model.probabilities, model.facts()) == (True, {})


# -- histories by meaning -------------------------------------------------------------------------------------------------


def test_the_history_cut_today_is_the_one_prepared_for_its_time() -> None:
    from braidrec.ranking.config import settings_of
    from braidrec.ranking.history import history_source

    config, model, _ = made("authors", small_runs.dataset)
    data, log = small_runs.dataset(), small_runs.dataset().log
    source = history_source(data, settings_of(config).history, model.directions)
    event = int(log.slot_event[log.start[2] - 1])  # the last of user 1
    prepared = source.before(torch.tensor([event]))
    past = model.past(1)
    today = model.window(replace(past, items=past.items[:-1], signals=past.signals[:-1]), past.items[-1:])
    for name in ("items", "signals", "mask"):
        assert torch.equal(getattr(today, name), getattr(prepared, name))
    assert model.window(past, torch.arange(1, 9, dtype=torch.int32)).items.shape == (8, 6)


def test_directions_of_added_items_are_those_they_would_have_had() -> None:
    rng = np.random.default_rng(0)
    for width in (40, 600):
        table = np.concatenate([np.zeros((1, width)), rng.standard_normal((700, width))]).astype(np.float32)
        directions = Directions.of(table)
        found = directions.with_items(torch.from_numpy(table[5:8])).rows.numpy()
        np.testing.assert_array_equal(found[: len(table)], principal_directions(table))
        np.testing.assert_allclose(found[-3:], found[5:8], atol=1e-4)
        again = Directions.of_tensors(directions.tensors())
        assert set(directions.tensors()) == ({"rows", "centre"} if width == 40 else {"rows", "centre", "components", "shift"})
        assert torch.equal(again.with_items(torch.from_numpy(table[5:8])).rows, torch.from_numpy(found))


# -- sources with a stage of their own ------------------------------------------------------------------------------------


class Taught(nn.Module, PatternSource):
    """One field from a table of items that an earlier stage fits to the labels, and which then stands still."""

    name, num_extras = "taught", 1

    def __init__(self, config: Strict, context: SourceContext):
        super().__init__()
        self.table = nn.Embedding(len(context.material.item_fields), context.settings.dim)
        self.table.weight.requires_grad_(False)
        self.teacher = Teacher(len(context.material.item_fields), context.settings.dim)

    def forward(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        return Patterns(self.table(batch.item.long())[:, None])

    def earlier(self) -> list[Earlier]:
        stage = Stage("teach", self.teacher, {"prediction": 1.0}, [main_group(self.teacher)])
        return [Earlier(stage, {"table.": "table."})]

    def export(self) -> None:
        self.teacher = nn.Identity()  # type: ignore[assignment]


class Teacher(nn.Module):
    def __init__(self, rows: int, dim: int):
        super().__init__()
        self.table = nn.Embedding(rows, dim)

    def forward(self, batch: RankingBatch) -> Tensor:
        logits: Tensor = self.table(batch.item.long()).sum(dim=1)
        return logits

    def step(self, batch: RankingBatch) -> Step:
        return Step(lambda: {"prediction": (self(batch) - batch.label).square().mean()})


def test_a_source_may_have_a_stage_before_the_model_s_own(tmp_path: Path) -> None:
    data = small_runs.dataset()
    with SPEC.methods.holding(Spec("taught", "Taught", Strict, Taught)):
        config = configured("dcn", ["taught", "disco"])
        assert config.title == "DCN + Taught + DisCo"
        plan = planned(config, data)
        assert tuple(plan.names) == ("teach", "rank")
        last = plan.stages[-1]
        assert isinstance(last, Stage)
        assert last.starts == {"teach": {"table.": "sources.0.table."}}
        apart = {id(weight) for weight in plan.stages[0].module.parameters()}
        model, phases = trained(config, data, tmp_path / "run")
        assert [phase.name for phase in phases] == ["teach", "rank"]
        assert apart
        kept = load_tensors_of(tmp_path / "run", phases[0].weights)
        assert torch.equal(model.module.state_dict()["sources.0.table.weight"], kept["table.weight"])
        assert not any("teacher" in name for name in model.saved().tensors)


def load_tensors_of(folder: Path, weights: str) -> Mapping[str, Tensor]:
    from braidrec.training.checkpoint import read_archive

    return read_archive(folder / "weights" / weights).files["model"]


@pytest.mark.parametrize(("backbone", "enhance"), [("din", ()), ("fm", ()), ("lr", ()), ("deepfm", ("edk",))])
def test_a_field_of_more_values_than_there_is_memory_for_is_named(backbone: str, enhance: tuple[str, ...]) -> None:
    """No list of so many values is made, here or there; FFM counts bytes by itself."""
    data = small_runs.dataset()
    many = [
        replace(entry, values=range(10**12)) if entry.name == "publisher" else entry for entry in data.features.vocabularies
    ]
    split = {**data.split.parts, "knowledge": data.split["train"], "knowledge_valid": data.split["valid"]}
    large = replace(data, features=replace(data.features, vocabularies=stack(many)), split=Split(split))
    config = resolve(RunRequest(data="-", backbone=backbone, enhance=enhance), "test")
    with pytest.raises(RunError) as caught:
        TASK.plan(config, large, None, show_progress=False)
    for part in (
        "planted: a table of 1,000,000,000,",
        "rows, 1,000,000,000,000 of them values of the field 'publisher', asks for memory that is not there (",
        "at once); lower model.dim, or prepare the data with fewer: leave that field out, or users and items of few events",
    ):
        assert part in str(caught.value)
