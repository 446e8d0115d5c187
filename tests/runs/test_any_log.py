"""Any log that people write, generated: prepared, fitted for two steps, evaluated, recommended from.

Ids, labels, times and what was left out are held against a reference reader: Python's csv and json, and a page of rules.
An error of ours is an answer, where it names the file; any other exception is a failure.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import polars as pl
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from braidrec.arguments import BLANKS
from braidrec.data.dataset import Dataset
from braidrec.data.intake.description import load_description, read_tables
from braidrec.data.tables import Tables
from braidrec.errors import BraidError
from braidrec.runs.fit import fit

Row = tuple[str, ...]  # cells as written
START = 1_600_000_000  # September 2020, so that some day of the log is above 12

ID_FORMS: dict[str, Callable[[int], str]] = {
    "integers": lambda at: str(at * 7 - 3),
    "decimals": lambda at: f"{at * 7 - 3}.0",
    "padded": lambda at: f"{at:03}",
    "long": lambda at: str(2**62 + at),
    "outer blanks": lambda at: f" {at} ",
    "words": lambda at: f"id {at}",
    "odd": lambda at: ("é🎬", 'quo"te', "com,ma;", "tab|bar", "<b>", "nan", "null", "0x1")[at % 8] + str(at // 8),
    "mixed": lambda at: ("12.0", "012", "12", "a", "-0", "1e3", "True", "[1]")[at % 8] + "x" * (at // 8),
}
LABEL_FORMS: dict[str, tuple[str, ...]] = {  # as it is written for 0 and 1
    "0/1": ("0", "1"),
    "-1/1": ("-1", "1"),
    "decimals": ("0.0", "1.0"),
    "commas": ("0,0", "1,0"),
    "true/false": ("false", "true"),
    "True/False": ("False", "True"),
    "yes/no": ("no", "YES"),
    "t/f": ("f", "T"),
    "none": (),
}
TIME_FORMS: dict[str, Callable[[int], str]] = {
    "s": str,
    "ms": lambda at: str(at * 1000 + 7),
    "us": lambda at: str(at * 1_000_000 + 7),
    "s.0": lambda at: f"{at}.0",
    "iso": lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "iso blank": lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.25"),
    "words": lambda at: datetime.fromtimestamp(at, UTC).strftime("%d %b %Y %H:%M:%S"),
    "day first": lambda at: datetime.fromtimestamp(at, UTC).strftime("%d/%m/%Y %H:%M:%S"),
    "american": lambda at: datetime.fromtimestamp(at, UTC).strftime("%m/%d/%Y %I:%M:%S %p"),
    "counter": lambda at: str(at - START),
}


@dataclass(frozen=True)
class Log:
    """A generated log: how it is written, and its rows before that."""

    rows: list[tuple[int, int, int, int]]  # user, item, second, label
    user_form: str
    item_form: str
    known_form: str  # of the catalogue's ids
    label_form: str
    label_name: str
    time_form: str
    blanks: dict[int, int]  # row -> the cell that is empty
    file: str
    separator: str
    quote_all: bool
    line_end: str
    catalogue: bool
    split: str

    @property
    def names(self) -> list[str]:
        return ["user_id", "item_id", "timestamp", *([self.label_name] if self.label_form != "none" else [])]

    def cells(self) -> list[Row]:
        written = []
        for at, (user, item, second, label) in enumerate(self.rows):
            row = [
                ID_FORMS[self.user_form](user),
                ID_FORMS[self.item_form](item),
                TIME_FORMS[self.time_form](START + second),
                *([LABEL_FORMS[self.label_form][label]] if self.label_form != "none" else []),
            ]
            if at in self.blanks:
                row[self.blanks[at] % len(row)] = ("", " ")[self.blanks[at] % 2]
            written.append(tuple(row))
        return written


@st.composite
def logs(draw: st.DrawFn) -> Log:
    users, items = draw(st.integers(3, 6)), draw(st.integers(4, 9))
    count = draw(st.integers(14, 40))
    seconds = st.one_of(st.integers(0, 4_000_000), st.sampled_from([0, 60, 1_300_000]))
    row = st.tuples(st.integers(0, users - 1), st.integers(0, items - 1), seconds, st.integers(0, 1))
    rows = draw(st.lists(row, min_size=count, max_size=count))
    rows += draw(st.lists(st.sampled_from(rows), max_size=4))  # the same once more
    item_form = draw(st.sampled_from(sorted(ID_FORMS)))
    file = draw(st.sampled_from(["csv", "csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "json", "parquet", "folder", "typed"]))
    alike = ("integers", "decimals") if file.startswith(("csv", "tsv", "typed")) else ()  # one column of integers, both of them
    return Log(
        rows,
        draw(st.sampled_from(sorted(ID_FORMS))),
        item_form,
        draw(st.sampled_from(alike)) if item_form in alike else item_form,
        draw(st.sampled_from(sorted(LABEL_FORMS))),
        draw(st.sampled_from(["label", "clicked", "Is_Click"])),
        draw(st.sampled_from(sorted(TIME_FORMS))),
        draw(st.one_of(st.just({}), st.dictionaries(st.integers(0, count - 1), st.integers(0, 7), max_size=3))),
        file,
        draw(st.sampled_from([",", ";", "\t", "|"])),
        draw(st.booleans()),
        draw(st.sampled_from(["\n", "\r\n"])),
        draw(st.booleans()),
        draw(st.sampled_from(["temporal", "ratio", "leave_last_two"])),
    )


def write(path: Path, names: list[str], rows: list[Row], log: Log) -> Path:
    """A table in the log's own kind of file."""
    kind = log.file
    path = path.with_name(f"{path.name}.{kind}")
    if kind.startswith(("csv", "tsv")):
        text = path.with_name("text")
        with text.open("w", newline="", encoding="utf-8") as stream:
            quoting = csv.QUOTE_ALL if log.quote_all else csv.QUOTE_MINIMAL
            separator = "\t" if kind == "tsv" else log.separator
            csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator=log.line_end).writerows([names, *rows])
        path.write_bytes(gzip.compress(text.read_bytes()) if kind.endswith("gz") else text.read_bytes())
    elif kind.startswith("json"):
        entries = [{name: cell or None for name, cell in zip(names, row, strict=True)} for row in rows]
        lines = [json.dumps(entry, ensure_ascii=log.quote_all) for entry in entries]
        data = (json.dumps(entries) if kind == "json" else "\n".join(lines)).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    else:
        frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
        if kind == "typed":
            path = path.with_suffix(".parquet")
            frame = frame.with_columns(typed(frame[name]) for name in names)
        if kind == "folder":
            path.mkdir()
            for start in range(0, len(frame), 7):
                frame[start : start + 7].write_parquet(path / f"part-{start:03}.parquet")
        else:
            frame.write_parquet(path)
    return path


