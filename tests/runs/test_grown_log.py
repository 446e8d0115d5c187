"""A log that has grown since training: known users are answered from what they did since, and what is new is counted."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sequence_runs

import small_runs
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.events import event_keys, holds, sample_of
from braidrec.data.rates import CausalRates, UserRates
from braidrec.data.settings import SplitConfig
from braidrec.data.statistics import CausalStatistics
from braidrec.data.tables import Tables
from braidrec.errors import DataError, RunError
from braidrec.runs.fit import fit
from braidrec.runs.run import Run, load

USER, NEWCOMER = "10001", "5"
LAST = 4_000_000_000


@cache
def longer_tables() -> Tables:
    """The planted world and what came after: of a known user, of a new one whose id sorts before all others, with two items
    of the world, a new one with text and one without.
    """
    world = small_runs.world_tables()
    assert world.items is not None
    schema = world.schema
    events = [
        *((int(USER), f"B{at:05d}", LAST + at, 1) for at in (3, 5)),
        (int(USER), "A0-fresh", LAST + 10, 1),
        (int(USER), "A0-mute", LAST + 11, 1),
        *((int(NEWCOMER), f"B{at:05d}", LAST + 20 + at, 1) for at in (7, 9)),
    ]
    log = pl.DataFrame(events, schema=[schema.user, schema.item, schema.timestamp, schema.label], orient="row")
    rows = pl.concat(
        [log.cast(dict(world.interactions.select(log.columns).schema)), world.interactions], how="diagonal_relaxed"
    )
    fresh = {schema.item: ["A0-fresh", "A0-mute"], "title": ["The Haunted Lighthouse", None], "description": ["ghosts", None]}
    items = pl.concat([pl.DataFrame(fresh), world.items], how="diagonal_relaxed")
    return replace(world, interactions=rows, items=items)


@cache
def longer() -> Dataset:
    return Dataset.prepare(longer_tables(), small_runs.root() / "longer")


def test_rows_are_numbered_anew_in_the_longer_log() -> None:
    """Which is why ids are matched, not rows."""
    before, after = small_runs.dataset(), longer()
    assert after.item_rows["B00003"] != before.item_rows["B00003"]


RUNS_OF_USERS = {"history": {"length": 6, "run": 8}}
RUNS: dict[str, Callable[[], Run]] = {
    "plain": small_runs.plain,
    "disco": small_runs.disco,
    "statistics": lambda: _run("statistics", backbone="deepfm", model={"statistics": True}),
    "rates": lambda: _run("rates", enhance="disco", knowledge=small_runs.knowledge(), model={"rates": True, **RUNS_OF_USERS}),
    "by meaning": lambda: _run(
        "by-meaning",
        enhance="disco",
        knowledge=small_runs.knowledge(),
        model={"history": {"kind": "semantic_topk", "length": 6}},
    ),
}


def _run(name: str, **changes: Any) -> Run:
    path = small_runs.root() / f"before-{name}"
    return small_runs.train(path, seed=1, **changes)


@pytest.fixture(params=[*RUNS])
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]()


def history(run: Run, user: str) -> list[str]:
    past = run.model.past(run._log.user_rows[user])
    return [run.catalogue.id(row) for row in run.model.seen(past).tolist()]


def test_a_known_user_is_answered_from_today(run: Run) -> None:
    grown = load(run.path, dataset=longer())
    reads = run.model.reads_text
    before, after = history(run, USER), history(grown, USER)
    assert after == [*before, "B00003", "B00005", *(["A0-fresh"] if reads else [])]
    assert grown.recommend(USER, k=500) != run.recommend(USER, k=500)
    assert not {each.item for each in grown.recommend(USER, k=500)} & set(after)
    if reads:
        assert "A0-fresh" in {each.item for each in grown.recommend(NEWCOMER, k=500)}
    other = run.dataset.user_ids[40]
    assert history(grown, other) == history(run, other)
    if {"statistics", "rates"} & {key for key, value in run.config.model.model_dump().items() if value is True}:
        return  # an item is another one after two more ratings
    wanted = run.score_items(other, run.catalogue.ids)
    np.testing.assert_allclose(grown.score_items(other, run.catalogue.ids), wanted, rtol=1e-5)


def test_what_is_new_is_counted_and_said(run: Run) -> None:
    grown = load(run.path, dataset=longer())
    notes = [note for note in grown.notes(new_user=False) if "added after" not in note]
    count = len(run.dataset.log)
    head = [
        f"its log has grown since training: {count:,} events then, {count + 6:,} now; histories are of today",
        "new users, answered like anybody new by their history: 1",
    ]
    if run.model.reads_text:
        assert notes == [
            *head,
            "new items, known by their text as if they had been added: 1",
            "new items that are left out, with 1 events: 1 (they have no text)",
        ]
        assert grown.catalogue.added_ids == ("A0-fresh",)
    else:
        title = run.record["title"]
        assert notes == [*head, f"new items that are left out, with 2 events: 2 ({title} knows items by id alone)"]
        assert grown.num_items == run.num_items
    assert not (run.path / "added").exists(), "what a log brings stays with the log"


def test_somebody_new_is_answered_by_their_history(run: Run) -> None:
    grown = load(run.path, dataset=longer())
    assert history(grown, NEWCOMER) == ["B00007", "B00009"]
    if {"statistics", "rates"} & {key for key, value in run.config.model.model_dump().items() if value is True}:
        return  # of which a list of items has none
    assert grown.score_items(NEWCOMER, ["B00001"])[0] == pytest.approx(
        grown.model.scores(
            [grown.model.past(None, np.array([grown.catalogue.row(i) for i in ("B00007", "B00009")], np.int32))],
            np.array([grown.catalogue.row("B00001")], np.int32),
        )[0, 0],
        rel=1e-5,
    )


def test_everybody_is_served_new_users_too(tmp_path: Path) -> None:
    grown = load(small_runs.plain().path, dataset=longer())
    assert grown.has_data
    assert grown.recommend_all(tmp_path / "all.parquet", k=2, show_progress=False) == 2 * longer().num_users
    frame = pl.read_parquet(tmp_path / "all.parquet")
    assert frame.filter(pl.col("user") == NEWCOMER)["item"].to_list() == [each.item for each in grown.recommend(NEWCOMER, k=2)]


def test_what_was_held_out_is_not_measured_on_the_longer_log(tmp_path: Path) -> None:
    grown = load(small_runs.copy_of(small_runs.plain(), tmp_path / "run").path, dataset=longer())
    for call in (
        lambda: grown.evaluate(show_progress=False),
        lambda: grown.outcome(show_progress=False),
        lambda: grown.inspect("rank"),
        lambda: grown.dataset,
    ):
        with pytest.raises(
            RunError, match=r"its log has grown since training: .*; it answers for users, but this needs the data"
        ):
            call()
    assert grown.inspect()["id"].shape == small_runs.plain().inspect()["id"].shape


def test_a_data_set_that_was_prepared_again_in_its_place_bricks_no_run(tmp_path: Path) -> None:
    data = Dataset.prepare(small_runs.world_tables(), tmp_path / "data")
    run = small_runs.train(tmp_path / "run", data, seed=1)
    before = run.recommend(USER, k=500)
    Dataset.prepare(longer_tables(), tmp_path / "data", overwrite=True)
    assert load(tmp_path / "run").recommend(USER, k=500) != before
    with pytest.raises(RunError, match=r"holds a run that was trained on planted with fingerprint .* choose another folder"):
        small_runs.train(tmp_path / "run", Dataset.open(tmp_path / "data"), seed=1)


def test_the_same_log_prepared_otherwise_serves_as_before(tmp_path: Path) -> None:
    run = small_runs.plain()
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1), vocabulary="all")
    other = load(run.path, dataset=Dataset.prepare(small_runs.world_tables(), tmp_path / "data", settings))
    assert other.recommend(USER, k=500) == run.recommend(USER, k=500)
    assert other.notes(new_user=False) == ["its data were prepared otherwise for training; histories are of today"]


def test_a_log_that_lacks_some_of_what_was_trained_on_is_another_one(tmp_path: Path) -> None:
    world = small_runs.world_tables()
    for rows in (
        world.interactions.head(11_000),
        pl.concat([world.interactions.head(11_000), longer_tables().interactions.head(6)] * 2, how="diagonal_relaxed").unique(
            maintain_order=True
        ),
    ):
        part = Dataset.prepare(replace(world, interactions=rows), tmp_path / str(len(rows)))
        with pytest.raises(
            RunError, match=rf"but {part.path} now has .*; prepare the same data again or train a new run \(a log"
        ):
            load(small_runs.plain().path, dataset=part)


def test_items_are_added_to_a_run_that_reads_a_longer_log(tmp_path: Path) -> None:
    run = small_runs.copy_of(small_runs.disco(), tmp_path / "run")
    assert run.add_items({"early": "a foggy harbour"}) == 1
    grown = load(run.path, dataset=longer())
    assert grown.catalogue.added_ids == ("early", "A0-fresh")
    assert grown.add_items({"later": "ghosts and demons"}) == 1
    assert grown.add_items({"A0-fresh": "The Haunted Lighthouse, ghosts"}) == 1
    assert grown.catalogue.added_ids == ("early", "A0-fresh", "later")
    assert grown.add_items({"last": "wizards"}) == 1
    assert load(run.path).catalogue.added_ids == ("early", "later", "A0-fresh", "last")
    again = load(run.path, dataset=longer())
    assert again.catalogue.added_ids == ("early", "later", "A0-fresh", "last")
    assert history(again, USER)[-1] == "A0-fresh"
    with pytest.raises(DataError, match="was added before, with another text"):
        again.add_items({"A0-fresh": "something else"})


def test_without_its_knowledge_base_new_items_are_left_out_and_it_is_said_why(tmp_path: Path) -> None:
    knowledge = shutil.copytree(small_runs.knowledge(), tmp_path / "kb")
    run = small_runs.train(tmp_path / "run", seed=1, enhance="disco", knowledge=knowledge)
    shutil.move(knowledge, tmp_path / "kb-2")
    grown = load(run.path, dataset=longer())
    assert any(
        "new items that are left out, with 2 events: 2 (" in note and "say where it is" in note
        for note in grown.notes(new_user=False)
    )
    assert load(run.path, dataset=longer(), knowledge=tmp_path / "kb-2").catalogue.added_ids == ("A0-fresh",)


def test_statistics_go_on_with_the_longer_log() -> None:
    run = RUNS["statistics"]()
    grown = load(run.path, dataset=longer())
    scale = run.dataset.with_statistics().statistics
    assert scale is not None
    log = grown._log
    wanted = CausalStatistics(log.log, log.num_items, scale.scale)
    np.testing.assert_allclose(grown.model.candidates.item_statistics, wanted.items_now[: run.dataset.num_items + 1])
    row = log.user_rows[USER]
    np.testing.assert_allclose(grown.model.past(row).user.statistics, wanted.user_now(row))
    same = CausalStatistics(run.dataset.log, run.dataset.num_items, scale.scale)
    np.testing.assert_array_equal(same.items_now, scale.items_now)


def test_rates_go_on_with_the_longer_log() -> None:
    run = RUNS["rates"]()
    grown = load(run.path, dataset=longer())
    rates = run.dataset.with_rates().rates
    assert rates is not None
    log = grown._log
    wanted = CausalRates(log.log, log.features, rates.scale)
    found = grown.model.candidates
    np.testing.assert_allclose(found.item_rates[: run.dataset.num_items + 1], wanted.items_now[: run.dataset.num_items + 1])
    row = log.user_rows[USER]
    np.testing.assert_allclose(grown.model.past(row).user.rates, wanted.user_now(row))
    assert found.scale.to_json() == rates.scale.to_json()


def test_items_that_somebody_liked_since_count_in_their_rates() -> None:
    run = RUNS["rates"]()
    rates = run.dataset.with_rates().rates
    assert rates is not None
    item, best = 5, rates.scale.most
    for user in (None, run.dataset.user_rows[USER]):
        past = UserRates.of_nobody(rates.scale) if user is None else rates.user(user)
        found = run.model.past(user, [item]).user.rates[:4].numpy()
        own = (past.sums[:2] + best + 5 * rates.prior) / (past.count + 1 + 5)
        surprise = (past.sums[2:4] + best - rates.items_now[item]) / (past.count + 1 + 5)
        np.testing.assert_allclose(found, [*own, *surprise], atol=1e-5)


def test_what_is_next_goes_on_from_the_longer_log(tmp_path: Path) -> None:
    """Orders of each user, in which new users come first and one more item of the catalogue is met."""
    walks = sequence_runs.walks()
    longer = [[*walks[0], 4, 9], *walks[1:], [1, 2, 3, 4, 5]]
    run = sequence_runs.sasrec()
    grown = load(run.path, dataset=sequence_runs.prepare(tmp_path / "longer", longer))
    assert history(grown, "u0") == [f"i{item}" for item in longer[0]]
    assert history(grown, f"u{len(walks)}") == ["i1", "i2", "i3", "i4", "i5"]
    wanted = run.recommend(items=[f"i{item}" for item in longer[0]], k=5)
    assert grown.recommend("u0", k=5) == wanted
    assert grown.recommend("u7", k=5) == run.recommend("u7", k=5)


def test_every_kind_of_field_is_read_by_the_vocabulary_of_training(tmp_path: Path) -> None:
    """Bags, numbers and buckets of users whose rows moved."""
    tables = small_runs.rich_tables()
    run = small_runs.train(tmp_path / "run", small_runs.rich(), seed=1)
    event = tables.interactions.tail(1).with_columns(user=pl.lit(0, pl.Int64), time=pl.lit(LAST, pl.Int64))
    people = pl.concat([pl.DataFrame({"user": [0], "hobbies": [["go"]], "age": [30.0]}), tables.users], how="diagonal_relaxed")  # type: ignore[list-item]
    data = Dataset.prepare(
        replace(tables, interactions=pl.concat([event, tables.interactions]), users=people.sort("user")), tmp_path / "data"
    )
    grown = load(run.path, dataset=data)
    for user in ("1", "7", "41"):
        assert grown.score_items(user, run.catalogue.ids[:9]).tolist() == run.score_items(user, run.catalogue.ids[:9]).tolist()
    past = grown.model.past(grown._log.user_rows["0"])
    assert past.user.fields.tolist() == run.model.candidates.nobody.fields.tolist()
    assert past.user.numbers.tolist() != run.model.candidates.nobody.numbers.tolist()
    gone = Dataset.prepare(
        replace(tables, users=None, schema=tables.schema.model_copy(update={"user_fields": tables.schema.user_fields[:1]})),
        tmp_path / "gone",
    )
    assert "columns that are no longer there count as unknown: hobbies, age" in load(run.path, dataset=gone).notes(
        new_user=False
    )


# -- events by a few numbers ----------------------------------------------------------------------------------------------


def test_a_sample_is_found_in_every_longer_log_and_in_no_other() -> None:
    sample = sample_of(small_runs.dataset())
    assert sample == sorted(sample)
    assert len(sample) == 1024
    assert holds(small_runs.dataset(), sample)
    assert holds(longer(), sample)
    assert not holds(small_runs.other_dataset(), sample)
    keys = event_keys(small_runs.dataset())
    assert len(np.unique(keys)) == len(set(zip(*(part.tolist() for part in _said(small_runs.dataset())), strict=True)))


def _said(data: Dataset) -> list[Any]:
    return [data.log.user, data.log.item, data.log.timestamp, data.log.rating]


def test_the_same_events_have_the_same_keys_for_ever() -> None:
    """Runs on disk hold them: here they are made in whole numbers, event by event."""
    data, whole = sequence_runs.dataset(), (1 << 64) - 1

    def mixed(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & whole
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & whole
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & whole
        return value ^ (value >> 31)

    def of_id(raw: str) -> int:
        return int.from_bytes(hashlib.blake2b(raw.encode(), digest_size=8).digest(), "little")

    log, keys = data.log, event_keys(data)
    for at in (0, 7, len(log) - 1):
        key = 0
        rating = int.from_bytes(struct.pack("<f", float(log.rating[at])), "little")
        ids = (of_id(data.user_ids[log.user[at] - 1]), of_id(data.item_ids[log.item[at] - 1]))
        for part in (*ids, int(log.timestamp[at]), rating):
            key = mixed(key ^ part)
        assert int(keys[at]) == key


def test_of_a_longer_log_with_negatives_the_positives_alone_are_followed(tmp_path: Path) -> None:
    """As the run's data said, whatever the longer log's say; its parts are asked for by nobody."""
    settings: dict[str, Any] = {"model": {"dim": 8, "length": 5}, "training": {"max_epochs": 1, "batch_size": 128}}
    data = Dataset.prepare(small_runs.world_tables(), tmp_path / "data", PrepareSettings(sequences="positives"))
    run = fit(data, path=tmp_path / "run", backbone="sasrec", show_progress=False, **settings)
    grown = load(run.path, dataset=longer())
    before, after = (each.model.past(each._log.user_rows[USER]) for each in (run, grown))
    assert after.items.tolist() == [*before.items.tolist(), run.catalogue.row("B00003"), run.catalogue.row("B00005")]
    assert set(after.seen.tolist()) == {*before.seen.tolist(), *after.items.tolist()}
    assert len(before.items) < len(before.seen)
    other = run.dataset.user_ids[40]
    assert grown.recommend(other, k=9) == run.recommend(other, k=9)


def test_the_same_command_on_a_longer_log_is_told_of_the_log_not_of_settings_by_its_size(tmp_path: Path) -> None:
    few = replace(small_runs.world_tables(), interactions=small_runs.world_tables().interactions.tail(3_000))
    data = Dataset.prepare(few, tmp_path / "few")
    settings: dict[str, Any] = {"path": tmp_path / "run", "model": {"dim": 4}, "show_progress": False}
    run = fit(data, training={"patience": 1, "min_epochs": 0}, **settings)
    assert fit(data, training={"patience": 1, "min_epochs": 0}, **settings).record == run.record
    with pytest.raises(RunError, match=r"holds a run that was trained on planted with fingerprint .* choose another folder"):
        fit(small_runs.dataset(), training={"patience": 1, "min_epochs": 0}, **settings)


def test_models_of_who_has_what_fold_a_longer_log_in(tmp_path: Path) -> None:
    """Of users and items that training had no row for, too."""
    run = fit(
        small_runs.dataset(), path=tmp_path / "run", backbone="ease", knowledge=small_runs.knowledge(), show_progress=False
    )
    grown = load(run.path, dataset=longer())
    reads = run.model.reads_text
    assert {*history(grown, USER)} == {*history(run, USER), "B00003", "B00005", *(["A0-fresh"] if reads else [])}
    assert grown.recommend(NEWCOMER, k=5) == grown.recommend(items=["B00007", "B00009"], k=5)
    assert grown.recommend(USER, items=["B00009"], k=500)[0] != grown.recommend(USER, k=500)[0]
    assert grown.catalogue.added_ids == (("A0-fresh",) if reads else ())
    assert len(grown.score(pl.DataFrame({"user": [USER, NEWCOMER], "item": ["B00001"] * 2}), show_progress=False)) == 2
