"""Prepare and open: a round trip, counted, checked bit by bit, all or nothing, and fitted on training rows alone."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_data import SCHEMA, SETTINGS, plain_tables, small_dataset, small_tables

from braidrec.data import dataset as dataset_module
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.data.vocabulary import Vocabulary
from braidrec.errors import DataError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(tmp_path_factory.mktemp("dataset"))


def field(dataset: Dataset, name: str) -> Vocabulary:
    return next(entry for entry in dataset.features.vocabularies if entry.name == name)


def single_rows(dataset: Dataset, name: str) -> np.ndarray:
    """Rows of a single-valued field by catalogue row (padding row first) or by event."""
    entry = field(dataset, name)
    column = [other.name for other in dataset.features.single if other.owner == entry.owner].index(name)
    rows: np.ndarray = getattr(dataset.features, f"{entry.owner}_fields")[:, column]
    return rows


def same(first: Dataset, second: Dataset) -> bool:
    arrays = (
        "user",
        "item",
        "timestamp",
        "rating",
        "label",
        "signal",
        "rank",
        "slot_event",
        "slot_item",
        "slot_signal",
        "start",
    )
    numbers = ("user_fields", "item_fields", "context_fields", "user_numbers", "item_numbers", "context_numbers")
    return (
        all(np.array_equal(getattr(first.log, name), getattr(second.log, name)) for name in arrays)
        and all(np.array_equal(getattr(first.features, name), getattr(second.features, name)) for name in numbers)
        and first.features.vocabularies == second.features.vocabularies
        and first.features.scalings == second.features.scalings
        and all(np.array_equal(one.rows, two.rows) for one, two in zip(first.features.bags, second.features.bags, strict=True))
        and all(np.array_equal(first.split[name], second.split[name]) for name in ("train", "valid", "test"))
    )


# --- round trip


def test_the_log_is_the_table_in_order(prepared: Dataset) -> None:
    rows = small_tables().interactions.sort(["time", "user", "item"], maintain_order=True)
    log = prepared.log
    assert [int(prepared.user_ids[row - 1]) for row in log.user] == rows["user"].to_list()
    assert [int(prepared.item_ids[row - 1]) for row in log.item] == rows["item"].to_list()
    assert log.timestamp.tolist() == rows["time"].to_list()
    assert log.rating.tolist() == rows["rating"].to_list()
    assert log.label.tolist() == [float(rating > 3) for rating in rows["rating"]]
    assert log.signal.tolist() == rows["rating"].to_list()  # ratings 1..5 are signals 1..5
    assert log.weight is None


def test_opening_gives_back_what_was_prepared(prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = Dataset.open(str(prepared.path))
    assert same(prepared, again)
    assert again.schema == SCHEMA
    assert again.settings == SETTINGS
    assert (again.name, again.fingerprint) == ("small", prepared.fingerprint)
    monkeypatch.setattr(dataset_module, "_READ_WHOLE", 0)
    mapped = Dataset.open(prepared.path, verify=False)
    assert isinstance(mapped.log.user, np.memmap)
    assert same(prepared, mapped)
    other = small_dataset(tmp_path)
    assert other.fingerprint == prepared.fingerprint  # preparing is deterministic
    assert small_dataset(tmp_path / "seed", tables=small_tables(seed=1)).fingerprint != prepared.fingerprint


def test_a_log_without_catalogues_or_fields(tmp_path: Path) -> None:
    rows = [(f"u{at % 2}", f"i{at}", at, 1 + at % 5) for at in range(40)]
    dataset = Dataset.prepare(plain_tables(rows), tmp_path / "plain")
    assert dataset.item_ids == sorted(f"i{at}" for at in range(40))
    assert dataset.user_ids == ["u0", "u1"]
    assert dataset.item_rows["i0"] == 1
    assert dataset.user_rows == {"u0": 1, "u1": 2}
    assert dataset.features.context_fields.shape == (40, 0)
    assert dataset.features.item_numbers.shape == (41, 0)
    assert dataset.features.bags == ()


def test_awkward_ids_round_trip(tmp_path: Path) -> None:
    awkward: dict[str, list[str] | list[int]] = {
        "text": ["1", "1.0", "🦊", "9223372036854775807", "a\nb", "x" * 10_000],
        "whole": [2**63 - 1, 2**63 - 2, 0, -5],
    }
    for name, ids in awkward.items():
        rows = [(user, item, at, 4) for at, (user, item) in enumerate((user, item) for user in ids for item in ids)]
        dataset = Dataset.prepare(plain_tables(rows), tmp_path / name, PrepareSettings(split=SplitConfig(min_history=0)))
        log = dataset.log
        assert [dataset.user_ids[row - 1] for row in log.user] == [str(row[0]) for row in rows]
        assert [dataset.item_ids[row - 1] for row in log.item] == [str(row[1]) for row in rows]
        assert {dataset.item_ids[row - 1]: row for row in range(1, len(ids) + 1)} == dataset.item_rows
        known = field(dataset, "item")
        rows_of_items = known.encode(pl.Series(dataset.item_ids))
        assert [known.values[row - known.offset - 1] for row in rows_of_items] == dataset.item_ids


def test_ids_that_only_the_log_knows_join_the_catalogue(tmp_path: Path) -> None:
    tables = small_tables()
    assert tables.items is not None
    fewer = Tables("fewer", SCHEMA, tables.interactions, tables.items.filter(pl.col("item") != 103), tables.users)
    dataset = small_dataset(tmp_path, tables=fewer)
    assert dataset.num_items == 20
    assert dataset.item_ids[-1] == "103"
    assert dataset.items["title"][-1] is None
    assert not dataset.features.bags[1].rows[20].any()
    assert dataset.features.item_numbers[20] == 0  # a missing number takes the mean


def test_an_id_in_two_rows_of_its_table_is_refused(tmp_path: Path) -> None:
    tables = small_tables()
    assert tables.items is not None
    doubled = Tables("doubled", SCHEMA, tables.interactions, pl.concat([tables.items, tables.items[3:4]]), tables.users)
    with pytest.raises(DataError, match=r"column 'item': 103 stands in 2 rows of its table"):
        small_dataset(tmp_path, tables=doubled)


def test_signals_are_quantiles_where_ratings_are_many(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u"] * 400, "item": ["i"] * 400, "time": range(400), "rating": np.arange(400) / 7})
    tables = Tables("prices", Schema(user="user", item="item", timestamp="time", rating="rating"), frame)
    dataset = Dataset.prepare(tables, tmp_path / "d")
    assert dataset.num_signals == 64
    assert (np.diff(dataset.log.signal) >= 0).all()
    assert (dataset.log.signal.min(), dataset.log.signal.max()) == (1, 64)


def test_a_label_column_stands_in_for_ratings(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u"] * 40, "item": ["i"] * 40, "time": range(40), "click": [at % 2 for at in range(40)]})
    clicks = Dataset.prepare(
        Tables("c", Schema(user="user", item="item", timestamp="time", label="click"), frame), tmp_path / "c"
    )
    assert clicks.log.label.tolist() == frame["click"].to_list()
    assert clicks.log.signal.tolist() == [1 + at % 2 for at in range(40)]
    bare = Dataset.prepare(Tables("b", Schema(user="user", item="item", timestamp="time"), frame), tmp_path / "b")
    assert bare.log.label.all()
    assert bare.num_signals == 1


# --- counts


def test_manifest_counts(prepared: Dataset) -> None:
    log, split, counts = prepared.log, prepared.split, prepared.manifest["counts"]
    train_items = {int(log.item[at]) for at in split["train"]}
    train_users = {int(log.user[at]) for at in split["train"]}
    unseen = [int(log.item[at]) for at in split["test"] if int(log.item[at]) not in train_items]
    assert counts == {
        "events": 180,
        "users": 12,
        "items": 20,
        "items_met": len(set(log.item.tolist())),
        "signals": 5,
        "samples": {"train": 124, "valid": 15, "test": 17},  # 180 - 2 x 12 = 156 samples: floor(124.8), floor(15.6), the rest
        "positives": {name: sum(int(log.label[at]) for at in split[name]) for name in ("train", "valid", "test")},
        "train_users": len(train_users),
        "train_items": len(train_items),
        "test_items_unseen": len(set(unseen)),
        "test_rows_item_unseen": len(unseen),
        "test_rows_user_unseen": sum(int(log.user[at]) not in train_users for at in split["test"]),
        "hidden_items": 0,
    }
    values = {name: entry["values"] for name, entry in prepared.manifest["fields"].items()}
    assert values == {
        "user": 12,
        "gender": 2,
        "age": 3,
        "item": counts["items_met"],
        "title": 9,
        "device": 3,
        "hobbies": 3,
        "genres": 4,
    }


def test_rows_of_the_table_are_contiguous_and_disjoint(prepared: Dataset) -> None:
    following = 0
    for entry in prepared.features.vocabularies:
        assert entry.offset == following
        following = entry.last_row
    assert prepared.features.num_rows == following + 1
    assert [entry.multi for entry in prepared.features.vocabularies] == [False] * 6 + [True] * 2


def test_row_zero_is_the_stranger_for_users_and_padding_for_items(prepared: Dataset) -> None:
    features = prepared.features
    stranger = [entry.unknown_row for entry in features.single if entry.owner == "user"]
    assert features.user_fields[0].tolist() == stranger
    assert all(stranger)
    for table in (features.item_fields, features.user_numbers, features.item_numbers):
        assert not table[0].any()
    for bag in features.bags:
        assert bag.rows.shape[0] == {"user": 13, "item": 21}[bag.owner]
        assert not bag.rows[0].any()


def test_numbers_are_standardised_by_the_training_rows(prepared: Dataset) -> None:
    train = prepared.split["train"]
    price = prepared.features.item_numbers[prepared.log.item[train], 0]
    hour = prepared.features.context_numbers[train, 0]
    for column in (price, hour):
        assert column.mean() == pytest.approx(0, abs=1e-5)
        assert column.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("scale", "later"), [("standard", 3.0), ("log", np.log(9 / 6))])
def test_a_field_with_one_value_says_nothing_in_training_and_how_far_off_another_is_later(
    tmp_path: Path, scale: str, later: float
) -> None:
    tables = small_tables(per_user=40)
    border = int(tables.interactions["time"].sort()[-30])
    log = tables.interactions.with_columns(
        hour=pl.when(pl.col("time") < border).then(5.0).otherwise(8.0), device=pl.lit("phone")
    )
    context = (Field(name="device"), Field.model_validate({"name": "hour", "kind": "numeric", "scale": scale}))
    schema = SCHEMA.model_copy(update={"context_fields": context})
    dataset = small_dataset(tmp_path, tables=Tables("one", schema, log, tables.items, tables.users))
    early = dataset.log.timestamp < border
    assert early[dataset.split["train"]].all()
    hours = dataset.features.context_numbers[:, 0]
    np.testing.assert_allclose(hours[early], 0, atol=1e-6)
    np.testing.assert_allclose(hours[~early], later, rtol=1e-6)
    assert field(dataset, "device").values == ("phone",)
    assert (single_rows(dataset, "device") == field(dataset, "device").offset + 1).all()


def test_half_stars_are_ten_signals_and_three_and_a_half_is_liked(tmp_path: Path) -> None:
    """The label is 1 above 3; each rating that occurs has a signal of its own."""
    ratings = [(at % 10 + 1) / 2 for at in range(60)]
    frame = pl.DataFrame({"user": [1] * 60, "item": range(60), "time": range(60), "rating": ratings})
    tables = Tables("halves", Schema(user="user", item="item", rating="rating", timestamp="time"), frame)
    dataset = small_dataset(tmp_path, tables=tables)
    assert dataset.num_signals == 10
    assert dataset.log.signal.tolist() == [at % 10 + 1 for at in range(60)]
    assert dataset.log.label.tolist() == [float(rating >= 3.5) for rating in ratings]


def test_a_numeric_field_without_training_numbers_is_refused_and_nothing_left_behind(tmp_path: Path) -> None:
    tables = small_tables()
    empty = tables.interactions.with_columns(pl.lit(None).cast(pl.Float64).alias("hour"))
    with pytest.raises(DataError, match="field 'hour': no number in the training rows"):
        small_dataset(tmp_path, tables=Tables("e", SCHEMA, empty, tables.items, tables.users))
    assert not list(tmp_path.iterdir())


# --- nothing of validation and test in what is fitted


def planted_leak() -> Tables:
    """One user, one item, one device, one genre and a wild price and hour occur in the last event only."""
    tables = small_tables()
    last = pl.DataFrame({"user": [77], "item": [777], "time": [2_000_000], "rating": [5], "device": ["fridge"], "hour": [1e6]})
    early = last.with_columns(pl.lit(1, pl.Int64).alias("time"), pl.lit(101).alias("item").cast(pl.Int64))
    history = pl.concat([early, early.with_columns(pl.lit(2, pl.Int64).alias("time"))]).with_columns(
        pl.lit("phone").alias("device"), pl.lit(1.0).alias("hour")
    )
    items = pl.DataFrame({"item": [777], "title": ["Leak"], "genres": ["Noir"], "price": [1e9]})
    users = pl.DataFrame({"user": [77], "gender": ["X"], "age": [500], "hobbies": ["spying"]})
    assert tables.items is not None
    assert tables.users is not None
    return Tables(
        "leak",
        SCHEMA,
        pl.concat([tables.interactions, history, last], how="vertical_relaxed"),
        pl.concat([tables.items, items]),
        pl.concat([tables.users, users]),
    )


def test_what_only_test_knows_is_unknown(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path, tables=planted_leak())
    event = len(dataset.log) - 1
    assert dataset.split["test"][-1] == event
    user, item = dataset.user_rows["77"], dataset.item_rows["777"]
    for name, at in {"user": user, "gender": user, "age": user, "item": item, "title": item, "device": event}.items():
        if name != "age":  # a bucket of its own ids: beyond the last border is the last bucket
            assert single_rows(dataset, name)[at] == field(dataset, name).unknown_row, name
    assert max(field(dataset, "age").edges) < 100
    assert "500" not in field(dataset, "age").values
    bags = {bag.name: bag for bag in dataset.features.bags}
    assert bags["genres"].rows[item].tolist()[:2] == [field(dataset, "genres").unknown_row, 0]
    assert bags["hobbies"].rows[user].tolist()[:2] == [field(dataset, "hobbies").unknown_row, 0]
    scalings = {scaling.name: scaling for scaling in dataset.features.scalings}
    assert scalings["price"].mean < np.log1p(50)
    assert scalings["hour"].mean < 24


def test_vocabulary_all_knows_every_id_of_the_log_and_has_no_unknown_row(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"vocabulary": "all"})
    dataset = small_dataset(tmp_path, settings, planted_leak())
    assert not any(entry.has_unknown for entry in dataset.features.vocabularies)
    assert "777" in field(dataset, "item").values
    assert "fridge" in field(dataset, "device").values
    met = np.unique(dataset.log.item)
    assert (single_rows(dataset, "item")[met] > 0).all()
    never_met = np.setdiff1d(np.arange(1, dataset.num_items + 1), met)
    assert len(never_met) >= 2
    assert not single_rows(dataset, "item")[never_met].any()  # no row of their own and no unknown one: padding
    assert dataset.features.user_fields[0].tolist() == [0, 0, 0]


def test_changing_the_test_rows_changes_nothing_that_was_fitted(tmp_path: Path, prepared: Dataset) -> None:
    tables = small_tables()
    border = int(prepared.log.timestamp[prepared.split["test"][0]])
    late = pl.col("time") > border
    changed = tables.interactions.with_columns(
        pl.when(late).then(pl.lit("toaster")).otherwise("device").alias("device"),
        pl.when(late).then(pl.lit(-9.0)).otherwise("hour").alias("hour"),
        pl.when(late).then(6 - pl.col("rating")).otherwise("rating").alias("rating"),
    )
    other = small_dataset(tmp_path, tables=Tables("small", SCHEMA, changed, tables.items, tables.users))
    assert other.features.vocabularies == prepared.features.vocabularies
    assert other.features.scalings == prepared.features.scalings
    earlier = prepared.log.timestamp <= border
    assert np.array_equal(other.features.context_fields[earlier], prepared.features.context_fields[earlier])


# --- items outside the catalogue


def test_encode_items_outside_the_catalogue(prepared: Dataset) -> None:
    known_title = field(prepared, "title").values[-1]
    frame = pl.DataFrame(
        {"item": ["new"], "title": [known_title], "genres": ["War|Noir|Drama"], "price": [None]},
        schema_overrides={"price": pl.Float64},
    )
    fields, numbers, bags = prepared.encode_items(frame)
    title, genres = field(prepared, "title"), field(prepared, "genres")
    assert fields.tolist() == [[field(prepared, "item").unknown_row, title.offset + title.known]]
    assert numbers.tolist() == [[0.0]]
    at = [genres.offset + 1 + genres.values.index(name) for name in ("War", "Drama")]
    assert [bag.tolist() for bag in bags] == [[[at[0], genres.unknown_row, at[1]]]]


def test_encode_items_by_id_alone(prepared: Dataset) -> None:
    fields, numbers, bags = prepared.encode_items(pl.DataFrame({"item": ["x", "y"]}))
    unknown = [field(prepared, name).unknown_row for name in ("item", "title")]
    assert fields.tolist() == [unknown, unknown]
    assert fields.dtype == np.int32
    assert (numbers.tolist(), bags[0].tolist()) == ([[0.0], [0.0]], [[0], [0]])


def test_encode_items_gives_known_items_their_own_rows(prepared: Dataset) -> None:
    fields, numbers, bags = prepared.encode_items(prepared.items)
    assert np.array_equal(fields, prepared.features.item_fields[1:])
    assert np.array_equal(numbers, prepared.features.item_numbers[1:])
    assert np.array_equal(bags[0], prepared.features.bags[1].rows[1:])


# --- damage


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def test_one_flipped_bit_in_any_file_is_refused_by_name(prepared: Dataset, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = sorted(path.name for path in prepared.path.iterdir())
    assert len(names) > 20
    for name in names:
        for bit in rng.integers(0, (prepared.path / name).stat().st_size * 8, 3):
            copy = tmp_path / "copy"
            shutil.copytree(prepared.path, copy)
            flip(copy / name, int(bit))
            with pytest.raises(DataError) as error:
                Dataset.open(copy)
            assert str(copy / name) in str(error.value)
            shutil.rmtree(copy)


def test_a_flipped_bit_in_the_manifest_is_refused_or_changes_nothing(prepared: Dataset, tmp_path: Path) -> None:
    content = (prepared.path / "manifest.json").read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(prepared.path, copy)
    for bit in np.random.default_rng(1).integers(0, len(content) * 8, 400):
        (copy / "manifest.json").write_bytes(content)
        flip(copy / "manifest.json", int(bit))
        try:
            opened = Dataset.open(copy, verify=False)
        except DataError as error:
            refused = str(error)
        else:
            refused = ""
            assert opened.manifest == prepared.manifest
        assert not refused or "manifest.json" in refused


@pytest.mark.parametrize("name", ["log.user.npy", "items.parquet", "vocabulary.json", "manifest.json"])
def test_a_missing_or_cut_file_is_refused_by_name(prepared: Dataset, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prepared.path, copy)
    path = copy / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=name):
        Dataset.open(copy)
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}: the file (is missing|does not exist)"):
        Dataset.open(copy)


def test_the_vocabulary_of_another_data_set_is_refused(prepared: Dataset, tmp_path: Path) -> None:
    other = small_dataset(tmp_path, tables=planted_leak())
    shutil.copy(prepared.path / "vocabulary.json", other.path / "vocabulary.json")
    with pytest.raises(DataError, match=r"vocabulary.json: its sha256 is .* expected .* damaged or was replaced"):
        Dataset.open(other.path)


@pytest.mark.parametrize("version", [99, None, "1"])
def test_another_format_version_is_refused(prepared: Dataset, tmp_path: Path, version: object) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prepared.path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": version}))
    with pytest.raises(DataError, match=rf"format {version!r}, this version reads 1; prepare it again"):
        Dataset.open(copy)
    (copy / "manifest.json").write_text("[1]")
    with pytest.raises(DataError, match="this version reads 1"):
        Dataset.open(copy)


def test_an_edited_manifest_is_refused(prepared: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prepared.path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["counts"]["items"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest.json: its content does not have its digest"):
        Dataset.open(copy)


def test_a_folder_without_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere: no prepared data set here; make one with Dataset\.from_frames\(\.\.\., path="
    ):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"manifest.json: the file does not exist"):
        Dataset.open(tmp_path)


# --- all or nothing


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    first = small_dataset(tmp_path)
    with pytest.raises(DataError, match=r"already exists; choose another folder or pass overwrite"):
        small_dataset(tmp_path)
    second = Dataset.prepare(small_tables(seed=1), first.path, SETTINGS, overwrite=True)
    assert second.fingerprint != first.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_only_a_prepared_data_set_is_ever_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis is not a prepared data set, so it is not overwritten"):
        Dataset.prepare(small_tables(), tmp_path / "thesis", SETTINGS, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("at", [0, 7, 20])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, overwrite: bool) -> None:
    before = small_dataset(tmp_path) if overwrite else None
    real, calls = np.save, []

    def save(path: Path, *arguments: object, **options: bool) -> None:
        calls.append(path)
        if len(calls) > at:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(OSError, match="No space left on device"):
        Dataset.prepare(small_tables(seed=1), tmp_path / "small", SETTINGS, overwrite=overwrite)
    monkeypatch.undo()
    assert calls
    if before is None:
        assert not list(tmp_path.iterdir())
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["small"]
        assert same(Dataset.open(before.path), before)