def typed(text: pl.Series) -> pl.Series:
    """Numbers as numbers, true and false as such, where every cell is one."""
    bare = text.set(text.str.strip_chars() == "", None)
    for kind in (pl.Int64, pl.Float64):
        numbers = bare.cast(kind, strict=False)
        if numbers.cast(pl.String).eq_missing(bare).all() and numbers.is_not_null().any():
            return numbers
    if bare.drop_nulls().is_in(["true", "false"]).all():
        return bare == "true"
    return text


def reread(path: Path, log: Log) -> tuple[list[Row], bool]:
    """The rows of a file as Python reads it, and whether it is text without types."""
    if path.is_dir() or path.suffix == ".parquet":
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        rows = [row for file in files for row in pl.read_parquet(file).rows()]
        return [tuple("" if cell is None else str(cell) for cell in row) for row in rows], log.file == "typed"
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if log.file.startswith("json"):
        text = data.decode()
        entries = json.loads(text) if log.file == "json" else [json.loads(line) for line in text.split("\n")]
        return [tuple(cell or "" for cell in entry.values()) for entry in entries], False
    separator = "\t" if log.file == "tsv" else log.separator
    _, *rows = csv.reader(data.decode().splitlines(keepends=True), delimiter=separator)
    return [tuple(row) for row in rows], True


def reference_ids(cells: list[str], untyped: bool) -> list[str]:
    """Without outer blanks; a column of whole decimal numbers in a text file is a column of integers."""
    bare = [cell.strip(BLANKS) for cell in cells]
    if untyped and all(re.fullmatch(r"-?\d+\.0", cell) for cell in bare if cell):
        return [cell.removesuffix(".0") for cell in bare]
    return bare


def reference_label(cell: str) -> int | None:
    words = {"true": 1, "t": 1, "yes": 1, "y": 1, "false": 0, "f": 0, "no": 0, "n": 0}
    cell = cell.strip(BLANKS).lower().replace(",", ".")
    return None if not cell else words[cell] if cell in words else int(float(cell) > 0)


def reference(path: Path, log: Log) -> list[tuple[str, str, int | None]]:
    """User, item and label of every row that is whole, in the order of the file."""
    rows, untyped = reread(path, log)
    users, items = (reference_ids([row[at] for row in rows], untyped) for at in (0, 1))
    labels = [reference_label(row[3]) if len(row) > 3 else 1 for row in rows]
    return [
        (user, item, label)
        for row, user, item, label in zip(rows, users, items, labels, strict=True)
        if all(cell.strip(BLANKS) for cell in row)
    ]


