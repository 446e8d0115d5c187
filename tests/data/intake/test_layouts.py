"""Files that are no log of one event a row: lists in cells, file order, several files, ready-made splits and samples."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidrec.data.dataset import Dataset
from braidrec.data.intake.description import load_description, read_tables, tables_from_frames
from braidrec.data.intake.readers import read_table
from braidrec.data.schema import Schema
from braidrec.data.settings import PrepareSettings
from braidrec.data.tables import Tables
from braidrec.errors import ConfigError, DataError, at_command_line


def _cut(folder: Path, keys: str, more: str = "") -> tuple[Tables, PrepareSettings]:
    (folder / "d.toml").write_text(f'name = "d"\n[interactions]\n{keys}\n{more}')
    description = load_description(folder / "d.toml")
    return description.cut(read_tables(description, folder))


def _said(tables: Tables) -> str:
    return " ".join(tables.report.notes)


def _events(tables: Tables) -> list[tuple[Any, ...]]:
    schema = tables.schema
    assert schema.clock is not None
    return tables.interactions.select(schema.user, schema.item, schema.clock).rows()


EVENTS = [("a", 12, 0), ("a", 7, 1), ("a", 12, 2), ("b", 7, 3)]


@pytest.mark.parametrize(
    ("cells", "keys"),
    [
        (["[12, 7, 12]", "[7]"], ""),
        (["['12', '7', '12']", "['7']"], ""),
        (["12 7  12", " 7 "], 'item_separator = " "'),
        (["12| 7|12", "7"], 'item_separator = "|"'),
    ],
)
def test_one_row_per_user_with_the_items_in_one_cell(tmp_path: Path, cells: list[str], keys: str) -> None:
    (tmp_path / "log.tsv").write_text(
        "user\titems\n" + "".join(f"{user}\t{cell}\n" for user, cell in zip("ab", cells, strict=True))
    )
    tables, settings = _cut(tmp_path, f'file = "log.tsv"\n{keys}')
    assert _events(tables) == EVENTS
    assert "2 rows hold several items in 'items', so they are 4 events, in the order they stand" in _said(tables)
    assert settings.split.kind == "leave_last_two"
    assert "split.kind = 'leave_last_two': the log has each user's own order and no clock" in _said(tables)
    _, asked = _cut(tmp_path, f'file = "log.tsv"\n{keys}', "[split]\nkind = 'ratio'\n")
    assert asked.split.kind == "ratio"


def test_lists_of_typed_tables(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["a", "b", "c"], "history": [[12, 7, 12], [7], []]})
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_ndjson(tmp_path / "log.jsonl")
    for source in (frame, tmp_path / "log.parquet", tmp_path / "log.jsonl", frame.to_arrow()):
        tables = tables_from_frames(source)
        assert _events(tables) == EVENTS
        assert "1 rows hold none and are left out" in _said(tables)
    named = tables_from_frames(frame, schema=Schema(user="user", item="history"))
    assert (named.schema.order, _events(named)) == ("order", EVENTS)


def test_columns_with_as_many_values_go_along_and_bad_cells_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        'user,item,timestamp,rating\na,"[1, 2]","[60, 50]","[4, 1]"\nb,"[3]","[70]","[x5]"\n'.replace("[x5]", "['x']")
    )
    with pytest.raises(DataError, match=rf"{path}, line 3, column 'rating': 'x' is not a number"):
        _cut(tmp_path, 'file = "log.csv"')
    path.write_text('user,item,timestamp,rating,town\na,"[1, 2]","[60, 50]","[4, 1]",x\nb,"[3]","[70]","[5]",y\n')
    tables, settings = _cut(tmp_path, 'file = "log.csv"')
    assert tables.interactions.drop("order").rows() == [
        ("a", 1, 60, 4, "x"),
        ("a", 2, 50, 1, "x"),
        ("b", 3, 70, 5, "y"),
    ]
    assert (tables.schema.clock, settings.split.kind) == ("timestamp", "temporal")
    assert "cut likewise: timestamp, rating" in _said(tables)


def test_names_and_dates_with_blanks_are_not_cut_with_the_items(tmp_path: Path) -> None:
    rows = [
        ("user", "items", "timestamp", "rating", "city"),
        ("Jo Ann", "1 2", "2021-01-01 10:00", "4 1", "New York"),
        ("Al Bo", "3 1", "2021-01-02 10:00", "5 2", "San Jose"),
    ]
    (tmp_path / "log.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    tables, _ = _cut(tmp_path, 'file = "log.tsv"\nitem_separator = " "')
    assert tables.interactions.select("user", "items", "rating", "city").rows() == [
        ("Jo Ann", 1, 4, "New York"),
        ("Jo Ann", 2, 1, "New York"),
        ("Al Bo", 3, 5, "San Jose"),
        ("Al Bo", 1, 2, "San Jose"),
    ]


def test_an_order_of_rows_is_no_order_of_the_items_in_them(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('user,items,position\na,"[1, 2]",2\na,"[3]",1\n')
    said = r"column 'position': says the order of rows, each of which holds several items .* in their order, "
    with pytest.raises(DataError, match=said + "pass the table without that column$"):
        tables_from_frames(tmp_path / "log.csv")
    with pytest.raises(DataError, match=said + r"leave the column out: ignore = \[\"position\"\]$"), at_command_line():
        _cut(tmp_path, 'file = "log.csv"')
    tables, _ = _cut(tmp_path, 'file = "log.csv"\nignore = ["position"]')
    assert _events(tables) == [("a", 1, 0), ("a", 2, 1), ("a", 3, 2)]


def test_file_order_as_order(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,timestamp\na,9,5\nb,1,5\na,2,5\n")
    tables, settings = _cut(tmp_path, 'file = "log.csv"\norder = "row"')
    assert (tables.schema.order, tables.schema.timestamp) == ("row", None)
    assert _events(tables) == [("a", 9, 0), ("b", 1, 1), ("a", 2, 2)]
    said = "interactions.timestamp: not used (the order is 'row', as given; timestamp = \"timestamp\" brings a clock)"
    assert said in tables.report.notes
    assert 'order = "row": rows of a user follow one another as they stand in the file' in _said(tables)
    assert settings.split.kind == "leave_last_two"
    (tmp_path / "log.csv").write_text("user,item,row\na,9,5\nb,1,4\na,2,3\n")  # a column that is called so is that column
    assert _events(_cut(tmp_path, 'file = "log.csv"\norder = "row"')[0]) == [("a", 9, 5), ("b", 1, 4), ("a", 2, 3)]
    frame = pl.DataFrame({"user": ["a", "a"], "item": [9, 2]})
    assert _events(tables_from_frames(frame, schema=Schema(user="user", item="item", order="row"))) == [
        ("a", 9, 0),
        ("a", 2, 1),
    ]


def test_a_ready_made_split_in_three_files(tmp_path: Path) -> None:
    files = {"train": "a,1,4\nb,2,1\n", "valid": "a,2,5\n", "test": "b,x,2\n"}
    for name, rows in files.items():
        (tmp_path / f"{name}.csv").write_text(f"user,item,rating\n{rows}")
    keys = "\n".join(f'{name} = "{name}.csv"' for name in files)
    tables, settings = _cut(tmp_path, keys)
    assert settings.split.kind == "given"
    assert tables.interactions.rows() == [
        ("a", "1", 4, "train"),
        ("b", "2", 1, "train"),
        ("a", "2", 5, "valid"),
        ("b", "x", 2, "test"),
    ]
    assert [source.name for source in tables.sources] == ["train.csv", "valid.csv", "test.csv"]
    dataset = Dataset.prepare(tables, tmp_path / "data", settings)
    assert dataset.manifest["counts"]["samples"] == {"train": 2, "valid": 1, "test": 1}
    (tmp_path / "valid.csv").write_text("user,item,rating\na,2,5\na,,5\n")
    with pytest.raises(DataError, match=rf"{tmp_path}/valid.csv, line 3, column 'item': None is an empty id"):
        _cut(tmp_path, keys)
    (tmp_path / "valid.csv").write_text("user,item,stars\na,2,5\n")
    with pytest.raises(DataError, match=r"valid.csv: other columns than in .*train.csv \(rating, stars in one alone\)"):
        _cut(tmp_path, keys)


@pytest.mark.parametrize("name", ["*", "^u.*$"])
def test_no_column_of_a_ready_made_split_is_a_pattern(tmp_path: Path, name: str) -> None:
    for at, part in enumerate(("train", "valid", "test")):
        (tmp_path / f"{part}.csv").write_text(f"user,item,{name}\na,{at},{'x' if at else 1}\n")
    tables, _ = _cut(tmp_path, 'train = "train.csv"\nvalid = "valid.csv"\ntest = "test.csv"')
    assert tables.interactions[name].to_list() == ["1", "x", "x"]
    assert tables.interactions.columns == ["user", "item", name, "part"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "required key 'interactions.file' is missing"),
        ('train = "a"\ntest = "b"', "a ready-made split needs the files train, valid and test; interactions.valid is missing"),
        ('file = "a"\ntest = "b"', "interactions.file and interactions.test: one file, or those of a split, not both"),
        ('train = "a"\nvalid = "b"\ntest = "c"\npart = "p"', "interactions.part = 'p': the files train, valid and test say"),
        ('file = "a"\nhistory = "h"\nitem = "i"', "interactions.history: ready-made samples need their parts"),
        ('file = "a"\nhistory = "h"\npart = "p"', "interactions.history: name the item that each sample asks for"),
    ],
)
def test_what_does_not_go_together_is_said_before_any_file_is_read(tmp_path: Path, keys: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _cut(tmp_path, keys)
    assert message in str(caught.value)


SAMPLES = "who,past,target,clicked,split\na,1 2,3,1,train\na,1 2 3,4,no,train\nb,,5,yes,val\nb,5,6,0,test\n"
KEYS = 'file = "s.csv"\nuser = "who"\nhistory = "past"\nitem = "target"\npart = "split"\nitem_separator = " "'


def test_ready_made_samples(tmp_path: Path) -> None:
    """Each sample is asked for once, with its own history and nobody else's."""
    (tmp_path / "s.csv").write_text(SAMPLES)
    tables, settings = _cut(tmp_path, KEYS)
    dataset = Dataset.prepare(tables, tmp_path / "data", settings)
    assert dataset.manifest["counts"]["samples"] == {"train": 2, "valid": 1, "test": 1}
    assert dataset.manifest["counts"]["positives"] == {"train": 1, "valid": 1, "test": 0}
    log, found = dataset.log, []
    for part in ("train", "valid", "test"):
        for row in dataset.split[part].tolist():
            start, rank = log.start[log.user[row]], log.rank[row]
            past = [dataset.item_ids[item - 1] for item in log.slot_item[start : start + rank].tolist()]
            found.append((part, past, dataset.item_ids[log.item[row] - 1], int(log.label[row])))
    assert found == [
        ("train", ["1", "2"], "3", 1),
        ("train", ["1", "2", "3"], "4", 0),
        ("valid", [], "5", 1),
        ("test", ["5"], "6", 0),
    ]
    assert dataset.users["who"].to_list() == ["a", "a", "b", "b"]
    assert [field.name for field in dataset.schema.user_fields] == ["who"]
    assert "4 ready-made samples: each is a user of its own (column 'sample'), with 6 earlier items from 'past'" in _said(
        tables
    )


