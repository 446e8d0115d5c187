"""The knowledge split: old, recent and held-out events, at two moments of the log or in each user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import Event, events_lists, log_of, small_tables

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.log import InteractionLog
from braidrec.data.schema import Schema
from braidrec.data.sequences import training_ends
from braidrec.data.settings import SplitConfig
from braidrec.data.splits import Split, check_split, make_split
from braidrec.data.training import training_positions
from braidrec.errors import ConfigError, DataError
from braidrec.runs.preparing import prepare
from braidrec.strict import parse

PARTS = ("knowledge", "knowledge_valid", "train", "valid", "test")


def config(**values: Any) -> SplitConfig:
    return parse(SplitConfig, {"kind": "knowledge", **values}, "split")


def sizes(split: Split) -> list[int]:
    return [len(split[name]) for name in PARTS]


def log_at(times: Sequence[int], user: Sequence[int] | None = None) -> InteractionLog:
    """One event a time, in this order."""
    count = len(times)
    whose = np.ones(count, np.int32) if user is None else np.array(user, np.int32)
    ones = np.ones(count, np.int32)
    floats = ones.astype(np.float32)
    return InteractionLog.build(whose, ones, np.array(times, np.int64), floats, floats, None, ones, int(whose.max()))


def test_quantiles_are_moments_and_the_rest_is_halved_in_time() -> None:
    split = make_split(log_at(range(200)), config())
    assert sizes(split) == [81, 9, 85, 13, 12]  # T0 = 90, T1 = 175; a tenth of 90; 25 held out
    assert np.array_equal(np.concatenate([split[name] for name in PARTS]), np.arange(200))


@given(
    st.lists(st.integers(0, 12), min_size=12, max_size=60),
    st.sampled_from([(0.45, 0.875), (0.2, 0.6)]),
    st.sampled_from(["time", "random"]),
)
def test_parts_lie_on_their_sides_of_both_moments(times: list[int], quantiles: tuple[float, float], holdout: str) -> None:
    log = log_at(sorted(times))
    try:
        split = make_split(log, config(quantiles=quantiles, holdout=holdout))
    except DataError as error:
        if "the knowledge split leaves no row for" not in str(error):
            raise
        return
    when = {name: log.timestamp[split[name]] for name in PARTS}
    assert max(when["knowledge"].max(), when["knowledge_valid"].max()) < when["train"].min()
    assert when["knowledge"].max() <= when["knowledge_valid"].min()
    assert when["train"].max() < min(when["valid"].min(), when["test"].min())
    assert abs(len(split["valid"]) - len(split["test"])) <= 1
    assert np.array_equal(np.sort(np.concatenate([split[name] for name in PARTS])), np.arange(len(times)))
    if holdout == "time":
        assert when["valid"].max() <= when["test"].min()


def test_moments_cut_the_log_where_they_are_named() -> None:
    day = 24 * 3600
    log = log_at([day * at for at in range(100)])
    split = make_split(log, config(train_from="1970-02-10", valid_from="1970-04-01"))
    assert sizes(split) == [36, 4, 50, 5, 5]


def test_a_drawn_half_is_seeded() -> None:
    log = log_at(range(400))
    first, again, other = (make_split(log, config(holdout="random", seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first["test"], again["test"])
    assert not np.array_equal(first["test"], other["test"])
    assert first["valid"].max() > first["test"].min()


def test_each_user_is_cut_alone() -> None:
    users = [1, 2] * 40 + [2] * 20
    log = log_at(range(100), users)
    split = make_split(log, config(per_user=True))
    for user, counts in ((1, [16, 2, 17, 3, 2]), (2, [24, 3, 25, 4, 4])):
        ranks = [log.rank[split[name]][log.user[split[name]] == user] for name in PARTS]
        assert [len(own) for own in ranks] == counts
        assert np.array_equal(np.concatenate(ranks), np.arange(sum(counts)))


@given(events_lists)
def test_what_is_learned_ends_before_what_is_held_out(events: list[Event]) -> None:
    log = log_of(events)
    try:
        split = make_split(log, config(per_user=True, quantiles=(0.3, 0.6)))
    except DataError:
        return
    for user in np.unique(log.user):
        last = [int(log.rank[rows].max()) for name in PARTS if len(rows := split[name][log.user[split[name]] == user])]
        assert last == sorted(last)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantiles": (0.9, 0.5)}, "accepted are two numbers with 0 < first < second < 1"),
        ({"train_from": "2024-01-01"}, "needs both train_from and valid_from"),
        ({"train_from": "2024-01-02", "valid_from": "2024-01-01"}, "must come before valid_from"),
        ({"train_from": "2024-01-01", "valid_from": "2024-01-02", "per_user": True}, "with per_user leave them out"),
        ({"train_from": "2024-01-01", "valid_from": "2024-01-02", "quantiles": (0.1, 0.2)}, "say the same thing twice"),
        ({"test_from": "2024-01-01"}, "test_from belongs to kind = 'date'"),
        ({"kind": "temporal", "quantiles": (0.1, 0.2)}, "quantiles belongs to kind = 'knowledge', not 'temporal'"),
        ({"kind": "ratio", "holdout": "random"}, "holdout belongs to kind = 'knowledge', not 'ratio'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**values)


def test_too_short_a_time_is_an_error_that_names_the_moments() -> None:
    with pytest.raises(
        DataError,
        match=r"leaves no row for 'knowledge': 30 events.*from 1970-01-01T00:00:07Z to 1970-01-01T00:00:07Z, where training "
        r"begins at .*07Z and the rest at .*07Z; choose other split.quantiles, or train_from and valid_from or bring",
    ):
        make_split(log_at([7] * 30), config())
    with pytest.raises(DataError, match=r"leaves no row for 'knowledge_valid': .* of each user's own are old"):
        make_split(log_at(range(5)), config(per_user=True))
    with pytest.raises(DataError, match=r"leaves no row for 'test': .* and the rest at 1970-01-01T00:00:04Z; choose other"):
        make_split(log_at(range(5)), config(quantiles=(0.4, 0.9999999999), knowledge_valid=0.4))


def test_moments_outside_the_log_are_named_with_its_own() -> None:
    with pytest.raises(
        DataError,
        match=r"leaves no row for 'train': 30 events.*from 1970-01-01T00:00:00Z to 1970-01-01T00:00:29Z, where training begins "
        r"at 2024-01-01T00:00:00Z and the rest at 2024-06-01T00:00:00Z; choose other split.quantiles, or train_from and valid",
    ):
        make_split(log_at(range(30)), config(train_from="2024-01-01", valid_from="2024-06-01"))


def test_a_log_without_a_clock_is_cut_by_user_alone() -> None:
    schema = Schema(user="u", item="i", order="o")
    with pytest.raises(DataError, match=r"split.kind = 'knowledge' needs a timestamp column.*use split.per_user = true"):
        check_split(config(), schema)
    check_split(config(per_user=True), schema)
    with pytest.raises(DataError, match=r"split.kind = 'knowledge' needs to know what came first"):
        check_split(config(per_user=True), Schema(user="u", item="i"))


def test_a_part_may_be_several() -> None:
    split = make_split(log_at(range(200)), config())
    assert np.array_equal(split["knowledge+knowledge_valid+train"], np.arange(175))
    assert np.array_equal(split.learned, np.arange(175))
    plain = make_split(log_at(range(200)), SplitConfig(min_history=0))
    assert plain.learned is plain["train"]
    with pytest.raises(
        DataError, match=r"no part 'knowledge' \(it has: train, valid, test\); prepare the data with split.kind"
    ):
        plain["knowledge+train"]


@pytest.mark.parametrize("per_user", [False, True])
def test_other_tasks_train_on_what_came_before(tmp_path: Path, per_user: bool) -> None:
    settings = PrepareSettings(split=config(per_user=per_user, quantiles=(0.4, 0.7)), sequences="all")
    data = Dataset.prepare(small_tables(40), tmp_path / "data", settings)
    held = np.concatenate([data.split["valid"], data.split["test"]])
    assert np.array_equal(training_positions(data), np.setdiff1d(np.arange(len(data.log)), held))
    assert training_ends(data).sum() == len(data.log) - len(held)
    (note,) = [note for note in data.notes if note.startswith("rows whose id 'knowledge' has not seen: ")]
    old = [set(ids[data.split["knowledge"]].tolist()) for ids in (data.log.user, data.log.item)]
    for part in PARTS[1:]:  # shares of rows, not of ids
        rows = data.split[part]
        users, items = (
            np.mean([each not in met for each in ids[rows].tolist()])
            for met, ids in zip(old, (data.log.user, data.log.item), strict=True)
        )
        assert f"'{part}' {users:.1%} by user, {items:.1%} by item" in note
    again = Dataset.open(data.path)
    assert sizes(again.split) == sizes(data.split)


def test_the_vocabulary_is_of_all_that_is_learned_from(tmp_path: Path) -> None:
    data = Dataset.prepare(small_tables(40), tmp_path / "data", PrepareSettings(split=config(quantiles=(0.4, 0.7))))
    item = next(entry for entry in data.features.vocabularies if entry.owner == "item")
    learned = {data.item_ids[row - 1] for row in data.log.item[data.split.learned].tolist()}
    assert set(item.values) == learned
    rows = data.features.item_fields[np.setdiff1d(data.log.item, data.log.item[data.split.learned]), 0]
    assert (rows == item.unknown_row).all()


def test_settings_of_the_preparation_can_be_given_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,timestamp,rating\n" + "".join(f"{n % 5},{n % 7},{n},{n % 5}\n" for n in range(60))
    )
    (tmp_path / "mine.toml").write_text('name = "mine"\n[interactions]\nfile = "log.csv"\n[split]\nmin_history = 3\n')
    described = str(tmp_path / "mine.toml")
    cut = {"split": {"kind": "knowledge", "quantiles": [0.4, 0.7]}}
    data = prepare(described, None, tmp_path / "one", values=cut)
    assert data.settings.split == config(quantiles=(0.4, 0.7))  # not the three of the other kind
    assert prepare(described, None, tmp_path / "two", values={"split": {"seed": 7}}).settings.split.min_history == 3
    with pytest.raises(ConfigError, match=r"data prepare: unknown key 'split.quantile' \(did you mean 'quantiles'\?\)"):
        prepare(described, None, tmp_path / "three", values={"split": {"kind": "knowledge", "quantile": [0.4, 0.7]}})
