"""The task: its plan, the model that it keeps, what is saved of it, and what evaluation makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import small_sequences as small
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.popularity import frequency_buckets, train_counts
from braidrec.data.schema import Schema
from braidrec.data.sequences import training_ends, training_events
from braidrec.data.settings import SplitConfig
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.evaluation.retrieval import RetrievalRows, rank_targets
from braidrec.evaluation.retrieval_report import gains
from braidrec.evaluation.sequential_baselines import sequential_baselines
from braidrec.registry import Spec
from braidrec.sequential import TASK
from braidrec.sequential.build import build_stages, kept_module, make_parts, parts_of, settings_of
from braidrec.sequential.model import Past, SequentialModel
from braidrec.sequential.scoring import HistoryScorer, part_rows, validation
from braidrec.sequential.stages import plain_stages
from braidrec.sequential.task import TASK as ROOM
from braidrec.strict import Strict
from braidrec.task import Added, Saved
from braidrec.training.stages import Stage
from small_runs import root

WITH_TEXT = ("pad by text", "pad contextual by text", "smem", "make", "hybrid", "morec", "disco")
KINDS = ("plain", "ctrl", *WITH_TEXT)
ALL = np.arange(1, small.ITEMS + 1, dtype=np.int32)
PAST = np.array([4, 9, 4, 12], np.int32)


def past(items: NDArray[np.int32]) -> Past:
    return Past(items, items)


@cache
def kept(method: str) -> SequentialModel:
    """As a run keeps it, untrained, with id rows and a gate that tell items and buckets apart."""
    plan = small.plan_of(small.config(method))
    with torch.no_grad():
        for name, weight in plan.stages[-1].module.named_parameters():
            if "table" in name or "gate" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    return cast(SequentialModel, plan.keep())


def added(count: int, seed: int = 8) -> Added:
    """Items by text alone; a model of sequences reads no fields."""
    return Added(small.knowledge(count, seed)[1:], torch.zeros(count, 1, dtype=torch.int32), torch.zeros(count, 0))


def copied(saved: Saved) -> Saved:
    return Saved({name: tensor.clone() for name, tensor in saved.tensors.items()}, dict(saved.about))


def counts() -> np.ndarray:
    data = small.dataset()
    return train_counts(data.log, training_ends(data), data.num_items)


# The plan ----------------------------------------------------------------------------------------------------------------


def test_settings_that_do_not_go_together_are_refused() -> None:
    plain = small.config("plain")
    for key, value, shown in (("tables", "lazy", "'lazy'"), ("tables", "rowwise", "'rowwise'"), ("table_lr", 0.05, "0.05")):
        sparse = plain.model_copy(update={"training": plain.training.model_copy(update={key: value})})
        with pytest.raises(
            ConfigError, match=rf"training\.{key} = {shown} is for ranking models; sequence models train dense tables"
        ):
            small.plan_of(sparse)
    two = resolve(RunRequest(data="-", backbone="sasrec", enhance=("pad", "hybrid")), "test")
    with pytest.raises(ConfigError, match=r"enhance = pad, hybrid: .* a plan of stages of its own.*; choose pad or hybrid"):
        small.plan_of(two)
    with pytest.raises(ConfigError, match="this model reads item text: give the run a knowledge base"):
        ROOM.plan(small.config("hybrid"), small.dataset(), None)


def test_data_without_sequences_is_refused() -> None:
    data = small.dataset()
    tables = small.tables_of([[1, 2, 3, 4, 5, 6]] * 30, 10, "shuffled")
    shuffled = Dataset.prepare(tables, root() / "shuffled", PrepareSettings(split=SplitConfig(kind="ratio", min_history=1)))
    with pytest.raises(DataError, match=r"the split is 'ratio'.*split\.kind = 'leave_last_two' or 'temporal'"):
        small.plan_of(small.config("plain"), shuffled)
    tables = small.tables_of([[1, 2, 3]] * 5, 10, "short")
    last_two = SplitConfig(kind="leave_last_two", min_history=0)
    short = Dataset.prepare(tables, root() / "short", PrepareSettings(split=last_two))
    plan = small.plan_of(small.config("plain"), short)
    with pytest.raises(DataError, match=r"no user has two events before the held-out ones"):
        plan.batches(cast(Stage, plan.stages[0]))
    other = replace(cast(Stage, plan.stages[0]), train="knowledge")
    with pytest.raises(ConfigError, match="stage 'pretrain' trains on the part 'knowledge'; sequence models train on"):
        small.plan_of(small.config("plain"), data).batches(other)


def test_negatives_are_drawn_where_a_loss_reads_them_alone() -> None:
    """User 1 met the whole catalogue, so there is no negative for them; a softmax over all items needs none."""
    data = small.sequences_of([[*range(1, 11), 1, 2], [1, 2, 3, 4, 5], [6, 7, 8, 9]], 10, "ten")
    text = small.knowledge(10)

    def batches(method: str, loss: str) -> dict[str, Any]:
        plan = small.plan_of(small.config(method, "sasrec", loss, buckets=2), data, text if method != "plain" else None)
        return {stage.name: plan.batches(cast(Stage, stage)) for stage in plan.stages}

    for method, stages, reading in (
        ("plain", ["pretrain"], []),
        ("smem", ["pretrain", "experts"], []),
        ("pad", ["pretrain", "align", "experts"], ["align"]),  # the distance is between negatives, too
        ("disco", ["train"], ["train"]),
        ("ctrl", ["contrast", "tune"], ["contrast"]),
    ):
        found = batches(method, "full_ce")
        assert list(found) == stages
        for name, own in found.items():
            if name in reading:
                with pytest.raises(DataError, match="user row 1 met all 10 items, so no negative is left"):
                    next(iter(own))
            else:
                batch = next(iter(own))
                assert batch.negatives.shape == (*batch.items.shape, 0)
    with pytest.raises(DataError, match="user row 1 met all 10 items, so no negative is left"):
        next(iter(batches("plain", "bce")["pretrain"]))


@pytest.mark.parametrize("method", ["plain", "pad", "pad contextual"])
def test_a_loss_without_negatives_is_the_same_whatever_was_drawn(method: str) -> None:
    stage = cast(Stage, small.plan_of(small.config(method, "sasrec", "full_ce")).stages[-1])
    module: Any = stage.module.eval()
    drawn = small.batch_of(small.histories())
    none = replace(drawn, negatives=drawn.negatives[..., :0])
    with torch.no_grad():
        first, second = (module.step(batch).losses()["prediction"] for batch in (drawn, none))
    assert torch.equal(first, second)
    assert not module.draws


def test_a_plan_starts_from_its_own_seed_alone() -> None:
    torch.manual_seed(0)
    first = small.plan_of(small.config("pad")).stages[-1].module.state_dict()
    torch.manual_seed(1)
    again = small.plan_of(small.config("pad")).stages[-1].module.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(small.config("pad").seed)
    alone = build_stages(small.config("pad"), small.parts_of(small.config("pad")))[-1].module.state_dict()
    assert all(torch.equal(first[name], alone[name]) for name in first)


@pytest.mark.parametrize("method", WITH_TEXT)
def test_all_maps_of_a_model_read_one_table(method: str) -> None:
    held: set[int] = set()
    for stage in small.plan_of(small.config(method)).stages:
        held |= {id(module) for module in stage.module.modules() if type(module).__name__ == "TextTable"}
    assert len(held) == 1
    assert not any(type(module).__name__ == "TextTable" for module in kept(method).module.modules())  # nor after training


class Deaf(nn.Module):
    """A stage that recommends nothing."""

    def ranks(self) -> None:
        return None


def test_a_method_ends_with_what_ranks() -> None:
    with pytest.raises(ConfigError, match="the last stage 'deaf' trains a Deaf, which does not rank the catalogue"):
        kept_module([Stage("deaf", Deaf(), {"prediction": 1.0}, [])])


def test_a_whole_model_plans_its_own_stages() -> None:
    parts = small.parts_of(small.config("plain"))
    spec = Spec("whole", "Whole", Strict, lambda config, parts: plain_stages(parts), presets={"ours": {}})
    with TASK.models.holding(spec):
        config = resolve(RunRequest(data="-", backbone="whole"), "test")
        assert config.title == "Whole"
        assert [stage.name for stage in build_stages(config, parts)] == ["pretrain"]


# The model ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", KINDS)
def test_scores_are_those_of_the_encoder_and_the_catalogue(method: str) -> None:
    model = kept(method)
    net: Any = model.module
    items = torch.tensor([[*[0] * (small.LENGTH - 4), *PAST.tolist()]])
    with torch.no_grad():
        expected = net.catalogue().scores(net.states(items, items > 0)).numpy()
    found = model.scores([past(PAST), past(PAST[:0]), past(PAST)], ALL)
    assert (found.shape, found.dtype) == ((3, small.ITEMS), np.float32)
    np.testing.assert_allclose(found[[0, 2]], np.repeat(expected[:, 1:], 2, axis=0), rtol=1e-5, atol=1e-6)
    assert found[1].tolist() == counts()[1:].tolist()  # nobody met yet: what was met most often
    numbered = replace(model, counts=torch.arange(small.ITEMS + 1))
    assert numbered.scores([past(PAST[:0])], ALL[[29, 4]])[0].tolist() == [30, 5]
    np.testing.assert_allclose(model.scores([past(PAST)], ALL[[7, 2]])[0], found[0, [7, 2]], rtol=1e-5, atol=1e-6)
    long = np.concatenate([np.full(50, 3, np.int32), np.tile(PAST, 2)])
    np.testing.assert_array_equal(model.scores([past(long)], ALL), model.scores([past(long[-small.LENGTH :])], ALL))


def test_pasts_are_what_somebody_met() -> None:
    data, model = small.dataset(), kept("plain")
    own = [item for row, item in zip(data.log.user.tolist(), data.log.item.tolist(), strict=True) if row == 7]
    assert model.past(7).items.tolist() == own  # the log of one user is in order
    assert model.past(None, np.array([3, 5, 3])).items.tolist() == [3, 5, 3]
    assert model.past(None).items.tolist() == []
    assert model.seen(Past(PAST[:1], PAST)) is PAST
    events = {"user": ["a"] * 6, "item": list("stuvwx"), "time": list(range(6)), "label": [1, 0, 1, 1, 0, 1]}
    schema = Schema(user="user", item="item", timestamp="time", label="label")
    labelled = Dataset.from_frames(pl.DataFrame(events), schema=schema, settings=small.LAST_TWO)
    found = replace(model, data=labelled).past(1, np.array([2], np.int32))
    names = [[labelled.item_ids[row - 1] for row in part] for part in (found.items, found.seen)]
    assert names == [[*"suvx", "t"], [*"stuvwx", "t"]]  # what was met without being liked is no news, and followed by nobody
    alone = ROOM.load(small.config("plain"), copied(model.saved()), None)
    with pytest.raises(
        RunError, match=r"SASRec: what a known user met stands in the log.*give the data \(load\(path, dataset=\.\.\.\)\)"
    ):
        alone.past(7)


@pytest.mark.parametrize("method", KINDS)
def test_a_saved_model_answers_without_its_data(method: str) -> None:
    model, config = kept(method), small.config(method)
    saved = copied(model.saved())
    assert saved.about == {
        "semantic_width": small.WIDTH if config.reads_text else 0,
        "parameters": sum(weight.numel() for weight in model.module.parameters()),
    }
    state = torch.random.get_rng_state()
    again = ROOM.load(config, saved, None)
    assert torch.equal(state, torch.random.get_rng_state())
    pasts = [past(PAST), past(PAST[:0])]
    np.testing.assert_array_equal(again.scores(pasts, ALL), model.scores(pasts, ALL))
    assert again.facts() == model.facts()
    assert again.reads_text == model.reads_text == (method in WITH_TEXT)
    former = Saved({name: part for name, part in saved.tensors.items() if not name.startswith("data.")}, saved.about)
    np.testing.assert_array_equal(ROOM.load(config, former, small.dataset()).scores(pasts, ALL), model.scores(pasts, ALL))
    with pytest.raises(RunError, match=r"saved by an earlier version, .* so it needs its data"):
        ROOM.load(config, former, None)


@pytest.mark.parametrize("method", WITH_TEXT)
def test_added_items_make_another_model(method: str) -> None:
    model = kept(method)
    before = model.scores([past(PAST), past(PAST[:0])], ALL)
    names = set(model.saved().tensors)
    one = model.with_items(added(2))
    two = one.with_items(added(1, seed=9))
    np.testing.assert_array_equal(model.scores([past(PAST), past(PAST[:0])], ALL), before)
    more = np.append(ALL, np.arange(small.ITEMS + 1, small.ITEMS + 4)).astype(np.int32)
    found = two.scores([past(PAST), past(PAST[:0])], more)
    np.testing.assert_allclose(found[:, :-3], before, rtol=1e-5, atol=1e-5)
    assert found[1, -3:].tolist() == [0, 0, 0]  # met by nobody
    assert len(set(found[0, -3:].tolist())) == 3
    np.testing.assert_allclose(one.scores([past(PAST)], more[:-1])[0], found[0, :-1], rtol=1e-5, atol=1e-5)
    assert np.isfinite(two.scores([past(more[-2:])], more)).all()
    whole = two.saved()
    assert set(whole.tensors) == names | {"added.vectors"}
    again = ROOM.load(small.config(method), copied(whole), None)
    np.testing.assert_allclose(again.scores([past(PAST), past(PAST[:0])], more), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["plain", "ctrl"])
def test_a_model_of_ids_alone_takes_no_items(method: str) -> None:
    title = small.config(method).title
    with pytest.raises(
        RunError, match=rf"{title.replace('+', '.')} knows items by id alone; add_items needs a model that reads"
    ):
        kept(method).with_items(added(1))


def test_notes_say_what_a_reader_should_know() -> None:
    for method in KINDS:
        model = kept(method)
        assert model.notes(new_user=False, added=0) == []
        (note,) = model.notes(new_user=True, added=0)
        assert note == (
            "a new user is known by the items given, oldest first, of which the last 6 count; "
            "without any, the items met most often come first"
        )
    ids = "the mean id row of the least met items where an id is fused with text)"
    assert kept("hybrid").notes(new_user=False, added=1) == [f"1 item was added after training: text speaks there ({ids}"]
    gate = "the coldest bucket's gate without the id expert, "
    (note,) = kept("smem").notes(new_user=False, added=1_200)
    assert note == f"1,200 items were added after training: text speaks there ({gate}{ids}"
    assert not kept("smem").probabilities


def test_shares_of_the_gate_are_facts() -> None:
    found = kept("pad by text").facts()["gate"]
    assert found["experts"] == ["id", "aligned", "text"]
    shares = np.array(found["shares"])
    assert shares.shape == (small.BUCKETS, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert kept("make").facts()["gate"]["experts"] == ["id", "text"]
    for method in ("plain", "hybrid", "pad contextual by text"):
        assert kept(method).facts() == {}


# Spaces ------------------------------------------------------------------------------------------------------------------

ALIGNED = {"aligned_id", "aligned_text", "aligned"}
SPACES: Mapping[str, list[set[str]]] = {
    "plain": [{"id"}],
    "hybrid": [ALIGNED],
    "morec": [{"text"}],
    "ctrl": [{"id", "text"}, {"id"}],
    "make": [{"text"}, {"id", "text"}],
    "smem": [{"id"}, {"id", "text", *ALIGNED}],
    "pad": [{"id"}, ALIGNED, {"id", "text", *ALIGNED}],
    "disco": [{"id_specific", "id_common", "text_specific", "text_common", "whole"}],
}


@pytest.mark.parametrize("method", SPACES)
def test_every_stage_shows_what_its_item_vectors_are_made_of(method: str) -> None:
    for stage, names in zip(small.plan_of(small.config(method)).stages, SPACES[method], strict=True):
        found = ROOM.inspect(stage.module, small.ITEMS)
        assert found.keys() == names
        for name, part in found.items():
            width = small.DIM // 4 if name.endswith(("specific", "common")) else small.DIM
            assert (part.shape, part.dtype) == ((small.ITEMS + 1, width), np.float32)
            assert not part[0].any()
            assert part[1:].any()


def test_spaces_are_the_vectors_that_rank() -> None:
    model: Any = kept("pad by text").module
    found = ROOM.inspect(model, small.ITEMS)
    with torch.no_grad():
        for name, expert in model.experts.items():
            np.testing.assert_array_equal(expert.table().numpy(), found[name])
        fused = model.experts["aligned"].items
        ids, text = torch.from_numpy(found["aligned_id"]), torch.from_numpy(found["aligned_text"])
        np.testing.assert_array_equal(fused.fuse(torch.arange(small.ITEMS + 1), ids, text).numpy(), found["aligned"])


# Evaluation --------------------------------------------------------------------------------------------------------------


def test_an_outcome_is_the_ranking_of_the_part() -> None:
    data, model, config = small.dataset(), kept("pad by text"), small.config("pad by text")
    rows = part_rows(data, "test")
    expected = rank_targets(HistoryScorer(model.module, rows, small.LENGTH), rows, top=20)
    found = ROOM.outcome(model, config, data, "test", show_progress=False)
    np.testing.assert_array_equal(found.user, data.log.user[data.split["test"]])
    np.testing.assert_array_equal(found.item, data.log.item[data.split["test"]])
    assert found.values.keys() == {"rank", "top", "masked"}
    for name, values in found.values.items():
        np.testing.assert_array_equal(values, getattr(expected, name))
    grown = ROOM.outcome(model.with_items(added(2)), config, data, "test", show_progress=False)
    for name, values in grown.values.items():
        np.testing.assert_array_equal(values, found.values[name])
    assert found.same_rows(grown)


@pytest.mark.parametrize("config", [None, small.config("plain")], ids=["by default", "of a run"])
def test_the_report_is_by_how_often_training_met_the_target(config: RunConfig | None) -> None:
    data = small.dataset()
    outcome = ROOM.outcome(kept("plain"), small.config("plain"), data, "test", show_progress=False)
    report, met = ROOM.report(outcome, config, data, "test", min_rows=1), counts()
    ranks = outcome.values["rank"]
    assert report["all"]["hr@10"] == pytest.approx((ranks <= 10).mean())
    assert report["all"]["ndcg@10"] == pytest.approx(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())
    assert report["unseen"].rows == (met[outcome.item] == 0).sum() > 0
    buckets = small.BUCKETS if config is not None else 10
    bucket = frequency_buckets(met, buckets)
    assert [report[f"bucket_{at}"].rows for at in range(1, buckets + 1)] == [
        (bucket[outcome.item] == at).sum() for at in range(1, buckets + 1)
    ]
    assert {metric.key for metric in TASK.metrics} <= report["all"].values.keys()
    few = ROOM.report(outcome, config, data, "test")["all"]
    assert (few.rows, few.few, few.reason, few.values) == (40, True, None, report["all"].values)


def test_baselines_by_name_are_those_of_the_training_sequences() -> None:
    data = small.dataset()
    for part in ("valid", "test"):
        rows = part_rows(data, part)
        scorers = sequential_baselines(rows, *training_events(data.log, training_ends(data)))
        assert list(TASK.baselines) == ["popularity", "item-knn", "markov", "ease"]
        for name, scorer in zip(["popularity", "item-knn", "markov"], scorers, strict=True):
            found, expected = ROOM.baseline(name, None, data, part), rank_targets(scorer, rows, top=20)
            assert TASK.baselines[name].title_of(None) == scorer.name
            for each in ("rank", "top", "masked"):
                np.testing.assert_array_equal(found.values[each], getattr(expected, each))
    with pytest.raises(ConfigError, match="unknown baseline 'markow'"):
        ROOM.baseline("markow", None, data, "test")


def test_baselines_have_the_settings_that_they_name() -> None:
    assert TASK.baselines["item-knn"].config().length == 20
    assert TASK.baselines["ease"].config().penalty == 100.0
    # item 1 was met with 2, and 3 with 4; the row has 1, then 3 twice, of which a short reader sees 3 alone
    past, user = np.array([1, 3, 3], np.int32), np.array([1], np.int32)
    rows = RetrievalRows.single(user, np.array([2], np.int32), past, np.array([0]), np.array([3]), 4)
    met = np.array([1, 1, 2, 2], np.int32), np.array([1, 2, 3, 4], np.int32)
    for length, expected in ((20, [0, 0, 1, 0, 2]), (2, [0, 0, 0, 0, 2])):
        spec = TASK.baselines["item-knn"]
        scorer = spec.build(spec.config(length=length), rows, *met)
        assert scorer.scores(np.arange(1))[0].tolist() == expected
    # two users, four items: two pairs that go together; X^T X + lambda has 1 + lambda on its diagonal and 1 beside it
    for penalty in (1.0, 100.0):
        spec = TASK.baselines["ease"]
        found = spec.build(spec.config(penalty=penalty), rows, *met).scores(np.arange(1))[0]
        assert found[1:].tolist() == pytest.approx([0, 1 / (1 + penalty), 0, 1 / (1 + penalty)], abs=1e-6)


def test_what_was_met_before_is_a_miss_though_the_catalogue_is_shorter_than_the_list() -> None:
    """Users 1 and 2 come back to an item, user 3 meets a new one: of five items even the last is among ten."""
    data = small.sequences_of([[1, 2, 1, 2], [3, 3, 3, 3], [1, 2, 3, 4]], 5, "five")
    config = small.config("plain", buckets=1)
    outcome = cast(Any, ROOM.baseline("popularity", None, data, "test"))
    assert outcome.values["masked"].tolist() == [True, True, False]
    found = ROOM.report(outcome, config, data, "test", min_rows=1)["all"].values
    assert found["hr@10"] == pytest.approx(1 / 3)
    assert 0 < found["ndcg@10"] <= 1 / 3
    module = build_stages(config, make_parts(config, data, None))[0].module
    assert validation(part_rows(data, "valid"), small.LENGTH)(module)["hr@10"] == pytest.approx(1 / 3)
    other = replace(outcome, values={**outcome.values, "masked": np.zeros(3, np.bool_)})
    [ndcg, hr] = ROOM.tests([other], [outcome], config, data, "test")
    assert (ndcg.metric, hr.metric) == ("ndcg@10", "hr@10")
    assert hr.difference == pytest.approx(2 / 3)


def test_models_are_compared_by_both_metrics_over_seeds() -> None:
    data, config = small.dataset(), small.config("plain")
    first = ROOM.outcome(kept("plain"), config, data, "test", show_progress=False)
    second = ROOM.baseline("popularity", None, data, "test")
    other = replace(first, values={name: values[::-1] for name, values in first.values.items()})
    tests = ROOM.tests([first, other], [second, second], config, data, "test")
    assert [test.metric for test in tests] == ["ndcg@10", "hr@10"]
    for test in tests:
        metric: Any = test.metric.split("@")[0]
        mean = {
            name: gains(each.values["rank"], metric, 10).mean() for name, each in (("a", first), ("b", other), ("p", second))
        }
        assert test.per_seed == pytest.approx((mean["a"] - mean["p"], mean["b"] - mean["p"]))
        assert not math.isnan(test.p_value)
    assert all(test.difference == 0 for test in ROOM.tests([first], [first], config, data, "test"))


# Names and presets -------------------------------------------------------------------------------------------------------


def resolved(preset: str, backbone: str = "sasrec", enhance: str | None = None, **model: Any) -> RunConfig:
    request = RunRequest(data="-", backbone=backbone, enhance=enhance, preset=preset, model=model)  # type: ignore[arg-type]
    return resolve(request, "test")


TITLES = {
    "pad": "PAD",
    "smem": "SMEM",
    "hybrid": "Hybrid",
    "morec": "MoRec",
    "ctrl": "CTRL",
    "make": "MAKE",
    "disco": "DisCo-SR",
}


def test_titles() -> None:
    assert {name: resolved("ours", enhance=name).title for name in TASK.methods} == {
        name: f"SASRec + {title}" for name, title in TITLES.items()
    }
    assert [resolved("ours", name).title for name in TASK.backbones] == ["SASRec", "GRU4Rec", "Caser"]
    assert resolved("ours", enhance="pad", pad={"alignment": "none"}).title == "SASRec + SMEM"
    assert resolved("ours", enhance="smem", smem={"alignment": "anchored"}).title == "SASRec + PAD"
    assert resolved("ours", enhance="smem", smem={"experts": ["text"]}).title == "SASRec + PAD"


def test_what_reads_text() -> None:
    assert {name: resolved("ours", enhance=name).reads_text for name in TASK.methods} == dict.fromkeys(TASK.methods, True)
    assert not resolved("ours").reads_text
    assert not resolved("ours", enhance="pad", pad={"experts": ["id"]}).reads_text
    assert ROOM.reads_text(resolved("ours", enhance="pad"))


OURS = {"layers": 1, "dropout": 0.1, "final": "linear", "centre": True}
AS_PUBLISHED = {"layers": 4, "dropout": 0.1, "final": "gelu", "centre": False}


@pytest.mark.parametrize("preset", ["ours", "paper", "authors"])
@pytest.mark.parametrize("method", TASK.methods)
def test_presets_of_every_method(method: str, preset: str) -> None:
    config = resolved(preset, enhance=method)
    own, training = config.model.of(method).model_dump(), config.training
    assert own["text"] == (OURS if preset == "ours" else AS_PUBLISHED)
    if method in ("pad", "smem", "hybrid"):
        assert own["fusion"] == ("add" if preset == "ours" else "concat")
    if method in ("pad", "smem", "make"):
        assert own["unseen"] == ("text" if preset == "ours" else "trained")
        assert own["gate_init"] == ("authors" if preset == "authors" else "uniform")
        assert training.of_phase("experts").lr == (1e-3 if preset == "ours" else 1e-4)
    if method in ("pad", "smem"):
        assert own["alignment"] == ("anchored" if method == "pad" else "none")
        as_released = preset == "authors" and method == "pad"
        assert (own["estimator"], own["mmd_include_pad"]) == (("authors", True) if as_released else ("unbiased", False))
        assert training.of_phase("pretrain").max_epochs == {"ours": 4, "paper": 60, "authors": 400}[preset]
    if method == "pad":
        assert training.of_phase("align").lr == {"ours": 1e-3, "paper": 1e-4, "authors": 1e-5}[preset]
    if method == "disco":
        assert (own["club_per_dimension"], own["club_floor"]) == ((True, True) if preset == "ours" else (False, False))
    rates = {"ours": 3e-3, "paper": 1e-3, "authors": 1e-5}
    slower = preset == "ours" and method in ("hybrid", "disco")
    assert training.lr == (1e-3 if slower else rates[preset])
    assert training.decoupled


def test_presets_of_the_backbones() -> None:
    blocks = {preset: cast(Any, resolved(preset).model.backbone).blocks for preset in TASK.presets}
    assert blocks == {"ours": 2, "paper": 2, "authors": 5, "textbook": 2}
    assert cast(Any, resolved("textbook").model.backbone).variant == "classic"
    for name in ("gru4rec", "caser"):
        kinds = {preset: resolved(preset, name).model.backbone for preset in TASK.presets}
        assert all(kind == kinds["paper"] for kind in kinds.values())


def test_encoders_are_told_how_id_rows_start() -> None:
    """Positions that start as items do have their spread, Xavier's of the id table where none is asked for."""
    for std, expected in ((0.3, 0.3), (None, (2 / (small.ITEMS + 1 + 64)) ** 0.5)):
        backbone = {"positions": "items"}
        config = small.config("plain", dim=64, length=100, initial_std=std, backbone=backbone)
        torch.manual_seed(0)
        encoder: Any = parts_of(config, torch.from_numpy(counts())).make_encoder()
        assert encoder.positions.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_parts_of_counts_alone() -> None:
    config = small.config("plain")
    made, whole = parts_of(config, torch.from_numpy(counts())), small.parts_of(config)
    for name in ("bucket", "untrained", "rare"):
        assert torch.equal(getattr(made, name), getattr(whole, name))
    bucket = torch.tensor([0, 1, 2, 2])
    given = parts_of(config, torch.tensor([0, 5, 3, 0]), bucket)
    assert given.num_items == 3
    assert (given.rare.tolist(), given.untrained.tolist()) == ([2], [False, False, False, True])
    unmet = parts_of(config, torch.tensor([0, 5, 3, 0]), torch.tensor([0, 1, 1, 2]))
    assert unmet.rare.tolist() == [1, 2]  # nobody met any of the coldest
    assert settings_of(config).buckets == made.num_buckets


def test_tensors_have_the_names_that_earlier_versions_saved() -> None:
    names = set(kept("pad by text").saved().tensors)
    for expected in (
        "experts.id.items.table.weight",
        "experts.aligned.items.ids.table.weight",
        "experts.aligned.items.text.mlp.0.weight",
        "experts.aligned.items.text.mean",
        "experts.aligned.items.text.reduced",
        "experts.text.items.reduced",
        "experts.text.items.mean",
        "experts.text.encoder.blocks.0.attention.query.weight",
        "gate.logits",
        "data.counts",
        "data.bucket",
    ):
        assert expected in names
    saved: Mapping[str, Tensor] = kept("pad by text").saved().tensors
    assert saved["data.counts"].tolist() == counts().tolist()
    assert not any("source" in name or "knowledge" in name for name in names)
