"""A column of any type in any role ends in tables or in an error of ours, never in one of a library."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.description import load_description, read_tables, tables_from_frames, with_usual_split
from braidrec.data.intake.readers import ReadConfig
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.errors import BraidError

MOMENT = datetime(2021, 1, 1, 3)
COLUMNS: dict[str, pl.Series] = {
    "integers": pl.Series([1, 2, 3] * 2),
    "8 bits": pl.Series([1, 2, 3] * 2, dtype=pl.Int8),
    "unsigned": pl.Series([2**63 + 1] * 6, dtype=pl.UInt64),
    "128 bits": pl.Series([2**70] * 6, dtype=pl.Int128),
    "whole": pl.Series([1.0, 2.0, 3.0] * 2),
    "fractions": pl.Series([1.5] * 6),
    "nan": pl.Series([float("nan")] * 6),
    "infinite": pl.Series([float("inf")] * 6),
    "decimal": pl.Series([Decimal("1.50"), Decimal("2.00")] * 3),
    "negative": pl.Series([-1, 1] * 3),
    "null": pl.Series([None] * 6),
    "text": pl.Series(list("abcabc")),
    "blank": pl.Series([" ", ""] * 3),
    "doubtful": pl.Series(["1,234"] * 6),
    "days": pl.Series(["03/04/2021"] * 6),
    "mixed": pl.Series(["1", "x", "2.0", "true", "", "2021-01-01"]),
    "parts": pl.Series(["train", "val", "test", "history", " train", "x"]),
    "lists as text": pl.Series(["['a', 'b']"] * 6),
    "bool": pl.Series([True, False] * 3),
    "category": pl.Series(list("abcabc"), dtype=pl.Categorical),
    "enum": pl.Series(list("abcabc"), dtype=pl.Enum(["a", "b", "c"])),
    "bytes": pl.Series([b"a"] * 6),
    "date": pl.Series([date(2021, 1, 1)] * 6),
    "moment": pl.Series([MOMENT] * 6),
    "moment in a zone": pl.Series([MOMENT] * 6).dt.replace_time_zone("Europe/Berlin"),
    "nanoseconds": pl.Series([MOMENT] * 6, dtype=pl.Datetime("ns")),
    "time of day": pl.Series([time(3)] * 6),
    "duration": pl.Series([timedelta(1)] * 6),
    "lists": pl.Series([[1, 2]] * 6),
    "empty lists": pl.Series([None, [1], [], [None], [2], [3]], dtype=pl.List(pl.Int64)),
    "lists of lists": pl.Series([[[1]]] * 6),
    "records": pl.Series([{"a": 1}] * 6),
    "lists of records": pl.Series([[{"a": 1}]] * 6),
    "arrays": pl.Series([[1, 2]] * 6, dtype=pl.Array(pl.Int64, 2)),
    "objects": pl.Series([object()] * 6, dtype=pl.Object),
}
BASE = {
    "user": pl.Series(list("uuvvww")),
    "item": pl.Series([1, 2, 3] * 2),
    "timestamp": pl.Series(range(1_600_000_000, 1_600_000_006)),
}
SETTINGS = PrepareSettings(split=SplitConfig(kind="ratio", ratios=(0.5, 0.25, 0.25), min_history=0))


def answered(call: Callable[[], Any]) -> bool:
    try:
        call()
    except BraidError:
        return False
    return True


@pytest.mark.parametrize("name", COLUMNS)
def test_in_the_log(name: str, tmp_path: Path) -> None:
    for role in ("user", "item", "timestamp", "order", "rating", "label", "weight", "part"):
        log = pl.DataFrame({**BASE, role: COLUMNS[name]})
        guessed = log.drop("timestamp") if role == "order" else log
        roles = {"user": "user", "item": "item", "timestamp": "timestamp", role: role}
        for read in (ReadConfig(), ReadConfig(on_bad_rows="skip", time_unit="ms"), ReadConfig(time_format="%d/%m/%Y")):
            answered(lambda read=read, log=guessed: with_usual_split(tables_from_frames(log, read=read)))  # type: ignore[misc]
            answered(
                lambda read=read, log=log, roles=roles: tables_from_frames(  # type: ignore[misc]
                    log, schema=Schema.model_validate(roles), read=read
                )
            )


@pytest.mark.parametrize("name", COLUMNS)
def test_in_the_catalogues(name: str, tmp_path: Path) -> None:
    def prepared(at: str, **tables: Any) -> None:
        Dataset.prepare(tables_from_frames(pl.DataFrame(BASE), **tables), tmp_path / at, SETTINGS)

    column = COLUMNS[name]
    answered(lambda: prepared("id", items=pl.DataFrame({"item": column, "title": list("abcdef")})))
    answered(lambda: prepared("users", users=pl.DataFrame({"user": list("uvwxyz"), "age": column})))
    items = pl.DataFrame({"item": range(1, 7), "title": column, "x": column, "genres": column})
    answered(lambda: prepared("guessed", items=items, clean=True))
    for kind in ("single", "multi", "numeric"):
        schema = Schema(
            user="user",
            item="item",
            text=("title",),
            category="genres",
            item_fields=(Field.model_validate({"name": "x", "kind": kind}),),
        )
        answered(lambda schema=schema, kind=kind: prepared(kind, items=items, schema=schema))  # type: ignore[misc]


def test_what_is_plain_is_read(tmp_path: Path) -> None:
    for role, names in {
        "user": ("integers", "whole", "text", "category", "unsigned", "8 bits"),
        "timestamp": ("integers", "date", "moment", "moment in a zone", "nanoseconds"),
        "rating": ("integers", "fractions", "decimal", "negative", "bool"),
        "label": ("bool", "negative"),
    }.items():
        for name in names:
            assert answered(lambda role=role, name=name: tables_from_frames(pl.DataFrame({**BASE, role: COLUMNS[name]}))), name  # type: ignore[misc]


SAMPLES = {
    "who": pl.Series(list("aabbcc")),
    "past": pl.Series([[1, 2]] * 6),
    "asked": pl.Series([1, 2, 3] * 2),
    "part": pl.Series(["train"] * 3 + ["valid", "test", "test"]),
    "label": pl.Series([1, 0] * 3),
}
KEYS = 'user = "who"\nhistory = "past"\nitem = "asked"\npart = "part"'


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "objects"])  # which no file holds
def test_in_samples_and_cells_of_several(name: str, tmp_path: Path) -> None:
    column = COLUMNS[name]
    forms = [(pl.DataFrame({**SAMPLES, role: column}), KEYS) for role in SAMPLES]
    forms.append((pl.DataFrame({**SAMPLES, "past": column}), f'{KEYS}\nitem_separator = " "'))
    forms += [
        (pl.DataFrame({"user": SAMPLES["who"], "items": SAMPLES["past"], role: column}), "") for role in ("rating", "order")
    ]
    forms.append((pl.DataFrame({"user": SAMPLES["who"], "items": column}), 'item_separator = "|"'))
    forms.append((pl.DataFrame({"user": SAMPLES["who"], "item": column}), 'order = "row"'))
    for at, (frame, keys) in enumerate(forms):
        frame.write_parquet(tmp_path / "log.parquet")
        (tmp_path / "d.toml").write_text(f'name = "d"\n[interactions]\nfile = "log.parquet"\n{keys}\n')

        def prepared(path: Path = tmp_path / f"data {at}") -> None:
            description = load_description(tmp_path / "d.toml")
            tables, cut = description.cut(read_tables(description, tmp_path))
            Dataset.prepare(tables, path, cut)

        answered(prepared)
