"""What sequences follow: positives alone, each once, split again where each user's last events are held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import small_runs
from braidrec import fit
from braidrec.data.dataset import Dataset
from braidrec.data.popularity import training_counts
from braidrec.data.schema import Schema
from braidrec.data.sequences import SequenceBatches, disliked, training_ends, training_events
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.errors import ConfigError, DataError
from braidrec.strict import parse

SCHEMA = Schema(user="user", item="item", timestamp="time", label="label")
LAST_TWO = SplitConfig(kind="leave_last_two")


def rows(*users: str) -> pl.DataFrame:
    """One user a text: items by letter, in order; capital letters are liked."""
    events = [
        (user, letter.lower(), at, int(letter.isupper()))
        for user, letters in enumerate(users)
        for at, letter in enumerate(letters)
    ]
    return pl.DataFrame(events, schema=["user", "item", "time", "label"], orient="row")


def prepared(folder: Path, log: pl.DataFrame, **settings: object) -> Dataset:
    chosen = parse(PrepareSettings, {"split": LAST_TWO, **settings}, "test")
    return Dataset.from_frames(log, schema=SCHEMA, path=folder / "data", settings=chosen)


def letters(data: Dataset, items: np.ndarray) -> str:
    return "".join(data.item_ids[item - 1] for item in items.tolist())


def test_the_last_positives_are_held_out(tmp_path: Path) -> None:
    data = prepared(tmp_path, rows("AbCDeEF", "xABCy", "ABx"))
    own = data.followed
    assert {part: letters(own, own.log.item[own.split[part]]) for part in ("train", "valid", "test")} == {
        "train": "aaabcd",  # in order of time: nobody's dislikes, all of the user with two likes
        "valid": "be",
        "test": "cf",
    }
    user, item = training_events(own.log, training_ends(own))
    assert letters(own, item) == "acd" + "a" + "ab"
    assert user.tolist() == [1, 1, 1, 2, 3, 3]
    assert training_counts(data)[1:].tolist() == [3, 1, 1, 1, 0, 0, 0, 0]
    notes = " ".join(data.manifest["notes"])
    assert (
        'sequences = "positives": next-item and collaborative models follow and name the 10 positives alone; 5 events' in notes
    )


def test_every_event_is_followed_where_asked(tmp_path: Path) -> None:
    data = prepared(tmp_path, rows("AbCDeEF", "xABCy"), sequences="all")
    assert data.followed is data
    assert 'sequences = "all": next-item models follow and name all 12 events, 4 of them' in " ".join(data.manifest["notes"])
    assert prepared(tmp_path / "liked", rows("ABCD", "BCDA")).followed.log.rank.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_copy_is_followed_once(tmp_path: Path) -> None:
    log = rows("AABCD").with_columns(time=pl.Series([0, 0, 1, 2, 3]), extra=pl.Series([1, 2, 3, 4, 5]))
    own = prepared(tmp_path, log).followed
    assert letters(own, own.log.item) == "abcd"


def test_a_copy_is_one_though_others_came_between_within_the_second(tmp_path: Path) -> None:
    first = 1_700_000_000_000
    moments = [first + at for at in (0, 100, 200, 1000, 1100, 2000, 2100, 3000)]
    log = pl.DataFrame({"user": [1, 2, 1, 1, 2, 1, 2, 2], "item": [*"aaab", *"bccd"], "time": moments, "label": [1] * 8})
    own = prepared(tmp_path, log).followed
    assert [letters(own, own.log.item[own.log.user == user]) for user in (1, 2)] == ["abc", "abcd"]


def test_parts_in_time_keep_their_borders(tmp_path: Path) -> None:
    split = SplitConfig(kind="temporal", min_history=1, ratios=(0.5, 0.25, 0.25))
    data = prepared(tmp_path, rows("ABcDeFgHI"), split=split)
    own = data.followed
    assert [letters(own, own.log.item[own.split[part]]) for part in ("train", "valid", "test")] == ["bd", "f", "hi"]
    assert letters(own, training_events(own.log, training_ends(own))[1]) == "abd"


def test_a_date_is_a_border_for_sequences_too(tmp_path: Path) -> None:
    """The first event of the user who comes late is of the time of validation, though it is in no part."""
    log = pl.concat([rows("ABCDEF"), rows("xxxxABC").with_columns(user=pl.lit(1, pl.Int64)).filter(pl.col("label") == 1)])
    split = SplitConfig.model_validate({"kind": "date", "valid_from": 4, "test_from": 5, "min_history": 2})
    data = prepared(tmp_path, log, split=split)
    assert training_ends(data).tolist() == [0, 4, 0]


def test_a_part_without_a_positive_is_named(tmp_path: Path) -> None:
    split = SplitConfig(kind="temporal", min_history=0, ratios=(0.5, 0.25, 0.25))
    data = prepared(tmp_path, rows("ABCDefgh"), split=split)
    with pytest.raises(DataError, match=r"none of the 2 events of the part 'valid' is positive .*sequences = \"all\""):
        _ = data.followed


def test_dislikes_before_the_held_out_may_be_negatives(tmp_path: Path) -> None:
    """z comes after the first held-out like, b is liked later on: neither is a negative of training."""
    log = rows("xAbBCyDzE", "ABCD")
    data = prepared(tmp_path, log)
    user, item = disliked(data)
    assert (user.tolist(), letters(data, item)) == ([1, 1], "xy")
    batches = SequenceBatches(data, 2, length=4, negatives=2, own_negatives=True, seed=3)
    batch = batches.cut(np.arange(2))
    first = batch.negatives[0][batch.targets[0] > 0]
    assert set(letters(data, first[:, 0].numpy())) <= set("xy")
    plain = SequenceBatches(data, 2, length=4, negatives=2, seed=3).cut(np.arange(2))
    assert (batch.negatives[..., 1] == plain.negatives[..., 1]).all()
    assert (batch.negatives[1] == plain.negatives[1]).all()  # a user who disliked nothing
    with pytest.raises(DataError, match=r"sequences follow every event .* so none is left to be a negative"):
        SequenceBatches(prepared(tmp_path / "all", log, sequences="all"), 2, length=4, own_negatives=True)


def test_dislikes_behind_a_border_in_time_are_none_of_training(tmp_path: Path) -> None:
    """Eight events, of which four are training: d stands at the border itself."""
    split = SplitConfig(kind="temporal", min_history=0, ratios=(0.5, 0.25, 0.25))
    data = prepared(tmp_path, rows("AbBCdEfG"), split=split)
    assert training_ends(data.followed).tolist() == [0, 3]
    assert letters(data, disliked(data)[1]) == ""
    data = prepared(tmp_path / "more", rows("AxBCdEfG"), split=split)
    assert letters(data, disliked(data)[1]) == "x"


def test_own_negatives_go_with_drawn_ones_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.own_negatives goes with loss = 'bce'"):
        fit(small_runs.dataset(), path=tmp_path / "run", backbone="sasrec", model={"own_negatives": True, "loss": "full_ce"})


def test_no_target_shares_its_second_with_its_past(tmp_path: Path) -> None:
    log = rows("ABCDEF").with_columns(time=pl.Series([0, 1, 1, 2, 3, 4]))
    data = prepared(tmp_path, log, ties="exclude")
    batch = SequenceBatches(data, 1, length=9, negatives=0).cut(np.arange(1))
    assert letters(data, batch.items[0].numpy()) == "abc"
    assert batch.targets[0].tolist() == [2, 0, 4]  # c comes in the second of b, which stands before it
    assert prepared(tmp_path / "order", log).settings.ties == "order"


def test_a_window_without_a_target_is_none(tmp_path: Path) -> None:
    log = rows("ABCD", "ABCD").with_columns(time=pl.Series([0, 0, 1, 2, 0, 1, 2, 3]))
    data = prepared(tmp_path, log, ties="exclude")
    assert SequenceBatches(data, 4, length=9, negatives=0).num_windows == 1


def test_what_nobody_liked_is_never_named(tmp_path: Path) -> None:
    """Items 0 to 9 are met often, and disliked by everybody."""
    rng = np.random.default_rng(0)
    events = [
        (user, int(item), at, int(item >= 10))
        for user in range(150)
        for at, item in enumerate(np.r_[rng.permutation(10)[:6], 10 + rng.permutation(20)[:6]][rng.permutation(12)])
    ]
    log = pl.DataFrame(events, schema=["user", "item", "time", "label"], orient="row")
    data = prepared(tmp_path, log)
    training = {"max_epochs": 3, "batch_size": 32}
    run = fit(data, path=tmp_path / "run", backbone="sasrec", show_progress=False, training=training)
    top = [int(each.item) for user in range(150) for each in run.recommend(user, k=5)]
    assert min(top) >= 10
    assert (data.followed.log.label[data.followed.split["test"]] == 1).all()
    assert run.evaluate(show_progress=False)["all"].rows == 150
    seen = set(log.filter(pl.col("user") == 3)["item"])
    assert not {int(each.item) for each in run.recommend(3, k=10)} & seen  # disliked ones are met, too