def test_what_is_known_of_users_goes_with_their_samples(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(SAMPLES)
    (tmp_path / "u.csv").write_text("who,town\nb,x\na,y\n")
    tables, _ = _cut(tmp_path, KEYS, '[users]\nfile = "u.csv"\n')
    assert tables.users is not None
    assert tables.users.rows() == [(1, "a", "y"), (2, "a", "y"), (3, "b", "x"), (4, "b", "x")]


@pytest.mark.parametrize(
    ("items", "histories", "ids", "said"),
    [
        (
            [1.0, 4.0],
            [[4, 2], [1]],
            [1, 2, 4],
            "ids of the items asked for came as decimal numbers, all whole; read as integers",
        ),
        ([1, 4], [[4.0, 2.0], [1.0]], [1, 2, 4], "ids of the histories came as decimal numbers, all whole; read as integers"),
        (["1.0", "4.0"], [[4, 2], [1]], ["1", "2", "4"], "2 ids differ by a decimal point alone (such as '1.0' and '1')"),
        (["1", "4"], [["4.0", "b"], ["1"]], ["1", "4", "b"], "1 ids differ by a decimal point alone (such as '4.0' and '4')"),
        ([1.0, 4.0], [["4", "b"], ["1"]], ["1", "4", "b"], "ids are Int64 in the items asked for and String in the histories"),
    ],
)
def test_items_of_samples_meet_their_histories_whatever_type_each_has(
    tmp_path: Path, items: list[Any], histories: list[Any], ids: list[Any], said: str
) -> None:
    pl.DataFrame({"past": histories, "target": items, "split": ["train", "test"]}).write_parquet(tmp_path / "s.parquet")
    tables, _ = _cut(tmp_path, 'file = "s.parquet"\nhistory = "past"\nitem = "target"\npart = "split"')
    assert sorted(set(tables.interactions["target"].to_list())) == ids
    assert said in _said(tables)


def test_fractions_among_the_items_of_samples(tmp_path: Path) -> None:
    """Of typed tables no id; of text files an id as it is written, and whole ones meet all the same."""
    frame = pl.DataFrame({"past": [[4, 2], [1]], "target": [1.5, 4.0], "split": ["train", "test"]})
    frame.write_parquet(tmp_path / "s.parquet")
    keys = 'file = "s.parquet"\nhistory = "past"\nitem = "target"\npart = "split"'
    with pytest.raises(DataError, match=r"s.parquet, row 1, column 'target': 1.5 is no id: decimal numbers cannot name"):
        _cut(tmp_path, keys)
    (tmp_path / "s.csv").write_text("past,target,split\n4 2,1.5,train\n1,4.0,test\n")
    tables, _ = _cut(tmp_path, keys.replace("parquet", "csv") + '\nitem_separator = " "')
    assert tables.interactions["target"].to_list() == ["4", "2", "1.5", "1", "4"]


def test_users_of_samples_meet_their_table_as_those_of_a_log_do(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(SAMPLES)
    users = '[users]\nfile = "u.csv"\n'

    def people(rows: str, more: str = "") -> Tables:
        (tmp_path / "u.csv").write_text(rows)
        return _cut(tmp_path, KEYS, users + more)[0]

    met = people("uid,who,town\na,9,y\nb,8,x\nc,7,x\n", 'id = "uid"\n')
    assert met.users is not None
    assert met.users.rows() == [(1, "a", "y"), (2, "a", "y"), (3, "b", "x"), (4, "b", "x")]
    assert [field.name for field in met.schema.user_fields] == ["who", "town"]
    assert "column 'who' is not used: the id is 'uid', which the interactions call 'who'" in _said(met)
    chosen = people("who,town,age\na,y,5\nb,x,6\n", '[[users.fields]]\nname = "age"\nkind = "numeric"\n')
    assert [field.name for field in chosen.schema.user_fields] == ["who", "age"]
    few = people("who,town\na,y\nc,x\n")
    assert few.users is not None
    assert few.users["town"].to_list() == ["y", "y", None, None]
    assert "2 interactions are with 1 values of 'who' that its table does not list (such as 'b')" in _said(few)
    with pytest.raises(
        DataError, match=r"none of 4 interactions \(0.0%\) find their user in .*u.csv, .* differ in capital letters"
    ):
        people("who,town\nA,y\nB,x\n")
    with pytest.raises(DataError, match=r"u.csv, column 'who': the id 'a' stands twice, at line 2 and line 4"):
        people("who,town\na,y\nb,x\na,z\n")
    with pytest.raises(DataError, match=r"u.csv: no column 'udi' \(named as id of the users\) \(did you mean 'uid'\?\)"):
        people("uid,town\na,y\n", 'id = "udi"\n')
    with pytest.raises(DataError, match=r"u.csv, line 3, column 'age': 'old' is not a number \(a numeric field\)"):
        people("who,age\nc,5\nb,old\na,7\n", '[[users.fields]]\nname = "age"\nkind = "numeric"\n')


@pytest.mark.parametrize("name", ["^u$", "*"])
def test_users_of_samples_are_numbers_of_any_type_in_a_column_of_any_name(tmp_path: Path, name: str) -> None:
    rows = zip(SAMPLES.splitlines()[1:], (7, 7, "", 9), strict=True)
    (tmp_path / "s.csv").write_text(
        "\n".join([f"{name},past,target,clicked,split", *(f"{user},{row.partition(',')[2]}" for row, user in rows)])
    )
    pl.DataFrame({name: [9.0, 7.0], "u": ["x", "y"]}).write_parquet(tmp_path / "u.parquet")
    tables, _ = _cut(tmp_path, KEYS.replace('"who"', f'"{name}"'), '[users]\nfile = "u.parquet"\n')
    assert tables.users is not None
    assert tables.users.rows() == [(1, 7, "y"), (2, 7, "y"), (3, None, None), (4, 9, "x")]


def test_a_sample_whose_user_cannot_be_used_stays_and_is_counted(tmp_path: Path) -> None:
    frame = pl.DataFrame({"who": [1.0, 1.5, None], "past": [[1]] * 3, "target": [2, 3, 4], "split": ["train", "valid", "test"]})
    frame.write_parquet(tmp_path / "s.parquet")
    pl.DataFrame({"who": [1, None], "town": ["x", "y"]}).write_parquet(tmp_path / "u.parquet")
    keys = KEYS.replace("s.csv", "s.parquet") + '\n[users]\nfile = "u.parquet"'
    with pytest.raises(DataError, match=r"s.parquet, row 2, column 'who': 1.5 is no id: decimal numbers"):
        _cut(tmp_path, keys)
    tables, _ = _cut(tmp_path, keys, '[read]\non_bad_rows = "skip"\n')
    assert tables.users is not None
    assert tables.users.rows() == [(1, 1, "x"), (2, None, None), (3, None, None)]
    assert (len(tables.interactions), tables.report.rows_skipped) == (6, 1)
    assert "the users of 1 rows are left empty: 1 such as" in _said(tables)


def test_weights_of_samples(tmp_path: Path) -> None:
    """Earlier events, which no row names, weigh 1."""
    for cells, heavy in ((("2", "3", "0", "1"), 2), (("2.5", "3", "0", "1"), 2.5), (("2 500", "3", "0", "1"), None)):
        rows = SAMPLES.replace("split\n", "split,weight\n").splitlines()
        text = "\n".join([rows[0], *(f"{row},{cell}" for row, cell in zip(rows[1:], cells, strict=True))])
        (tmp_path / "s.csv").write_text(text)
        if heavy is None:
            with pytest.raises(DataError, match=r"s.csv, line 2, column 'weight': '2 500' is not a number"):
                _cut(tmp_path, KEYS)
            continue
        tables, settings = _cut(tmp_path, KEYS)
        assert tables.interactions["weight"].to_list() == [1, 1, heavy, 1, 1, 1, 3, 0, 1, 1]
        assert "earlier items weigh 1 in 'weight'" in _said(tables)
        notes = Dataset.prepare(tables, tmp_path / f"data {heavy}", settings).manifest["notes"]
        assert any(note.endswith("6 of 10 events are in no part: they are history alone, as they are given") for note in notes)
        assert not any("min_history" in note for note in notes)


def test_samples_have_labels_and_no_ratings_or_times(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(SAMPLES.replace("clicked", "stars"))
    for keys in (KEYS, KEYS + '\nrating = "stars"'):
        with pytest.raises(DataError, match=r"column 'stars': is the rating of ready-made samples, .* have none; .* label = "):
            _cut(tmp_path, keys)
    assert _cut(tmp_path, KEYS + '\nignore = ["stars"]')[0].schema.signal is None
    with pytest.raises(DataError, match=r"column 'stars': is the timestamp of ready-made samples, .* have none; leave it out"):
        _cut(tmp_path, KEYS + '\ntimestamp = "stars"')
    rows = SAMPLES.splitlines()
    (tmp_path / "s.csv").write_text("\n".join([f"{rows[0]},rating", *(f"{row},5" for row in rows[1:])]))
    tables, _ = _cut(tmp_path, KEYS)
    assert (tables.schema.label, tables.schema.rating) == ("clicked", None)
    with pytest.raises(DataError, match=r"column 'rating': is the rating of ready-made samples"):
        _cut(tmp_path, KEYS + '\nrating = "rating"')


def test_samples_that_cannot_be_cut_are_named(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(SAMPLES)
    with pytest.raises(DataError, match=r"column 'past': '1 2' is no list of items; .* item_separator = \" \""):
        _cut(tmp_path, KEYS.replace('item_separator = " "', ""))
    with pytest.raises(DataError, match=r"no column 'pats' \(named as the history\) \(did you mean 'past'\?\)"):
        _cut(tmp_path, KEYS.replace('history = "past"', 'history = "pats"'))
    (tmp_path / "s.csv").write_text(SAMPLES.replace("1 2 3,4,no", "1 2 3,,no"))
    with pytest.raises(DataError, match=r"s.csv, line 3, column 'target': None is an empty id"):
        _cut(tmp_path, KEYS)


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    for day, users in (("2024-01-02", ["b"]), ("2024-01-01", ["a", "c"])):
        (folder / f"day={day}").mkdir(parents=True)
        pl.DataFrame({"user": users, "item": pl.Series(range(len(users)), dtype=pl.Int32)}).write_parquet(
            folder / f"day={day}" / "part-0.parquet"
        )
    (folder / "_SUCCESS").touch()
    (folder / "_log").mkdir()
    (folder / "_log" / "x.parquet").write_text("no table")
    raw = read_table(folder, what="interactions")
    assert raw.frame.rows() == [("a", 0, "2024-01-01"), ("c", 1, "2024-01-01"), ("b", 0, "2024-01-02")]
    assert raw.place(2) == f"{folder}/day=2024-01-02/part-0.parquet, row 1"
    assert [source.name for source in raw.sources] == ["day=2024-01-01/part-0.parquet", "day=2024-01-02/part-0.parquet"]
    pl.DataFrame({"user": ["d"], "thing": [1]}).write_parquet(folder / "z.parquet")
    with pytest.raises(DataError, match=r"z.parquet: other columns than in"):
        read_table(folder, what="interactions")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"this is a folder without Parquet files"):
        read_table(tmp_path / "none", what="interactions")


histories = st.dictionaries(st.integers(0, 99), st.lists(st.integers(-9, 99), max_size=5), min_size=1).filter(
    lambda found: any(len(items) > 1 for items in found.values())
)
FORMS: dict[str, Callable[[list[int]], str]] = {
    "python": repr,
    "json": json.dumps,
    "numpy": lambda items: f"[{' '.join(map(str, items))}]",
    "text": lambda items: repr([str(item) for item in items]),
    " ": lambda items: " ".join(map(str, items)),
    "|": lambda items: " | ".join(map(str, items)),
}


@given(histories, st.sampled_from([*FORMS, "lines", "parquet"]))
def test_every_item_of_every_cell_is_an_event_in_its_place(found: dict[int, list[int]], form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = pl.DataFrame({"user": list(found), "history": pl.Series(list(found.values()), dtype=pl.List(pl.Int64))})
        if form == "lines":
            frame.write_ndjson(folder / "log")
        elif form == "parquet":
            frame.write_parquet(folder / "log")
        else:
            cells = [f"{user}\t{FORMS[form](items)}\n" for user, items in found.items()]
            (folder / "log").write_text("user\thistory\n" + "".join(cells))
        keys = f'item_separator = "{form}"' if form in (" ", "|") else ""
        tables, _ = _cut(folder, f'file = "log"\n{keys}')
    events = [(user, item) for user, items in found.items() for item in items]
    assert _events(tables) == [(user, item, at) for at, (user, item) in enumerate(events)]
    empty = sum(not items for items in found.values())
    assert (f"{empty:,} rows hold none and are left out" in _said(tables)) == (empty > 0)


DATA = Path(os.environ.get("BRAIDREC_DATA", "none"))


@pytest.mark.skipif(not (DATA / "amazon-beauty").is_dir(), reason="needs amazon-beauty in BRAIDREC_DATA")
def test_published_sequences_have_their_published_counts(tmp_path: Path) -> None:
    files = DATA / "amazon-beauty"
    keys = f'file = "{files / "sequences.tsv.gz"}"\nitem_separator = " "'
    tables, _ = _cut(tmp_path, keys, f'[items]\nfile = "{files / "items.tsv.gz"}"\n')
    log = tables.interactions
    assert (len(log), log["user"].n_unique(), log["items"].n_unique()) == (198_502, 22_363, 12_101)


@pytest.mark.skipif(not (DATA / "prime-pantry").is_dir(), reason="needs prime-pantry in BRAIDREC_DATA")
def test_a_described_file_is_what_the_reader_of_the_data_set_makes_of_it(tmp_path: Path) -> None:
    from braidrec.data.intake.sources.prime_pantry import DATASET

    keys = f'file = "{DATA / "prime-pantry" / DATASET.files[0]}"\nitem = "history"\nignore = ["column_1"]'
    tables, _ = _cut(tmp_path, keys)
    known = DATASET.read(DATA / "prime-pantry").interactions
    assert tables.interactions.select("user", "history").rows() == known.select("user", "asin").rows()