def described(folder: Path, log: Log) -> Path:
    """The files, and the description that names them."""
    path = write(folder / "log", log.names, log.cells(), log)
    keys = [f'name = "any"\n[interactions]\nfile = "{path.name}"']
    if log.time_form == "counter":
        keys.append('order = "timestamp"')
    if log.catalogue:
        ids = [*sorted({item for _, item, _, _ in log.rows}), 70]
        rows = [(ID_FORMS[log.known_form](item), f"Title {item}", "ab"[item % 2]) for item in ids]
        keys.append(f'[items]\nfile = "{write(folder / "items", ["item_id", "title", "genre"], rows, log).name}"')
    keys.append(f'[read]\non_bad_rows = "{"skip" if log.blanks else "error"}"')
    if log.file.startswith("csv"):
        keys.append(f"separator = {json.dumps(log.separator)}")
    split = "leave_last_two" if log.time_form == "counter" and log.split == "temporal" else log.split
    shares = "" if split == "leave_last_two" else "\nratios = [0.5, 0.25, 0.25]"
    keys.append(f'[split]\nkind = "{split}"\nmin_history = 0{shares}')
    (folder / "any.toml").write_text("\n".join(keys) + "\n", encoding="utf-8")
    return folder / "any.toml"


def check_tables(tables: Tables, wanted: list[tuple[str, str, int | None]], log: Log) -> None:
    schema, frame = tables.schema, tables.interactions
    users, items = (frame[name].cast(pl.String).to_list() for name in (schema.user, schema.item))
    labels = [1] * len(frame) if schema.label is None else frame[schema.label].to_list()
    assert schema.label == (None if log.label_form == "none" else log.label_name)
    assert list(zip(users, items, labels, strict=True)) == wanted
    assert tables.report.rows_skipped == len(log.rows) - len(wanted)
    if log.time_form != "counter":
        assert schema.timestamp is not None
        whole = [row for row, cells in zip(log.rows, log.cells(), strict=True) if all(cell.strip(BLANKS) for cell in cells)]
        assert frame[schema.timestamp].to_list() == [START + second for _, _, second, _ in whole]


def check_dataset(dataset: Dataset, wanted: list[tuple[str, str, int | None]]) -> None:
    """Every event is there with its label, or was merged with its copy and counted."""
    log = dataset.log
    found = Counter(
        (dataset.user_ids[user - 1], dataset.item_ids[item - 1], int(label))
        for user, item, label in zip(log.user.tolist(), log.item.tolist(), log.label.tolist(), strict=True)
    )
    lost = Counter((user, item, int(label or 0)) for user, item, label in wanted) - found
    count = lost.total()
    assert found.total() + count == len(wanted)
    assert not count or any(re.search(rf"\b{count}\b", note) for note in dataset.manifest["notes"]), dataset.manifest["notes"]


def check_log(log: Log) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toml = described(folder, log)
        description = load_description(toml)
        path = folder / description.interactions.file if description.interactions.file else folder
        wanted = reference(path, log)
        read, trouble = answer(lambda: description.cut(read_tables(description, folder)))
        if read is None:
            event(f"refused: {re.sub(r'[0-9].*', '', trouble.rpartition(name)[2])[:40]}")
            assert log.blanks  # nothing is left of a column
            assert "log." in trouble or "interactions" in trouble
            return
        check_tables(read[0], wanted, log)
        dataset, trouble = answer(lambda: Dataset.prepare(read[0], folder / "data", read[1]))
        if dataset is None:
            event(f"not prepared: {trouble[:30]}")
            assert "split" in trouble
            return
        check_dataset(dataset, wanted)
        found, trouble = answer(lambda: go_on(dataset, folder / "run", positives_only=log.label_form == "none"))
        event(f"not fitted: {trouble[:30]}" if found is None else "whole way")


def go_on(dataset: Dataset, path: Path, *, positives_only: bool) -> int:
    """Two steps of training, the report, and one user's items; how many these are."""
    run = fit(
        dataset,
        backbone="deepfm",
        path=path,
        show_progress=False,
        negatives=1 if positives_only else None,
        training={"max_epochs": 1, "batch_size": -(-dataset.manifest["counts"]["samples"]["train"] // 2)},
    )
    run.evaluate(show_progress=False)
    user = dataset.user_ids[int(dataset.log.user[0]) - 1]
    found = run.recommend(f" {user}", exclude_seen=False, k=3)
    assert {each.item for each in found} <= set(dataset.item_ids)
    return len(found)


Result = TypeVar("Result")


def answer(call: Callable[[], Result]) -> tuple[Result | None, str]:
    """What a call gives, or the text of an error of ours; every other one goes through."""
    try:
        return call(), ""
    except BraidError as error:
        return None, str(error)


ANY = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@ANY
@given(logs())
def test_any_log_goes_its_way(log: Log) -> None:
    check_log(log)


@pytest.mark.slow
@settings(ANY, max_examples=1000, derandomize=False)
@given(logs())
def test_a_thousand_logs_go_their_way(log: Log) -> None:
    check_log(log)
